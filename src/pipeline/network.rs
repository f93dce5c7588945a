//! A network on a device, asked what it says of a view of a volume.

use std::sync::Arc;

use super::PipelineError;
use super::normalise::{Method, levels_of, normalise_to_levels};
use super::patches::{Patch, mirror_images, patches};
use super::place::placed::PlacedVolume;
use super::place::view::View;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{
    Executor, ExecutorOptions, Graph, GraphError, Parked, Tuning, estimate_bytes, run_op, run_op1,
};
use crate::model::{
    Description, Intensity, Mode, Tensors, build, fold_for_inference, split_channels, weights_of_fold,
};
use crate::ops::ValueId;
use crate::ops::constant::Constant;
use crate::ops::elementwise::{Add, Scale};
use crate::ops::patch::AddPatch;
use crate::ops::resample::{AxisOrder, Edge, IDENTITY, Interpolation, Resample};
use crate::tensor::{DType, TensorDesc};

/// Bytes of a network beside whose run the time to make buffers anew does not count, but their memory does.
const LARGE: u64 = 128 << 20;

/// A network compiled for the extents that it was last asked for.
pub(super) struct Network {
    gpu: Arc<Gpu>,
    /// Folded for inference.
    description: Description,
    /// The weights of each fold; none where the device holds the only ones for good.
    folds: Vec<Tensors>,
    dtype: DType,
    tuning: Arc<Tuning>,
    compiled: Option<Compiled>,
}

struct Compiled {
    shape: [usize; 3],
    runner: Runner,
    /// The weights of each fold as the runner takes them, where those are not the network's own.
    weights: Option<Vec<Tensors>>,
    input: ValueId,
    logits: ValueId,
}

/// How a network runs.
enum Runner {
    /// With all of its buffers at hand.
    Whole(Box<Executor>),
    /// In less.
    Parked(Box<Parked>),
}

/// How a network is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// Take the mean over the view's mirror images that the network knows.
    pub mirrored: bool,
    /// Which voxels of the network's grid come to the host: the first of so many along each axis.
    pub every: [usize; 3],
    /// Nothing else is asked before the answer is done with: it need not outlive the next pass.
    pub alone: bool,
}

/// What a network says of a view of a volume, on the device and on the host.
pub(super) struct Said {
    /// The view on the network's grid, and what the network said of it: voxels that the question chose.
    pub seen: Vec<f32>,
    pub logits: Vec<f32>,
    /// What the network was given: the view, normalised. Not kept where nothing else is asked.
    pub input: Option<GpuTensor>,
    /// The logits on the device.
    pub tensor: GpuTensor,
    /// The statistics that intensities were brought to scale by.
    pub levels: GpuTensor,
}

impl Network {
    /// That of a description without the network that looks first, with its weights.
    ///
    /// # Errors
    /// Weights that do not fit the network, a device without the type or with too little memory.
    pub async fn new(
        gpu: &Arc<Gpu>,
        description: &Description,
        tensors: &Tensors,
        dtype: DType,
        tuning: &Arc<Tuning>,
    ) -> Result<Self, PipelineError> {
        gpu.require(dtype)?;
        let folded: Vec<(Description, Tensors)> = (0..description.folds.max(1))
            .map(|fold| fold_for_inference(description, &weights_of_fold(description, tensors, fold)))
            .collect();
        let mut network = Self {
            gpu: Arc::clone(gpu),
            description: folded[0].0.clone(),
            folds: folded.into_iter().map(|(_, tensors)| tensors).collect(),
            dtype,
            tuning: Arc::clone(tuning),
            compiled: None,
        };
        // Grids that are fitted to a volume are not known yet; patches of them are.
        if !description.input.is_padded() || description.input.patches.is_some() {
            network.compile(description.input.shape).await?;
            if let ([_], Some(compiled)) = (&network.folds[..], &mut network.compiled) {
                (network.folds, compiled.weights) = (Vec::new(), None);
            }
        }
        Ok(network)
    }

