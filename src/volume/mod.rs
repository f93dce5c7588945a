//! Images on a voxel grid: image files, geometry, orientation, and the CPU definitions of
//! morphology, components, distances and metrics. No GPU in here.
//!
//! Arrays are flat with x fastest, as NIfTI stores them: `data[x + nx * (y + ny * z)]`.
//! World coordinates are millimetres, RAS+ (x to the right, y to the front, z upward).

mod affine;
pub mod companion;
pub mod components;
pub mod distance;
mod error;
mod geometry;
mod grid;
pub mod image;
pub mod metrics;
pub mod morphology;
pub mod nearest;
pub mod orientation;
pub mod pairs;
pub mod unfinished;
mod warning;

pub use error::{Problem, VolumeError};
pub use geometry::{FormSource, Geometry};
pub use grid::{Apart, Grid, middle};
pub use warning::Warning;

use glam::{DMat4, DQuat, DVec3};

use crate::tensor::Xyz;

/// One 3D image as floats with its place in the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Voxels along x, y, z as NIfTI stores them, x fastest.
    pub shape: Xyz<usize>,
    /// Voxel index to world coordinates in mm.
    pub affine: DMat4,
    /// `shape` product of values.
    pub data: Vec<f32>,
}

impl Grid {
    /// That of a volume.
    pub fn of(volume: &Volume) -> Self {
        Self { shape: volume.shape, affine: volume.affine }
    }
}

/// What the finite voxels of an image hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Content {
    /// Least finite value.
    pub min: f32,
    /// Greatest finite value.
    pub max: f32,
    /// Number of NaN and infinite voxels.
    pub non_finite: usize,
}

impl Volume {
    /// A volume of zeros.
    pub fn zeros(shape: Xyz<usize>, affine: DMat4) -> Self {
        let data = vec![0.0; shape.iter().product()];
        Self { shape, affine, data }
    }

    /// Flat index of voxel `(x, y, z)`.
    pub fn index(&self, x: usize, y: usize, z: usize) -> usize {
        x + self.shape[0] * (y + self.shape[1] * z)
    }

    /// Edge lengths of a voxel along its own axes, mm.
    pub fn voxel_size(&self) -> DVec3 {
        affine::voxel_size(&self.affine)
    }

    /// Volume of one voxel, mL.
    pub fn voxel_volume_ml(&self) -> f64 {
        affine::voxel_volume_ml(&self.affine)
    }

    /// Range of the finite voxels. An image without any, or with one and the same value
    /// everywhere, is an error: there is nothing in it to extract.
    pub fn check_content(&self) -> Result<Content, Problem> {
        let (mut min, mut max, mut non_finite) = (f32::INFINITY, f32::NEG_INFINITY, 0);
        for &v in &self.data {
            if v.is_finite() {
                min = min.min(v);
                max = max.max(v);
            } else {
                non_finite += 1;
            }
        }
        if min > max {
            return Err(Problem::NoFiniteVoxel);
        }
        if min == max {
            return Err(Problem::Constant(min));
        }
        Ok(Content { min, max, non_finite })
    }

    /// Means over blocks of 2x2x2 voxels of the finite values among those that `value` gives for flat indices; blocks at
    /// the far faces may be thinner.
    pub fn halved(&self, value: impl Fn(usize) -> f32) -> Self {
        let shape = self.shape.map(|n| n.div_ceil(2));
        let step =
            DMat4::from_scale_rotation_translation(DVec3::splat(2.0), DQuat::IDENTITY, DVec3::splat(0.5));
        let mut half = Self::zeros(shape, self.affine * step);
        for z in 0..shape[2] {
            for y in 0..shape[1] {
                for x in 0..shape[0] {
                    let (mut sum, mut count) = (0.0f32, 0.0f32);
                    for corner in 0..8 {
                        let at = [2 * x + (corner & 1), 2 * y + (corner >> 1 & 1), 2 * z + (corner >> 2)];
                        if (0..3).all(|axis| at[axis] < self.shape[axis]) {
                            let value = value(self.index(at[0], at[1], at[2]));
                            if value.is_finite() {
                                sum += value;
                                count += 1.0;
                            }
                        }
                    }
                    let to = half.index(x, y, z);
                    half.data[to] = if count > 0.0 { sum / count } else { 0.0 };
                }
            }
        }
        half
    }

    /// Puts 0 where the voxel is NaN or infinite, and says so where there were any.
    pub fn replace_non_finite(&mut self) -> Option<Warning> {
        let mut count = 0;
        for v in self.data.iter_mut().filter(|v| !v.is_finite()) {
            *v = 0.0;
            count += 1;
        }
        let total = self.data.len();
        (count > 0).then_some(Warning::NonFinite { count, total })
    }
}

/// `Err` unless `got` values belong to a grid of `shape`.
pub(crate) fn expect_length(shape: Xyz<usize>, got: usize) -> Result<(), Problem> {
    let expected = shape.iter().product();
    if got == expected { Ok(()) } else { Err(Problem::Length { expected, got }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(data: Vec<f32>) -> Volume {
        Volume { shape: Xyz([data.len(), 1, 1]), affine: DMat4::IDENTITY, data }
    }

    #[test]
    fn content_of_ordinary_and_hopeless_images() {
        let v = volume(vec![1.0, f32::NAN, -2.0, f32::INFINITY]);
        let c = v.check_content().unwrap();
        assert_eq!((c.min, c.max, c.non_finite), (-2.0, 1.0, 2));
        assert!(matches!(volume(vec![f32::NAN; 3]).check_content(), Err(Problem::NoFiniteVoxel)));
        assert!(matches!(volume(vec![0.0; 3]).check_content(), Err(Problem::Constant(0.0))));
        assert!(matches!(volume(vec![7.0, 7.0, f32::NAN]).check_content(), Err(Problem::Constant(7.0))));
    }

    #[test]
    fn non_finite_voxels_become_zero_and_are_counted() {
        let mut v = volume(vec![1.0, f32::NAN, f32::NEG_INFINITY]);
        let warning = v.replace_non_finite().unwrap();
        assert_eq!(v.data, [1.0, 0.0, 0.0]);
        assert_eq!(warning, Warning::NonFinite { count: 2, total: 3 });
        assert_eq!(v.replace_non_finite(), None);
    }

    #[test]
    fn halving_keeps_place_and_mean() {
        let affine = DMat4::from_translation(DVec3::new(3.0, -5.0, 7.0))
            * DMat4::from_scale(DVec3::new(-0.5, 0.7, 0.9));
        let mut volume = Volume::zeros(Xyz([5, 4, 3]), affine);
        volume.data = (0..60).map(|v| v as f32).collect();
        let half = volume.halved(|ix| volume.data[ix]);
        assert_eq!(half.shape, Xyz([3, 2, 2]));
        let block: f32 = [0, 1, 5, 6, 20, 21, 25, 26].iter().map(|&v| v as f32).sum();
        assert_eq!(half.data[0], block / 8.0);
        // The middle of the first block lies half a voxel from the first voxel along each axis.
        let want = affine.transform_point3(DVec3::splat(0.5));
        assert!((half.affine.transform_point3(DVec3::ZERO) - want).length() < 1e-12);
    }
}
