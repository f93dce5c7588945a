//! The head in an image, by threshold and morphology on the device: where a bias field is fitted when nobody
//! says where.

use glam::{DMat4, DVec3};

use super::grid::{Grid, PlacedVolume};
use super::postprocess::{distance, with_border};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::ops::intensity::{Histogram, Percentiles};
use crate::ops::label::{FillHoles, Keep, LargestComponent, Threshold};
use crate::ops::resample::{AxisOrder, Interpolation};

/// Voxel size that the head is looked for at: averaging down to it takes the noise of the air away.
const SEARCH_MM: f64 = 3.0;
/// Gaps up to twice as wide are closed: sinuses, the dark skull at the image's edge.
const CLOSE_MM: f64 = 6.0;
/// Bins of the histogram that the threshold is found in.
const BINS: usize = 256;
/// Scalp, skull and most of the eyes and nose: within this depth of the head's surface the field is steep, and
/// intensities are not those of the brain.
pub const SCALP_MM: f64 = 15.0;

/// Where the head lies.
#[derive(Clone, Debug)]
pub struct Head {
    /// Signed distance to its surface in mm, negative inside, on coarse voxels.
    depth: PlacedVolume,
}

impl Head {
    /// Looks for the head; `None` when the image shows no contrast.
    ///
    /// On voxels of about 3 mm along the volume's own axes: above half of Otsu's threshold, the largest
    /// component, closed by 6 mm, holes filled.
    ///
    /// # Errors
    /// A failing device.
    pub fn find(gpu: &Gpu, volume: &PlacedVolume) -> Result<Option<Self>, GraphError> {
        let grid = search_grid(volume);
        let coarse = volume.filtered_for(gpu, &grid)?.interpolated(
            gpu,
            &grid,
            AxisOrder::Zyx,
            Interpolation::Linear,
        )?;
        // A few very bright voxels (vessels, fat) would push all tissue into the first bins.
        let range = run_op1(gpu, &Percentiles { quantiles: vec![0.0, 0.995] }, &[&coarse.tensor])?;
        let counts: Vec<u32> =
            gpu.download(&run_op1(gpu, &Histogram { bins: BINS }, &[&coarse.tensor, &range])?)?;
        let limits: Vec<f32> = gpu.download(&range)?;
        if limits[1] <= limits[0] {
            return Ok(None);
        }
        let counts: Vec<f64> = counts.into_iter().map(f64::from).collect();
        let bin = otsu(&counts) as f32;
        let level = limits[0] + 0.5 * (bin + 1.0) / BINS as f32 * (limits[1] - limits[0]);

        let size = coarse.affine.voxel_mm();
        let above = run_op1(gpu, &Threshold::above(level), &[&coarse.tensor])?;
        let largest = run_op1(gpu, &LargestComponent, &[&above])?;
        let grown = with_border(gpu, &distance(gpu, &largest, size)?, CLOSE_MM)?;
        let closed = with_border(gpu, &distance(gpu, &grown, size)?, -CLOSE_MM)?;
        let filled = run_op1(gpu, &FillHoles, &[&closed])?;
        let depth = PlacedVolume { tensor: distance(gpu, &filled, size)?, ..coarse };
        Ok(Some(Self { depth }))
    }

    /// The head as a u32 mask on a grid, less its outermost `erode_mm`: the distance to its surface is interpolated.
    ///
    /// # Errors
    /// A failing device.
    pub fn mask_on(
        &self,
        gpu: &Gpu,
        grid: &Grid,
        axes: AxisOrder,
        erode_mm: f64,
    ) -> Result<GpuTensor, GraphError> {
        let depth = self.depth.interpolated(gpu, grid, axes, Interpolation::Linear)?;
        run_op1(gpu, &Threshold { level: -erode_mm as f32, keep: Keep::Below }, &[&depth.tensor])
    }
}

/// The volume's own grid with voxels of at least [`SEARCH_MM`].
fn search_grid(volume: &PlacedVolume) -> Grid {
    let [z, y, x] = volume.affine.voxel_mm();
    let old = volume.shape_xyz();
    let shape: [usize; 3] = [(old[0], x), (old[1], y), (old[2], z)]
        .map(|(n, mm)| ((n as f64 * (mm / SEARCH_MM).min(1.0)).ceil() as usize).max(1));
    let scale = DVec3::from_array([0, 1, 2].map(|a| old[a] as f64 / shape[a] as f64));
    // Both grids cover the same box: their corners, half a voxel out, agree.
    let step = DMat4::from_translation(scale * 0.5 - 0.5) * DMat4::from_scale(scale);
    Grid { shape, affine: volume.affine * step }
}

/// Lengths of a voxel's edges along z, y, x.
trait VoxelMm {
    fn voxel_mm(&self) -> [f64; 3];
}

impl VoxelMm for DMat4 {
    fn voxel_mm(&self) -> [f64; 3] {
        [self.z_axis, self.y_axis, self.x_axis].map(|axis| axis.truncate().length())
    }
}

/// The bin of a histogram up to which Otsu's method (Otsu 1979) counts the background.
pub(super) fn otsu(histogram: &[f64]) -> usize {
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
