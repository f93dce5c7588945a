//! Erosion, dilation and moving a mask's border: the definition that the GPU's are held to.
//!
//! Masks hold 0 and not 0; results hold 0 and 1. Outside the volume there is background.

use super::{Problem, distance, expect_length};
use crate::tensor::Xyz;
use rayon::prelude::*;

/// The voxels whose six neighbours by faces are all in the mask. Voxels at the border of the
/// volume fall away.
pub fn erode(mask: &[u8], shape: Xyz<usize>) -> Result<Vec<u8>, Problem> {
    each_voxel(mask, shape, |near| !near.contains(&0))
}

/// The mask and the six neighbours by faces of its voxels.
pub fn dilate(mask: &[u8], shape: Xyz<usize>) -> Result<Vec<u8>, Problem> {
    each_voxel(mask, shape, |near| near.iter().any(|&v| v != 0))
}

/// The surface of a mask: its voxels that erosion takes away.
pub fn surface(mask: &[u8], shape: Xyz<usize>) -> Result<Vec<u8>, Problem> {
    each_voxel(mask, shape, |near| near[0] != 0 && near.contains(&0))
}

/// Applies `rule` to each voxel and its six neighbours (0 outside the volume).
fn each_voxel(
    mask: &[u8],
    shape: Xyz<usize>,
    rule: impl Fn(&[u8; 7]) -> bool + Sync,
) -> Result<Vec<u8>, Problem> {
    expect_length(shape, mask.len())?;
    let Xyz([nx, ny, nz]) = shape;
    let mut out = vec![0; mask.len()];
    if mask.is_empty() {
        return Ok(out);
    }
    out.par_chunks_mut(nx).enumerate().for_each(|(row, out)| {
        let (y, z) = (row % ny, row / ny);
        let base = row * nx;
        let or_outside = |inside: bool, i: usize| if inside { mask[i] } else { 0 };
        for (x, value) in out.iter_mut().enumerate() {
            let i = base + x;
            let near = [
                mask[i],
                or_outside(x > 0, i.wrapping_sub(1)),
                or_outside(x + 1 < nx, i + 1),
                or_outside(y > 0, i.wrapping_sub(nx)),
                or_outside(y + 1 < ny, i + nx),
                or_outside(z > 0, i.wrapping_sub(nx * ny)),
                or_outside(z + 1 < nz, i + nx * ny),
            ];
            *value = u8::from(rule(&near));
        }
    });
    Ok(out)
}

