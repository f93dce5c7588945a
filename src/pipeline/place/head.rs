//! The head in an image, by threshold and morphology: the box round it that a network's grid is placed on, and the region
//! that a bias field is fitted in when nobody says where.

use glam::DVec3;

use super::placed::PlacedVolume;
use super::source::Source;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::ops::label::{FillHoles, Keep, LargestComponent, Threshold};
use crate::ops::resample::{AxisOrder, Interpolation};
use crate::pipeline::postprocess::{distance, with_border};
use crate::pipeline::window::Window;
use crate::tensor::{TensorDesc, Xyz, Zyx};
use crate::volume::{Grid, Volume, components};

/// Spacing of the samples that the head is looked for in: averages over so much take the noise of the air away, and a grid of
/// 4 mm is placed well enough.
pub const SEARCH_MM: f64 = 4.0;
/// Gaps up to twice as wide are closed: sinuses, the dark skull at the image's edge.
const CLOSE_MM: f64 = 6.0;
/// Bins of the histogram that the threshold is found in.
const BINS: usize = 256;
/// Scalp, skull and most of the eyes and nose: within this depth of the head's surface the field is steep, and
/// intensities are not those of the brain.
pub const SCALP_MM: f64 = 15.0;

/// The head in an image.
#[derive(Clone, Debug)]
pub struct Head {
    /// Where the samples lie.
    grid: Grid,
    /// The image at the samples, x fastest.
    values: Vec<f32>,
    /// Otsu's threshold of the samples, and the least of them.
    threshold: f32,
    least: f32,
    /// The largest component above the threshold.
    inside: Vec<u8>,
}

/// A box along the world's axes, in mm.
#[derive(Clone, Copy, Debug)]
pub struct WorldBox {
    /// Corner to the left, back and bottom.
    pub low: DVec3,
    /// Corner to the right, front and top.
    pub high: DVec3,
}

impl Head {
    /// Looks for the head in a volume of any size, through its [`Window`]; `None` when the volume shows no contrast.
    ///
    /// # Errors
    /// A failing device.
    pub async fn in_volume(gpu: &Gpu, volume: &Volume) -> Result<Option<Self>, GraphError> {
        let Ok(window) = Window::of(volume) else { return Ok(None) };
        let source = Source::of(gpu, volume, &window).await?;
        Self::find(gpu, &source.averaged_over(gpu, DVec3::splat(SEARCH_MM)).await?).await
    }

    /// Looks for the head; `None` when the image shows no contrast.
    ///
    /// The largest component above Otsu's threshold of the volume sampled every 4 mm. The volume is averaged already to
    /// the voxels of a network, or by [`Source::averaged_over`] the spacing of the samples.
    ///
    /// # Errors
    /// A failing device.
    pub async fn find(gpu: &Gpu, averaged: &Source<'_>) -> Result<Option<Self>, GraphError> {
        let WorldBox { low, high } = WorldBox::of(&averaged.grid());
        // At multiples of the spacing in the world, so that one head stored on another grid is sampled at the same places.
        let (first, last) = ((low / SEARCH_MM).floor(), (high / SEARCH_MM).ceil());
        let shape = Xyz((last - first).to_array()).map(|n| (n as usize + 1).clamp(1, 512));
        let grid = Grid::centred(shape, DVec3::splat(SEARCH_MM), (first + last) / 2.0 * SEARCH_MM);
        let coarse = averaged.sampled(gpu, &grid, AxisOrder::Zyx, Interpolation::Linear, None).await?;
        let values: Vec<f32> = gpu.download(&coarse).await?;
        let Some([least, threshold]) = otsu_of(&values) else { return Ok(None) };
        let above: Vec<u8> = values.iter().map(|&v| u8::from(v > threshold)).collect();
        let inside = components::largest(&above, shape).expect("a mask has as many voxels as its grid");
        Ok(inside.contains(&1).then_some(Self { grid, values, threshold, least, inside }))
    }

