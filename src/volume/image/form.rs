//! How voxels are stored in an output.
//!
//! The name of an output says what it is. `.nii` and `.nii.gz`: a single NIfTI file of the
//! input's version and byte order. `.mgh` and `.mgz`: FreeSurfer's format, which knows no scaling
//! and fewer types; what it cannot hold exactly is stored as float32. `.gz` and `.mgz` are gzip.

use super::super::{Problem, VolumeError};
use super::nifti::Output;
use super::source::strip_suffix;
use super::{Endianness, Image, Info, MghHeader, NiftiType, mgh, voxels};
use crate::tensor::Xyz;
use glam::DMat4;
use std::borrow::Cow;
use std::path::Path;

/// Bytes of voxels made at a time: large enough that the window of the compressor, which starts
/// anew with each, costs below 1%.
const PIECE: usize = 1 << 20;

/// What the volumes of an output are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A mask, 0 and 1: uint8, slope 1.
    Labels,
    /// A field, probabilities, distances: float32, slope 1.
    Floats,
    /// The voxels of the image that it is like, in their own datatype and scaling.
    Stripped,
}

/// How voxels are stored in a file.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// In FreeSurfer's format.
    mgh: bool,
    volumes: usize,
    datatype: NiftiType,
    order: Endianness,
    /// Store scaled values, for a format without slope and intercept.
    scaled: bool,
    /// Slope and intercept that the header states; `None` keeps them as stored.
    scaling: Option<(f64, f64)>,
}

impl Form {
    pub(super) fn of(
        path: &Path,
        like: &Info,
        volumes: usize,
        values: &Values<'_>,
        extremes: impl FnOnce() -> Result<(f64, f64), Problem>,
    ) -> Result<Self, Problem> {
        let datatype = values.datatype();
        if !is_mgh_name(path) {
            let scaling = match values {
                Values::Stored { image, .. } if std::ptr::eq(&image.info, like) => None,
                Values::Stored { image, .. } => Some(image.info.scaling),
                _ => Some((1.0, 0.0)),
            };
            let order = like.header.endianness();
            return Ok(Self { mgh: false, volumes, datatype, order, scaled: false, scaling });
        }
        let scaled = matches!(values, Values::Stored { image, .. } if image.info.scaling != (1.0, 0.0));
        let datatype = match values {
            // Its own types stay as they are, the rare ones too.
            Values::Stored { image, .. } if image.info.mgh.is_some() => datatype,
            Values::Stored { keep, .. } if !scaled => mgh_integers(datatype, keep.is_none(), extremes)?,
            _ => mgh::stored_type(datatype, scaled),
        };
        Ok(Self { mgh: true, volumes, datatype, order: Endianness::Big, scaled, scaling: None })
    }

    /// The header of a file like an image, on its grid or another, with these ends of the voxels' range.
    pub(super) fn header(
        &self,
        like: &Info,
        grid: Option<(Xyz<usize>, &DMat4)>,
        range: (f64, f64),
    ) -> Result<Vec<u8>, Problem> {
        let Self { volumes, datatype, scaling, .. } = *self;
        if self.mgh {
            return match &like.mgh {
                Some(mgh) => mgh.for_output(datatype, volumes, grid),
                None => {
                    let grid = grid.unwrap_or((like.shape, &like.geometry.affine));
                    new_mgh(like, volumes).for_output(datatype, volumes, Some(grid))
                }
            };
        }
        let header = &like.header;
        let output = Output { datatype, scaling, all_frames: volumes > 1, range };
        match grid {
            None => Ok(header.for_output(&output)),
            Some((shape, affine)) => header.for_new_grid(shape, volumes, affine, &output),
        }
    }

    /// What follows the voxels.
    pub(super) fn tail(&self, like: &Info) -> Vec<u8> {
        match (self.mgh, &like.mgh) {
            (false, _) => Vec::new(),
            (true, Some(mgh)) => mgh.tail.clone(),
            (true, None) => new_mgh(like, self.volumes).tail,
        }
    }
}

