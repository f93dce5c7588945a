//! Brain extraction of one head: bias field, network grid, network, native grid, mask.

use std::sync::Arc;
use std::time::Instant;

use super::PipelineError;
use super::bias::{N4Options, correct, n4};
use super::grid::{Grid, PlacedVolume};
use super::intensity::normalise;
use super::postprocess::{brain_mask, distance, with_border};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{Executor, ExecutorOptions, run_op};
use crate::model::{Description, GridSpec, Mode, Model, build, fold_for_inference};
use crate::ops::ValueId;
use crate::ops::activation::Activate;
use crate::ops::resample::{AxisOrder, Edge, Interpolation};
use crate::tensor::TensorDesc;
use crate::volume::Volume;

/// Whether the bias field is corrected before the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum N4Choice {
    /// As the network was trained.
    #[default]
    AsModel,
    /// Not at all.
    Off,
    /// With these settings.
    On(N4Options),
}

/// What to compute for a head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StripOptions {
    /// Moves the mask's border outward by this many mm (inward when negative).
    pub border_mm: f64,
    /// Bias correction before the network.
    pub n4: N4Choice,
    /// Return the signed distance to the border.
    pub distance: bool,
    /// Return the probability.
    pub probability: bool,
    /// Return the bias field and the corrected image; corrects with the defaults when `n4` would not.
    pub corrected: bool,
}

/// Results for a head; arrays are on its own grid, x fastest, as [`Volume`] stores them.
#[derive(Clone, Debug)]
pub struct Stripped {
    /// 1 in the brain, 0 elsewhere.
    pub mask: Vec<u8>,
    /// Probability of brain, when asked for.
    pub probability: Option<Vec<f32>>,
    /// Signed distance in mm to the border of `mask`, negative inside, when asked for.
    pub distance_mm: Option<Vec<f32>>,
    /// Multiplicative bias field, when asked for.
    pub bias: Option<Vec<f32>>,
    /// Input divided by the bias field, when asked for.
    pub corrected: Option<Vec<f32>>,
    /// Volume of the mask in mL.
    pub brain_ml: f64,
    /// Wall time of each stage in order.
    pub seconds: Vec<(&'static str, f64)>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// Logit of voxels outside the network's grid: certainly not brain.
const OUTSIDE_LOGIT: f32 = -20.0;
/// Brains of people from infancy to old age lie within these volumes, skull-stripped, in mL.
const PLAUSIBLE_ML: std::ops::Range<f64> = 300.0..2500.0;

/// A network compiled for a device, ready for any number of heads.
pub struct Stripper {
    gpu: Arc<Gpu>,
    description: Description,
    executor: Executor,
    input: ValueId,
    logits: ValueId,
}

/// Wall time of stages, each waited for so that it is charged for its own work.
struct Stopwatch<'a> {
    gpu: &'a Gpu,
    begun: Instant,
    seconds: Vec<(&'static str, f64)>,
}

impl Stopwatch<'_> {
    fn lap(&mut self, stage: &'static str) -> Result<(), PipelineError> {
        self.gpu.wait()?;
        self.seconds.push((stage, self.begun.elapsed().as_secs_f64()));
        self.begun = Instant::now();
        Ok(())
    }
}

impl Stripper {
    /// Folds and compiles a model.
    ///
    /// # Errors
    /// Weights that do not fit the network, or a device with too little memory.
    pub fn new(gpu: &Arc<Gpu>, model: &Model) -> Result<Self, PipelineError> {
        let (folded, tensors) = fold_for_inference(&model.description, &model.tensors);
        let network = build(&folded, 1, folded.input.shape, Mode::Inference)?;
        let executor = Executor::new(gpu, network.graph, ExecutorOptions::default())?;
        for (name, (_, values)) in &tensors {
            if let Some(value) = executor.graph.find(name) {
                executor.write(value, values)?;
            }
        }
        Ok(Self {
            gpu: Arc::clone(gpu),
            description: folded,
            executor,
            input: network.input,
            logits: network.logits,
        })
    }

    /// Bytes of GPU buffers that the network holds.
    pub fn network_bytes(&self) -> u64 {
        self.executor.allocated_bytes
    }

