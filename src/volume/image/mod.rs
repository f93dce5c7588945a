//! Image files: NIfTI-1, NIfTI-2, FreeSurfer's MGH and series of DICOM, read into one [`Image`]; the first three are written,
//! by the name of the output.
//!
//! [`read`] takes single files and pairs, gzip or not (by content, whatever the name), both
//! byte orders and all real datatypes, and folders of DICOM. Everything it is given may be wrong: no file panics, and
//! the memory taken follows the bytes really there: one copy of the chosen volumes. The writers
//! keep the input's header bit for bit but for the fields that must change.

mod dicom;
mod form;
mod gzip;
mod mgh;
mod nifti;
mod source;
mod volumes;
mod voxels;
mod write;
mod writer;

pub use self::nifti::{Header, Version};
pub use ::nifti::{Endianness, NiftiType};
pub use dicom::{is_dicom, series_uid};
pub use form::{Content, check_fill, check_output_name, is_mgh_name, stored_fill};
pub use mgh::Header as MghHeader;
pub(crate) use source::strip_suffix;
pub use volumes::Volumes;
pub use write::{write_like, write_mask, write_new, write_new_mask, write_sampled, write_stripped};
pub use writer::VolumeWriter;

use self::nifti::{LONGEST, extension_records};
use super::{FormSource, Geometry, Grid, Problem, Volume, VolumeError, Warning, affine};
use crate::tensor::Xyz;
use glam::{DMat4, DVec3};
use source::{Source, sibling};
use std::path::{Path, PathBuf};

/// Most bytes of extensions that are kept. Real ones are kilobytes; the limit keeps a damaged
/// offset from filling the memory.
const EXTENSIONS_MOST: usize = 64 << 20;

/// Most bytes kept of what follows the voxels of an MGH file.
const TAIL_MOST: usize = EXTENSIONS_MOST;

/// Which volumes of a 4D image to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameChoice {
    /// The image must have one volume only.
    Only,
    /// The volume of this number, from 0.
    One(usize),
    /// All of them.
    All,
}

/// What a header says about an image, without its voxels.
#[derive(Debug, Clone)]
pub struct Info {
    /// Voxels along x, y, z.
    pub shape: Xyz<usize>,
    /// Number of volumes: the product of the dimensions past the third.
    pub frames: usize,
    /// Datatype of the voxels.
    pub datatype: NiftiType,
    /// Place of the grid in the world.
    pub geometry: Geometry,
    /// Slope and intercept that apply.
    pub scaling: (f64, f64),
    /// The NIfTI header: the file's own, or one that says the same as that of an MGH file or a series.
    pub header: Header,
    /// The header of an MGH file.
    pub mgh: Option<MghHeader>,
    /// Oddities of the header.
    pub warnings: Vec<Warning>,
}

impl Info {
    /// That of a DICOM series, as a NIfTI header says it.
    fn of(scan: &dicom::Scan) -> Result<Self, Problem> {
        let (shape, datatype, scaling, affine) = (scan.shape(), scan.datatype, scan.scaling, scan.affine());
        let header = Header::new(shape, 1, datatype, &affine, 0.0)?.with_scaling(scaling)?;
        let geometry = Geometry { affine, source: FormSource::Dicom };
        Ok(Self { shape, frames: 1, datatype, geometry, scaling, header, mgh: None, warnings: Vec::new() })
    }

    /// Where the voxels lie.
    pub fn grid(&self) -> Grid {
        Grid { shape: self.shape, affine: self.geometry.affine }
    }

    /// Bytes of a volume as stored.
    fn volume_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.datatype.size_of()
    }
}

/// An image in memory: everything needed to write its like, with the voxels as stored.
#[derive(Debug, Clone)]
pub struct Image {
    path: PathBuf,
    info: Info,
    /// Volumes held in `data`.
    held: usize,
    /// Voxel bytes of the held volumes, byte order of the file.
    data: Vec<u8>,
}

/// Reads the header of an image (of a pair, by either of its files; of a series of DICOM, by its folder or any file of it).
pub fn read_info(path: impl AsRef<Path>) -> Result<Info, VolumeError> {
    let path = path.as_ref();
    if let Some(series) = dicom::Series::at(path)? {
        return series.scan().and_then(|scan| Info::of(&scan).map_err(|problem| problem.at(path)));
    }
    open(path).and_then(|mut opened| opened.info()).map_err(|problem| problem.at(path))
}

