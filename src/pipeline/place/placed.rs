//! Volumes on the device with their place in the world.

use glam::{DMat4, DVec3};

use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::model::{GridSpec, Sampling};
use crate::ops::resample::{AxisOrder, Edge, Interpolation, Resample, grid_matrix, index_matrix, prefilters};
use crate::pipeline::window::Window;
use crate::tensor::{TensorDesc, Xyz};
use crate::volume::{Grid, Volume};

/// A volume on the device with its place in the world.
#[derive(Clone, Debug)]
pub struct PlacedVolume {
    /// Voxels `[D, H, W]` in the order of `axes`.
    pub tensor: GpuTensor,
    /// Voxel (x, y, z) to world in mm.
    pub affine: DMat4,
    /// How the tensor's axes map to x, y, z.
    pub axes: AxisOrder,
}

impl PlacedVolume {
    /// Uploads a volume as NIfTI stores it.
    ///
    /// # Errors
    /// When it does not fit the device.
    pub async fn upload(gpu: &Gpu, volume: &Volume) -> Result<Self, GraphError> {
        let Xyz([x, y, z]) = volume.shape;
        let tensor = gpu.upload(&TensorDesc::f32(&[z, y, x]), &volume.data).await?;
        Ok(Self { tensor, affine: volume.affine, axes: AxisOrder::Zyx })
    }

    /// As [`PlacedVolume::upload`], seen through a window.
    ///
    /// # Errors
    /// When it does not fit the device.
    pub async fn upload_through(gpu: &Gpu, volume: &Volume, window: &Window) -> Result<Self, GraphError> {
        // Some at a time: a whole copy would cost as much memory as the volume.
        const AT_ONCE: usize = 1 << 18;
        let Xyz([x, y, z]) = volume.shape;
        let tensor = gpu.unfilled(&TensorDesc::f32(&[z, y, x]))?;
        let voxels = volume.data.len();
        let mut seen = Vec::with_capacity(AT_ONCE.min(voxels));
        for start in (0..voxels).step_by(AT_ONCE) {
            seen.clear();
            seen.extend((start..voxels.min(start + AT_ONCE)).map(|ix| window.see(volume, ix)));
            let place = tensor.view((start * size_of::<f32>()) as u64, TensorDesc::f32(&[seen.len()]));
            gpu.write(&place, &seen).await?;
        }
        Ok(Self { tensor, affine: volume.affine, axes: AxisOrder::Zyx })
    }

    /// The grid that its voxels lie on.
    pub fn grid(&self) -> Grid {
        Grid { shape: self.shape_xyz(), affine: self.affine }
    }

    /// Voxels along x, y, z.
    pub fn shape_xyz(&self) -> Xyz<usize> {
        let shape = &self.tensor.desc.shape;
        Xyz([0, 1, 2].map(|axis| shape[self.axes.nifti_axis(axis)]))
    }

    /// Averages over boxes of the size of `grid`'s voxels, along the axes where those are larger.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn filtered_for(&self, gpu: &Gpu, grid: &Grid) -> Result<Self, GraphError> {
        let matrix = index_matrix(grid_matrix(self.affine, grid.affine), self.axes, self.axes);
        let mut tensor = self.tensor.clone();
        for (filter, weights) in prefilters(&matrix) {
            let weights = gpu.upload(&TensorDesc::f32(&[weights.len()]), &weights).await?;
            tensor = run_op1(gpu, &filter, &[&tensor, &weights])?;
        }
        Ok(Self { tensor, ..*self })
    }

    /// Averages over boxes along the world's axes of these edge lengths, where they are larger than the voxels.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn averaged_over(&self, gpu: &Gpu, edges_mm: DVec3) -> Result<Self, GraphError> {
        self.filtered_for(gpu, &Grid::centred(Xyz([1; 3]), edges_mm, DVec3::ZERO)).await
    }

    /// Interpolates on another grid without filtering; samples outside are 0.
    ///
    /// # Errors
    /// When the device fails.
    pub fn interpolated(
        &self,
        gpu: &Gpu,
        grid: &Grid,
        axes: AxisOrder,
        interpolation: Interpolation,
    ) -> Result<Self, GraphError> {
        let op = self.resample_op(grid, axes, interpolation);
        let tensor = run_op1(gpu, &op, &[&self.tensor])?;
        Ok(Self { tensor, affine: grid.affine, axes })
    }

    /// The operator behind [`PlacedVolume::interpolated`].
    pub fn resample_op(&self, grid: &Grid, axes: AxisOrder, interpolation: Interpolation) -> Resample {
        resample_op((self.affine, self.axes), grid, axes, interpolation)
    }

    /// The volume from which a network's grid is interpolated: averaged to its voxels where the network was
    /// trained so. The voxels of any grid of this specification are alike, wherever it lies.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn prepared_for(&self, gpu: &Gpu, spec: &GridSpec) -> Result<Self, GraphError> {
        match spec.sampling {
            Sampling::Nearest | Sampling::Linear | Sampling::Cubic => Ok(self.clone()),
            Sampling::Area => self.averaged_over(gpu, DVec3::from_array(spec.voxel_mm)).await,
        }
    }
}

/// The operator that interpolates a volume with this affine and order of axes on another grid.
pub(super) fn resample_op(
    (affine, own_axes): (DMat4, AxisOrder),
    grid: &Grid,
    axes: AxisOrder,
    interpolation: Interpolation,
) -> Resample {
    let edge = if interpolation == Interpolation::Nearest { Edge::Zero } else { Edge::Clamp };
    Resample {
        matrix: index_matrix(grid_matrix(affine, grid.affine), own_axes, axes),
        shape: [0, 1, 2].map(|axis| grid.shape[axes.nifti_axis(axis)]),
        interpolation,
        edge,
        outside: 0.0,
    }
}

impl From<Sampling> for Interpolation {
    /// How a prepared volume is interpolated.
    fn from(sampling: Sampling) -> Self {
        match sampling {
            Sampling::Nearest => Self::Nearest,
            Sampling::Area | Sampling::Linear => Self::Linear,
            Sampling::Cubic => Self::Cubic,
        }
    }
}
