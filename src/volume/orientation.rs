//! Which way the axes of a grid point, and the permutation and flips that turn it to RAS+.

use super::affine::{linear, nearest_orthogonal};
use crate::tensor::Xyz;
use glam::{DMat4, DVec4};
use rayon::prelude::*;

/// A permutation and flips of the axes of a grid, applied as an index mapping: output axis `o`
/// runs along input axis `source[o]`, backwards where `flip[o]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AxisMap {
    /// Input axis of each output axis.
    pub source: [usize; 3],
    /// Whether the output axis runs against its input axis.
    pub flip: [bool; 3],
}

/// The world axis closest to each voxel axis, and whether it points to its negative end.
///
/// nibabel's `io_orientation`: columns scaled to 1, the closest orthogonal matrix R (here by
/// Newton's iteration instead of an SVD), then columns from the one with the largest entry
/// down, each taking the row of its largest entry among the rows not yet taken.
fn world_axes(affine: &DMat4) -> [(usize, bool); 3] {
    let r = nearest_orthogonal(linear(affine));
    let columns = [r.x_axis, r.y_axis, r.z_axis].map(|c| c.to_array());
    let strength = |c: usize| columns[c].iter().fold(0.0_f64, |m, v| m.max(v * v));
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| strength(b).total_cmp(&strength(a)));
    let mut taken = [false; 3];
    let mut axes = [(0, false); 3];
    for column in order {
        let mut best: Option<usize> = None;
        for row in (0..3).filter(|&row| !taken[row]) {
            if best.is_none_or(|b| columns[column][row].abs() > columns[column][b].abs()) {
                best = Some(row);
            }
        }
        let row = best.expect("three columns share out three rows");
        taken[row] = true;
        axes[column] = (row, columns[column][row] < 0.0);
    }
    axes
}

/// The direction that each voxel axis points to, such as `RAS` or `LPI`.
pub fn axis_codes(affine: &DMat4) -> String {
    const ENDS: [[char; 2]; 3] = [['R', 'L'], ['A', 'P'], ['S', 'I']];
    world_axes(affine).iter().map(|&(world, negative)| ENDS[world][usize::from(negative)]).collect()
}

impl AxisMap {
    /// The map that changes nothing.
    pub const IDENTITY: Self = Self { source: [0, 1, 2], flip: [false; 3] };

    /// The map that brings a grid closest to RAS+.
    pub fn to_canonical(affine: &DMat4) -> Self {
        let mut map = Self::IDENTITY;
        for (axis, (world, negative)) in world_axes(affine).into_iter().enumerate() {
            map.source[world] = axis;
            map.flip[world] = negative;
        }
        map
    }

    /// The map back.
    pub fn inverse(&self) -> Self {
        let mut map = Self::IDENTITY;
        for o in 0..3 {
            map.source[self.source[o]] = o;
            map.flip[self.source[o]] = self.flip[o];
        }
        map
    }

    /// Shape of the output for an input of `shape`.
    pub fn shape(&self, shape: Xyz<usize>) -> Xyz<usize> {
        Xyz(self.source.map(|axis| shape[axis]))
    }

    /// Voxel-to-world matrix of the output, for an input of `shape` with `affine`: every voxel
    /// keeps its place in the world.
    pub fn affine(&self, affine: &DMat4, shape: Xyz<usize>) -> DMat4 {
        let mut to_input = DMat4::from_cols(DVec4::ZERO, DVec4::ZERO, DVec4::ZERO, DVec4::W);
        for o in 0..3 {
            let axis = self.source[o];
            to_input.col_mut(o)[axis] = if self.flip[o] { -1.0 } else { 1.0 };
            if self.flip[o] {
                to_input.w_axis[axis] = shape[axis] as f64 - 1.0;
            }
        }
        *affine * to_input
    }

    /// Moves the values of a grid of `shape` (x fastest) to their new places.
    ///
    /// # Panics
    /// If `data` does not have `shape` product of values.
    pub fn apply<T: Copy + Send + Sync>(&self, shape: Xyz<usize>, data: &[T]) -> Vec<T> {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "the array belongs to the grid");
        if *self == Self::IDENTITY || data.is_empty() {
            return data.to_vec();
        }
        let stride_in = [1, shape[0], shape[0] * shape[1]];
        let out_shape = self.shape(shape);
        // Offset of output index i along output axis o.
        let offset = |o: usize, i: usize| {
            let i = if self.flip[o] { out_shape[o] - 1 - i } else { i };
            i * stride_in[self.source[o]]
        };
        let along_x: Vec<usize> = (0..out_shape[0]).map(|x| offset(0, x)).collect();
        let along_y: Vec<usize> = (0..out_shape[1]).map(|y| offset(1, y)).collect();
        let mut out = vec![data[0]; data.len()];
        out.par_chunks_mut(out_shape[0] * out_shape[1]).enumerate().for_each(|(z, slab)| {
            let base_z = offset(2, z);
            for (row, &base_y) in slab.chunks_mut(out_shape[0]).zip(&along_y) {
                for (value, &base_x) in row.iter_mut().zip(&along_x) {
                    *value = data[base_x + base_y + base_z];
                }
            }
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glam::{DMat3, DQuat, DVec3};

    const SHAPE: [usize; 3] = [3, 4, 5];

    fn all_maps() -> Vec<AxisMap> {
        let mut maps = vec![];
        for source in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for bits in 0..8 {
                let flip = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0];
                maps.push(AxisMap { source, flip });
            }
        }
        maps
    }