/// Reads an image (a pair by either of its files, a series of DICOM by its folder or any file of it): the header and the
/// voxels of the chosen volumes.
pub fn read(path: impl AsRef<Path>, choice: FrameChoice) -> Result<Image, VolumeError> {
    let path = path.as_ref();
    if let Some(series) = dicom::Series::at(path)? {
        if let FrameChoice::One(wanted @ 1..) = choice {
            return Err(Problem::NoSuchFrame { wanted, frames: 1 }.at(path));
        }
        let scan = series.scan()?;
        let info = Info::of(&scan).map_err(|problem| problem.at(path))?;
        return Ok(Image { path: path.to_path_buf(), info, held: 1, data: scan.read()? });
    }
    open(path).and_then(|opened| opened.image(path, choice)).map_err(|problem| problem.at(path))
}

/// Reads an image where one volume is expected and none can be chosen: in a table, or beside another image. A fourth
/// axis of length 1 is dropped.
pub fn read_single(path: impl AsRef<Path>) -> Result<Image, VolumeError> {
    read(path, FrameChoice::Only).map_err(|VolumeError { path, problem }| match problem {
        Problem::FrameNeeded(frames) => Problem::SeveralVolumes(frames).at(&path),
        problem => problem.at(&path),
    })
}

/// The files that hold an image: one, the header and the voxels of a pair, or those of a series.
pub fn files(path: &Path) -> Vec<PathBuf> {
    if let Ok(Some(series)) = dicom::Series::at(path) {
        return series.files();
    }
    match (sibling(path, "img", "hdr"), sibling(path, "hdr", "img")) {
        (Some(header), _) => vec![header, path.to_path_buf()],
        (None, Some(voxels)) => vec![path.to_path_buf(), voxels],
        (None, None) => vec![path.to_path_buf()],
    }
}

/// The header that a file begins with.
enum Start {
    Nifti(Header),
    Mgh(MghHeader),
}

impl Start {
    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        // No NIfTI header begins like that: 348 and 540 are no 1 in either byte order.
        if mgh::is_mgh(bytes) {
            MghHeader::parse(bytes).map(Self::Mgh)
        } else {
            Header::parse(bytes).map(Self::Nifti)
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Nifti(header) => header.size(),
            Self::Mgh(header) => header.bytes().len(),
        }
    }

    fn is_pair(&self) -> bool {
        matches!(self, Self::Nifti(header) if header.is_pair())
    }

    /// Byte of the file at which the voxels start.
    fn voxel_offset(&self) -> Result<u64, Problem> {
        match self {
            Self::Nifti(header) => header.voxel_offset(),
            Self::Mgh(header) => Ok(header.bytes().len() as u64),
        }
    }
}

/// A file whose header is read: `source` stands right after it and the bytes `ahead`.
struct Opened {
    start: Start,
    source: Source,
    /// Bytes already taken from `source` after the header.
    ahead: Vec<u8>,
    /// The voxel file of a pair.
    voxels: Option<PathBuf>,
}

fn open(path: &Path) -> Result<Opened, Problem> {
    let start = |path: &Path| {
        let mut source = Source::open(path)?;
        let bytes = source.read_up_to(LONGEST)?;
        Start::parse(&bytes).map(|start| {
            let ahead = bytes.get(start.size()..).unwrap_or_default().to_vec();
            (source, start, ahead)
        })
    };
    let (mut named_voxels, mut header_path) = (None, path.to_path_buf());
    let (source, start, ahead) = match start(path) {
        Ok(opened) => opened,
        // Not a header: the voxels of a pair, if the name says so.
        Err(problem @ (Problem::OtherFormat { .. } | Problem::TooShort(_))) => {
            match sibling(path, "img", "hdr") {
                Some(hdr) => {
                    let opened = start(&hdr)?;
                    named_voxels = Some(path.to_path_buf());
                    header_path = hdr;
                    opened
                }
                None if has_extension(path, ".img") => return Err(Problem::MissingHdr),
                None => return Err(problem),
            }
        }
        Err(problem) => return Err(problem),
    };
    let voxels = if start.is_pair() {
        let found = named_voxels.or_else(|| sibling(&header_path, "hdr", "img"));
        Some(found.ok_or(Problem::MissingImg)?)
    } else {
        None
    };
    Ok(Opened { start, source, ahead, voxels })
}

fn has_extension(path: &Path, extension: &str) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    name.trim_end_matches(".gz").ends_with(extension)
}

