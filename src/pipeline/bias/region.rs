//! Where a bias field is fitted.

use crate::gpu::{Gpu, GpuTensor};
use crate::graph::GraphError;
use crate::ops::resample::AxisOrder;
use crate::pipeline::place::head::Head;
use crate::pipeline::place::slabs::pick;
use crate::tensor::{TensorDesc, Xyz};
use crate::volume::Grid;

/// Where a bias field is fitted, on the voxels of a [`crate::volume::Volume`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FitRegion<'a> {
    /// Voxels of 0 are left out, any other label counts.
    pub mask: Option<&'a [u32]>,
    /// How much each voxel counts in the fit; those that are not positive are left out.
    pub confidence: Option<&'a [f32]>,
    /// Look for the head, and take it less its outermost millimetres, so many.
    pub head_less_mm: Option<f64>,
}

impl FitRegion<'_> {
    /// Mask and confidence on a grid that holds these planes of the volume, or all of them; a head that was found goes
    /// before a mask.
    pub(super) async fn on_device(
        &self,
        gpu: &Gpu,
        grid: &Grid,
        head: Option<&Head>,
        planes: Option<&[usize]>,
    ) -> Result<[Option<GpuTensor>; 2], GraphError> {
        let Xyz([x, y, z]) = grid.shape;
        let shape = [z, y, x];
        let mask = match (head, self.head_less_mm, self.mask) {
            (Some(head), Some(less_mm), _) => Some(head.mask_on(gpu, grid, AxisOrder::Zyx, less_mm).await?),
            (_, _, Some(mask)) => {
                Some(gpu.upload(&TensorDesc::u32(&shape), &pick(mask, [x, y], planes)).await?)
            }
            _ => None,
        };
        let confidence = match self.confidence {
            Some(values) => Some(gpu.upload(&TensorDesc::f32(&shape), &pick(values, [x, y], planes)).await?),
            None => None,
        };
        Ok([mask, confidence])
    }
}

/// A [`FitRegion`] on the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionTensors<'a> {
    /// u32 `[D, H, W]`: voxels of 0 are left out, any other label counts.
    pub mask: Option<&'a GpuTensor>,
    /// f32 `[D, H, W]`: how much each voxel counts in the fit; those that are not positive are left out.
    pub confidence: Option<&'a GpuTensor>,
}

impl<'a> RegionTensors<'a> {
    /// The voxels of a mask, which count alike.
    pub fn mask(mask: &'a GpuTensor) -> Self {
        Self { mask: Some(mask), confidence: None }
    }
}
