//! Volumes on the device, where the head lies in them, and the network's grid placed on it.

use glam::{DMat4, DVec3};

use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::model::{Centre, GridSpec, Sampling};
use crate::ops::resample::{AxisOrder, Edge, Interpolation, Resample, grid_matrix, index_matrix, prefilters};
use crate::tensor::TensorDesc;
pub use crate::volume::Grid;
use crate::volume::{Volume, components};

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
    pub fn upload(gpu: &Gpu, volume: &Volume) -> Result<Self, GraphError> {
        let [x, y, z] = volume.shape;
        let tensor = gpu.upload(&TensorDesc::f32(&[z, y, x]), &volume.data)?;
        Ok(Self { tensor, affine: volume.affine, axes: AxisOrder::Zyx })
    }

    /// The grid that its voxels lie on.
    pub fn grid(&self) -> Grid {
        Grid { shape: self.shape_xyz(), affine: self.affine }
    }

    /// Voxels along x, y, z.
    pub fn shape_xyz(&self) -> [usize; 3] {
        let shape = &self.tensor.desc.shape;
        [0, 1, 2].map(|axis| shape[self.axes.nifti_axis(axis)])
    }

    /// Averages over boxes of the size of `grid`'s voxels, along the axes where those are larger.
    ///
    /// # Errors
    /// When the device fails.
    pub fn filtered_for(&self, gpu: &Gpu, grid: &Grid) -> Result<Self, GraphError> {
        let matrix = index_matrix(grid_matrix(self.affine, grid.affine), self.axes, self.axes);
        let mut tensor = self.tensor.clone();
        for (filter, weights) in prefilters(&matrix) {
            let weights = gpu.upload(&TensorDesc::f32(&[weights.len()]), &weights)?;
            tensor = run_op1(gpu, &filter, &[&tensor, &weights])?;
        }
        Ok(Self { tensor, ..*self })
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
        let edge = if interpolation == Interpolation::Nearest { Edge::Zero } else { Edge::Clamp };
        Resample {
            matrix: index_matrix(grid_matrix(self.affine, grid.affine), self.axes, axes),
            shape: [0, 1, 2].map(|axis| grid.shape[axes.nifti_axis(axis)]),
            interpolation,
            edge,
            outside: 0.0,
        }
    }

    /// The volume from which a network's grid is interpolated: averaged to its voxels where the network was
    /// trained so. The voxels of any grid of this specification are alike, wherever it lies.
    ///
    /// # Errors
    /// When the device fails.
    pub fn prepared_for(&self, gpu: &Gpu, spec: &GridSpec) -> Result<Self, GraphError> {
        match spec.sampling {
            Sampling::Nearest => Ok(self.clone()),
            Sampling::Area => {
                let voxel = DVec3::from_array(spec.voxel_mm);
                self.filtered_for(gpu, &Grid::centred(spec.shape, voxel, DVec3::ZERO))
            }
        }
    }
}

impl From<Sampling> for Interpolation {
    /// How a prepared volume is interpolated.
    fn from(sampling: Sampling) -> Self {
        match sampling {
            Sampling::Nearest => Self::Nearest,
            Sampling::Area => Self::Linear,
        }
    }
}

impl Grid {
    /// The grid on which a network sees a volume, given as [`PlacedVolume::prepared_for`] returns it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn of_network(spec: &GridSpec, gpu: &Gpu, prepared: &PlacedVolume) -> Result<Self, GraphError> {
        let voxel = DVec3::from_array(spec.voxel_mm);
        let centre = match spec.centre {
            // nilearn's offset of minus half the extent puts voxel n/2 at the origin.
            Centre::WorldOrigin => voxel * -0.5,
            Centre::Head { above_mm } => {
                let head = HeadBox::find(gpu, prepared)?;
                let middle = (head.low + head.high) / 2.0;
                let height = spec.shape[2] as f64 * voxel.z;
                DVec3::new(middle.x, middle.y, head.high.z + above_mm - height / 2.0)
            }
        };
        Ok(Self::centred(spec.shape, voxel, centre))
    }
}

