//! Volumes that are sampled: on the device, or in memory, from where pieces go to the device as they are needed. Samples do
//! not depend on where a volume is.

use std::borrow::Cow;
use std::sync::Arc;

use glam::DVec3;

use super::placed::{PlacedVolume, resample_op};
use super::slabs::{PlaneOf, TAPS, slabs, upload, with_halo};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::model::{GridSpec, Sampling};
use crate::ops::resample::{AxisOrder, Edge, Interpolation, Resample, grid_matrix, index_matrix, prefilters};
use crate::pipeline::window::Window;
use crate::tensor::{TensorDesc, Xyz};
use crate::volume::{Grid, Volume};

/// A volume that is sampled.
#[derive(Clone, Debug)]
pub enum Source<'v> {
    /// On the device.
    Device(PlacedVolume),
    /// In memory.
    Memory {
        /// Its voxels.
        volume: Arc<Cow<'v, Volume>>,
        /// Edges of the boxes that it is averaged over before it is sampled.
        boxes_mm: Option<DVec3>,
    },
}

impl<'v> Source<'v> {
    /// A volume seen through a window: on the device, if that holds it several times.
    ///
    /// # Errors
    /// A failing device.
    pub async fn of(gpu: &Gpu, volume: &'v Volume, window: &Window) -> Result<Self, GraphError> {
        match slabs(gpu, volume.shape).len() {
            1 => Ok(Self::Device(PlacedVolume::upload_through(gpu, volume, window).await?)),
            _ => Ok(Self::Memory { volume: Arc::new(window.through(volume)), boxes_mm: None }),
        }
    }

    /// The grid that its voxels lie on.
    pub fn grid(&self) -> Grid {
        match self {
            Self::Device(placed) => placed.grid(),
            Self::Memory { volume, .. } => Grid::of(volume),
        }
    }

    /// How axes of tensors map to those of the grid.
    pub fn axes(&self) -> AxisOrder {
        match self {
            Self::Device(placed) => placed.axes,
            Self::Memory { .. } => AxisOrder::Zyx,
        }
    }

    /// Averages over boxes along the world's axes of these edge lengths, where they are larger than the voxels.
    ///
    /// # Errors
    /// A failing device.
    pub async fn averaged_over(&self, gpu: &Gpu, edges_mm: DVec3) -> Result<Self, GraphError> {
        match self {
            Self::Device(placed) => Ok(Self::Device(placed.averaged_over(gpu, edges_mm).await?)),
            Self::Memory { volume, .. } => {
                Ok(Self::Memory { volume: Arc::clone(volume), boxes_mm: Some(edges_mm) })
            }
        }
    }

    /// The volume from which a network's grid is interpolated: averaged to its voxels where the network was
    /// trained so. The voxels of any grid of this specification are alike, wherever it lies.
    ///
    /// # Errors
    /// A failing device.
    pub async fn prepared_for(&self, gpu: &Gpu, spec: &GridSpec) -> Result<Self, GraphError> {
        match spec.sampling {
            Sampling::Nearest | Sampling::Linear | Sampling::Cubic => Ok(self.clone()),
            Sampling::Area => self.averaged_over(gpu, DVec3::from_array(spec.voxel_mm)).await,
        }
    }

    /// Samples on another grid, with axes in this order; `edge` is another than interpolation brings along.
    ///
    /// # Errors
    /// A failing device.
    pub async fn sampled(
        &self,
        gpu: &Gpu,
        grid: &Grid,
        axes: AxisOrder,
        interpolation: Interpolation,
        edge: Option<Edge>,
    ) -> Result<GpuTensor, GraphError> {
        match self {
            Self::Device(placed) => {
                let mut op = placed.resample_op(grid, axes, interpolation);
                op.edge = edge.unwrap_or(op.edge);
                run_op1(gpu, &op, &[&placed.tensor])
            }
            Self::Memory { volume, boxes_mm } => {
                let mut op = resample_op((volume.affine, AxisOrder::Zyx), grid, axes, interpolation);
                op.edge = edge.unwrap_or(op.edge);
                sampled_in_slabs(gpu, volume, *boxes_mm, grid, axes, &op).await
            }
        }
    }

