//! Samples made from label maps: which of a run's are, and what a network sees of them.

use std::sync::Arc;

use glam::{DMat4, DVec3};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::head::{Seen, content_of, cut_out, to_scale, views};
use crate::gpu::{Gpu, GpuTensor};
use crate::model::Description;
use crate::pipeline::PipelineError;
use crate::pipeline::synth::{LabelMap, Synthesis, SyntheticHead};
use crate::pipeline::window::Window;
use crate::volume::Grid;

/// Keeps these draws apart from others under the same seed.
const STREAMS: u64 = 0x3A9_5EED;

/// The label maps of a run and how heads are made of them.
#[derive(Clone)]
pub struct SyntheticHeads {
    /// Strengths and share.
    pub synthesis: Synthesis,
    /// At least one.
    pub maps: Vec<Arc<LabelMap>>,
}

impl SyntheticHeads {
    /// Numbers of its own for sample number `sample` of a run with this seed.
    fn rng(seed: u64, sample: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ STREAMS);
        rng.set_stream(sample + 1);
        rng
    }

    /// The map that a sample is made from, `None` for a real head.
    pub fn map_of(&self, seed: u64, sample: u64) -> Option<&LabelMap> {
        let mut rng = Self::rng(seed, sample);
        let synthetic = rng.random::<f64>() < self.synthesis.share;
        synthetic.then(|| self.maps[rng.random_range(0..self.maps.len())].as_ref())
    }

    /// Image, brain and brain without the CSF round it, `[D, H, W]`, of a sample made from a map: seen as `strip` would see the scan, the grid moved by up to
    /// the synthesis's shift, cut to a random window of extents `crop`.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn sample(
        &self,
        gpu: &Arc<Gpu>,
        map: &LabelMap,
        network: &Description,
        seed: u64,
        sample: u64,
        crop: Option<[usize; 3]>,
    ) -> Result<[GpuTensor; 3], PipelineError> {
        let spec = &network.input;
        // Half a voxel of the network is as much as its averages show.
        let finest = spec.voxel_mm.into_iter().fold(f64::INFINITY, f64::min) / 2.0;
        let voxel_mm = finest.max(self.synthesis.store_mm);
        let head = SyntheticHead::make(gpu, map, &self.synthesis, seed, sample, voxel_mm, None).await?;
        let window = Window::of(&head.image).map_err(|problem| problem.at(&map.file))?;
        let targets = [&head.brain, &head.no_csf];
        let Seen { image: view, companions: [brain, no_csf], levels } =
            views(gpu, &head.image, &window, targets, &map.file, network).await?;
        let mut rng = Self::rng(seed.rotate_left(32), sample);
        let limit = self.synthesis.shift_mm;
        let shift = DVec3::from_array([0; 3].map(|_| (rng.random::<f64>() * 2.0 - 1.0) * limit));
        let grid = view.grid();
        let grid = Grid { shape: grid.shape, affine: DMat4::from_translation(shift) * grid.affine };
        let seen = view.sampled(gpu, &grid).await?;
        let image = to_scale(gpu, &seen, spec, content_of(&view).as_ref(), levels).await?;
        let whole = [image, brain.sampled(gpu, &grid).await?, no_csf.sampled(gpu, &grid).await?];
        let Some(crop) = crop else { return Ok(whole) };
        let offset = std::array::from_fn(|axis| rng.random_range(0..=grid.shape[axis] - crop[axis]));
        cut_out(gpu, whole, crop, offset)
    }
}
