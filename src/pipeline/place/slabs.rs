//! Pieces of a volume too large for the device: slabs of planes, where it cannot bind all voxels at once or where they
//! would not go several times below the ceiling of its buffers ([`Gpu::piece_bytes`]).
//!
//! Software Vulkan and WebGPU's defaults bind 128 MiB, a head of 0.5 mm takes more. A slab is a range of planes along
//! z, whose voxels follow each other in memory. A volume that can be bound is one slab.

use std::borrow::Cow;
use std::ops::Range;

use super::placed::PlacedVolume;
use crate::gpu::Gpu;
use crate::graph::GraphError;
use crate::ops::resample::{AxisOrder, grid_matrix};
use crate::pipeline::window::Window;
use crate::tensor::{TensorDesc, Xyz};
use crate::volume::{Grid, Volume};

/// Planes beyond a slab that interpolation reaches: two for cubic, and one for rounding.
pub(in crate::pipeline) const TAPS: usize = 3;

/// The slabs of a volume with extents x, y, z: as few as can be, of equal thickness but for the last.
pub fn slabs(gpu: &Gpu, shape: Xyz<usize>) -> Vec<Range<usize>> {
    with_halo(gpu, shape, 0)
}

/// Slabs that can be bound together with `halo` further planes on either side.
pub(in crate::pipeline) fn with_halo(
    gpu: &Gpu,
    Xyz([x, y, z]): Xyz<usize>,
    halo: usize,
) -> Vec<Range<usize>> {
    let most = (gpu.piece_bytes() as usize / (4 * x * y).max(1)).max(1);
    let thickness = match z <= most {
        true => z,
        // A single plane that cannot be bound is refused when it is bound.
        false => z.div_ceil(z.div_ceil(most.saturating_sub(2 * halo).max(1))),
    };
    (0..z).step_by(thickness.max(1)).map(|start| start..(start + thickness).min(z)).collect()
}

/// A volume's planes on the device.
///
/// # Errors
/// A failing device.
pub(in crate::pipeline) async fn upload(
    gpu: &Gpu,
    volume: &Volume,
    planes: &Range<usize>,
) -> Result<PlacedVolume, GraphError> {
    let Xyz([x, y, _]) = volume.shape;
    let desc = TensorDesc::f32(&[planes.len(), y, x]);
    let tensor = gpu.upload(&desc, values_of(&volume.data, volume.shape, planes)).await?;
    let affine = Grid::of(volume).planes(planes).affine;
    Ok(PlacedVolume { tensor, affine, axes: AxisOrder::Zyx })
}

/// The values of a volume that lie in these planes.
pub(in crate::pipeline) fn values_of<'a, T>(
    values: &'a [T],
    Xyz([x, y, _]): Xyz<usize>,
    planes: &Range<usize>,
) -> &'a [T] {
    &values[planes.start * x * y..planes.end * x * y]
}

/// The volume averaged over blocks of 2x2x2 voxels until it can be bound, and how many times.
pub fn bindable<'a>(gpu: &Gpu, volume: &'a Volume) -> (Cow<'a, Volume>, u32) {
    let mut reduced = Cow::Borrowed(volume);
    let mut halvings = 0;
    while slabs(gpu, reduced.shape).len() > 1 {
        reduced = Cow::Owned(reduced.halved(|ix| reduced.data[ix]));
        halvings += 1;
    }
    (reduced, halvings)
}

/// As [`bindable`], on the device, seen through a window.
///
/// # Errors
/// A failing device.
pub async fn upload_bindable(
    gpu: &Gpu,
    volume: &Volume,
    window: &Window,
) -> Result<(PlacedVolume, u32), GraphError> {
    if slabs(gpu, volume.shape).len() == 1 {
        return Ok((PlacedVolume::upload_through(gpu, volume, window).await?, 0));
    }
    // What lies outside the window must not enter a mean.
    let half = volume.halved(|ix| window.see(volume, ix));
    let (bound, halvings) = bindable(gpu, &half);
    Ok((PlacedVolume::upload(gpu, &bound).await?, halvings + 1))
}

/// The values of these planes of so many voxels along x and y, one after the other; all values without planes.
pub(in crate::pipeline) fn pick<'a, T: Copy>(
    values: &'a [T],
    [x, y]: [usize; 2],
    planes: Option<&[usize]>,
) -> Cow<'a, [T]> {
    match planes {
        None => Cow::Borrowed(values),
        Some(planes) => {
            planes.iter().flat_map(|&plane| &values[plane * x * y..(plane + 1) * x * y]).copied().collect()
        }
    }
}

/// Which plane of a volume a voxel of another grid falls in.
pub(in crate::pipeline) struct PlaneOf {
    /// Change of the plane's number along x, y and z of the grid, and that of its first voxel.
    row: [f64; 4],
    /// Last plane of the volume.
    last: f64,
    /// Planes of a slab.
    thickness: usize,
}

impl PlaneOf {
    pub fn new(volume: &Grid, grid: &Grid, thickness: usize) -> Self {
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
    pub fn slabs_of(&self, grid: &Grid) -> Range<usize> {
        let far = grid.shape.map(|n| n - 1);
        let corners = (0..8).map(|c| {
            let at = |axis: usize| if c >> axis & 1 == 1 { far[axis] } else { 0 };
            self.slab(at(0), at(1), at(2))
        });
        let (first, last) = corners.fold((usize::MAX, 0), |(low, high), ix| (low.min(ix), high.max(ix)));
        first..last + 1
    }

    /// Copies what falls in slab `ix`, of samples with axes in this order.
    pub fn take(&self, ix: usize, grid: &Grid, axes: AxisOrder, from: &[f32], to: &mut [f32]) {
        let [d, h, w] = [0, 1, 2].map(|axis| grid.shape[axes.nifti_axis(axis)]);
        let mut at = 0;
        let mut xyz = [0; 3];
        for i in 0..d {
            xyz[axes.nifti_axis(0)] = i;
            for j in 0..h {
                xyz[axes.nifti_axis(1)] = j;
                for k in 0..w {
                    xyz[axes.nifti_axis(2)] = k;
                    let [x, y, z] = xyz;
                    if self.slab(x, y, z) == ix {
                        to[at] = from[at];
                    }
                    at += 1;
                }
            }
        }
    }
}