impl Opened {
    /// Checks the header and reads the extensions; afterwards `source` stands at the voxels of
    /// a single file or behind the header of a pair.
    fn info(&mut self) -> Result<Info, Problem> {
        let mut warnings = Vec::new();
        let header = match &self.start {
            Start::Nifti(header) => header,
            Start::Mgh(mgh) => {
                let (shape, frames) = mgh.grid()?;
                let datatype = mgh.datatype()?;
                let geometry = mgh.geometry(shape, &mut warnings)?;
                let header = Header::new(shape, frames, datatype, &geometry.affine, mgh.repetition_s())?;
                let (scaling, mgh) = ((1.0, 0.0), Some(mgh.clone()));
                return Ok(Info { shape, frames, datatype, geometry, scaling, header, mgh, warnings });
            }
        };
        let datatype = header.datatype()?;
        let (shape, frames) = header.grid()?;
        let scaling = header.scaling()?;
        let offset = header.voxel_offset()?;
        let (forms, unit_mm) = header.forms();
        if let Some((unit, mm)) = header.odd_unit()
            && mm != unit_mm
        {
            warnings.push(Warning::Units(unit));
        }
        let geometry = Geometry::from_forms(&forms, shape, &mut warnings)?;
        let mut header = header.clone();
        header.extensions = self.read_extensions(&header, offset, &mut warnings)?;
        Ok(Info { shape, frames, datatype, geometry, scaling, header, mgh: None, warnings })
    }

    fn read_extensions(
        &mut self,
        header: &Header,
        offset: u64,
        warnings: &mut Vec<Warning>,
    ) -> Result<Vec<u8>, Problem> {
        let size = header.size();
        let room = if self.voxels.is_some() {
            EXTENSIONS_MOST
        } else {
            usize::try_from(offset).map_or(EXTENSIONS_MOST, |o| o - size)
        };
        let has_records = self.ahead.first().is_some_and(|&b| b != 0) && room > 4;
        if !has_records {
            return Ok(Vec::new());
        }
        if room > EXTENSIONS_MOST {
            warnings.push(Warning::DamagedExtensions);
            return Ok(Vec::new());
        }
        let known = std::mem::take(&mut self.ahead);
        let mut region = self.source.read_after(&known, room.max(known.len()), 0)?;
        // What was read ahead may reach into the voxels; only then `image` needs it.
        if region.len() > room {
            self.ahead = known;
            region.truncate(room);
        }
        let (end, sound) = extension_records(&region, header.endianness());
        if !sound {
            warnings.push(Warning::DamagedExtensions);
        }
        region.truncate(end);
        region.shrink_to_fit();
        Ok(region)
    }

    fn image(mut self, path: &Path, choice: FrameChoice) -> Result<Image, Problem> {
        let mut info = self.info()?;
        let (first, held) = match choice {
            FrameChoice::Only if info.frames == 1 => (0, 1),
            FrameChoice::Only => return Err(Problem::FrameNeeded(info.frames)),
            FrameChoice::One(wanted) if wanted < info.frames => (wanted, 1),
            FrameChoice::One(wanted) => {
                return Err(Problem::NoSuchFrame { wanted, frames: info.frames });
            }
            FrameChoice::All => (0, info.frames),
        };
        let mut voxels = self.voxels()?;
        let data = voxels.read(&info, first, held)?;
        voxels.read_tail(&mut info)?;
        if first + held == info.frames {
            voxels.source.verify()?;
        }
        Ok(Image { path: path.to_path_buf(), info, held, data })
    }

    /// The voxels, after [`Opened::info`].
    fn voxels(self) -> Result<VoxelStream, Problem> {
        let (header_bytes, offset) = (self.start.size(), self.start.voxel_offset()?);
        let (source, ahead) = match &self.voxels {
            Some(img) => (Source::open(img)?, Vec::new()),
            None => (self.source, self.ahead),
        };
        Ok(VoxelStream { source, ahead, header_bytes, offset })
    }
}

/// The voxels of a file, read from front to back.
struct VoxelStream {
    source: Source,
    /// Bytes after the header that are taken from `source` already; of a voxel file of its own, none.
    ahead: Vec<u8>,
    header_bytes: usize,
    /// Byte at which the voxels start.
    offset: u64,
}

impl VoxelStream {
    /// The bytes of `count` volumes from `first` on, which comes after those read before.
    fn read(&mut self, info: &Info, first: usize, count: usize) -> Result<Vec<u8>, Problem> {
        // `Header::grid` has checked that the bytes of all volumes are addressable.
        let bytes = info.volume_bytes() as u64;
        let start = self.offset.saturating_add(first as u64 * bytes);
        let needed = count as u64 * bytes;
        let from = usize::try_from(start.saturating_sub(self.header_bytes as u64)).unwrap_or(usize::MAX);
        match self.ahead.get(from..) {
            Some(known) if !known.is_empty() => self.source.read_voxels(known, needed),
            _ => {
                self.source.skip_to(start)?;
                self.source.read_voxels(&[], needed)
            }
        }
    }