    /// The same with other values, in the order of [`Source::values`].
    ///
    /// # Errors
    /// A failing device.
    pub async fn with_values(&self, gpu: &Gpu, values: Vec<f32>) -> Result<Self, GraphError> {
        Ok(match self {
            Self::Device(placed) => {
                let tensor = gpu.upload(&placed.tensor.desc, &values).await?;
                Self::Device(PlacedVolume { tensor, ..*placed })
            }
            Self::Memory { volume, .. } => {
                let Volume { shape, affine, .. } = ***volume;
                let volume = Arc::new(Cow::Owned(Volume { shape, affine, data: values }));
                Self::Memory { volume, boxes_mm: None }
            }
        })
    }

    /// Its values, in the order of files, x fastest.
    ///
    /// # Errors
    /// A failing device.
    pub async fn values(&self, gpu: &Gpu) -> Result<Vec<f32>, GraphError> {
        match self {
            Self::Device(placed) => Ok(gpu.download(&placed.tensor).await?),
            Self::Memory { volume, boxes_mm: None } => Ok(volume.data.clone()),
            Self::Memory { volume, boxes_mm: Some(_) } => {
                let grid = Grid::of(volume);
                let mut values = Vec::with_capacity(volume.data.len());
                for planes in slabs(gpu, volume.shape) {
                    let planes = grid.planes(&planes);
                    let slab =
                        self.sampled(gpu, &planes, AxisOrder::Zyx, Interpolation::Nearest, None).await?;
                    values.append(&mut gpu.download(&slab).await?);
                }
                Ok(values)
            }
        }
    }
}

/// Samples a volume in memory on a grid that the device holds whole, as `op` would if it were on the device.
async fn sampled_in_slabs(
    gpu: &Gpu,
    volume: &Volume,
    boxes_mm: Option<DVec3>,
    grid: &Grid,
    axes: AxisOrder,
    op: &Resample,
) -> Result<GpuTensor, GraphError> {
    let own = Grid::of(volume);
    let radius = boxes_mm.map_or(0, |edges_mm| {
        let boxes = Grid::centred(Xyz([1; 3]), edges_mm, DVec3::ZERO);
        let matrix = index_matrix(grid_matrix(own.affine, boxes.affine), AxisOrder::Zyx, AxisOrder::Zyx);
        prefilters(&matrix).iter().find(|(filter, _)| filter.axis == 0).map_or(0, |(_, w)| w.len() / 2)
    });
    // What lies beyond the first and the last plane is made of so many next to them.
    let [below, above] = match op.edge {
        Edge::Mirror { low, high } => [low[0], high[0]].map(|planes| planes as usize),
        Edge::Zero | Edge::Clamp => [0; 2],
    };
    let halo = radius + TAPS;
    let last = volume.shape[2];
    let sources = with_halo(gpu, volume.shape, halo);
    let plane = PlaneOf::new(&own, grid, sources[0].len());
    let needed = plane.slabs_of(grid);
    let mut merged: Vec<f32> = Vec::new();
    let mut desc = TensorDesc::f32(&[0]);
    for ix in needed.clone() {
        let source = &sources[ix];
        let first_needed =
            if source.end == last { source.start.min(last.saturating_sub(above)) } else { source.start };
        let end_needed = if source.start == 0 { source.end.max(below) } else { source.end };
        let planes = first_needed.saturating_sub(halo)..(end_needed + halo).min(last);
        let mut placed = upload(gpu, volume, &planes).await?;
        if let Some(edges_mm) = boxes_mm {
            placed = placed.averaged_over(gpu, edges_mm).await?;
        }
        let mut op = op.clone().of_part(planes.start);
        if let Edge::Mirror { low, high } = &mut op.edge {
            // The slab ends at other planes than the volume.
            low[0] = if planes.start == 0 { low[0] } else { 0 };
            high[0] = if planes.end == last { high[0] } else { 0 };
        }
        let sampled = run_op1(gpu, &op, &[&placed.tensor])?;
        drop(placed);
        desc = sampled.desc.clone();
        let sampled: Vec<f32> = gpu.download(&sampled).await?;
        if ix == needed.start {
            merged = sampled;
        } else {
            plane.take(ix, grid, axes, &sampled, &mut merged);
        }
    }
    Ok(gpu.upload(&desc, &merged).await?)
}
