//! A synthetic head: an image as a file would hold it, and its brain.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::anatomy::{Anatomy, ELASTIC_POINTS, normal};
use super::config::Synthesis;
use super::contrast::{Contrast, Table};
use super::map::{ENVELOPE_STEP_MM, FILM_MM, LabelMap};
use super::scanner::{Scan, Units, cut};
use crate::gpu::Gpu;
use crate::graph::run_op;
use crate::ops::resample::{AxisOrder, Interpolation, grid_matrix, index_matrix};
use crate::ops::synth::{LabelPaint, ScanFaults};
use crate::pipeline::PipelineError;
use crate::pipeline::place::placed::PlacedVolume;
use crate::tensor::{TensorDesc, Xyz};
use crate::volume::Volume;

/// How far beyond the film a skull's pull reaches at most: below, there are neck and shoulders.
const FARTHEST_MM: f64 = 40.0;
/// Scales the control points of a texture so that its own spread is about 1: a cubic B-spline averages over them.
const TEXTURE_SPREAD: f64 = 2.9;
/// Keeps the draws of synthetic heads apart from those of the augmentation under the same seed.
const STREAMS: u64 = 0x5A17_11EA;

/// A head made from a label map.
pub struct SyntheticHead {
    /// The image, as a scanner would have it stored.
    pub image: Volume,
    /// Part of each voxel that is brain, on the grid that the head was painted on: the image's box.
    pub brain: PlacedVolume,
    /// The same of the brain without the CSF round it.
    pub no_csf: PlacedVolume,
    /// What decided its intensities.
    pub contrast: Contrast,
    /// The scale of its values.
    pub units: Units,
}

impl SyntheticHead {
    /// Head number `sample` of a seed: the same whenever it is asked for. No voxel is smaller than `voxel_mm`; `background`
    /// is the value of no signal, at random where none is given.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn make(
        gpu: &Gpu,
        map: &LabelMap,
        synthesis: &Synthesis,
        seed: u64,
        sample: u64,
        voxel_mm: f64,
        background: Option<f32>,
    ) -> Result<Self, PipelineError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ STREAMS);
        rng.set_stream(sample + 1);
        let rng = &mut rng;
        let contrast = Contrast::draw(synthesis, rng);
        let table = Table::draw(contrast, &map.classes, rng);
        let anatomy = Anatomy::draw(synthesis, map, contrast, rng);
        let mut scan = Scan::draw(synthesis, map, &anatomy, contrast, voxel_mm, rng);
        if let Some(value) = background {
            scan.units = Units { background: value, padding: value, ..scan.units };
        }
        let lesions = anatomy.lesion_rows(&map.grid, || table.lesion(rng));

        let points = rng.random_range(12..40);
        let texture: Vec<f32> =
            (0..points * points * points).map(|_| (normal(rng) * TEXTURE_SPREAD) as f32).collect();
        let to_map = grid_matrix(map.grid.affine, anatomy.transform * scan.painted.affine);
        let Xyz([x, y, z]) = scan.painted.shape;
        let edges = map.grid.voxel_size();
        let op = LabelPaint {
            matrix: index_matrix(to_map, AxisOrder::Zyx, AxisOrder::Zyx),
            shape: [z, y, x],
            voxel_mm: [edges.z, edges.y, edges.x].map(|edge| edge as f32),
            step_mm: ENVELOPE_STEP_MM as f32,
            film_mm: FILM_MM as f32,
            soft_mm: edges.max_element() as f32,
            pull: anatomy.pull,
            pull_from_mm: if anatomy.squeezed { 0.0 } else { FILM_MM as f32 },
            farthest_mm: FARTHEST_MM as f32 / (1.0 + anatomy.pull.max(0.0)),
            erosion_mm: anatomy.erosion_mm,
            growth_mm: anatomy.growth_mm,
            fluid: table.fluid,
            coarse: rng.random_range(0.0..1.2),
            seed: [rng.random(), rng.random()],
        };
        let g = ELASTIC_POINTS;
        let rows: Vec<f32> = table.rows.into_flattened();
        let placed_map = map.upload(gpu).await?;
        let displacement =
            gpu.upload(&TensorDesc::f32(&[3, g, g, g]), &anatomy.displacement(&map.grid)).await?;
        let texture = gpu.upload(&TensorDesc::f32(&[1, points, points, points]), &texture).await?;
        let rows = gpu.upload(&TensorDesc::f32(&[map.classes.len(), 4]), &rows).await?;
        let lesions = gpu.upload(&TensorDesc::f32(&[lesions.len() / 8, 8]), &lesions).await?;
        let painted = run_op(gpu, &op, &[&placed_map.tensor, &displacement, &texture, &rows, &lesions])?;
        let place = |tensor| PlacedVolume { tensor, affine: scan.painted.affine, axes: AxisOrder::Zyx };
        let [image, mut brain, mut no_csf]: [_; 3] = painted
            .into_iter()
            .map(place)
            .collect::<Vec<_>>()
            .try_into()
            .expect("label_paint has three outputs");
        if !scan.cuts.is_empty() {
            for part in [&mut brain, &mut no_csf] {
                part.tensor = cut(gpu, part, ScanFaults::NONE, &scan.cuts, 0.0, [0, 0]).await?;
            }
        }
        let seen = scan.resolution.apply(gpu, &image).await?;
        let spoilt = scan.signal.apply(gpu, &seen, &scan.cuts, scan.units).await?;
        let data = gpu.download(&spoilt).await?;
        let image = Volume { shape: seen.shape_xyz(), affine: seen.affine, data };
        Ok(Self { image, brain, no_csf, contrast, units: scan.units })
    }

    /// The voxels of the image that are brain by more than half.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn mask(&self, gpu: &Gpu) -> Result<Vec<u8>, PipelineError> {
        self.more_than_half(gpu, &self.brain).await
    }

    /// Those that are brain without the CSF round it by more than half.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn mask_without_csf(&self, gpu: &Gpu) -> Result<Vec<u8>, PipelineError> {
        self.more_than_half(gpu, &self.no_csf).await
    }

    async fn more_than_half(&self, gpu: &Gpu, part: &PlacedVolume) -> Result<Vec<u8>, PipelineError> {
        let grid = crate::volume::Grid::of(&self.image);
        let averaged = part.filtered_for(gpu, &grid).await?;
        let parts = averaged.interpolated(gpu, &grid, AxisOrder::Zyx, Interpolation::Linear)?;
        Ok(gpu.download::<f32>(&parts.tensor).await?.into_iter().map(|part| u8::from(part > 0.5)).collect())
    }
}