    /// What follows the voxels of an MGH file: repetition time, and text that its outputs keep.
    fn read_tail(&mut self, info: &mut Info) -> Result<(), Problem> {
        let bytes = info.volume_bytes();
        let Some(mgh) = &mut info.mgh else { return Ok(()) };
        let end = self.offset + (info.frames * bytes) as u64;
        let known = usize::try_from(end - self.header_bytes as u64).ok().and_then(|at| self.ahead.get(at..));
        self.source.skip_to(end)?;
        mgh.tail = self.source.read_after(known.unwrap_or_default(), TAIL_MOST, 0)?;
        let Info { shape, frames, datatype, geometry, .. } = info;
        info.header = Header::new(*shape, *frames, *datatype, &geometry.affine, mgh.repetition_s())?;
        Ok(())
    }
}

impl Image {
    /// Clears the free text of the header, which may name a person: whatever is written like this image has none.
    pub fn anonymise(&mut self) {
        self.info.header.clear_texts();
        if let Some(mgh) = &mut self.info.mgh {
            mgh.clear_texts();
        }
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Voxels along x, y, z.
    pub fn shape(&self) -> Xyz<usize> {
        self.info.shape
    }

    /// Voxels of one volume.
    pub fn voxels(&self) -> usize {
        self.info.shape.iter().product()
    }

    /// Volumes held: 1, or all of a 4D image read with [`FrameChoice::All`].
    pub fn frames(&self) -> usize {
        self.held
    }

    /// Voxel index to world coordinates, mm.
    pub fn affine(&self) -> DMat4 {
        self.info.geometry.affine
    }

    /// Which form of the header the affine comes from.
    pub fn form_source(&self) -> FormSource {
        self.info.geometry.source
    }

    /// Where its voxels lie.
    pub fn grid(&self) -> Grid {
        self.info.grid()
    }

    /// Edge lengths of a voxel, mm.
    pub fn voxel_size(&self) -> DVec3 {
        affine::voxel_size(&self.info.geometry.affine)
    }

    /// Volume of one voxel, mL.
    pub fn voxel_volume_ml(&self) -> f64 {
        affine::voxel_volume_ml(&self.info.geometry.affine)
    }

    /// Datatype of the stored voxels.
    pub fn datatype(&self) -> NiftiType {
        self.info.datatype
    }

    /// What the header says.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The NIfTI header as read; of an MGH file or a series of DICOM, one that says the same.
    pub fn header(&self) -> &Header {
        &self.info.header
    }

    /// Oddities found while reading.
    pub fn warnings(&self) -> &[Warning] {
        &self.info.warnings
    }

    /// Byte order of the voxels.
    pub fn endianness(&self) -> Endianness {
        match self.info.mgh {
            Some(_) => Endianness::Big,
            None => self.info.header.endianness(),
        }
    }

    /// Voxel bytes of the held volumes in the datatype and byte order of the file.
    pub fn raw(&self) -> &[u8] {
        &self.data
    }

    /// The bytes of one voxel whose value, slope and intercept applied, is nearest to `value`, and that value: another
    /// than asked for where the datatype does not hold it.
    pub fn voxel_of(&self, value: f64) -> (Vec<u8>, f64) {
        let (datatype, order, scaling) = (self.info.datatype, self.endianness(), self.info.scaling);
        let bytes = voxels::nearest_raw(value, datatype, order, scaling);
        let mut held = f64::NAN;
        voxels::for_each(&bytes, datatype, order, scaling, |v| held = v);
        (bytes, held)
    }

    /// Whether a NIfTI file with this image's header can hold a grid of `shape`.
    ///
    /// # Errors
    /// [`Problem::GridTooLarge`]: NIfTI-1 counts to 32,767 along an axis.
    pub fn check_shape(&self, shape: Xyz<usize>) -> Result<(), Problem> {
        match self.info.header.version() {
            Version::One if shape.iter().any(|&n| n > i16::MAX as usize) => Err(Problem::GridTooLarge(shape)),
            _ => Ok(()),
        }
    }

    /// Calls `f` with each voxel of volume 0 in turn, slope and intercept applied, in f64: labels beyond 2^24 stay
    /// what they are.
    pub(super) fn for_each_value(&self, f: impl FnMut(f64)) {
        let bytes = &self.data[..self.info.volume_bytes()];
        voxels::for_each(bytes, self.info.datatype, self.endianness(), self.info.scaling, f);
    }

    /// Volume `frame` of the held ones as floats, slope and intercept applied. NaN and infinite
    /// voxels stay: see [`Volume::replace_non_finite`].
    pub fn frame_f32(&self, frame: usize) -> Result<Volume, VolumeError> {
        if frame >= self.held {
            return Err(Problem::NoSuchFrame { wanted: frame, frames: self.held }.at(&self.path));
        }
        let size = self.info.volume_bytes();
        let bytes = &self.data[frame * size..(frame + 1) * size];
        let data = voxels::to_f32(bytes, self.info.datatype, self.endianness(), self.info.scaling);
        Ok(Volume { shape: self.info.shape, affine: self.info.geometry.affine, data })
    }
}
