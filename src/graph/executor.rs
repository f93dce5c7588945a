//! Runs a graph on a device: buffers from the memory plan, every launch compiled and bound once, one
//! submission a run.

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::{LoweredNode, lower_nodes, shared_scratch};
use super::{Graph, GraphError, MemoryPlan, Tuning, ValueKind};
use crate::gpu::{Gpu, GpuError, GpuTensor, KernelTime, Lowered, Slot, Standing};
use crate::ops::{self, Operator, ValueId};
use crate::tensor::TensorDesc;

/// How to run a graph.
#[derive(Debug, Default)]
pub struct ExecutorOptions {
    /// Tensors that stand for values of the graph (weights shared between a training and a validation
    /// graph, say) instead of new buffers.
    pub shared: HashMap<ValueId, GpuTensor>,
    /// One buffer per value, nothing reused: a debugging aid that must not change any result.
    pub no_reuse: bool,
    /// Which kernel variants run; the default takes each operator's preferred one.
    pub tuning: Arc<Tuning>,
}

/// A graph bound to a device.
pub struct Executor {
    gpu: Arc<Gpu>,
    /// The graph.
    pub(crate) graph: Graph,
    tensors: Vec<GpuTensor>,
    launches: Vec<crate::gpu::Prepared>,
    launch_nodes: Vec<usize>,
    variants: Vec<&'static str>,
    /// Bytes of the buffers that this executor allocated.
    pub allocated_bytes: u64,
    _standing: Standing,
}

impl Executor {
    /// Plans memory, allocates, compiles and binds.
    ///
    /// # Errors
    /// When a kernel does not compile or the device has too little memory.
    pub fn new(gpu: &Arc<Gpu>, graph: Graph, options: ExecutorOptions) -> Result<Self, GraphError> {
        let plan = MemoryPlan::new(&graph, !options.no_reuse)?;
        let mut buffers: Vec<Option<GpuTensor>> = vec![None; plan.buffer_bytes.len()];
        for (value, tensor) in &options.shared {
            buffers[plan.places[value.0].buffer] = Some(tensor.clone());
        }
        let mut allocated_bytes = 0;
        let mut tensors = Vec::with_capacity(graph.values.len());
        for (ix, value) in graph.values.iter().enumerate() {
            let place = plan.places[ix];
            let backing = match &buffers[place.buffer] {
                Some(tensor) => tensor.clone(),
                None => {
                    let bytes = plan.buffer_bytes[place.buffer];
                    allocated_bytes += bytes;
                    let tensor = gpu.empty(&TensorDesc::u32(&[bytes as usize / 4]))?;
                    buffers[place.buffer] = Some(tensor.clone());
                    tensor
                }
            };
            let tensor = backing.view(place.offset, value.desc.clone());
            if let ValueKind::Constant(words) = &value.kind {
                gpu.write_at_once(&tensor, words.as_slice())?;
            }
            tensors.push(tensor);
        }
        // Temporaries live for one node only, so all nodes share them by position.
        let lowered = lower_nodes(&graph, &gpu.caps, &options.tuning);
        let mut scratch: Vec<GpuTensor> = Vec::new();
        for bytes in shared_scratch(lowered.iter().map(|node| &node.lowered)) {
            allocated_bytes += bytes;
            scratch.push(gpu.empty(&TensorDesc::u32(&[bytes.div_ceil(4) as usize]))?);
        }
        let mut launches = Vec::new();
        let mut launch_nodes = Vec::new();
        for (ix, (node, LoweredNode { lowered, .. })) in graph.nodes.iter().zip(&lowered).enumerate() {
            let views: Vec<GpuTensor> = lowered
                .scratch
                .iter()
                .enumerate()
                .map(|(ix, &bytes)| scratch[ix].view(0, TensorDesc::u32(&[bytes.div_ceil(4) as usize])))
                .collect();
            let resolve = |slot: Slot| match slot {
                Slot::Input(ix) => &tensors[node.inputs[ix].0],
                Slot::Output(ix) => &tensors[node.outputs[ix].0],
                Slot::Scratch(ix) => &views[ix],
            };
            for dispatch in &lowered.dispatches {
                launches.push(gpu.prepare(&node.name, dispatch, &resolve)?);
                launch_nodes.push(ix);
            }
        }
        let variants = lowered.iter().map(|node| node.variant).collect();
        Ok(Self {
            gpu: Arc::clone(gpu),
            graph,
            tensors,
            launches,
            launch_nodes,
            variants,
            allocated_bytes,
            _standing: gpu.standing(allocated_bytes),
        })
    }

    /// The graph that it runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The tensor behind a value. Computed values other than the graph's outputs are overwritten during
    /// a run.
    pub fn tensor(&self, value: ValueId) -> &GpuTensor {
        &self.tensors[value.0]
    }

    /// Writes a value: its elements, or 32-bit words that hold them.
    ///
    /// # Errors
    /// When the length differs.
    pub async fn write<T: bytemuck::Pod>(&self, value: ValueId, data: &[T]) -> Result<(), GraphError> {
        Ok(self.gpu.write(&self.tensors[value.0], data).await?)
    }

    /// Reads a value after the work submitted so far, as [`Gpu::download`] does.
    ///
    /// # Errors
    /// When a command failed.
    pub async fn read<T: bytemuck::Pod>(&self, value: ValueId) -> Result<Vec<T>, GraphError> {
        Ok(self.gpu.download(&self.tensors[value.0]).await?)
    }

