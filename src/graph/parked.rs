//! Runs a graph in little memory, node by node: what the node at hand does not need is parked in the host's memory where it
//! would exceed the ceiling of the device's buffers, and brought back when it is needed. The launches are those of an
//! [`Executor`](super::Executor), and so are the results, bit for bit.

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::{LoweredNode, lower_nodes};
use super::{Graph, GraphError, MemoryPlan, Tuning, ValueKind};
use crate::gpu::{Caps, Gpu, GpuError, GpuTensor, Slot};
use crate::ops::ValueId;
use crate::tensor::TensorDesc;

/// A graph that runs in little memory. Between runs it holds none of the device's.
pub struct Parked {
    gpu: Arc<Gpu>,
    /// The graph.
    pub(crate) graph: Graph,
    plan: MemoryPlan,
    nodes: Vec<LoweredNode>,
    /// Values that no node computes, as words.
    given: HashMap<usize, Arc<Vec<u32>>>,
}

/// Where a value is during a run.
enum Place {
    Device(GpuTensor),
    Host(Arc<Vec<u32>>),
}

impl Parked {
    /// Plans the runs of a graph.
    ///
    /// # Errors
    /// A node that needs more at once than the ceiling leaves.
    pub fn new(gpu: &Arc<Gpu>, graph: Graph, tuning: &Tuning) -> Result<Self, GraphError> {
        let plan = MemoryPlan::new(&graph, true)?;
        let nodes = lower_nodes(&graph, &gpu.caps, tuning);
        if let Some((node, bytes)) = most_at_once(&graph, &plan, &nodes)
            && bytes > gpu.room()
        {
            let ceiling = gpu.ceiling().unwrap_or(u64::MAX);
            let name = &graph.nodes[node].name;
            let what = format!("layer '{name}' of the network needs {} MiB at once", bytes.div_ceil(1 << 20));
            return Err(GpuError::Ceiling { what, in_use: ceiling - gpu.room(), ceiling }.into());
        }
        let given = (graph.values.iter().enumerate())
            .filter_map(|(ix, value)| match &value.kind {
                ValueKind::Constant(words) => Some((ix, Arc::clone(words))),
                _ => None,
            })
            .collect();
        Ok(Self { gpu: Arc::clone(gpu), graph, plan, nodes, given })
    }

    /// Sets a value that no node computes, for all further runs.
    pub fn write<T: bytemuck::Pod>(&mut self, value: ValueId, data: &[T]) {
        self.given.insert(value.0, Arc::new(bytemuck::cast_slice(data).to_vec()));
    }

    /// Runs the graph on an input and gives one of its outputs.
    ///
    /// # Errors
    /// A value that was never written, tensors that exceed the ceiling, or a failing device.
    pub async fn run(&self, input: (ValueId, &GpuTensor), output: ValueId) -> Result<GpuTensor, GraphError> {
        let mut places: HashMap<usize, Place> =
            self.given.iter().map(|(&value, words)| (value, Place::Host(Arc::clone(words)))).collect();
        let words = self.gpu.download(input.1).await?;
        places.insert(input.0.0, Place::Host(Arc::new(words)));
        for at in 0..self.graph.nodes.len() {
            self.run_node(at, &mut places).await?;
        }
        match places.remove(&self.plan.root[output.0].0) {
            Some(Place::Device(tensor)) => Ok(tensor.view(0, self.graph.desc(output).clone())),
            Some(Place::Host(words)) => Ok(self.gpu.upload(self.graph.desc(output), &words).await?),
            None => Err(GraphError::Invalid("the output of a run is no output of the graph".into())),
        }
    }