    /// The network.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Bytes of GPU buffers that it holds.
    pub fn bytes(&self) -> u64 {
        match self.compiled.as_ref().map(|compiled| &compiled.runner) {
            Some(Runner::Whole(executor)) => executor.allocated_bytes,
            Some(Runner::Parked(_)) | None => 0,
        }
    }

    async fn compile(&mut self, shape: [usize; 3]) -> Result<(), PipelineError> {
        if self.compiled.as_ref().is_some_and(|compiled| compiled.shape == shape) {
            return Ok(());
        }
        self.compiled = None;
        assert!(
            !self.folds.is_empty(),
            "patches, and a grid that is not fitted to volumes, keep their extents"
        );
        let most = self.gpu.caps.max_binding;
        let mode = Mode::Inference(self.dtype);
        let mut network = build(&self.description, 1, shape, mode)?;
        network.graph.write_anew(network.input);
        let mut weights = Vec::new();
        if network.graph.values.iter().any(|value| value.desc.bytes() > most) {
            for tensors in &self.folds {
                let split = split_channels(&self.description, tensors, shape, self.dtype, most)?;
                let Some((description, tensors)) = split else { break };
                if weights.is_empty() {
                    network = build(&description, 1, shape, mode)?;
                    network.graph.write_anew(network.input);
                }
                weights.push(tensors);
            }
        }
        let weights = (!weights.is_empty()).then_some(weights);
        let mut runner = self.runner(&network.graph)?;
        if let [only] = weights.as_ref().unwrap_or(&self.folds).as_slice() {
            runner.load(only).await?;
        }
        self.compiled =
            Some(Compiled { shape, runner, weights, input: network.input, logits: network.logits });
        Ok(())
    }

