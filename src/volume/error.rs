//! What can go wrong with a file or an image, each with what to do about it.

use super::grid::Apart;
use crate::tensor::Xyz;
use std::io;
use std::path::{Path, PathBuf};

/// A [`Problem`] with the file it is about. Reads `FILE: what is wrong; what to do`.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct VolumeError {
    /// The file as the user named it.
    pub path: PathBuf,
    /// What is wrong with it, and what to do.
    pub problem: Problem,
}

/// What is wrong with an image, and what to do. Without a file name: see [`VolumeError`].
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file is not there.
    #[error("does not exist; check the path")]
    Missing,
    /// A folder where a file is expected.
    #[error("is a folder; name an image file in it, or a folder of DICOM slices")]
    Folder,
    /// The operating system refused to open or read.
    #[error("cannot be read ({0}); check its permissions and the disk")]
    Read(#[source] io::Error),
    /// The operating system refused to create, write or rename.
    #[error("cannot be written ({0}); check that its folder exists, may be written to and has space left")]
    Write(#[source] io::Error),
    /// The folder of an output file does not exist.
    #[error("cannot be written: the folder {} does not exist; create it first", .0.display())]
    NoFolder(PathBuf),
    /// An output name with an extension that this program does not write.
    #[error("is not a name for an output image; end it in .nii, .nii.gz, .mgz or .mgh")]
    OutputName,
    /// Fewer bytes than a header has.
    #[error("is only {0} bytes long, too short for an image; fetch or convert it again")]
    TooShort(usize),
    /// Another format.
    #[error("is neither a NIfTI nor an MGH file (it looks like {found}); {remedy}")]
    OtherFormat {
        /// What the bytes look like.
        found: &'static str,
        /// How to get a file from it that is read here.
        remedy: &'static str,
    },
    /// The header of a pair whose voxel file is missing.
    #[error("is the header of a .hdr/.img pair whose .img file is missing; put the .img file beside it")]
    MissingImg,
    /// The voxels of a pair whose header file is missing.
    #[error("holds the voxels of a .hdr/.img pair whose .hdr file is missing; put the .hdr file beside it")]
    MissingHdr,
    /// `dim[0]` is not a number of dimensions.
    #[error("has a damaged header ({0} dimensions, where 1 to 7 are legal); fetch or convert it again")]
    Rank(i64),
    /// A single slice, or less.
    #[error("is not a 3D image ({0}); stack its slices into one 3D file first")]
    NotThreeD(String),
    /// A dimension of zero or less.
    #[error("has a damaged header (dimension {axis} is {length}); fetch or convert the image again")]
    Dimension {
        /// Axis number as NIfTI counts, from 1.
        axis: usize,
        /// The length that the header claims.
        length: i64,
    },
    /// More voxels than any memory holds.
    #[error(
        "has a damaged header (it claims {0} voxels, more than can be addressed); fetch or convert the image again"
    )]
    TooLarge(String),
    /// The voxels do not fit in this machine's memory.
    #[error(
        "needs {0} bytes for its voxels, more than can be allocated; close other programs or crop the image"
    )]
    Memory(u64),
    /// Fewer voxel bytes than the header claims.
    #[error("is truncated ({found} of {needed} voxel bytes are there); fetch or convert it again")]
    Truncated {
        /// Bytes that the dimensions and the datatype call for.
        needed: u64,
        /// Bytes found.
        found: u64,
    },
    /// A compressed file too short for the voxels that the header claims.
    #[error(
        "is truncated or has a damaged header (it claims {needed} voxel bytes, and a gzip file of its size holds {most} at most); fetch or convert it again"
    )]
    Overclaimed {
        /// Bytes that the dimensions and the datatype call for.
        needed: u64,
        /// The most that can come out of a gzip file of this length.
        most: u64,
    },
    /// A DICOM file that cannot be followed.
    #[error("is a damaged DICOM file ({0}); export it again, or move it away if it is not of the series")]
    DicomDamaged(&'static str),
    /// DICOM pixels that nothing here decompresses.
    #[error("holds DICOM pixels compressed as {0}, which is not read here; convert the series with dcm2niix")]
    DicomSyntax(String),
    /// DICOM that is no plain grey image in space.
    #[error("is DICOM with {0}, which is not read here; convert the series with dcm2niix")]
    DicomContent(&'static str),
    /// Slices that are no even stack.
    #[error(
        "is a DICOM series of {0}; export the series again if it should be one volume, else part it with dcm2niix"
    )]
    DicomStack(String),
    /// A folder with more than one series. Holds a list of them.
    #[error(
        "holds several DICOM series; name a file of the one to take, or a folder that holds it alone:{0}"
    )]
    DicomSeveral(String),
    /// The gzip stream is damaged.
    #[error("is damaged (gzip: {0}); fetch or compress it again")]
    Gzip(#[source] io::Error),
    /// An offset to the voxels that lies in the header or nowhere.
    #[error("has a damaged header (voxel offset {0}); fetch or convert the image again")]
    Offset(f64),
    /// Complex, colour or 128-bit voxels, or an unknown code.
    #[error("holds {0} voxels; convert it to a real number type of at most 64 bits first")]
    Datatype(String),
    /// A slope without a usable intercept.
    #[error("has a scaling slope of {slope} with an intercept of {intercept}; set scl_inter to a number")]
    Intercept {
        /// `scl_slope`.
        slope: f64,
        /// `scl_inter`.
        intercept: f64,
    },
    /// A voxel-to-world matrix that is not invertible or not finite.
    #[error(
        "has an unusable {form} (its matrix is singular or not finite); correct the header, or set {form}_code to 0 where the other form is good"
    )]
    SingularAffine {
        /// `sform` or `qform`.
        form: &'static str,
    },
    /// An MGH header whose directions and voxel sizes make no invertible matrix.
    #[error(
        "has unusable direction cosines or voxel sizes (their matrix is singular or not finite); convert the original scan again"
    )]
    DirectionCosines,
    /// No form and a voxel size that is zero or not finite.
    #[error("has no usable voxel size (pixdim is {0:?}); set pixdim in the header to millimetres")]
    VoxelSize([f64; 3]),
    /// A 4D image where no frame was chosen.
    #[error(
        "is 4D with {0} volumes; choose one with --volume N (0 to {last}) or take each with --all (strip: or their mean with --mean)",
        last = .0.saturating_sub(1)
    )]
    FrameNeeded(usize),
    /// A frame past the end.
    #[error("has no volume {wanted}; choose --volume 0 to {last}", last = .frames.saturating_sub(1))]
    NoSuchFrame {
        /// The volume asked for, from 0.
        wanted: usize,
        /// The number of volumes.
        frames: usize,
    },
    /// No finite voxel at all.
    #[error("holds no finite voxel value (all are NaN or infinite); check how it was made")]
    NoFiniteVoxel,
    /// All finite voxels have the same value.
    #[error("is empty (every voxel is {0}); check how it was made")]
    Constant(f32),
    /// What is wrong with one volume of a series.
    #[error("volume {number} {problem}")]
    InVolume {
        /// The volume, from 0.
        number: usize,
        /// What is wrong with it.
        problem: Box<Problem>,
    },
    /// A fill value that the voxels of the output cannot store.
    #[error(
        "holds {type_name} voxels, which can store {low} to {high} but not {fill}; choose a --fill among them"
    )]
    Fill {
        /// The value.
        fill: f32,
        /// Datatype of the output.
        type_name: String,
        /// Least value that it stores under the image's scaling.
        low: f64,
        /// Greatest.
        high: f64,
    },
    /// An array whose length does not belong to the grid.
    #[error("got {got} values for a grid of {expected}; pass arrays of one and the same grid")]
    Length {
        /// Voxels of the grid, frames included.
        expected: usize,
        /// Values passed.
        got: usize,
    },
    /// A weight, field or other image of values that lies on another grid than the image it belongs to.
    #[error(
        "lies on another grid than its image ({0}); bring it there with `trephine resample --like IMAGE`, or correct the header that is wrong"
    )]
    OtherGrid(Box<Apart>),
    /// A second image that shares no place with the one it belongs to.
    #[error("lies nowhere in its image ({0}); correct the header that is wrong, or register the two")]
    NoOverlap(Box<Apart>),
    /// A mask all of whose voxels lie outside the image.
    #[error(
        "marks no voxel of its image: all that it marks lies outside; correct the header that is wrong, or register the two"
    )]
    MaskOutside,
    /// A mask without a voxel.
    #[error("is empty; a mask marks voxels by labels other than 0")]
    EmptyMask,
    /// A mask without the label that was asked for.
    #[error("has no voxel of label {0}; name another label")]
    NoLabel(f64),
    /// Several labels, and none of them is 0.
    #[error(
        "has no voxel of 0, which is what a mask holds outside ({min} to {max} are there); set the voxels outside to 0"
    )]
    NoBackground {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// Values that are neither labels nor probabilities.
    #[error(
        "holds values from {min} to {max}, neither labels (whole numbers from 0) nor probabilities (0 to 1); pass a mask, resampled with `--interpolation nearest` where it has to be"
    )]
    NotAMask {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// Values between 0 and 1, none of them above a half.
    #[error(
        "holds values between 0 and 1, the greatest of them {max}, and a mask counts where it is above 0.5; scale it"
    )]
    FaintMask {
        /// Greatest value.
        max: f64,
    },
    /// Several volumes where a companion has one.
    #[error(
        "is 4D with {0} volumes where one is expected; write the one that belongs here to a file of its own first"
    )]
    SeveralVolumes(usize),
    /// A grid that the header of the output format cannot express.
    #[error("cannot hold a grid of {0:?} in its format; choose a smaller grid")]
    GridTooLarge(Xyz<usize>),
    /// An integer that MGH has no type for.
    #[error("cannot hold the value {0} in its format exactly; name the output .nii.gz")]
    MghInteger(f64),
    /// A table that cannot be parsed.
    #[error("is not a table of pairs ({0}); write tab-separated columns with a header line")]
    Table(String),
    /// A column is missing.
    #[error("has no column `{0}`; name the columns `image` and `mask` in the first line")]
    Column(&'static str),
    /// A row of a table that lacks its image.
    #[error("names no image in line {0}; fill in the column `image`")]
    EmptyImage(u64),
    /// A path that a tab-separated table cannot hold.
    #[error(
        "cannot list {}: its name holds a tab, a line break or is not UTF-8; rename it",
        .0.display()
    )]
    PathName(PathBuf),
}

impl Problem {
    /// Attaches the file that the problem is about.
    pub fn at(self, path: &Path) -> VolumeError {
        VolumeError { path: path.to_path_buf(), problem: self }
    }

    /// The problem behind an I/O error while opening or reading.
    pub(crate) fn from_read(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::IsADirectory => Self::Folder,
            _ => Self::Read(error),
        }
    }
}