    /// The smallest box round the head: its faces lie where the intensity between samples crosses the threshold.
    pub fn bounds(&self) -> WorldBox {
        let Self { grid, values, threshold, inside, .. } = self;
        let shape = grid.shape;
        let (mut least, mut most) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
        let strides = [1, shape[0], shape[0] * shape[1]];
        for ix in (0..inside.len()).filter(|&ix| inside[ix] != 0) {
            for a in 0..3 {
                let at = ix / strides[a] % shape[a];
                // How far from the sample the intensity falls to the threshold: continuous, so that noise moves a face
                // by a little and not by a whole step.
                let reach = |next: Option<usize>| match next {
                    None => 0.5,
                    Some(next) if inside[next] != 0 => 1.0,
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
        WorldBox { low: grid.affine.transform_point3(least), high: grid.affine.transform_point3(most) }
    }

    /// The head as a u32 mask on a grid, less its outermost `erode_mm`: above half of the threshold, so that dark tissue
    /// counts, the largest component, closed by 6 mm, holes filled; the distance to its surface is interpolated.
    ///
    /// # Errors
    /// A failing device.
    pub async fn mask_on(
        &self,
        gpu: &Gpu,
        grid: &Grid,
        axes: AxisOrder,
        erode_mm: f64,
    ) -> Result<GpuTensor, GraphError> {
        let Xyz([x, y, z]) = self.grid.shape;
        let size = Zyx([SEARCH_MM; 3]);
        let samples = gpu.upload(&TensorDesc::f32(&[z, y, x]), &self.values).await?;
        let level = self.least + 0.5 * (self.threshold - self.least);
        let above = run_op1(gpu, &Threshold::above(level), &[&samples])?;
        let largest = run_op1(gpu, &LargestComponent, &[&above])?;
        let grown = with_border(gpu, &distance(gpu, &largest, size)?, CLOSE_MM)?;
        let closed = with_border(gpu, &distance(gpu, &grown, size)?, -CLOSE_MM)?;
        let filled = run_op1(gpu, &FillHoles, &[&closed])?;
        let depth = distance(gpu, &filled, size)?;
        let depth = PlacedVolume { tensor: depth, affine: self.grid.affine, axes: AxisOrder::Zyx };
        let depth = depth.interpolated(gpu, grid, axes, Interpolation::Linear)?;
        run_op1(gpu, &Threshold { level: -erode_mm as f32, keep: Keep::Below }, &[&depth.tensor])
    }
}

impl WorldBox {
    /// The smallest box round a grid's voxels.
    pub fn of(grid: &Grid) -> Self {
        let shape = grid.shape;
        let (mut low, mut high) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
        for corner in 0..8usize {
            let index = DVec3::from_array(
                [0, 1, 2].map(|a| if corner >> a & 1 == 1 { shape[a] as f64 - 0.5 } else { -0.5 }),
            );
            let world = grid.affine.transform_point3(index);
            low = low.min(world);
            high = high.max(world);
        }
        Self { low, high }
    }
}

/// The least of the values, and Otsu's threshold of those up to their 99.5th percentile; `None` when they are all alike.
fn otsu_of(values: &[f32]) -> Option<[f32; 2]> {
    let mut sorted: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let low = *sorted.first()?;
    // A few very bright voxels (vessels, fat) would push all tissue into the first bins.
    let high = sorted[(sorted.len() - 1) * 995 / 1000];
    if high <= low {
        return None;
    }
    let last = (BINS - 1) as f32;
    let mut histogram = [0.0f64; BINS];
    for &v in &sorted {
        histogram[(((v - low) / (high - low) * last) as usize).min(BINS - 1)] += 1.0;
    }
    Some([low, low + (otsu(&histogram) as f32 + 1.0) / last * (high - low)])
}

/// The bin of a histogram up to which Otsu's method (Otsu 1979) counts the background.
fn otsu(histogram: &[f64]) -> usize {
    let total: f64 = histogram.iter().sum();
    let sum: f64 = histogram.iter().enumerate().map(|(ix, n)| ix as f64 * n).sum();
    let (mut below, mut sum_below, mut best, mut best_ix) = (0.0, 0.0, -1.0, 0);
    for (ix, n) in histogram.iter().enumerate() {
        below += n;
        sum_below += ix as f64 * n;
        let above = total - below;
        if below > 0.0 && above > 0.0 {
            let gap = sum_below / below - (sum - sum_below) / above;
            if below * above * gap * gap > best {
                best = below * above * gap * gap;
                best_ix = ix;
            }
        }
    }
    best_ix
}
