//! A volume sampled on another grid, whatever its size.

use super::PipelineError;
use super::place::slabs::{PlaneOf, TAPS, slabs, upload, with_halo};
use crate::gpu::Gpu;
use crate::graph::{GraphError, run_op1};
use crate::ops::resample::{
    AxisOrder, Edge, Interpolation, Resample, grid_matrix, index_matrix, prefilters, source_steps,
};
use crate::tensor::Zyx;
use crate::volume::nearest::{End, reaches};
use crate::volume::{Apart, Grid, Volume};

/// How a volume is sampled on another grid.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Average over boxes of the new voxels first, along the axes where those are larger.
    pub filtered: bool,
    /// How a sample is made of its neighbours.
    pub interpolation: Interpolation,
    /// Where the volume ends.
    pub edge: Edge,
    /// Value of samples outside the volume.
    pub outside: f32,
}

/// Most voxels of a new grid, all volumes together: 8 GiB of floats. More is a slip of the hand.
const MOST_VOXELS: f64 = (1u64 << 31) as f64;

/// Whether `volumes` volumes on the grid `own` can be meant to be sampled on `grid`. Costs no memory.
///
/// # Errors
/// Too many voxels; voxels larger than the whole image along one of its axes, for which filters would grow without
/// bound; a grid that no voxel of the image falls in.
pub fn check_target(own: &Grid, grid: &Grid, volumes: usize, edge: Edge) -> Result<(), PipelineError> {
    let refuse = |reason: String| Err(PipelineError::Target(reason));
    let voxels = grid.shape.iter().map(|&n| n as f64).product::<f64>() * volumes as f64;
    if voxels > MOST_VOXELS {
        return refuse(format!(
            "the new grid would hold {voxels:.3e} voxels; {MOST_VOXELS:.3e} (8 GiB of float32) are the most: choose \
             larger voxels or fewer of them"
        ));
    }
    let steps =
        source_steps(&index_matrix(grid_matrix(own.affine, grid.affine), AxisOrder::Xyz, AxisOrder::Xyz));
    for axis in 0..3 {
        if steps[axis] > own.shape[axis] as f64 {
            let own_mm = own.voxel_size()[axis];
            return refuse(format!(
                "a voxel of the new grid ({:.4} mm) is larger than the whole image along its axis {} ({:.1} mm); \
                 choose smaller voxels",
                steps[axis] * own_mm,
                ["x", "y", "z"][axis],
                own.shape[axis] as f64 * own_mm
            ));
        }
    }
    if !reaches(own, grid, edge.into()) {
        return refuse(format!(
            "no voxel of the new grid falls in the image, so that nothing but the fill value would be written ({}); \
             correct the header that is wrong, or register the two",
            Apart { own: *own, image: *grid }
        ));
    }
    Ok(())
}

impl From<Edge> for End {
    fn from(edge: Edge) -> Self {
        match edge {
            Edge::Zero => Self::Centres,
            Edge::Clamp | Edge::Mirror { .. } => Self::Faces,
        }
    }
}

/// Samples a volume on another grid, x fastest. See [`check_target`] first.
///
/// # Errors
/// A failing device.
pub async fn resample(
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
    for target_planes in targets {
        let target = grid.planes(&target_planes);
        let plane = PlaneOf::new(&own, &target, sources[0].len());
        let mut merged: Vec<f32> = Vec::new();
        let needed = plane.slabs_of(&target);
        for ix in needed.clone() {
            let source = &sources[ix];
            let planes = source.start.saturating_sub(halo)..(source.end + halo).min(volume.shape[2]);
            let mut placed = upload(gpu, &volume, &planes).await?;
            if once {
                volume.data = Vec::new();
            }
            if sampler.filtered {
                placed = placed.filtered_for(gpu, &target).await?;
            }
            let op = Resample {
                matrix,
                shape: Zyx::from(grid.shape).0,
                interpolation: sampler.interpolation,
                edge: sampler.edge,
                outside: sampler.outside,
            };
            let op = op.for_planes(&target_planes).of_part(planes.start);
            let sampled = run_op1(gpu, &op, &[&placed.tensor])?;
            drop(placed);
            let sampled: Vec<f32> = gpu.download(&sampled).await?;
            if ix == needed.start {
                merged = sampled;
            } else {
                plane.take(ix, &target, AxisOrder::Zyx, &sampled, &mut merged);
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