/// The type in which MGH holds unscaled voxels of an image. It has no integer wider than 32 bits with a sign: wider ones
/// become float32 where that holds them all, else int32; intensities that fit neither are rounded, labels refused.
fn mgh_integers(
    datatype: NiftiType,
    are_labels: bool,
    extremes: impl FnOnce() -> Result<(f64, f64), Problem>,
) -> Result<NiftiType, Problem> {
    /// Float32 holds every whole number up to here.
    const EXACT: f64 = 16_777_216.0;
    if !matches!(datatype, NiftiType::Uint32 | NiftiType::Int64 | NiftiType::Uint64) {
        return Ok(mgh::stored_type(datatype, false));
    }
    let (least, most) = extremes()?;
    if least >= -EXACT && most <= EXACT {
        Ok(NiftiType::Float32)
    } else if least >= f64::from(i32::MIN) && most <= f64::from(i32::MAX) {
        Ok(NiftiType::Int32)
    } else if are_labels {
        Err(Problem::MghInteger(if most > EXACT { most } else { least }))
    } else {
        Ok(NiftiType::Float32)
    }
}

/// The least and the greatest of an image's voxels as stored, and of 0.
pub(super) fn extremes(image: &Image, bytes: &[u8]) -> (f64, f64) {
    let (mut least, mut most) = (0.0f64, 0.0f64);
    voxels::for_each(bytes, image.info.datatype, image.endianness(), (1.0, 0.0), |v| {
        (least, most) = (least.min(v), most.max(v));
    });
    (least, most)
}

fn new_mgh(like: &Info, volumes: usize) -> MghHeader {
    MghHeader::new(if volumes > 1 { like.header.repetition_ms() as f32 } else { 0.0 })
}

/// The value that stands for `fill` in a file `path` written by [`write_stripped`](super::write_stripped): the nearest that it stores.
pub fn stored_fill(path: impl AsRef<Path>, image: &Info, fill: f32) -> f32 {
    let (datatype, scaling) = stripped_type(path.as_ref(), image);
    let raw = voxels::nearest_raw(f64::from(fill), datatype, Endianness::Little, scaling);
    voxels::to_f32(&raw, datatype, Endianness::Little, scaling).first().copied().unwrap_or(fill)
}

/// Whether a file `path` written by [`write_stripped`](super::write_stripped) can hold `fill`, but for rounding.
///
/// # Errors
/// NaN, or a value beyond the ends of the type, where voxels are integers.
pub fn check_fill(path: impl AsRef<Path>, image: &Info, fill: f32) -> Result<(), Problem> {
    let (datatype, scaling) = stripped_type(path.as_ref(), image);
    if matches!(datatype, NiftiType::Float32 | NiftiType::Float64) {
        return Ok(());
    }
    let end = |value: f64| {
        let raw = voxels::nearest_raw(value, datatype, Endianness::Little, (1.0, 0.0));
        f64::from(voxels::to_f32(&raw, datatype, Endianness::Little, (1.0, 0.0))[0]) * scaling.0 + scaling.1
    };
    let ends = [end(f64::NEG_INFINITY), end(f64::INFINITY)];
    let [low, high] = [ends[0].min(ends[1]), ends[0].max(ends[1])];
    if (low..=high).contains(&f64::from(fill)) {
        return Ok(());
    }
    let type_name = format!("{datatype:?}").to_lowercase();
    Err(Problem::Fill { fill, type_name, low, high })
}

/// How [`write_stripped`](super::write_stripped) stores voxels in a file of this name: their type and scaling.
fn stripped_type(path: &Path, image: &Info) -> (NiftiType, (f64, f64)) {
    let Info { datatype, scaling, mgh, .. } = image;
    match (is_mgh_name(path), mgh) {
        (true, None) => {
            let scaled = *scaling != (1.0, 0.0);
            (mgh::stored_type(*datatype, scaled), if scaled { (1.0, 0.0) } else { *scaling })
        }
        _ => (*datatype, *scaling),
    }
}

