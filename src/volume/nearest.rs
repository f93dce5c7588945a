//! Nearest voxels: a grid sampled on another without arithmetic on its values, so that labels stay what they are
//! bit for bit, whatever their type.

use rayon::prelude::*;

use super::Grid;
use super::image::Image;
use crate::tensor::Xyz;

/// Coordinates are rounded to this part of a voxel before anything is decided by them. On the 2 mm grid centred on an
/// even 1 mm grid every sample falls halfway between voxels, where the last bit would toss a coin. The device's
/// kernels round alike.
const STEPS: f64 = (1 << 20) as f64;

/// Where an image ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the centres of its outer voxels, as in nilearn and SciPy.
    Centres,
    /// At their faces, half a voxel further, as in ITK.
    Faces,
}

/// The held volumes of an image on another grid, one after the other, in its own datatype, scaling and byte order;
/// `outside` are the bytes of a voxel beyond it ([`Image::voxel_of`]).
pub fn sample_stored(image: &Image, to: &Grid, end: End, outside: &[u8]) -> Vec<u8> {
    let from = image.grid();
    let of_size = |size: usize| match size {
        1 => sample_cells::<1>,
        2 => sample_cells::<2>,
        4 => sample_cells::<4>,
        8 => sample_cells::<8>,
        _ => unreachable!("voxels of real numbers of at most 64 bits"),
    };
    let volumes = image.raw().chunks(image.raw().len() / image.frames());
    volumes.flat_map(|bytes| of_size(outside.len())(bytes, &from, to, end, outside)).collect()
}

fn sample_cells<const N: usize>(bytes: &[u8], from: &Grid, to: &Grid, end: End, outside: &[u8]) -> Vec<u8> {
    let outside = *outside.first_chunk::<N>().expect("chosen by its length");
    sample(bytes.as_chunks::<N>().0, from, to, end, outside).into_flattened()
}

/// Whether any voxel of `to` falls in the image.
pub fn reaches(from: &Grid, to: &Grid, end: End) -> bool {
    let index = index_in(from, to, end);
    let Xyz([nx, ny, nz]) = to.shape;
    (0..ny * nz).into_par_iter().any(|row| (0..nx).any(|x| index([x, row % ny, row / ny]).is_some()))
}

/// The flat index in `from` of a voxel of `to`; `None` outside.
fn index_in(from: &Grid, to: &Grid, end: End) -> impl Fn([usize; 3]) -> Option<usize> + Sync {
    let to_own = from.affine.inverse() * to.affine;
    let shape = from.shape;
    move |[x, y, z]| {
        let at =
            to_own.x_axis * x as f64 + to_own.y_axis * y as f64 + to_own.z_axis * z as f64 + to_own.w_axis;
        let mut flat = 0;
        for axis in (0..3).rev() {
            let at = (at[axis] * STEPS + 0.5).floor() / STEPS;
            let last = shape[axis] as f64 - 1.0;
            let inside = match end {
                End::Centres => (0.0..=last).contains(&at),
                End::Faces => (-0.5..last + 0.5).contains(&at),
            };
            if !inside {
                return None;
            }
            flat = flat * shape[axis] + (at + 0.5).floor() as usize;
        }
        Some(flat)
    }
}

/// Samples `values` of `from` on the grid `to`: the voxel at `floor(coordinate + 0.5)`, `outside` beyond the image.
///
/// # Panics
/// If `values` are not one for each voxel of `from`.
pub fn sample<T: Copy + Send + Sync>(values: &[T], from: &Grid, to: &Grid, end: End, outside: T) -> Vec<T> {
    assert_eq!(values.len(), from.shape.iter().product::<usize>(), "the array belongs to the grid");
    let index = index_in(from, to, end);
    let Xyz([nx, ny, _]) = to.shape;
    let mut sampled = vec![outside; to.shape.iter().product()];
    sampled.par_chunks_mut(nx.max(1)).enumerate().for_each(|(row, line)| {
        for (x, value) in line.iter_mut().enumerate() {
            if let Some(ix) = index([x, row % ny, row / ny]) {
                *value = values[ix];
            }
        }
    });
    sampled
}

#[cfg(test)]
mod tests {
    use super::*;
    use glam::{DMat4, DVec3};

    fn line(n: usize, mm: f64, first_mm: f64) -> Grid {
        let affine =
            DMat4::from_translation(DVec3::X * first_mm) * DMat4::from_scale(DVec3::new(mm, 1.0, 1.0));
        Grid { shape: Xyz([n, 1, 1]), affine }
    }

    #[test]
    fn ties_go_up_and_ends_differ() {
        let labels = [u32::MAX, 312_782_546, 312_782_550, 7];
        let from = line(4, 1.0, 0.0);
        let on = |to: &Grid, end| sample(&labels, &from, to, end, 0);
        // Samples at -0.5, 0.5, 1.5, 2.5, 3.5.
        let between = line(5, 1.0, -0.5);
        assert_eq!(on(&between, End::Faces), [labels[0], labels[1], labels[2], labels[3], 0]);
        assert_eq!(on(&between, End::Centres), [0, labels[1], labels[2], labels[3], 0]);
        // Rounding decides nothing: the same samples from matrices that are off by less than 2^-20 voxel.
        assert_eq!(on(&line(5, 1.0, -0.5 - 1e-9), End::Faces), on(&between, End::Faces));
        assert_eq!(
            on(&line(8, 0.5, -0.25), End::Faces),
            [0, 0, 1, 1, 2, 2, 3, 3].map(|ix: usize| labels[ix])
        );
    }
}
