//! Writing images: onto a temporary file in the same folder, renamed when complete, so that a
//! failure leaves nothing behind and a reader never sees half a file.
//!
//! The name of an output says what it is. `.nii` and `.nii.gz`: a single NIfTI file of the
//! input's version and byte order. `.mgh` and `.mgz`: FreeSurfer's format, which knows no scaling
//! and fewer types; what it cannot hold exactly is stored as float32. `.gz` and `.mgz` are gzip.
//!
//! Voxels are made a piece at a time, just before they are compressed: writing takes no copy of
//! the volume.

use super::super::unfinished::Temporary;
use super::super::{Grid, Problem, VolumeError, expect_length};
use super::nifti::Output;
use super::source::strip_suffix;
use super::{Endianness, Image, Info, MghHeader, NiftiType, gzip, mgh, voxels};
use crate::tensor::Xyz;
use glam::DMat4;
use rayon::prelude::*;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Bytes of voxels made at a time: large enough that the window of the compressor, which starts
/// anew with each, costs below 1%.
const PIECE: usize = 1 << 20;

/// Writes labels (a mask: 0 and 1) on the grid of `like`: uint8, slope 1. `mask` holds one
/// value a voxel for one volume, or for all the volumes of `like`.
pub fn write_mask(path: impl AsRef<Path>, like: &Image, mask: &[u8]) -> Result<(), VolumeError> {
    write(path.as_ref(), like, None, Values::Labels(mask))
}

/// Writes floats (a field, probabilities, distances) on the grid of `like`: float32, slope 1.
/// `data` holds one value a voxel for one volume, or for all the volumes of `like`.
pub fn write_like(path: impl AsRef<Path>, like: &Image, data: &[f32]) -> Result<(), VolumeError> {
    write(path.as_ref(), like, None, Values::Floats(data))
}

/// Writes the held volumes of `image` in their own datatype and scaling: bit-equal to the input
/// where `keep` is not 0, `fill` elsewhere. `keep` is for one volume and then applies to each,
/// or for all of them.
///
/// `fill` is a scaled value. It is stored as the nearest value that the datatype holds: under
/// an intercept of -1000, say, 0 is stored as 1000.
pub fn write_stripped(
    path: impl AsRef<Path>,
    image: &Image,
    keep: &[u8],
    fill: f32,
) -> Result<(), VolumeError> {
    write(path.as_ref(), image, None, Values::Stored { image, bytes: &image.data, keep: Some((keep, fill)) })
}

/// Writes voxels of the datatype, scaling and byte order of `image` that lie on `grid`, bit-equal: what
/// [`crate::volume::nearest`] sampled of it. The header is that of `like`, an image on this grid, for one volume;
/// without it that of `image`, moved to the grid as [`write_new`] does.
pub fn write_sampled(
    path: impl AsRef<Path>,
    image: &Image,
    bytes: &[u8],
    grid: &Grid,
    like: Option<&Image>,
) -> Result<(), VolumeError> {
    let values = Values::Stored { image, bytes, keep: None };
    match like {
        Some(like) => write(path.as_ref(), like, None, values),
        None => write(path.as_ref(), image, Some((grid.shape, &grid.affine)), values),
    }
}

/// The value that stands for `fill` in a file `path` written by [`write_stripped`]: the nearest that it stores.
pub fn stored_fill(path: impl AsRef<Path>, image: &Image, fill: f32) -> f32 {
    let (datatype, scaling) = stripped_type(path.as_ref(), image);
    let raw = voxels::nearest_raw(f64::from(fill), datatype, Endianness::Little, scaling);
    voxels::to_f32(&raw, datatype, Endianness::Little, scaling).first().copied().unwrap_or(fill)
}