    /// Extracts the brain. Voxels that are not finite count as 0.
    ///
    /// # Errors
    /// No brain found, a bias field that cannot be fitted, or a failing device.
    pub fn strip(&self, volume: &Volume, options: &StripOptions) -> Result<Stripped, PipelineError> {
        let gpu = &*self.gpu;
        let spec = &self.description.input;
        let mut watch = Stopwatch { gpu, begun: Instant::now(), seconds: Vec::new() };
        let mut placed = match volume.data.iter().all(|v| v.is_finite()) {
            true => PlacedVolume::upload(gpu, volume)?,
            false => {
                let mut finite = volume.clone();
                finite.replace_non_finite();
                PlacedVolume::upload(gpu, &finite)?
            }
        };
        watch.lap("upload")?;

        let n4_options = match &options.n4 {
            N4Choice::On(n4_options) => Some(n4_options.clone()),
            N4Choice::AsModel => model_n4(spec)?,
            N4Choice::Off => None,
        };
        let n4_options = n4_options.or_else(|| options.corrected.then(N4Options::default));
        let (mut bias, mut corrected) = (None, None);
        if let Some(n4_options) = n4_options {
            let result = n4(&self.gpu, &placed.tensor, None, &n4_options)?;
            placed.tensor = correct(gpu, &placed.tensor, &result.log_field)?;
            if options.corrected {
                let log_field: Vec<f32> = gpu.download(&result.log_field)?;
                bias = Some(log_field.into_iter().map(f32::exp).collect());
                corrected = Some(gpu.download(&placed.tensor)?);
            }
            watch.lap("n4")?;
        }

        let prepared = placed.prepared_for(gpu, spec)?;
        let grid = Grid::of_network(spec, gpu, &prepared)?;
        let sampled = prepared.interpolated(gpu, &grid, AxisOrder::Xyz, spec.sampling.into())?;
        drop(prepared);
        let x = normalise(gpu, &sampled.tensor, &spec.intensity.into())?;
        watch.lap("resample")?;

        gpu.copy(&x, self.executor.tensor(self.input), 0)?;
        self.executor.run()?;
        watch.lap("network")?;

        let probability = self.probability_on(&grid, &placed)?;
        watch.lap("to native grid")?;

        let mut mask = brain_mask(gpu, &probability)?;
        let voxel_zyx = {
            let size = volume.voxel_size();
            [size.z, size.y, size.x]
        };
        if options.border_mm != 0.0 {
            mask = with_border(gpu, &distance(gpu, &mask, voxel_zyx)?, options.border_mm)?;
        }
        let words: Vec<u32> = gpu.download(&mask)?;
        let mask_bytes: Vec<u8> = words.iter().map(|&w| w as u8).collect();
        let voxels = mask_bytes.iter().filter(|&&v| v != 0).count();
        if voxels == 0 {
            return Err(PipelineError::NoBrain);
        }
        watch.lap("mask")?;
        let distance_mm = match options.distance {
            true => Some(gpu.download(&distance(gpu, &mask, voxel_zyx)?)?),
            false => None,
        };
        let probability = match options.probability {
            true => Some(gpu.download(&probability)?),
            false => None,
        };
        if options.distance || options.probability {
            watch.lap("distance and probability")?;
        }
        let brain_ml = voxels as f64 * volume.voxel_volume_ml();
        let mut warnings = Vec::new();
        if !PLAUSIBLE_ML.contains(&brain_ml) {
            warnings.push(format!(
                "the mask holds {brain_ml:.0} mL, outside the {:.0} to {:.0} mL of human brains; look at it before use",
                PLAUSIBLE_ML.start, PLAUSIBLE_ML.end
            ));
        }
        Ok(Stripped {
            mask: mask_bytes,
            probability,
            distance_mm,
            bias,
            corrected,
            brain_ml,
            seconds: watch.seconds,
            warnings,
        })
    }

    /// Sigmoid of the logits interpolated on the volume's own grid.
    fn probability_on(&self, grid: &Grid, volume: &PlacedVolume) -> Result<GpuTensor, PipelineError> {
        let gpu = &*self.gpu;
        let [d, h, w] = self.description.input.shape;
        let mut tensor = self.executor.tensor(self.logits).clone();
        tensor.desc = TensorDesc::f32(&[d, h, w]);
        let logits = PlacedVolume { tensor, affine: grid.affine, axes: AxisOrder::Xyz };
        let native = Grid { shape: volume.shape_xyz(), affine: volume.affine };
        let mut op = logits.resample_op(&native, volume.axes, Interpolation::Linear);
        op.edge = Edge::Clamp;
        op.outside = OUTSIDE_LOGIT;
        let on_native = run_op(gpu, &op, &[&logits.tensor])?.swap_remove(0);
        Ok(run_op(gpu, &Activate::Sigmoid, &[&on_native])?.swap_remove(0))
    }
}

/// The bias correction that a network was trained with.
pub(super) fn model_n4(spec: &GridSpec) -> Result<Option<N4Options>, PipelineError> {
    match spec.n4.as_deref() {
        None => Ok(None),
        Some("article") => Ok(Some(N4Options::article())),
        Some("ants") => Ok(Some(N4Options::ants())),
        Some("sitk") => Ok(Some(N4Options::sitk())),
        Some(other) => Err(crate::model::ModelError::Weights {
            file: "the model".into(),
            reason: format!("asks for the unknown bias correction '{other}'; use a newer Trephine"),
        }
        .into()),
    }
}