    /// As [`Executor::read`], several values in one wait.
    ///
    /// # Errors
    /// As [`Executor::read`].
    pub async fn read_each<T: bytemuck::Pod, const N: usize>(
        &self,
        values: [ValueId; N],
    ) -> Result<[Vec<T>; N], GraphError> {
        Ok(self.gpu.download_each(values.map(|value| &self.tensors[value.0])).await?)
    }

    /// The kernel variant of each node.
    pub fn variants(&self) -> &[&'static str] {
        &self.variants
    }

    /// The node that each launch belongs to, in the order of [`Executor::profile`].
    pub fn launch_nodes(&self) -> &[usize] {
        &self.launch_nodes
    }

    /// Submits one run without waiting for it.
    ///
    /// # Errors
    /// When a command failed.
    pub fn run(&self) -> Result<(), GraphError> {
        self.run_times(1)
    }

    /// Submits `times` runs, one after the other, in a single submission, without waiting for it.
    ///
    /// # Errors
    /// When a command failed.
    pub fn run_times(&self, times: usize) -> Result<(), GraphError> {
        Ok(self.gpu.submit((0..times).flat_map(|_| &self.launches))?)
    }

    /// Runs once with a timestamp round every launch; `None`, and nothing is run, when the adapter has no timestamps.
    ///
    /// # Errors
    /// When a command failed.
    pub async fn profile(&self) -> Result<Option<Vec<KernelTime>>, GraphError> {
        Ok(self.gpu.submit_timed(&self.launches).await?)
    }
}

/// Runs one operator on tensors that are already on the device, with its preferred variant. Outputs
/// updated in place are the input's own buffer.
///
/// # Errors
/// Shapes that the operator refuses, or a failing device.
pub fn run_op(gpu: &Gpu, op: &dyn Operator, inputs: &[&GpuTensor]) -> Result<Vec<GpuTensor>, GraphError> {
    let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
    let variant = op.variants(&descs, &gpu.caps)[0];
    SingleRun::new(gpu, op, inputs, variant)?.submit()
}

/// As [`run_op`], for an operator with one output.
///
/// # Errors
/// Shapes that the operator refuses, or a failing device.
pub fn run_op1(gpu: &Gpu, op: &dyn Operator, inputs: &[&GpuTensor]) -> Result<GpuTensor, GraphError> {
    Ok(run_op(gpu, op, inputs)?.swap_remove(0))
}

/// As [`run_op`] with a given variant; `before` sees outputs and temporaries before the kernels run (tests
/// fill them with NaN).
///
/// # Errors
/// Shapes that the operator refuses, or a failing device.
pub async fn run_op_variant(
    gpu: &Gpu,
    op: &dyn Operator,
    inputs: &[&GpuTensor],
    variant: &str,
    before: impl AsyncFn(&GpuTensor) -> Result<(), GpuError>,
) -> Result<Vec<GpuTensor>, GraphError> {
    let run = SingleRun::new(gpu, op, inputs, variant)?;
    let in_place = op.in_place();
    let is_new = |ix: &usize| in_place.iter().all(|(output, _)| output != ix);
    let outputs = run.outputs.iter().enumerate().filter(|(ix, _)| is_new(ix)).map(|(_, tensor)| tensor);
    for tensor in outputs.chain(&run.scratch) {
        before(tensor).await?;
    }
    run.submit()
}

/// A run of one operator whose tensors are allocated.
struct SingleRun<'a> {
    gpu: &'a Gpu,
    op: &'a dyn Operator,
    inputs: &'a [&'a GpuTensor],
    outputs: Vec<GpuTensor>,
    scratch: Vec<GpuTensor>,
    lowered: Lowered,
}

impl<'a> SingleRun<'a> {
    fn new(
        gpu: &'a Gpu,
        op: &'a dyn Operator,
        inputs: &'a [&'a GpuTensor],
        variant: &str,
    ) -> Result<Self, GraphError> {
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        let out_descs =
            ops::infer(op, &descs).map_err(|source| GraphError::Op { node: op.name().to_owned(), source })?;
        let mut outputs = Vec::new();
        for (ix, desc) in out_descs.iter().enumerate() {
            outputs.push(match op.in_place().iter().find(|(output, _)| *output == ix) {
                Some(&(_, input)) => inputs[input].clone(),
                None => gpu.unfilled(desc)?,
            });
        }
        let lowered = op.lower(&descs, &out_descs, &gpu.caps, variant);
        let words = |bytes: u64| TensorDesc::u32(&[bytes.div_ceil(4) as usize]);
        let scratch = lowered.scratch.iter().map(|&bytes| gpu.unfilled(&words(bytes)));
        let scratch = scratch.collect::<Result<_, GpuError>>()?;
        Ok(Self { gpu, op, inputs, outputs, scratch, lowered })
    }

    /// Runs it without waiting, and gives its outputs.
    fn submit(self) -> Result<Vec<GpuTensor>, GraphError> {
        let resolve = |slot: Slot| match slot {
            Slot::Input(ix) => self.inputs[ix],
            Slot::Output(ix) => &self.outputs[ix],
            Slot::Scratch(ix) => &self.scratch[ix],
        };
        let launches = self
            .lowered
            .dispatches
            .iter()
            .map(|dispatch| self.gpu.prepare(self.op.name(), dispatch, &resolve))
            .collect::<Result<Vec<_>, _>>()?;
        self.gpu.submit(&launches)?;
        Ok(self.outputs)
    }
}
