//! Writing whole images.

use super::super::{Grid, Problem, VolumeError, expect_length};
use super::Image;
use super::form::{Values, extremes};
use super::writer::VolumeWriter;
use crate::tensor::Xyz;
use glam::DMat4;
use std::path::Path;

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
        let all = || match values {
            Values::Stored { image, bytes, .. } => Ok(extremes(image, bytes)),
            Values::Labels(_) | Values::Floats(_) => Ok((0.0, 0.0)),
        };
        let mut writer = VolumeWriter::new(path, &like.info, grid, frames, &values, all)?;
        writer.append(values)?;
        writer.close(&like.info, grid)
    };
    build().map_err(|p: Problem| p.at(path))
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