/// Whether a file `path` written by [`write_stripped`] can hold `fill`, but for rounding.
///
/// # Errors
/// NaN, or a value beyond the ends of the type, where voxels are integers.
pub fn check_fill(path: impl AsRef<Path>, image: &Image, fill: f32) -> Result<(), VolumeError> {
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
    Err(Problem::Fill { fill, type_name, low, high }.at(image.path()))
}

/// How [`write_stripped`] stores voxels in a file of this name: their type and scaling.
fn stripped_type(path: &Path, image: &Image) -> (NiftiType, (f64, f64)) {
    let Info { datatype, scaling, mgh, .. } = &image.info;
    match (is_mgh_name(path), mgh) {
        (true, None) => {
            let scaled = *scaling != (1.0, 0.0);
            (mgh::stored_type(*datatype, scaled), if scaled { (1.0, 0.0) } else { *scaling })
        }
        _ => (*datatype, *scaling),
    }
}

/// Writes floats on a grid of its own, as after resampling: float32, sform and qform set to
/// `affine` (the qform only without shear) with the form codes of `source`; the rest of the
/// header as in `source`. `data` holds one or several volumes of `shape`.
pub fn write_new(
    path: impl AsRef<Path>,
    shape: Xyz<usize>,
    affine: &DMat4,
    data: &[f32],
    source: &Image,
) -> Result<(), VolumeError> {
    write(path.as_ref(), source, Some((shape, affine)), Values::Floats(data))
}

/// As [`write_new`], labels (a mask: 0 and 1) as uint8.
pub fn write_new_mask(
    path: impl AsRef<Path>,
    shape: Xyz<usize>,
    affine: &DMat4,
    mask: &[u8],
    source: &Image,
) -> Result<(), VolumeError> {
    write(path.as_ref(), source, Some((shape, affine)), Values::Labels(mask))
}

/// Writes `values` on the grid of `like`, or on `grid`.
fn write(
    path: &Path,
    like: &Image,
    grid: Option<(Xyz<usize>, &DMat4)>,
    values: Values<'_>,
) -> Result<(), VolumeError> {
    let build = || {
        let frames = match grid {
            None => frames_of(like, values.len())?,
            Some((shape, _)) => frames_on(shape, values.len())?,
        };
        if let Values::Stored { keep: Some((keep, _)), .. } = values {
            frames_of(like, keep.len())?;
        }
        if is_mgh_name(path) {
            let (head, voxels) = mgh_file(like, grid, frames, values)?;
            let tail = like.info.mgh.as_ref().map(|mgh| mgh.tail.clone());
            let tail = tail.unwrap_or_else(|| new_mgh(like, frames).tail);
            save(path, &Contents { head: &head, voxels, tail: &tail })
        } else {
            let (head, voxels) = nifti_file(like, grid, frames, values)?;
            save(path, &Contents { head: &head, voxels, tail: &[] })
        }
    };
    build().map_err(|p: Problem| p.at(path))
}

/// Header and voxels of a NIfTI output.
fn nifti_file<'a>(
    like: &Image,
    grid: Option<(Xyz<usize>, &DMat4)>,
    frames: usize,
    values: Values<'a>,
) -> Result<(Vec<u8>, Voxels<'a>), Problem> {
    let header = &like.info.header;
    let datatype = values.datatype();
    let voxels = Voxels { values, datatype, order: header.endianness(), scaled: false };
    let output = Output {
        datatype,
        scaling: match values {
            Values::Stored { image, .. } if std::ptr::eq(image, like) => None,
            Values::Stored { image, .. } => Some(image.info.scaling),
            _ => Some((1.0, 0.0)),
        },
        all_frames: frames > 1,
        range: voxels.range(),
    };
    let head = match grid {
        None => header.for_output(&output),
        Some((shape, affine)) => header.for_new_grid(shape, frames, affine, &output)?,
    };
    Ok((head, voxels))
}

