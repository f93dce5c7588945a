//! A volume sampled on another grid, whatever its size.

use std::ops::Range;

use super::grid::Grid;
use super::slabs::{slabs, upload, with_halo};
use crate::gpu::Gpu;
use crate::graph::{GraphError, run_op1};
use crate::ops::resample::{AxisOrder, Edge, Interpolation, grid_matrix, index_matrix, prefilters};
use crate::volume::Volume;

/// Planes beyond a slab that interpolation reaches: two for cubic, and one for rounding.
const TAPS: usize = 3;

/// How a volume is sampled on another grid.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Average over boxes of the new voxels first, along the axes where those are larger.
    pub filtered: bool,
    /// How a sample is made of its neighbours.
    pub interpolation: Interpolation,
    /// Where the volume ends.
    pub edge: Edge,
}

/// Samples a volume on another grid, x fastest; samples outside it are 0.
///
/// # Errors
/// A failing device.
pub fn resample(
    gpu: &Gpu,
    mut volume: Volume,
    grid: &Grid,
    sampler: Sampler,
) -> Result<Vec<f32>, GraphError> {
    let own = Grid::of(&volume);
    let matrix = index_matrix(grid_matrix(own.affine, grid.affine), AxisOrder::Zyx, AxisOrder::Zyx);
    let radius = match prefilters(&matrix).first() {
        Some((filter, weights)) if sampler.filtered && filter.axis == 0 => weights.len() / 2,
        _ => 0,
    };
    let halo = radius + TAPS;
    let sources = with_halo(gpu, volume.shape, halo);
    let targets = slabs(gpu, grid.shape);
    let once = sources.len() == 1 && targets.len() == 1;
    let mut values: Vec<f32> = Vec::new();
    for target in targets {
        let target = grid.planes(&target);
        let plane = PlaneOf::new(&own, &target, sources[0].len());
        let mut merged: Vec<f32> = Vec::new();
        let needed = plane.slabs_of(&target);
        for ix in needed.clone() {
            let source = &sources[ix];
            let planes = source.start.saturating_sub(halo)..(source.end + halo).min(volume.shape[2]);
            let mut placed = upload(gpu, &volume, &planes)?;
            if once {
                volume.data = Vec::new();
            }
            if sampler.filtered {
                placed = placed.filtered_for(gpu, &target)?;
            }
            let mut op = placed.resample_op(&target, AxisOrder::Zyx, sampler.interpolation);
            op.edge = sampler.edge;
            let sampled = run_op1(gpu, &op, &[&placed.tensor])?;
            drop(placed);
            let sampled: Vec<f32> = gpu.download(&sampled)?;
            if ix == needed.start {
                merged = sampled;
            } else {
                plane.take(ix, &target, &sampled, &mut merged);
            }
        }
        // The first are taken without a copy.
        match values.is_empty() {
            true => values = merged,
            false => values.append(&mut merged),
        }
    }
    Ok(values)
}

/// Which plane of a volume a voxel of another grid falls in.
struct PlaneOf {
    /// Change of the plane's number along x, y and z of the grid, and that of its first voxel.
    row: [f64; 4],
    /// Last plane of the volume.
    last: f64,
    /// Planes of a slab.
    thickness: usize,
}

impl PlaneOf {
    fn new(volume: &Grid, grid: &Grid, thickness: usize) -> Self {
        let row = grid_matrix(volume.affine, grid.affine).row(2).to_array();
        Self { row, last: volume.shape[2] as f64 - 1.0, thickness }
    }

    /// The slab of the voxel at these indices; beyond the volume, the nearest.
    fn slab(&self, x: usize, y: usize, z: usize) -> usize {
        let [dx, dy, dz, first] = self.row;
        let plane = (dx * x as f64 + dy * y as f64 + dz * z as f64 + first).round().clamp(0.0, self.last);
        plane as usize / self.thickness
    }

    /// The slabs that a grid's voxels fall in.
    fn slabs_of(&self, grid: &Grid) -> Range<usize> {
        let far = grid.shape.map(|n| n - 1);
        let corners = (0..8).map(|c| {
            let at = |axis: usize| if c >> axis & 1 == 1 { far[axis] } else { 0 };
            self.slab(at(0), at(1), at(2))
        });
        let (first, last) = corners.fold((usize::MAX, 0), |(low, high), ix| (low.min(ix), high.max(ix)));
        first..last + 1
    }

    /// Copies what falls in slab `ix`.
    fn take(&self, ix: usize, grid: &Grid, from: &[f32], to: &mut [f32]) {
        let [nx, ny, nz] = grid.shape;
        let mut at = 0;
        for z in 0..nz {
            for y in 0..ny {
                for x in 0..nx {
                    if self.slab(x, y, z) == ix {
                        to[at] = from[at];
                    }
                    at += 1;
                }
            }
        }
    }
}
