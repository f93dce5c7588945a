//! A network on a device, asked what it says of a view of a volume.

use std::sync::Arc;

use super::PipelineError;
use super::normalise::{Method, levels_of, normalise_to_levels};
use super::place::placed::PlacedVolume;
use super::place::view::View;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{Executor, ExecutorOptions, Tuning, run_op1};
use crate::model::{
    Centre, Description, Fit, Intensity, Mode, Tensors, build, fold_for_inference, split_channels,
    weights_of_fold,
};
use crate::ops::elementwise::{Add, Scale};
use crate::ops::resample::{AxisOrder, Edge, IDENTITY, Interpolation, Resample};
use crate::ops::{Operator, ValueId};
use crate::tensor::{DType, TensorDesc};

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
    executor: Executor,
    /// The weights of each fold as the executor takes them, where those are not the network's own.
    weights: Option<Vec<Tensors>>,
    input: ValueId,
    logits: ValueId,
}

/// What a network says of a view of a volume, on the device and on the host.
pub(super) struct Said {
    /// The view on the network's grid.
    pub seen: Vec<f32>,
    pub logits: Vec<f32>,
    /// What the network was given: `seen`, normalised.
    pub input: GpuTensor,
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
        // Grids that are fitted to a volume are not known yet.
        if !matches!(description.input.centre, Centre::Voxels { fit: Fit::Padded { .. }, .. }) {
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
        self.compiled.as_ref().map_or(0, |compiled| compiled.executor.allocated_bytes)
    }

    async fn compile(&mut self, shape: [usize; 3]) -> Result<(), PipelineError> {
        if self.compiled.as_ref().is_some_and(|compiled| compiled.shape == shape) {
            return Ok(());
        }
        self.compiled = None;
        assert!(!self.folds.is_empty(), "a grid that is not fitted to volumes keeps its extents");
        let most = self.gpu.caps.max_binding;
        let mode = Mode::Inference(self.dtype);
        let mut network = build(&self.description, 1, shape, mode)?;
        let mut weights = Vec::new();
        if network.graph.values.iter().any(|value| value.desc.bytes() > most) {
            for tensors in &self.folds {
                let split = split_channels(&self.description, tensors, shape, self.dtype, most)?;
                let Some((description, tensors)) = split else { break };
                if weights.is_empty() {
                    network = build(&description, 1, shape, mode)?;
                }
                weights.push(tensors);
            }
        }
        let weights = (!weights.is_empty()).then_some(weights);
        let options = ExecutorOptions { tuning: Arc::clone(&self.tuning), ..ExecutorOptions::default() };
        let executor = Executor::new(&self.gpu, network.graph, options)?;
        if let [only] = weights.as_ref().unwrap_or(&self.folds).as_slice() {
            load(&executor, only).await?;
        }
        self.compiled =
            Some(Compiled { shape, executor, weights, input: network.input, logits: network.logits });
        Ok(())
    }

    /// The network's logits for a view of a volume; its intensities may be brought to scale by the levels of another view.
    pub async fn ask(&mut self, view: &View, levels: Option<&GpuTensor>) -> Result<Said, PipelineError> {
        let (seen, input, levels) = self.input_of(view, levels)?;
        let tensor = self.pass(&input).await?;
        let (seen, logits) = (self.gpu.download(&seen).await?, self.gpu.download(&tensor).await?);
        Ok(Said { seen, logits, input, tensor, levels })
    }

    /// A view of a volume on the network's grid, the same normalised for the network, and by which levels.
    pub fn input_of(
        &self,
        view: &View,
        levels: Option<&GpuTensor>,
    ) -> Result<(GpuTensor, GpuTensor, GpuTensor), PipelineError> {
        let gpu = &*self.gpu;
        let intensity = self.description.input.intensity;
        let method = Method::from(intensity);
        let unpadded = view.unpadded();
        let seen = view.sampled(gpu, &unpadded.unwrap_or_else(|| view.grid()))?;
        let levels = match levels {
            Some(levels) if matches!(intensity, Intensity::Standard { of_first: true, .. }) => levels.clone(),
            _ => levels_of(gpu, &seen, &method)?,
        };
        let input = normalise_to_levels(gpu, &seen, &method, Some(&levels))?;
        let Some(grid) = unpadded else { return Ok((seen, input, levels)) };
        let pad = |tensor| -> Result<GpuTensor, PipelineError> {
            let content = PlacedVolume { tensor, affine: grid.affine, axes: AxisOrder::Xyz };
            Ok(content.interpolated(gpu, &view.grid(), AxisOrder::Xyz, Interpolation::Nearest)?.tensor)
        };
        Ok((pad(seen)?, pad(input)?, levels))
    }

    /// Logits `[D, H, W]` for a normalised image on the network's grid, in a tensor of their own: of several folds their mean.
    pub async fn pass(&mut self, input: &GpuTensor) -> Result<GpuTensor, PipelineError> {
        let shape = input.desc.shape[..].try_into().expect("a view has three axes");
        self.compile(shape).await?;
        let compiled = self.compiled.as_ref().expect("compiled just now");
        let mut sum: Option<GpuTensor> = None;
        let folds = self.description.folds.max(1);
        for fold in 0..folds {
            if folds > 1 {
                load(&compiled.executor, &compiled.weights.as_ref().unwrap_or(&self.folds)[fold]).await?;
            }
            self.gpu.copy(input, compiled.executor.tensor(compiled.input), 0)?;
            compiled.executor.run()?;
            let logits = self.gpu.unfilled(&TensorDesc::f32(&shape))?;
            self.gpu.copy(compiled.executor.tensor(compiled.logits), &logits, 0)?;
            sum = Some(match sum {
                None => logits,
                Some(sum) => run_op1(&self.gpu, &Add, &[&sum, &logits])?,
            });
        }
        let sum = sum.expect("a network has weights");
        match folds {
            1 => Ok(sum),
            n => Ok(run_op1(&self.gpu, &Scale { factor: 1.0 / n as f32 }, &[&sum])?),
        }
    }

    /// The mean of the logits for an input and those for its mirror image, mirrored back; and the latter.
    pub async fn with_mirror_image(
        &mut self,
        input: &GpuTensor,
        logits: &GpuTensor,
    ) -> Result<(GpuTensor, GpuTensor), PipelineError> {
        let shape: [usize; 3] = input.desc.shape[..].try_into().expect("a view has three axes");
        let axes = self.description.input.axes.world();
        let across = axes.iter().position(|&(world, _)| world == 0).expect("one axis runs left to right");
        let mut matrix = IDENTITY;
        matrix[across][across] = -1.0;
        matrix[across][3] = shape[across] as f64 - 1.0;
        let flip =
            Resample { matrix, shape, interpolation: Interpolation::Nearest, edge: Edge::Zero, outside: 0.0 };
        let gpu = Arc::clone(&self.gpu);
        let run = |op: &dyn Operator, inputs: &[&GpuTensor]| -> Result<GpuTensor, PipelineError> {
            Ok(run_op1(&gpu, op, inputs)?)
        };
        let mirrored = self.pass(&run(&flip, &[input])?).await?;
        let mirrored = run(&flip, &[&mirrored])?;
        let mean = run(&Scale { factor: 0.5 }, &[&run(&Add, &[logits, &mirrored])?])?;
        Ok((mean, mirrored))
    }
}

async fn load(executor: &Executor, weights: &Tensors) -> Result<(), PipelineError> {
    for (name, (_, values)) in weights {
        if let Some(value) = executor.graph.find(name) {
            executor.write(value, values).await?;
        }
    }
    Ok(())
}
