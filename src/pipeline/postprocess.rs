//! From a probability on the native grid to the brain mask.

use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::ops::Operator;
use crate::ops::label::{Distance, FillHoles, Keep, LargestComponent, Threshold};
use crate::tensor::{Xyz, Zyx};
use crate::volume::distance::signed;
use crate::volume::{Grid, components, morphology};

/// Probabilities above this are brain.
pub const THRESHOLD: f32 = 0.5;

/// The brain in a probability map `[D, H, W]`: probability > 0.5, its largest 6-connected component, holes
/// filled (6-connected background that does not touch the border of the volume). Returns a u32 mask.
///
/// # Errors
/// A tensor that is not a volume, or a failing device.
pub async fn brain_mask(gpu: &Gpu, probability: GpuTensor) -> Result<GpuTensor, GraphError> {
    let mask = run_op1(gpu, &Threshold::above(THRESHOLD), &[&probability])?;
    drop(probability);
    cleaned(gpu, mask).await
}

/// The largest component of a mask, holes filled.
async fn cleaned(gpu: &Gpu, mut mask: GpuTensor) -> Result<GpuTensor, GraphError> {
    for step in [&LargestComponent as &dyn Operator, &FillHoles] {
        // What the step before took is free once the device is idle.
        gpu.wait().await?;
        mask = run_op1(gpu, step, &[&mask])?;
    }
    Ok(mask)
}

/// Signed distance in mm to the border of a mask, negative inside (see [`Distance`]) of a volume as stored in a file.
///
/// # Errors
/// A tensor that is not a mask, an impossible voxel size, or a failing device.
pub fn distance(gpu: &Gpu, mask: &GpuTensor, voxel_mm: Zyx<f64>) -> Result<GpuTensor, GraphError> {
    run_op1(gpu, &Distance { voxel_size: voxel_mm.0 }, &[mask])
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

/// The brain on a grid of any size.
///
/// What looks at all of a mask is done on the device where that binds the grid whole, and else on the processor, by the
/// definitions that the device is held to.
pub struct BrainMask {
    grid: Grid,
    voxels: Voxels,
}

/// Where a mask is.
enum Voxels {
    /// u32 `[D, H, W]` on the device.
    Bound(GpuTensor),
    /// 0 and 1, x fastest.
    InMemory(Vec<u8>),
}

/// Why the definitions accept a mask.
const WHOLE: &str = "a mask has as many voxels as its grid";

impl BrainMask {
    /// That of a grid of which nothing is known yet: [`BrainMask::add`] follows.
    pub fn on(grid: &Grid) -> Self {
        Self { grid: *grid, voxels: Voxels::InMemory(Vec::new()) }
    }

    /// Takes the next slab of the grid: brain is where its probability exceeds [`THRESHOLD`].
    ///
    /// # Errors
    /// A failing device.
    pub async fn add(&mut self, gpu: &Gpu, probability: GpuTensor) -> Result<(), GraphError> {
        let slab = run_op1(gpu, &Threshold::above(THRESHOLD), &[&probability])?;
        drop(probability);
        match &mut self.voxels {
            Voxels::InMemory(values) if slab.desc.len() < self.grid.shape.iter().product() => {
                values.extend(bytes(gpu, &slab).await?);
            }
            voxels => *voxels = Voxels::Bound(slab),
        }
        Ok(())
    }

    /// Its largest component, holes filled.
    ///
    /// # Errors
    /// A failing device.
    pub async fn cleaned(self, gpu: &Gpu) -> Result<Self, GraphError> {
        let Self { grid, voxels } = self;
        let voxels = match voxels {
            Voxels::Bound(mask) => {
                // The probability is free once the device is idle.
                gpu.wait().await?;
                Voxels::Bound(cleaned(gpu, mask).await?)
            }
            Voxels::InMemory(mask) => {
                let largest = components::largest(&mask, grid.shape).expect(WHOLE);
                Voxels::InMemory(components::fill_holes(&largest, grid.shape).expect(WHOLE))
            }
        };
        Ok(Self { grid, voxels })
    }

    /// Its border moved outward by so many mm, inward if negative.
    ///
    /// # Errors
    /// A failing device.
    pub fn with_border(self, gpu: &Gpu, border_mm: f64) -> Result<Self, GraphError> {
        let voxels = match &self.voxels {
            _ if border_mm == 0.0 => return Ok(self),
            Voxels::Bound(mask) => {
                Voxels::Bound(with_border(gpu, &distance(gpu, mask, self.voxel_mm().into())?, border_mm)?)
            }
            Voxels::InMemory(mask) => {
                let voxel_mm = self.grid.voxel_size().to_array();
                let moved = morphology::move_border(mask, self.grid.shape, voxel_mm, border_mm);
                Voxels::InMemory(moved.expect(WHOLE))
            }
        };
        Ok(Self { voxels, ..self })
    }

    /// Signed distance in mm to its border, negative inside, x fastest.
    ///
    /// # Errors
    /// A failing device.
    pub async fn distance_mm(&self, gpu: &Gpu) -> Result<Vec<f32>, GraphError> {
        match &self.voxels {
            Voxels::Bound(mask) => Ok(gpu.download(&distance(gpu, mask, self.voxel_mm().into())?).await?),
            Voxels::InMemory(mask) => {
                Ok(signed(mask, self.grid.shape, self.grid.voxel_size().to_array()).expect(WHOLE))
            }
        }
    }

    /// 0 and 1, x fastest.
    ///
    /// # Errors
    /// A failing device.
    pub async fn values(&self, gpu: &Gpu) -> Result<Vec<u8>, GraphError> {
        match &self.voxels {
            Voxels::Bound(mask) => Ok(bytes(gpu, mask).await?.collect()),
            Voxels::InMemory(mask) => Ok(mask.clone()),
        }
    }

    /// As [`BrainMask::values`], as the labels of a region.
    ///
    /// # Errors
    /// A failing device.
    pub async fn labels(&self, gpu: &Gpu) -> Result<Vec<u32>, GraphError> {
        match &self.voxels {
            Voxels::Bound(mask) => Ok(gpu.download(mask).await?),
            Voxels::InMemory(mask) => Ok(mask.iter().map(|&v| u32::from(v)).collect()),
        }
    }

    /// Edge lengths of a voxel.
    fn voxel_mm(&self) -> Xyz<f64> {
        Xyz(self.grid.voxel_size().to_array())
    }
}

/// The values of a mask on the device.
async fn bytes(gpu: &Gpu, mask: &GpuTensor) -> Result<impl Iterator<Item = u8>, GraphError> {
    let words: Vec<u32> = gpu.download(mask).await?;
    Ok(words.into_iter().map(|word| word as u8))
}