    #[test]
    fn every_permutation_and_flip_returns_and_keeps_world_places() {
        let data: Vec<u32> = (0..60).collect();
        let affine = DMat4::from_scale_rotation_translation(
            DVec3::new(0.9, 1.0, 1.3),
            DQuat::from_rotation_x(0.2) * DQuat::from_rotation_z(0.3),
            DVec3::new(5.0, -6.0, 7.0),
        );
        for map in all_maps() {
            let out = map.apply(Xyz(SHAPE), &data);
            let out_shape = map.shape(Xyz(SHAPE));
            assert_eq!(map.inverse().apply(out_shape, &out), data, "{map:?}");
            let moved = map.affine(&affine, Xyz(SHAPE));
            for z in 0..out_shape[2] {
                for y in 0..out_shape[1] {
                    for x in 0..out_shape[0] {
                        let v = out[x + out_shape[0] * (y + out_shape[1] * z)] as usize;
                        let from = DVec3::new((v % 3) as f64, (v / 3 % 4) as f64, (v / 12) as f64);
                        let to = DVec3::new(x as f64, y as f64, z as f64);
                        let gap = affine.transform_point3(from).distance(moved.transform_point3(to));
                        assert!(gap < 1e-12, "{map:?}");
                    }
                }
            }
            // Whatever the stored orientation, the canonical image is one and the same.
            let (back, shape) = (AxisMap::to_canonical(&moved), map.shape(Xyz(SHAPE)));
            assert_eq!(back, map.inverse());
            assert_eq!(axis_codes(&back.affine(&moved, shape)), "RAS");
            assert_eq!(back.apply(shape, &out), data);
        }
    }

    /// nibabel 5.4.2, `aff2axcodes` of a strongly oblique and sheared matrix, and of one whose
    /// columns compete for the same world axis.
    #[test]
    fn codes_match_nibabel() {
        let codes = |rows: [[f64; 3]; 3]| {
            let m = DMat3::from_cols_array_2d(&rows).transpose();
            axis_codes(&DMat4::from_mat3(m))
        };
        for (rows, want) in CODES_NIBABEL {
            assert_eq!(codes(*rows), *want, "{rows:?}");
        }
    }

    const CODES_NIBABEL: &[([[f64; 3]; 3], &str)] = &[
        ([[-0.9, 0.1, 0.02], [0.1, 0.95, 0.05], [0.0, -0.05, 1.2]], "LAS"),
        ([[0.0, 0.0, 3.0], [-0.5, 0.1, 0.0], [0.0, 0.5, 0.4]], "PSR"),
        ([[0.6, 0.7, 0.1], [0.5, 0.6, -0.6], [0.1, -0.3, 0.7]], "ARS"),
        ([[0.7, 0.7, 0.0], [0.7, -0.7, 0.0], [0.0, 0.0, -2.0]], "RPI"),
        ([[-0.58, 0.6, 0.55], [0.57, -0.3, 0.75], [0.58, 0.74, -0.3]], "LSA"),
        ([[2.04, -2.56, 0.42], [-0.57, -0.45, -0.22], [-2.02, -0.23, -0.87]], "PLI"),
        ([[3.32, 0.23, -0.35], [-0.28, -0.67, -1.06], [-0.39, 0.48, -0.24]], "RSP"),
        ([[0.96, -0.2, 0.02], [1.55, 0.55, -0.51], [-0.18, 0.54, 1.94]], "RAS"),
        ([[-0.27, -0.24, 1.0], [-0.89, -0.29, 0.88], [0.58, 0.09, 0.67]], "PLS"),
        ([[-2.83, 1.02, -0.96], [-1.67, 0.28, 0.7], [-0.44, -1.08, 0.03]], "LIA"),
        ([[-0.05, 1.41, 0.75], [0.19, 1.11, -0.21], [-0.93, 0.58, 0.58]], "IAR"),
        ([[-0.21, -0.78, 0.23], [-2.49, 0.69, 0.49], [-1.64, 0.06, -0.96]], "PLI"),
    ];
}
