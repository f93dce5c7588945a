//! From a probability on the native grid to the brain mask.

use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::ops::Operator;
use crate::ops::label::{Distance, FillHoles, Keep, LargestComponent, Threshold};

/// Probabilities above this are brain.
pub const THRESHOLD: f32 = 0.5;

/// The brain in a probability map `[D, H, W]`: probability > 0.5, its largest 6-connected component, holes
/// filled (6-connected background that does not touch the border of the volume). Returns a u32 mask.
///
/// # Errors
/// A tensor that is not a volume, or a failing device.
pub fn brain_mask(gpu: &Gpu, probability: GpuTensor) -> Result<GpuTensor, GraphError> {
    let mut mask = run_op1(gpu, &Threshold::above(THRESHOLD), &[&probability])?;
    drop(probability);
    for step in [&LargestComponent as &dyn Operator, &FillHoles] {
        // What the step before took is free once the device is idle.
        gpu.wait()?;
        mask = run_op1(gpu, step, &[&mask])?;
    }
    Ok(mask)
}

/// Signed distance in mm to the border of a mask, negative inside (see [`Distance`]). `voxel_size` is in mm
/// along the axes of the array: z, y, x for a volume as stored in a file.
///
/// # Errors
/// A tensor that is not a mask, an impossible voxel size, or a failing device.
pub fn distance(gpu: &Gpu, mask: &GpuTensor, voxel_size: [f64; 3]) -> Result<GpuTensor, GraphError> {
    run_op1(gpu, &Distance { voxel_size }, &[mask])
}

/// Grows a mask by `border` mm, or shrinks it if negative, from its signed distance: dilation or erosion by
/// the closed ball of that radius. 0 gives the mask itself.
///
/// # Errors
/// A failing device.
pub fn with_border(gpu: &Gpu, distance: &GpuTensor, border: f64) -> Result<GpuTensor, GraphError> {
    // Distances that equal the border are common (multiples of the voxel size) and carry rounding errors of
    // the square root: the ball is larger by 1e-5 of its radius, so that they count as within it.
    let slack = 1e-5 * border.abs();
    let threshold = if border < 0.0 {
        Threshold { level: (border - slack) as f32, keep: Keep::Below }
    } else {
        Threshold { level: (border + slack) as f32, keep: Keep::AtMost }
    };
    run_op1(gpu, &threshold, &[distance])
}