/// Moves the border of a mask by `mm`: outward takes in the voxels at most that far from the
/// mask, inward (negative) gives up those at most that far from the outside, centre to centre
/// and exact. So on a 1 mm grid, 1 and -1 add and take one layer.
pub fn move_border(
    mask: &[u8],
    shape: Xyz<usize>,
    spacing_mm: [f64; 3],
    mm: f64,
) -> Result<Vec<u8>, Problem> {
    let limit = mm * mm;
    // A grid step of 0.1 mm and a move of 0.1 mm are equal but for rounding.
    let reaches = |squared: f64| squared <= limit * (1.0 + 1e-6);
    if mm >= 0.0 {
        let to_mask = distance::squared_to(mask, shape, spacing_mm, |v| v != 0)?;
        Ok(to_mask.into_iter().map(|d| u8::from(reaches(d))).collect())
    } else {
        let to_outside = distance::squared_to(mask, shape, spacing_mm, |v| v == 0)?;
        Ok(to_outside.into_iter().map(|d| u8::from(!reaches(d))).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Place of flat index `i`.
    pub(crate) fn at(i: usize, Xyz([nx, ny, _]): Xyz<usize>) -> [usize; 3] {
        [i % nx, i / nx % ny, i / (nx * ny)]
    }

    /// The six neighbours of voxel `i`, `None` outside the volume.
    pub(crate) fn neighbours(i: usize, shape: Xyz<usize>) -> [Option<usize>; 6] {
        let strides = [1, shape[0], shape[0] * shape[1]];
        std::array::from_fn(|n| {
            let (axis, up) = (n / 2, n % 2 == 1);
            let p = at(i, shape)[axis];
            if up {
                (p + 1 < shape[axis]).then(|| i + strides[axis])
            } else {
                (p > 0).then(|| i - strides[axis])
            }
        })
    }

    /// A reproducible mask with about `percent` of its voxels set, the first always.
    pub(crate) fn noise_mask(shape: Xyz<usize>, percent: u32) -> Vec<u8> {
        let mut state = 12_345_u32;
        let n = shape.iter().product();
        let mut mask: Vec<u8> = (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                u8::from((state >> 16) % 100 < percent)
            })
            .collect();
        mask[0] = 1;
        mask
    }

    #[test]
    fn equal_to_the_definition_on_noise() {
        for (shape, percent) in [([7, 6, 5], 60), ([5, 1, 6], 50), ([9, 8, 7], 90)] {
            let mask = noise_mask(Xyz(shape), percent);
            let set = |n: Option<usize>| n.is_some_and(|n| mask[n] != 0);
            let (mut eroded, mut dilated) = (vec![], vec![]);
            for (i, &inside) in mask.iter().enumerate() {
                let near = neighbours(i, Xyz(shape));
                eroded.push(u8::from(inside != 0 && near.iter().all(|&n| set(n))));
                dilated.push(u8::from(inside != 0 || near.iter().any(|&n| set(n))));
            }
            assert_eq!(erode(&mask, Xyz(shape)).unwrap(), eroded);
            assert_eq!(dilate(&mask, Xyz(shape)).unwrap(), dilated);
            let shell: Vec<u8> = mask.iter().zip(&eroded).map(|(m, e)| m - e).collect();
            assert_eq!(surface(&mask, Xyz(shape)).unwrap(), shell);
        }
    }

    #[test]
    fn border_moves_by_whole_layers_on_a_unit_grid() {
        let shape = [12, 11, 10];
        // One block, so that distances to it and away from it are easy.
        let mask: Vec<u8> = (0..shape.iter().product())
            .map(|i| {
                let p = at(i, Xyz(shape));
                u8::from(p.iter().all(|c| (3..7).contains(c)))
            })
            .collect();
        let unit = [1.0; 3];
        assert_eq!(move_border(&mask, Xyz(shape), unit, 0.0).unwrap(), mask);
        assert_eq!(move_border(&mask, Xyz(shape), unit, 1.0).unwrap(), dilate(&mask, Xyz(shape)).unwrap());
        assert_eq!(move_border(&mask, Xyz(shape), unit, -1.0).unwrap(), erode(&mask, Xyz(shape)).unwrap());
        // Steps of 0.1 that no float holds exactly.
        let tenths = [0.1; 3];
        assert_eq!(move_border(&mask, Xyz(shape), tenths, 0.1).unwrap(), dilate(&mask, Xyz(shape)).unwrap());
        // Thick slices: 2 mm reach across x and y only.
        let thick = move_border(&mask, Xyz(shape), [1.0, 1.0, 5.0], 2.0).unwrap();
        let slab = |m: &[u8], z: usize| m[z * 132..(z + 1) * 132].iter().any(|&v| v > 0);
        assert!(!slab(&thick, 2) && slab(&thick, 3));
        assert!(thick.iter().sum::<u8>() > mask.iter().sum());
    }

    #[test]
    fn empty_and_full_masks() {
        let shape = [3, 3, 3];
        for mm in [-2.0, 0.0, 2.0] {
            assert_eq!(move_border(&[0; 27], Xyz(shape), [1.0; 3], mm).unwrap(), [0; 27]);
            assert_eq!(move_border(&[1; 27], Xyz(shape), [1.0; 3], mm).unwrap(), [1; 27]);
        }
    }
}