/// What is written, before it is bytes.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    /// uint8.
    Labels(&'a [u8]),
    /// float32.
    Floats(&'a [f32]),
    /// Voxels as an image stores them; with `keep`, only where that is not 0, and the value beside it elsewhere.
    Stored { image: &'a Image, bytes: &'a [u8], keep: Option<(&'a [u8], f32)> },
}

impl Values<'_> {
    pub(super) fn content(&self) -> Content {
        match self {
            Self::Labels(_) => Content::Labels,
            Self::Floats(_) => Content::Floats,
            Self::Stored { .. } => Content::Stripped,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Labels(mask) => mask.len(),
            Self::Floats(data) => data.len(),
            Self::Stored { image, bytes, .. } => bytes.len() / image.info.datatype.size_of(),
        }
    }

    fn datatype(&self) -> NiftiType {
        match self {
            Self::Labels(_) => NiftiType::Uint8,
            Self::Floats(_) => NiftiType::Float32,
            Self::Stored { image, .. } => image.info.datatype,
        }
    }
}

/// Values with the way they are stored.
#[derive(Clone, Copy)]
pub(super) struct Voxels<'a> {
    pub(super) values: Values<'a>,
    pub(super) form: Form,
}

impl<'a> Voxels<'a> {
    fn piece_voxels(&self) -> usize {
        PIECE / self.form.datatype.size_of()
    }

    pub(super) fn pieces(&self) -> usize {
        self.values.len().div_ceil(self.piece_voxels())
    }

    /// Bytes of a piece.
    pub(super) fn piece(&self, ix: usize) -> Cow<'a, [u8]> {
        let Form { datatype, order: order_to, scaled, .. } = self.form;
        let from = ix * self.piece_voxels();
        let to = (from + self.piece_voxels()).min(self.values.len());
        match self.values {
            Values::Labels(mask) => Cow::Borrowed(&mask[from..to]),
            Values::Floats(data) => voxels::from_f32(&data[from..to], order_to),
            Values::Stored { image, bytes, keep } => {
                let (stored, order) = (image.info.datatype, image.endianness());
                let size = stored.size_of();
                let as_stored = &bytes[from * size..to * size];
                let recast = scaled || stored != datatype;
                if !recast && order == order_to && keep.is_none() {
                    return Cow::Borrowed(as_stored);
                }
                let mut bytes = as_stored.to_vec();
                if recast {
                    let scaling = if scaled { image.info.scaling } else { (1.0, 0.0) };
                    bytes = voxels::recast(&bytes, (stored, order), scaling, (datatype, order_to));
                } else if order != order_to {
                    bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
                }
                let Some((keep, fill)) = keep else { return Cow::Owned(bytes) };
                // One that is stored as it is keeps its scaling, and the fill value goes by it.
                let scaling = if scaled { (1.0, 0.0) } else { image.info.scaling };
                let fill = voxels::nearest_raw(f64::from(fill), datatype, order_to, scaling);
                // `keep` is for each volume, or for all of them one after the other.
                let kept = keep[from % keep.len().max(1)..].iter().chain(keep.iter().cycle());
                for (voxel, &keep) in bytes.chunks_exact_mut(fill.len()).zip(kept) {
                    if keep == 0 {
                        voxel.copy_from_slice(&fill);
                    }
                }
                Cow::Owned(bytes)
            }
        }
    }

    /// Least and greatest finite scaled value of a piece.
    pub(super) fn range(&self, bytes: &[u8]) -> Option<(f64, f64)> {
        let scaling = match self.values {
            Values::Stored { image, .. } => image.info.scaling,
            _ => (1.0, 0.0),
        };
        voxels::finite_range(bytes, self.form.datatype, self.form.order, scaling)
    }
}

/// `Err` unless the name ends in an extension of a format that is written here, in either case.
pub fn check_output_name(path: impl AsRef<Path>) -> Result<(), VolumeError> {
    let path = path.as_ref();
    check_name(path).map_err(|p| p.at(path))
}

pub(super) fn check_name(path: &Path) -> Result<(), Problem> {
    let name = file_name(path);
    let plain = strip_suffix(&name, ".gz").unwrap_or(&name);
    if is_mgh_name(path) || strip_suffix(plain, ".nii").is_some() { Ok(()) } else { Err(Problem::OutputName) }
}

/// Whether a name is that of a FreeSurfer file: `.mgz` or `.mgh`.
pub fn is_mgh_name(path: impl AsRef<Path>) -> bool {
    let name = file_name(path.as_ref());
    let plain = strip_suffix(&name, ".gz").unwrap_or(&name);
    strip_suffix(&name, ".mgz").is_some() || strip_suffix(plain, ".mgh").is_some()
}

pub(super) fn is_gzip_name(path: &Path) -> bool {
    let name = file_name(path);
    strip_suffix(&name, ".gz").is_some() || strip_suffix(&name, ".mgz").is_some()
}

fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}