/// Header and voxels of an MGH output.
fn mgh_file<'a>(
    like: &Image,
    grid: Option<(Xyz<usize>, &DMat4)>,
    frames: usize,
    values: Values<'a>,
) -> Result<(Vec<u8>, Voxels<'a>), Problem> {
    let scaled = matches!(values, Values::Stored { image, .. } if image.info.scaling != (1.0, 0.0));
    let datatype = match values {
        // Its own types stay as they are, the rare ones too.
        Values::Stored { image, .. } if image.info.mgh.is_some() => values.datatype(),
        Values::Stored { image, bytes, keep } if !scaled => mgh_integers(image, bytes, keep.is_none())?,
        _ => mgh::stored_type(values.datatype(), scaled),
    };
    let head = match &like.info.mgh {
        Some(mgh) => mgh.for_output(datatype, frames, grid)?,
        None => {
            let affine = like.affine();
            let grid = grid.unwrap_or((like.shape(), &affine));
            new_mgh(like, frames).for_output(datatype, frames, Some(grid))?
        }
    };
    Ok((head, Voxels { values, datatype, order: Endianness::Big, scaled }))
}

/// The type in which MGH holds unscaled voxels of an image. It has no integer wider than 32 bits with a sign: wider ones
/// become float32 where that holds them all, else int32; intensities that fit neither are rounded, labels refused.
fn mgh_integers(image: &Image, bytes: &[u8], are_labels: bool) -> Result<NiftiType, Problem> {
    /// Float32 holds every whole number up to here.
    const EXACT: f64 = 16_777_216.0;
    let datatype = image.info.datatype;
    if !matches!(datatype, NiftiType::Uint32 | NiftiType::Int64 | NiftiType::Uint64) {
        return Ok(mgh::stored_type(datatype, false));
    }
    let (mut least, mut most) = (0.0f64, 0.0f64);
    voxels::for_each(bytes, datatype, image.endianness(), (1.0, 0.0), |v| {
        (least, most) = (least.min(v), most.max(v));
    });
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

fn new_mgh(like: &Image, frames: usize) -> MghHeader {
    MghHeader::new(if frames > 1 { like.info.header.repetition_ms() as f32 } else { 0.0 })
}

/// What is written, before it is bytes.
#[derive(Clone, Copy)]
enum Values<'a> {
    /// uint8.
    Labels(&'a [u8]),
    /// float32.
    Floats(&'a [f32]),
    /// Voxels as an image stores them; with `keep`, only where that is not 0, and the value beside it elsewhere.
    Stored { image: &'a Image, bytes: &'a [u8], keep: Option<(&'a [u8], f32)> },
}

impl Values<'_> {
    fn len(&self) -> usize {
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
struct Voxels<'a> {
    values: Values<'a>,
    datatype: NiftiType,
    order: Endianness,
    /// Store scaled values, for a format without slope and intercept.
    scaled: bool,
}

impl<'a> Voxels<'a> {
    fn piece_voxels(&self) -> usize {
        PIECE / self.datatype.size_of()
    }

    fn pieces(&self) -> usize {
        self.values.len().div_ceil(self.piece_voxels())
    }

    /// Bytes of a piece.
    fn piece(&self, ix: usize) -> Cow<'a, [u8]> {
        let from = ix * self.piece_voxels();
        let to = (from + self.piece_voxels()).min(self.values.len());
        match self.values {
            Values::Labels(mask) => Cow::Borrowed(&mask[from..to]),
            Values::Floats(data) => voxels::from_f32(&data[from..to], self.order),
            Values::Stored { image, bytes, keep } => {
                let (stored, order) = (image.info.datatype, image.endianness());
                let size = stored.size_of();
                let as_stored = &bytes[from * size..to * size];
                let recast = self.scaled || stored != self.datatype;
                if !recast && order == self.order && keep.is_none() {
                    return Cow::Borrowed(as_stored);
                }
                let mut bytes = as_stored.to_vec();
                if recast {
                    let scaling = if self.scaled { image.info.scaling } else { (1.0, 0.0) };
                    bytes = voxels::recast(&bytes, (stored, order), scaling, (self.datatype, self.order));
                } else if order != self.order {
                    bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
                }
                let Some((keep, fill)) = keep else { return Cow::Owned(bytes) };
                // One that is stored as it is keeps its scaling, and the fill value goes by it.
                let scaling = if self.scaled { (1.0, 0.0) } else { image.info.scaling };
                let fill = voxels::nearest_raw(f64::from(fill), self.datatype, self.order, scaling);
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

    /// Least and greatest finite scaled value; zeros where there is none.
    fn range(&self) -> (f64, f64) {
        let scaling = match self.values {
            Values::Stored { image, .. } => image.info.scaling,
            _ => (1.0, 0.0),
        };
        let of_piece = |ix| {
            let bytes = self.piece(ix);
            voxels::finite_range(&voxels::to_f32(&bytes, self.datatype, self.order, scaling))
        };
        let ranges = (0..self.pieces()).into_par_iter().filter_map(of_piece);
        ranges.reduce_with(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or_default()
    }
}

/// A whole file: header, voxels, and what follows them.
struct Contents<'a> {
    head: &'a [u8],
    voxels: Voxels<'a>,
    tail: &'a [u8],
}

impl<'a> Contents<'a> {
    fn parts(&self) -> usize {
        self.voxels.pieces() + 2
    }

    fn part(&self, ix: usize) -> Cow<'a, [u8]> {
        if ix == 0 {
            Cow::Borrowed(self.head)
        } else if ix <= self.voxels.pieces() {
            self.voxels.piece(ix - 1)
        } else {
            Cow::Borrowed(self.tail)
        }
    }
}

/// Volumes that `got` values are: one, or all that the image holds.
fn frames_of(image: &Image, got: usize) -> Result<usize, Problem> {
    let voxels = image.voxels();
    if got == voxels {
        Ok(1)
    } else if got == voxels * image.held {
        Ok(image.held)
    } else {
        Err(Problem::Length { expected: voxels, got })
    }
}

/// Volumes of `shape` that `got` values are.
fn frames_on(shape: Xyz<usize>, got: usize) -> Result<usize, Problem> {
    let voxels: usize = shape.iter().product();
    if voxels == 0 || got == 0 || !got.is_multiple_of(voxels) {
        expect_length(shape, got)?;
    }
    Ok(got / voxels.max(1))
}

/// `Err` unless the name ends in an extension of a format that is written here, in either case.
pub fn check_output_name(path: impl AsRef<Path>) -> Result<(), VolumeError> {
    let path = path.as_ref();
    check_name(path).map_err(|p| p.at(path))
}

fn check_name(path: &Path) -> Result<(), Problem> {
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

fn is_gzip_name(path: &Path) -> bool {
    let name = file_name(path);
    strip_suffix(&name, ".gz").is_some() || strip_suffix(&name, ".mgz").is_some()
}

fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Writes a file, all or nothing.
fn save(path: &Path, contents: &Contents<'_>) -> Result<(), Problem> {
    if path.is_dir() {
        return Err(Problem::Folder);
    }
    // A device such as /dev/null cannot be replaced by a rename, only written to.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let write = || write_contents(File::options().write(true).open(path)?, path, contents);
        return write().map_err(Problem::Write);
    }
    check_name(path)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(Problem::NoFolder(folder.to_path_buf()));
    }
    let write = || {
        let mut file = Temporary::beside(path)?;
        write_contents(&mut file, path, contents)?;
        file.finish()
    };
    write().map_err(Problem::Write)
}

fn write_contents(mut file: impl Write, path: &Path, contents: &Contents<'_>) -> io::Result<()> {
    if is_gzip_name(path) {
        gzip::write(&mut file, contents.parts(), |ix| contents.part(ix))?;
    } else {
        for ix in 0..contents.parts() {
            file.write_all(&contents.part(ix))?;
        }
    }
    file.flush()
}
