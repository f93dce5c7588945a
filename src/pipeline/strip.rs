//! Brain extraction of one head: bias field, network grid, network, native grid, mask.

use std::sync::Arc;
use std::time::Instant;

use glam::{DMat4, DQuat, DVec3};

use super::PipelineError;
use super::bias::{N4Error, N4Options, Region, correct, n4};
use super::grid::{Grid, PlacedVolume};
use super::head::{SCALP_MM, head_mask};
use super::intensity::normalise;
use super::postprocess::{brain_mask, distance, with_border};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{Executor, ExecutorOptions, Tuning, run_op};
use crate::model::{Description, GridSpec, Mode, Model, build, fold_for_inference};
use crate::ops::activation::Activate;
use crate::ops::elementwise::{Add, Scale};
use crate::ops::resample::{AxisOrder, Edge, IDENTITY, Interpolation, Resample};
use crate::ops::{Operator, ValueId};
use crate::tensor::{DType, TensorDesc};
use crate::volume::Volume;

/// Whether the bias field is corrected before the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum N4Choice {
    /// As the network was trained.
    #[default]
    AsModel,
    /// Not at all.
    Off,
    /// With these settings, on every voxel that they accept.
    On(N4Options),
    /// For the network inside the head, without its scalp; for [`Stripped::corrected`] anew inside the brain, on
    /// voxels of about 3 mm.
    TwoPass,
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
    /// Multiplicative bias field, when asked for; with [`N4Choice::TwoPass`] that of the second pass.
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
/// Voxel size that the two passes of N4 work on.
const TWO_PASS_MM: f64 = 3.0;
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
        Self::tuned(gpu, model, DType::F32, &Arc::default())
    }

    /// As [`Stripper::new`], with the network's activations in `dtype` and the kernel variants that measured fastest.
    ///
    /// # Errors
    /// As [`Stripper::new`], and half precision on an adapter without it.
    pub fn tuned(
        gpu: &Arc<Gpu>,
        model: &Model,
        dtype: DType,
        tuning: &Arc<Tuning>,
    ) -> Result<Self, PipelineError> {
        gpu.require(dtype)?;
        let (folded, tensors) = fold_for_inference(&model.description, &model.tensors);
        let network = build(&folded, 1, folded.input.shape, Mode::Inference(dtype))?;
        let options = ExecutorOptions { tuning: Arc::clone(tuning), ..ExecutorOptions::default() };
        let executor = Executor::new(gpu, network.graph, options)?;
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

    /// Extracts the brain. Voxels that are not finite count as 0. A volume larger than the device binds is
    /// averaged over blocks of 2x2x2 voxels until it fits; a warning says so.
    ///
    /// # Errors
    /// No brain found, a bias field that cannot be fitted, or a failing device.
    pub fn strip(&self, volume: &Volume, options: &StripOptions) -> Result<Stripped, PipelineError> {
        // A network marks something even in a constant image.
        if volume.check_content().is_err() {
            return Err(PipelineError::NoBrain);
        }
        let limit = self.gpu.caps.max_binding;
        let mut reduced = std::borrow::Cow::Borrowed(volume);
        let mut halvings = 0;
        while reduced.data.len() as u64 * 4 > limit {
            reduced = std::borrow::Cow::Owned(halved(&reduced));
            halvings += 1;
        }
        let mut stripped = self.strip_whole(&reduced, options)?;
        if halvings > 0 {
            stripped.warnings.push(format!(
                "the volume exceeds the {} MiB that {} binds at once: it was averaged over {block}x{block}x{block} voxels, \
                 and the mask's border follows those blocks; another --device may take it whole",
                limit >> 20,
                self.gpu.summary.name,
                block = 1 << halvings
            ));
            stripped.expand(&reduced, volume, halvings);
        }
        Ok(stripped)
    }

    fn strip_whole(&self, volume: &Volume, options: &StripOptions) -> Result<Stripped, PipelineError> {
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

        let voxel_zyx = {
            let size = volume.voxel_size();
            [size.z, size.y, size.x]
        };
        let n4_options = match &options.n4 {
            N4Choice::On(n4_options) => Some(n4_options.clone()),
            N4Choice::TwoPass => Some(N4Options::default().shrunken_to(TWO_PASS_MM, voxel_zyx)),
            N4Choice::AsModel => model_n4(spec)?,
            N4Choice::Off => None,
        };
        let n4_options = n4_options.or_else(|| options.corrected.then(N4Options::default));
        let two_pass = options.n4 == N4Choice::TwoPass;
        let original = (two_pass && options.corrected).then(|| placed.tensor.clone());
        let (mut bias, mut corrected) = (None, None);
        let mut warnings = Vec::new();
        if let Some(n4_options) = n4_options {
            let inner_head = if two_pass { head_mask(gpu, &placed, SCALP_MM)? } else { None };
            let region = Region { mask: inner_head.as_ref(), confidence: None };
            match n4(&self.gpu, &placed.tensor, region, &n4_options) {
                Ok(result) => {
                    placed.tensor = correct(gpu, &placed.tensor, &result.log_field)?;
                    if options.corrected && !two_pass {
                        let log_field: Vec<f32> = gpu.download(&result.log_field)?;
                        bias = Some(log_field.into_iter().map(f32::exp).collect());
                        corrected = Some(gpu.download(&placed.tensor)?);
                    }
                }
                // Nobody asked for it by name, and the network copes with a bias field.
                Err(error @ (N4Error::TooFewVoxels { .. } | N4Error::Constant))
                    if options.n4 == N4Choice::AsModel && !options.corrected =>
                {
                    warnings.push(format!("the bias field was left as it is: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
            watch.lap("n4")?;
        }

        let prepared = placed.prepared_for(gpu, spec)?;
        let grid = Grid::of_network(spec, gpu, &prepared)?;
        let sampled = prepared.interpolated(gpu, &grid, AxisOrder::Xyz, spec.sampling.into())?;
        drop(prepared);
        let x = normalise(gpu, &sampled.tensor, &spec.intensity.into())?;
        watch.lap("resample")?;

        let logits = self.logits_of(&x)?;
        watch.lap("network")?;

        let probability = self.probability_on(logits, &grid, &placed)?;
        // Volumes on the device are freed as soon as nobody needs them.
        drop(placed);
        watch.lap("to native grid")?;

        let kept = options.probability.then(|| probability.clone());
        let mut mask = brain_mask(gpu, probability)?;
        let brain = original.is_some().then(|| mask.clone());
        if options.border_mm != 0.0 {
            mask = with_border(gpu, &distance(gpu, &mask, voxel_zyx)?, options.border_mm)?;
        }
        let mask_bytes: Vec<u8> = {
            let words: Vec<u32> = gpu.download(&mask)?;
            words.iter().map(|&w| w as u8).collect()
        };
        let voxels = mask_bytes.iter().filter(|&&v| v != 0).count();
        if voxels == 0 {
            return Err(PipelineError::NoBrain);
        }
        watch.lap("mask")?;
        if let (Some(original), Some(brain)) = (original, brain) {
            let second = N4Options { keep_nonpositive: false, ..N4Options::article() }
                .shrunken_to(TWO_PASS_MM, voxel_zyx);
            let log_field = n4(&self.gpu, &original, Region::mask(&brain), &second)?.log_field;
            corrected = Some(gpu.download(&correct(gpu, &original, &log_field)?)?);
            bias = Some(gpu.download::<f32>(&log_field)?.into_iter().map(f32::exp).collect());
            watch.lap("n4 in the brain")?;
        }
        let distance_mm = match options.distance {
            true => Some(gpu.download(&distance(gpu, &mask, voxel_zyx)?)?),
            false => None,
        };
        let probability = kept.map(|kept| gpu.download(&kept)).transpose()?;
        if options.distance || options.probability {
            watch.lap("distance and probability")?;
        }
        let brain_ml = voxels as f64 * volume.voxel_volume_ml();
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

    /// Logits `[D, H, W]` of a normalised image on the network's grid, averaged with those of its mirror image
    /// where the model asks for it.
    fn logits_of(&self, x: &GpuTensor) -> Result<GpuTensor, PipelineError> {
        let gpu = &*self.gpu;
        let [d, h, w] = self.description.input.shape;
        let pass = |x: &GpuTensor| -> Result<GpuTensor, PipelineError> {
            gpu.copy(x, self.executor.tensor(self.input), 0)?;
            self.executor.run()?;
            let mut logits = self.executor.tensor(self.logits).clone();
            logits.desc = TensorDesc::f32(&[d, h, w]);
            Ok(logits)
        };
        if !self.description.input.mirror {
            return pass(x);
        }
        // The network's grids have x, left to right, as their first axis.
        let flip = Resample {
            matrix: [[-1.0, 0.0, 0.0, d as f64 - 1.0], IDENTITY[1], IDENTITY[2]],
            shape: [d, h, w],
            interpolation: Interpolation::Nearest,
            edge: Edge::Zero,
            outside: 0.0,
        };
        let run = |op: &dyn Operator, inputs: &[&GpuTensor]| -> Result<GpuTensor, PipelineError> {
            Ok(run_op(gpu, op, inputs)?.swap_remove(0))
        };
        let mirrored = run(&flip, &[&pass(&run(&flip, &[x])?)?])?;
        let sum = run(&Add, &[&pass(x)?, &mirrored])?;
        run(&Scale { factor: 0.5 }, &[&sum])
    }

    /// Sigmoid of the logits interpolated on the volume's own grid.
    fn probability_on(
        &self,
        tensor: GpuTensor,
        grid: &Grid,
        volume: &PlacedVolume,
    ) -> Result<GpuTensor, PipelineError> {
        let gpu = &*self.gpu;
        let logits = PlacedVolume { tensor, affine: grid.affine, axes: AxisOrder::Xyz };
        let native = Grid { shape: volume.shape_xyz(), affine: volume.affine };
        let mut op = logits.resample_op(&native, volume.axes, Interpolation::Linear);
        op.edge = Edge::Clamp;
        op.outside = OUTSIDE_LOGIT;
        let on_native = run_op(gpu, &op, &[&logits.tensor])?.swap_remove(0);
        Ok(run_op(gpu, &Activate::Sigmoid, &[&on_native])?.swap_remove(0))
    }
}

impl Stripped {
    /// Brings results on `reduced`, made of `original` by `halvings` halvings, to the original grid.
    fn expand(&mut self, reduced: &Volume, original: &Volume, halvings: u32) {
        fn blocks<T: Copy>(values: &[T], from: &Volume, to: &Volume, halvings: u32) -> Vec<T> {
            let [nx, ny, nz] = to.shape;
            let mut out = Vec::with_capacity(nx * ny * nz);
            for z in 0..nz {
                for y in 0..ny {
                    let row = from.index(0, y >> halvings, z >> halvings);
                    out.extend((0..nx).map(|x| values[row + (x >> halvings)]));
                }
            }
            out
        }
        let grow = |values: &Vec<f32>| blocks(values, reduced, original, halvings);
        self.mask = blocks(&self.mask, reduced, original, halvings);
        self.probability = self.probability.as_ref().map(grow);
        self.distance_mm = self.distance_mm.as_ref().map(grow);
        self.bias = self.bias.as_ref().map(grow);
        if let (Some(corrected), Some(bias)) = (&mut self.corrected, &self.bias) {
            *corrected = original.data.iter().zip(bias).map(|(value, bias)| value / bias).collect();
        }
        let voxels = self.mask.iter().filter(|&&v| v != 0).count();
        self.brain_ml = voxels as f64 * original.voxel_volume_ml();
    }
}

/// Means of the finite values over blocks of 2x2x2 voxels; blocks at the far faces may be thinner.
fn halved(volume: &Volume) -> Volume {
    let shape = volume.shape.map(|n| n.div_ceil(2));
    let step = DMat4::from_scale_rotation_translation(DVec3::splat(2.0), DQuat::IDENTITY, DVec3::splat(0.5));
    let mut half = Volume::zeros(shape, volume.affine * step);
    for z in 0..shape[2] {
        for y in 0..shape[1] {
            for x in 0..shape[0] {
                let (mut sum, mut count) = (0.0f32, 0.0f32);
                for corner in 0..8 {
                    let at = [2 * x + (corner & 1), 2 * y + (corner >> 1 & 1), 2 * z + (corner >> 2)];
                    if (0..3).all(|axis| at[axis] < volume.shape[axis]) {
                        let value = volume.data[volume.index(at[0], at[1], at[2])];
                        if value.is_finite() {
                            sum += value;
                            count += 1.0;
                        }
                    }
                }
                let to = half.index(x, y, z);
                half.data[to] = if count > 0.0 { sum / count } else { 0.0 };
            }
        }
    }
    half
}

/// The bias correction that a network was trained with.
pub(super) fn model_n4(spec: &GridSpec) -> Result<Option<N4Options>, PipelineError> {
    match spec.n4.as_deref() {
        None => Ok(None),
        Some("default") => Ok(Some(N4Options::default())),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_keeps_place_and_mean() {
        let affine = DMat4::from_translation(DVec3::new(3.0, -5.0, 7.0))
            * DMat4::from_scale(DVec3::new(-0.5, 0.7, 0.9));
        let mut volume = Volume::zeros([5, 4, 3], affine);
        volume.data = (0..60).map(|v| v as f32).collect();
        let half = halved(&volume);
        assert_eq!(half.shape, [3, 2, 2]);
        let block: f32 = [0, 1, 5, 6, 20, 21, 25, 26].iter().map(|&v| v as f32).sum();
        assert_eq!(half.data[0], block / 8.0);
        // The middle of the first block lies half a voxel from the first voxel along each axis.
        let want = affine.transform_point3(DVec3::splat(0.5));
        assert!((half.affine.transform_point3(DVec3::ZERO) - want).length() < 1e-12);
        let mut stripped = Stripped {
            mask: (0..12).map(|v| v as u8 % 2).collect(),
            probability: None,
            distance_mm: Some((0..12).map(|v| v as f32).collect()),
            bias: None,
            corrected: None,
            brain_ml: 0.0,
            seconds: Vec::new(),
            warnings: Vec::new(),
        };
        stripped.expand(&half, &volume, 1);
        let distance = stripped.distance_mm.expect("was there");
        assert_eq!(distance.len(), 60);
        assert_eq!(distance[volume.index(4, 3, 2)], 11.0);
        assert_eq!(distance[volume.index(3, 1, 1)], 1.0);
        assert_eq!(stripped.mask[volume.index(2, 0, 0)], 1);
    }
}
