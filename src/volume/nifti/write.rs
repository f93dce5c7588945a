//! Writing images: onto a temporary file in the same folder, renamed when complete, so that a
//! failure leaves nothing behind and a reader never sees half a file.
//!
//! Outputs are single files of the input's NIfTI version and byte order, gzip where the name
//! ends in `.gz`.

use super::super::{Problem, VolumeError, expect_length};
use super::header::Output;
use super::image::Image;
use super::source::strip_suffix;
use super::{gzip, voxels};
use ::nifti::NiftiType;
use glam::DMat4;
use rayon::prelude::*;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use tempfile::NamedTempFile;

/// Writes labels (a mask: 0 and 1) on the grid of `like`: uint8, slope 1. `mask` holds one
/// value a voxel for one volume, or for all the volumes of `like`.
pub fn write_mask(path: impl AsRef<Path>, like: &Image, mask: &[u8]) -> Result<(), VolumeError> {
    let path = path.as_ref();
    let all_frames = frames_of(like, mask.len()).map_err(|p| p.at(path))?;
    let min = mask.par_iter().min().copied().unwrap_or(0);
    let max = mask.par_iter().max().copied().unwrap_or(0);
    let head = like.info.header.for_output(&Output {
        datatype: NiftiType::Uint8,
        keep_scaling: false,
        all_frames,
        range: (f64::from(min), f64::from(max)),
    });
    save(path, &[&head, mask]).map_err(|p| p.at(path))
}

/// Writes floats (a field, probabilities, distances) on the grid of `like`: float32, slope 1.
/// `data` holds one value a voxel for one volume, or for all the volumes of `like`.
pub fn write_like(path: impl AsRef<Path>, like: &Image, data: &[f32]) -> Result<(), VolumeError> {
    let path = path.as_ref();
    let all_frames = frames_of(like, data.len()).map_err(|p| p.at(path))?;
    let header = &like.info.header;
    let head = header.for_output(&float_output(data, all_frames));
    let body = voxels::from_f32(data, header.endianness());
    save(path, &[&head, &body]).map_err(|p| p.at(path))
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
    let path = path.as_ref();
    let per_frame = frames_of(image, keep.len()).map_err(|p| p.at(path))?;
    let info = &image.info;
    let order = info.header.endianness();
    let size = info.datatype.size_of();
    let fill = voxels::nearest_raw(f64::from(fill), info.datatype, order, info.scaling);
    let mut data = image.data.clone();
    let frame_bytes = image.voxels() * size;
    for (frame, bytes) in data.chunks_mut(frame_bytes).enumerate() {
        let from = if per_frame { frame * image.voxels() } else { 0 };
        bytes.par_chunks_mut(size).with_min_len(1 << 14).zip(&keep[from..from + image.voxels()]).for_each(
            |(voxel, &keep)| {
                if keep == 0 {
                    voxel.copy_from_slice(&fill);
                }
            },
        );
    }
    let values = voxels::to_f32(&data, info.datatype, order, info.scaling);
    let head = info.header.for_output(&Output {
        datatype: info.datatype,
        keep_scaling: true,
        all_frames: image.held > 1,
        range: voxels::finite_range(&values),
    });
    save(path, &[&head, &data]).map_err(|p| p.at(path))
}

/// Writes floats on a grid of its own, as after resampling: float32, sform and qform set to
/// `affine` (the qform only without shear) with the form codes of `source`; the rest of the
/// header as in `source`. `data` holds one or several volumes of `shape`.
pub fn write_new(
    path: impl AsRef<Path>,
    shape: [usize; 3],
    affine: &DMat4,
    data: &[f32],
    source: &Image,
) -> Result<(), VolumeError> {
    let path = path.as_ref();
    let build = || {
        let voxels: usize = shape.iter().product();
        if voxels == 0 || data.is_empty() || !data.len().is_multiple_of(voxels) {
            expect_length(shape, data.len())?;
        }
        let frames = data.len() / voxels.max(1);
        let header = &source.info.header;
        let output = float_output(data, frames > 1);
        let head = header.for_new_grid(shape, frames, affine, &output)?;
        let body = voxels::from_f32(data, header.endianness());
        save(path, &[&head, &body])
    };
    build().map_err(|p| p.at(path))
}

fn float_output(data: &[f32], all_frames: bool) -> Output {
    Output {
        datatype: NiftiType::Float32,
        keep_scaling: false,
        all_frames,
        range: voxels::finite_range(data),
    }
}

/// Whether `got` values are for all the volumes of a 4D image (false: for one volume).
fn frames_of(image: &Image, got: usize) -> Result<bool, Problem> {
    let voxels = image.voxels();
    if got == voxels {
        Ok(false)
    } else if got == voxels * image.held {
        Ok(true)
    } else {
        Err(Problem::Length { expected: voxels, got })
    }
}

/// `Err` unless the name ends in `.nii` or `.nii.gz` (in either case), the formats written here.
pub fn check_output_name(path: impl AsRef<Path>) -> Result<(), VolumeError> {
    let path = path.as_ref();
    check_name(path).map_err(|p| p.at(path))
}

fn check_name(path: &Path) -> Result<(), Problem> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = strip_suffix(&name, ".gz").unwrap_or(&name);
    match strip_suffix(plain, ".nii") {
        Some(_) => Ok(()),
        None => Err(Problem::OutputName),
    }
}

/// Writes `parts` one after the other to `path`, all or nothing.
fn save(path: &Path, parts: &[&[u8]]) -> Result<(), Problem> {
    if path.is_dir() {
        return Err(Problem::Folder);
    }
    // A device such as /dev/null cannot be replaced by a rename, only written to.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let write = || write_parts(File::options().write(true).open(path)?, path, parts);
        return write().map(drop).map_err(Problem::Write);
    }
    check_name(path)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(Problem::NoFolder(folder.to_path_buf()));
    }
    let (file, temporary) = temporary_in(folder).map_err(Problem::Write)?.into_parts();
    let file = write_parts(file, path, parts).map_err(Problem::Write)?;
    // Some network disks report a full quota only now.
    file.sync_data().map_err(Problem::Write)?;
    drop(file);
    temporary.persist(path).map_err(|e| Problem::Write(e.error))
}

fn write_parts(mut file: File, path: &Path, parts: &[&[u8]]) -> io::Result<File> {
    let name = path.to_string_lossy();
    if strip_suffix(&name, ".gz").is_some() {
        gzip::write(&mut file, parts)?;
    } else {
        for part in parts {
            file.write_all(part)?;
        }
    }
    file.flush()?;
    Ok(file)
}

/// A temporary file that is readable as the user's umask has it, gone when dropped.
pub(crate) fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".trephine-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}