/// Smallest box along the world's axes round the head, in mm.
#[derive(Clone, Copy, Debug)]
pub struct HeadBox {
    /// Corner to the left, back and bottom.
    pub low: DVec3,
    /// Corner to the right, front and top.
    pub high: DVec3,
}

/// Voxel size at which the head is looked for: fine enough to place a grid of 4 mm.
const SEARCH_MM: f64 = 4.0;

impl HeadBox {
    /// Looks for the head: the largest component above Otsu's threshold of the volume, already averaged to
    /// a network's voxels, sampled every 4 mm; its faces lie where the intensity between samples crosses the threshold. A
    /// volume without contrast counts as head throughout.
    ///
    /// # Errors
    /// When the device fails.
    pub fn find(gpu: &Gpu, volume: &PlacedVolume) -> Result<Self, GraphError> {
        let (low, high) = world_bounds(volume);
        // At multiples of the spacing in the world, so that one head stored on another grid is sampled at the same places.
        let (first, last) = ((low / SEARCH_MM).floor(), (high / SEARCH_MM).ceil());
        let shape = (last - first).to_array().map(|n| (n as usize + 1).clamp(1, 512));
        let grid = Grid::centred(shape, DVec3::splat(SEARCH_MM), (first + last) / 2.0 * SEARCH_MM);
        let coarse = volume.interpolated(gpu, &grid, AxisOrder::Zyx, Interpolation::Linear)?;
        let values: Vec<f32> = gpu.download(&coarse.tensor)?;
        let whole = Self { low, high };
        let Some(threshold) = otsu(&values) else { return Ok(whole) };
        let mask: Vec<u8> = values.iter().map(|&v| u8::from(v > threshold)).collect();
        let Ok(head) = components::largest(&mask, shape) else { return Ok(whole) };
        let (mut least, mut most) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
        let strides = [1, shape[0], shape[0] * shape[1]];
        for ix in (0..head.len()).filter(|&ix| head[ix] != 0) {
            for a in 0..3 {
                let at = ix / strides[a] % shape[a];
                // How far from the sample the intensity falls to the threshold: continuous, so that noise moves a face
                // by a little and not by a whole step.
                let reach = |next: Option<usize>| match next {
                    None => 0.5,
                    Some(next) if head[next] != 0 => 1.0,
                    Some(next) => {
                        f64::from((values[ix] - threshold) / (values[ix] - values[next])).clamp(0.0, 1.0)
                    }
                };
                let below = reach((at > 0).then(|| ix - strides[a]));
                let above = reach((at + 1 < shape[a]).then(|| ix + strides[a]));
                least[a] = least[a].min(at as f64 - below);
                most[a] = most[a].max(at as f64 + above);
            }
        }
        if least.x > most.x {
            return Ok(whole);
        }
        Ok(Self { low: grid.affine.transform_point3(least), high: grid.affine.transform_point3(most) })
    }
}

/// Smallest box along the world's axes round a volume's voxels, in mm.
fn world_bounds(volume: &PlacedVolume) -> (DVec3, DVec3) {
    let shape = volume.shape_xyz();
    let (mut low, mut high) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
    for corner in 0..8usize {
        let index = DVec3::from_array(
            [0, 1, 2].map(|a| if corner >> a & 1 == 1 { shape[a] as f64 - 0.5 } else { -0.5 }),
        );
        let world = volume.affine.transform_point3(index);
        low = low.min(world);
        high = high.max(world);
    }
    (low, high)
}

/// Otsu's threshold (Otsu 1979) of the values up to their 99.5th percentile in 256 bins; `None` when they are
/// all alike.
fn otsu(values: &[f32]) -> Option<f32> {
    let mut sorted: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let low = *sorted.first()?;
    // A few very bright voxels (vessels, fat) would push all tissue into the first bins.
    let high = sorted[(sorted.len() - 1) * 995 / 1000];
    if high <= low {
        return None;
    }
    let mut histogram = [0.0f64; 256];
    for &v in &sorted {
        histogram[(((v - low) / (high - low) * 255.0) as usize).min(255)] += 1.0;
    }
    Some(low + (super::head::otsu(&histogram) as f32 + 1.0) / 255.0 * (high - low))
}
