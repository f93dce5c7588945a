//! A regular grid of voxels in the world, and how two of them lie to each other.

use std::fmt;
use std::ops::Range;

use glam::{DMat4, DVec3, DVec4};

use super::affine::{linear, voxel_size};
use super::orientation::{AxisMap, axis_codes};
use crate::tensor::Xyz;

/// How far a corner may lie from where it should, in voxels, for two grids to count as one: headers round, and
/// resampled with an offset like that no value changes by as much as a thousandth of the step to its neighbour.
const ROUNDING: f64 = 1e-3;

/// A regular grid in the world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Voxels along x, y, z.
    pub shape: Xyz<usize>,
    /// Voxel (x, y, z) to world in mm.
    pub affine: DMat4,
}

impl Grid {
    /// These planes of it, along z.
    pub fn planes(&self, planes: &Range<usize>) -> Self {
        let Xyz([x, y, _]) = self.shape;
        let first = DMat4::from_translation(DVec3::Z * planes.start as f64);
        Self { shape: Xyz([x, y, planes.len()]), affine: self.affine * first }
    }

    /// RAS axes, voxels of `voxel_mm`, the middle of the extent at `centre` in mm.
    pub fn centred(shape: Xyz<usize>, voxel_mm: DVec3, centre: DVec3) -> Self {
        let origin = centre - middle(shape) * voxel_mm;
        let affine = DMat4::from_cols(
            DVec4::new(voxel_mm.x, 0.0, 0.0, 0.0),
            DVec4::new(0.0, voxel_mm.y, 0.0, 0.0),
            DVec4::new(0.0, 0.0, voxel_mm.z, 0.0),
            origin.extend(1.0),
        );
        Self { shape, affine }
    }

    /// Unit vector that points out of the field of view at its face along an axis, on side 0, the low one, or 1.
    pub fn outward(&self, axis: usize, side: usize) -> DVec3 {
        let along = self.affine.col(axis).truncate().normalize();
        if side == 0 { -along } else { along }
    }

    /// Edge lengths of a voxel along x, y, z in mm.
    pub fn voxel_size(&self) -> DVec3 {
        voxel_size(&self.affine)
    }

    /// The permutation and flips that bring the voxels of `other` to this grid, where the two are one grid but for
    /// the order of the axes and the rounding of headers: no corner further than a thousandth of a voxel away.
    pub fn map_from(&self, other: &Self) -> Option<AxisMap> {
        let to_other = other.affine.inverse() * self.affine;
        let mut map = AxisMap::IDENTITY;
        for axis in 0..3 {
            // A step along this grid's axis is a step along one axis of the other.
            let step = to_other.col(axis).truncate();
            let along = (0..3).max_by(|&a, &b| step[a].abs().total_cmp(&step[b].abs()))?;
            map.source[axis] = along;
            map.flip[axis] = step[along] < 0.0;
        }
        let mut axes = map.source;
        axes.sort_unstable();
        let turned = Self { shape: map.shape(other.shape), affine: map.affine(&other.affine, other.shape) };
        (axes == [0, 1, 2] && self.is_close_to(&turned)).then_some(map)
    }

    /// Whether two grids with the same order of axes are one but for rounding.
    fn is_close_to(&self, other: &Self) -> bool {
        let to_own = self.affine.inverse() * other.affine;
        let moved = |corner: DVec3| to_own.transform_point3(corner).distance(corner);
        self.shape == other.shape && corners(self.shape, 0.0).all(|corner| moved(corner) < ROUNDING)
    }

    /// How far the corners of the box of this grid's voxels lie from the nearest of the other's, at most, in mm:
    /// 0 for the same box, whatever its voxels, and the shift of one that is moved a little.
    pub fn displacement_mm(&self, other: &Self) -> f64 {
        let places = |grid: &Self| -> Vec<DVec3> {
            corners(grid.shape, 0.5).map(|corner| grid.affine.transform_point3(corner)).collect()
        };
        let [own, others] = [places(self), places(other)];
        let nearest = |p: &DVec3| others.iter().map(|q| p.distance(*q)).fold(f64::INFINITY, f64::min);
        own.iter().map(nearest).fold(0.0, f64::max)
    }

    /// Whether the boxes of two grids' voxels share space: no plane separates them (separating axis theorem for
    /// convex bodies; a plane is either parallel to a face of one or to an edge of each).
    pub fn overlaps(&self, other: &Self) -> bool {
        let bodies = [self, other].map(|grid| {
            let axes = linear(&grid.affine);
            let places: Vec<DVec3> =
                corners(grid.shape, 0.5).map(|corner| grid.affine.transform_point3(corner)).collect();
            ([axes.x_axis, axes.y_axis, axes.z_axis].map(DVec3::normalize), places)
        });
        let [(a, of_a), (b, of_b)] = &bodies;
        let normals = |e: &[DVec3; 3]| [e[0].cross(e[1]), e[1].cross(e[2]), e[2].cross(e[0])];
        let between = a.iter().flat_map(|a| b.iter().map(|b| a.cross(*b)));
        let extent = |places: &[DVec3], axis: DVec3| {
            let along = places.iter().map(|p| p.dot(axis));
            along.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)))
        };
        // Cross products of parallel edges are nearly 0 and separate nothing.
        normals(a).into_iter().chain(normals(b)).chain(between).filter(|n| n.length() > 1e-6).all(|axis| {
            let ((a_low, a_high), (b_low, b_high)) = (extent(of_a, axis), extent(of_b, axis));
            a_low < b_high && b_low < a_high
        })
    }
}