    async fn run_node(&self, at: usize, places: &mut HashMap<usize, Place>) -> Result<(), GraphError> {
        let node = &self.graph.nodes[at];
        let needed = roots_of(&self.graph, &self.plan, at);
        for &root in &needed {
            let value = &self.graph.values[root];
            match places.get(&root) {
                Some(Place::Device(_)) => {}
                Some(Place::Host(words)) => {
                    let words = Arc::clone(words);
                    self.make_room(value.desc.bytes(), at, &needed, places).await?;
                    let tensor = self.gpu.upload(&value.desc, &words).await?;
                    places.insert(root, Place::Device(tensor));
                }
                None if value.kind == ValueKind::Computed => {
                    self.make_room(value.desc.bytes(), at, &needed, places).await?;
                    places.insert(root, Place::Device(self.gpu.unfilled(&value.desc)?));
                }
                None => return Err(GraphError::Invalid(format!("'{}' was never written", value.name))),
            }
        }
        let lowered = &self.nodes[at].lowered;
        let mut scratch = Vec::new();
        for &bytes in &lowered.scratch {
            self.make_room(bytes, at, &needed, places).await?;
            scratch.push(self.gpu.unfilled(&TensorDesc::u32(&[bytes.div_ceil(4) as usize]))?);
        }
        let tensor = |value: &ValueId| match &places[&self.plan.root[value.0].0] {
            Place::Device(tensor) => tensor.view(0, self.graph.desc(*value).clone()),
            Place::Host(_) => unreachable!("brought to the device above"),
        };
        let inputs: Vec<GpuTensor> = node.inputs.iter().map(tensor).collect();
        let outputs: Vec<GpuTensor> = node.outputs.iter().map(tensor).collect();
        let resolve = |slot: Slot| match slot {
            Slot::Input(ix) => &inputs[ix],
            Slot::Output(ix) => &outputs[ix],
            Slot::Scratch(ix) => &scratch[ix],
        };
        let launches = (lowered.dispatches.iter())
            .map(|dispatch| self.gpu.prepare(&node.name, dispatch, &resolve))
            .collect::<Result<Vec<_>, _>>()?;
        self.gpu.submit(&launches)?;
        // What is dropped is free once the device is idle.
        self.gpu.wait().await?;
        for root in needed {
            match self.given.get(&root) {
                Some(words) => drop(places.insert(root, Place::Host(Arc::clone(words)))),
                None if self.plan.lifetimes[root].1 <= at => drop(places.remove(&root)),
                None => {}
            }
        }
        Ok(())
    }

    /// Parks values until so many bytes go below the ceiling: first what is needed last.
    async fn make_room(
        &self,
        bytes: u64,
        at: usize,
        needed: &[usize],
        places: &mut HashMap<usize, Place>,
    ) -> Result<(), GraphError> {
        while self.gpu.room() < bytes.next_multiple_of(256) {
            let next_use = |root: usize| {
                (at + 1..self.graph.nodes.len())
                    .find(|&node| roots_of(&self.graph, &self.plan, node).contains(&root))
            };
            let farthest = places
                .iter()
                .filter(|(root, place)| matches!(place, Place::Device(_)) && !needed.contains(root))
                .map(|(&root, _)| root)
                // Ties are broken by the number of the value, so that runs repeat.
                .max_by_key(|&root| (next_use(root).unwrap_or(usize::MAX), root));
            // Without one, the allocation that follows says what does not fit.
            let Some(root) = farthest else { break };
            if let Some(Place::Device(tensor)) = places.remove(&root) {
                let words = self.gpu.download(&tensor).await?;
                places.insert(root, Place::Host(Arc::new(words)));
            }
        }
        Ok(())
    }
}

/// The values that a node binds, each once, by where they live.
fn roots_of(graph: &Graph, plan: &MemoryPlan, at: usize) -> Vec<usize> {
    let node = &graph.nodes[at];
    let mut roots: Vec<usize> = node.inputs.iter().chain(&node.outputs).map(|v| plan.root[v.0].0).collect();
    roots.sort_unstable();
    roots.dedup();
    roots
}

/// The node that needs most bytes at once, and how many.
fn most_at_once(graph: &Graph, plan: &MemoryPlan, nodes: &[LoweredNode]) -> Option<(usize, u64)> {
    let bytes = |at: usize| {
        let values: u64 = roots_of(graph, plan, at)
            .iter()
            .map(|&root| graph.values[root].desc.bytes().next_multiple_of(256))
            .sum();
        values + nodes[at].lowered.scratch.iter().map(|bytes| bytes.next_multiple_of(256)).sum::<u64>()
    };
    (0..graph.nodes.len()).map(|at| (at, bytes(at))).max_by_key(|&(_, bytes)| bytes)
}

/// Fewest bytes of GPU buffers in which the graph runs with preferred variants, by a [`Parked`].
///
/// # Errors
/// As [`MemoryPlan::new`].
pub fn least_bytes(graph: &Graph, caps: &Caps) -> Result<u64, GraphError> {
    let plan = MemoryPlan::new(graph, true)?;
    let nodes = lower_nodes(graph, caps, &Tuning::default());
    Ok(most_at_once(graph, &plan, &nodes).map_or(0, |(_, bytes)| bytes))
}