    /// With all buffers at hand, where they leave room for as much again below the ceiling; where the device has not that
    /// much memory, it gets one.
    fn runner(&self, graph: &Graph) -> Result<Runner, PipelineError> {
        let gpu = &self.gpu;
        let bytes = estimate_bytes(graph, &gpu.caps)?;
        if gpu.ceiling().is_none_or(|ceiling| bytes <= (ceiling / 2).min(gpu.room())) {
            let options = ExecutorOptions { tuning: Arc::clone(&self.tuning), ..ExecutorOptions::default() };
            match Executor::new(gpu, graph.clone(), options) {
                Ok(executor) => return Ok(Runner::Whole(Box::new(executor))),
                Err(error) if error.is_out_of_memory() => gpu.lower_ceiling(bytes.saturating_mul(3) / 4),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Runner::Parked(Box::new(Parked::new(gpu, graph.clone(), &self.tuning)?)))
    }

    /// The network's logits for a view of a volume; its intensities may be brought to scale by the levels of another view.
    pub async fn ask(
        &mut self,
        view: &View<'_>,
        levels: Option<&GpuTensor>,
        question: Question,
    ) -> Result<Said, PipelineError> {
        let Question { mirrored, every, alone } = question;
        let (seen, input, levels) = self.input_of(view, levels).await?;
        let images = mirror_images(if mirrored { self.description.input.mirror_axes } else { [false; 3] });
        // Gone before the network needs the memory.
        let seen = self.gpu.download(&thinned(&self.gpu, seen, every)?).await?;
        let once =
            images.len() == 1 && self.description.folds <= 1 && self.description.input.patches.is_none();
        let (tensor, input) = if alone && once {
            (self.only_pass(input).await?, None)
        } else {
            (self.pass_of(&input, &images).await?, Some(input))
        };
        let logits = self.gpu.download(&thinned(&self.gpu, tensor.clone(), every)?).await?;
        Ok(Said { seen, logits, input, tensor, levels })
    }

    /// As [`Network::pass`] of a network that answers once: the input makes room for the network's tensors, of which the logits
    /// are one.
    async fn only_pass(&mut self, input: GpuTensor) -> Result<GpuTensor, PipelineError> {
        let shape: [usize; 3] = input.desc.shape[..].try_into().expect("a view has three axes");
        self.compile(shape).await?;
        let compiled = self.compiled.as_ref().expect("compiled just now");
        let said = compiled.pass(&self.gpu, input).await?;
        self.gpu.wait().await?;
        Ok(said)
    }

    /// A view of a volume on the network's grid, the same normalised for the network, and by which levels.
    pub async fn input_of(
        &self,
        view: &View<'_>,
        levels: Option<&GpuTensor>,
    ) -> Result<(GpuTensor, GpuTensor, GpuTensor), PipelineError> {
        let gpu = &*self.gpu;
        let intensity = self.description.input.intensity;
        let method = Method::from(intensity);
        let unpadded = view.unpadded();
        let content = unpadded.unwrap_or_else(|| view.grid());
        let seen = view.sampled(gpu, &content).await?;
        let (input, levels) = if let Intensity::ZScoreOfVoxels { masked } = intensity {
            let (scaled, levels) = view.standardised(gpu, masked).await?;
            (scaled.sampled(gpu, &content).await?, gpu.upload(&TensorDesc::f32(&[2]), &levels).await?)
        } else {
            let levels = match levels {
                Some(levels) if matches!(intensity, Intensity::Standard { of_first: true, .. }) => {
                    levels.clone()
                }
                _ => levels_of(gpu, &seen, &method)?,
            };
            (normalise_to_levels(gpu, &seen, &method, Some(&levels))?, levels)
        };
        let Some(grid) = unpadded else { return Ok((seen, input, levels)) };
        let pad = |tensor| -> Result<GpuTensor, PipelineError> {
            let content = PlacedVolume { tensor, affine: grid.affine, axes: AxisOrder::Xyz };
            Ok(content.interpolated(gpu, &view.grid(), AxisOrder::Xyz, Interpolation::Nearest)?.tensor)
        };
        Ok((pad(seen)?, pad(input)?, levels))
    }

    /// Logits `[D, H, W]` for a normalised image on the network's grid, in a tensor of their own: of several folds their mean.
    pub async fn pass(&mut self, input: &GpuTensor) -> Result<GpuTensor, PipelineError> {
        self.pass_of(input, &mirror_images([false; 3])).await
    }

    /// As [`Network::pass`], the mean over these mirror images.
    async fn pass_of(&mut self, input: &GpuTensor, images: &[[bool; 3]]) -> Result<GpuTensor, PipelineError> {
        let shape: [usize; 3] = input.desc.shape[..].try_into().expect("a view has three axes");
        let spec = &self.description.input;
        let (extents, patches) = match spec.patches {
            None => (shape, vec![Patch::whole(shape)]),
            Some(patch) => (spec.shape, patches(shape, spec.shape, patch)),
        };
        self.compile(extents).await?;
        let compiled = self.compiled.as_mut().expect("compiled just now");
        let folds = self.description.folds.max(1);
        let share = 1.0 / (folds * images.len()) as f32;
        let mut parts = Vec::with_capacity(patches.len());
        for patch in patches {
            let Patch { at, weights } = patch.scaled(extents[0], share);
            parts.push((at, self.gpu.upload(&TensorDesc::f32(&[weights.len()]), &weights).await?));
        }
        let sum = run_op1(&self.gpu, &Constant { desc: TensorDesc::f32(&shape), value: 0.0 }, &[])?;
        for fold in 0..folds {
            if folds > 1 {
                compiled.runner.load(&compiled.weights.as_ref().unwrap_or(&self.folds)[fold]).await?;
            }
            for (at, weights) in &parts {
                for image in images {
                    let part = part_of(&self.gpu, input, extents, *at, *image)?;
                    let said = compiled.pass(&self.gpu, part).await?;
                    let said = part_of(&self.gpu, &said, extents, [0; 3], *image)?;
                    run_op(&self.gpu, &AddPatch { at: *at }, &[&sum, &said, weights])?;
                }
                // Not more at a time than the device has room to queue.
                self.gpu.wait().await?;
            }
        }
        Ok(sum)
    }

    /// The mean of the logits for an input and those for its mirror image, mirrored back; and the latter.
    pub async fn with_mirror_image(
        &mut self,
        input: &GpuTensor,
        logits: &GpuTensor,
    ) -> Result<(GpuTensor, GpuTensor), PipelineError> {
        let shape: [usize; 3] = input.desc.shape[..].try_into().expect("a view has three axes");
        let axes = self.description.input.axes.world().map(|(world, _)| world == 0);
        let gpu = Arc::clone(&self.gpu);
        let mirrored = self.pass(&part_of(&gpu, input, shape, [0; 3], axes)?).await?;
        let mirrored = part_of(&gpu, &mirrored, shape, [0; 3], axes)?;
        let sum = run_op1(&gpu, &Add, &[logits, &mirrored])?;
        Ok((run_op1(&gpu, &Scale { factor: 0.5 }, &[&sum])?, mirrored))
    }
}

/// Every so many-th voxel of a tensor `[D, H, W]` along each axis, from the first on.
pub(super) fn thinned(gpu: &Gpu, tensor: GpuTensor, every: [usize; 3]) -> Result<GpuTensor, GraphError> {
    if every == [1; 3] {
        return Ok(tensor);
    }
    let mut matrix = IDENTITY;
    (0..3).for_each(|axis| matrix[axis][axis] = every[axis] as f64);
    let shape = std::array::from_fn(|axis| tensor.desc.shape[axis].div_ceil(every[axis]));
    let (interpolation, edge) = (Interpolation::Nearest, Edge::Zero);
    run_op1(gpu, &Resample { matrix, shape, interpolation, edge, outside: 0.0 }, &[&tensor])
}

/// The voxels of a tensor `[D, H, W]` in a box that begins `at`, mirrored within it.
fn part_of(
    gpu: &Gpu,
    tensor: &GpuTensor,
    extents: [usize; 3],
    at: [usize; 3],
    mirrored: [bool; 3],
) -> Result<GpuTensor, GraphError> {
    if tensor.desc.shape == extents && mirrored == [false; 3] {
        return Ok(tensor.clone());
    }
    let mut matrix = IDENTITY;
    for axis in 0..3 {
        let last = extents[axis] as f64 - 1.0;
        matrix[axis][axis] = if mirrored[axis] { -1.0 } else { 1.0 };
        matrix[axis][3] = at[axis] as f64 + if mirrored[axis] { last } else { 0.0 };
    }
    let (interpolation, edge) = (Interpolation::Nearest, Edge::Zero);
    run_op1(gpu, &Resample { matrix, shape: extents, interpolation, edge, outside: 0.0 }, &[tensor])
}

impl Compiled {
    /// Logits for an input, which the next pass may overwrite.
    async fn pass(&self, gpu: &Gpu, input: GpuTensor) -> Result<GpuTensor, GraphError> {
        let logits = match &self.runner {
            Runner::Whole(executor) => {
                gpu.copy(&input, executor.tensor(self.input), 0)?;
                drop(input);
                if executor.allocated_bytes >= LARGE {
                    // What is dropped is free once the device is idle.
                    gpu.clear_spare();
                    gpu.wait().await?;
                }
                executor.run()?;
                executor.tensor(self.logits).clone()
            }
            Runner::Parked(parked) => parked.run((self.input, &input), self.logits).await?,
        };
        Ok(logits.view(0, TensorDesc::f32(&self.shape)))
    }
}

impl Runner {
    async fn load(&mut self, weights: &Tensors) -> Result<(), PipelineError> {
        for (name, (_, values)) in weights {
            match self {
                Self::Whole(executor) => {
                    if let Some(value) = executor.graph.find(name) {
                        executor.write(value, values).await?;
                    }
                }
                Self::Parked(parked) => {
                    if let Some(value) = parked.graph.find(name) {
                        parked.write(value, values);
                    }
                }
            }
        }
        Ok(())
    }
}