/// Between the first voxel of a grid and the last, in voxels.
pub fn middle(shape: Xyz<usize>) -> DVec3 {
    DVec3::from_array(shape.map(|n| (n as f64 - 1.0) / 2.0).0)
}

/// Two grids that should be one and are not. Reads as the words in brackets of an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Apart {
    /// That of the second image.
    pub own: Grid,
    /// That of the image it belongs to.
    pub image: Grid,
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, image } = self;
        let mm = image.displacement_mm(own);
        write!(f, "{own}, where the image has {image}; corners up to {mm:.1} mm apart")
    }
}

/// The voxels at the corners of a grid, or the corners of its box `beyond` voxels further out.
fn corners(shape: Xyz<usize>, beyond: f64) -> impl Iterator<Item = DVec3> {
    (0..8usize).map(move |corner| {
        DVec3::from_array([0, 1, 2].map(|axis| match corner >> axis & 1 {
            0 => -beyond,
            _ => shape[axis] as f64 - 1.0 + beyond,
        }))
    })
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Xyz([x, y, z]) = self.shape;
        let mm = self.voxel_size().to_array().map(|mm| format!("{}", (mm * 1000.0).round() / 1000.0));
        write!(f, "{x}x{y}x{z} voxels of {} mm, {}", mm.join("x"), axis_codes(&self.affine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glam::DQuat;

    fn oblique() -> Grid {
        let affine = DMat4::from_scale_rotation_translation(
            DVec3::new(0.9, 1.0, 1.3),
            DQuat::from_rotation_x(0.2) * DQuat::from_rotation_z(0.3),
            DVec3::new(-95.0, -116.0, 57.0),
        );
        Grid { shape: Xyz([30, 40, 50]), affine }
    }

    fn shifted(grid: &Grid, by: DVec3) -> Grid {
        Grid { affine: DMat4::from_translation(by) * grid.affine, ..*grid }
    }

    #[test]
    fn every_order_of_axes_is_recognised_within_rounding() {
        let grid = oblique();
        for source in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for bits in 0..8 {
                let map = AxisMap { source, flip: [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0] };
                let turned =
                    Grid { shape: map.shape(grid.shape), affine: map.affine(&grid.affine, grid.shape) };
                assert_eq!(grid.map_from(&turned), Some(map.inverse()), "{map:?}");
                let close = shifted(&turned, DVec3::splat(4e-4));
                assert_eq!(grid.map_from(&close), Some(map.inverse()), "{map:?}");
                assert_eq!(grid.map_from(&shifted(&turned, DVec3::splat(4e-3))), None);
                assert!(grid.displacement_mm(&turned) < 1e-9);
            }
        }
        let larger = Grid { shape: Xyz([30, 40, 51]), ..grid };
        assert_eq!(grid.map_from(&larger), None);
    }

    #[test]
    fn displacement_is_that_of_corners() {
        let grid = oblique();
        assert!((grid.displacement_mm(&shifted(&grid, DVec3::X * 7.0)) - 7.0).abs() < 1e-9);
        // The same box with voxels of half the edge.
        let step =
            DMat4::from_scale_rotation_translation(DVec3::splat(0.5), DQuat::IDENTITY, DVec3::splat(-0.25));
        let fine = Grid { shape: Xyz([60, 80, 100]), affine: grid.affine * step };
        assert!(grid.displacement_mm(&fine) < 1e-9);
    }

    #[test]
    fn boxes_overlap_or_not() {
        let grid = oblique();
        let x = linear(&grid.affine).x_axis;
        assert!(grid.overlaps(&grid));
        assert!(grid.overlaps(&shifted(&grid, x * 29.9)));
        assert!(!grid.overlaps(&shifted(&grid, x * 30.1)));
        // Two plates that cross, no corner of one in the other.
        let plate = |shape| Grid::centred(shape, DVec3::ONE, DVec3::ZERO);
        assert!(plate(Xyz([200, 200, 1])).overlaps(&plate(Xyz([1, 200, 200]))));
        // Boxes round which boxes along the world's axes overlap, but they do not.
        let turned = |at: f64| Grid {
            shape: Xyz([100, 1, 1]),
            affine: DMat4::from_rotation_translation(DQuat::from_rotation_z(0.8), DVec3::new(at, 0.0, 0.0)),
        };
        assert!(!turned(0.0).overlaps(&turned(5.0)));
    }

    #[test]
    fn words() {
        let grid = Grid::centred(Xyz([2, 3, 4]), DVec3::new(1.0, 0.1234567, 2.5), DVec3::ZERO);
        assert_eq!(grid.to_string(), "2x3x4 voxels of 1x0.123x2.5 mm, RAS");
    }
}
