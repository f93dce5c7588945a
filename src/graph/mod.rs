//! Graphs of operators: builder with shape checks, backward pass, memory plan, executor, and an f64
//! interpreter of the same graph.

mod backward;
mod executor;
mod parked;
mod plan;
mod tuning;

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;

pub use executor::{Executor, ExecutorOptions, run_op, run_op_variant, run_op1};
pub use parked::{Parked, least_bytes};
pub use plan::{MemoryPlan, estimate_bytes};
pub use tuning::{Tuning, TuningKey, source_hash};

use crate::gpu::GpuError;
use crate::ops::{self, GradientBuilder, NodeIo, OpError, Operator, OverInput, ValueId};
use crate::tensor::{HostTensor, TensorDesc};

/// What can go wrong while a graph is built or run.
#[derive(Debug, Error)]
pub enum GraphError {
    /// An operator refused its inputs.
    #[error("node '{node}': {source}")]
    Op {
        /// Name of the node.
        node: String,
        /// The operator's words.
        source: OpError,
    },
    /// The device refused or failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The graph itself is wrong.
    #[error("graph: {0}")]
    Invalid(String),
}

impl GraphError {
    /// Whether the device has too little memory.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Gpu(GpuError::OutOfMemory(_)))
    }
}

/// Where a value comes from, and so how long it lives.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueKind {
    /// Written by the caller before a run.
    Input,
    /// A trained tensor: lives as long as the executor.
    Parameter,
    /// Anything else that survives a run: running statistics, optimiser moments.
    State,
    /// Known when the graph is built.
    Constant(Arc<Vec<u32>>),
    /// Computed by a node.
    Computed,
}

/// A value of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique name; parameters carry the name they have in weight files.
    pub name: String,
    /// Shape and type.
    pub desc: TensorDesc,
    /// Where it comes from.
    pub kind: ValueKind,
}

/// One application of an operator.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name for errors and profiles.
    pub name: String,
    /// The operator.
    pub op: Arc<dyn Operator>,
    /// Its inputs.
    pub inputs: Vec<ValueId>,
    /// Its outputs.
    pub outputs: Vec<ValueId>,
}

/// A graph of operators in execution order.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// All values.
    pub values: Vec<Value>,
    /// All nodes, in execution order.
    pub nodes: Vec<Node>,
    /// Computed values that can be read after a run.
    pub outputs: Vec<ValueId>,
    /// Inputs that are written anew before every run.
    pub(crate) fleeting: Vec<ValueId>,
    scope: String,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    fn add_value(&mut self, name: &str, desc: TensorDesc, kind: ValueKind) -> ValueId {
        self.values.push(Value { name: name.to_owned(), desc, kind });
        ValueId(self.values.len() - 1)
    }

    /// A value that the caller writes before each run.
    pub fn input(&mut self, name: &str, desc: TensorDesc) -> ValueId {
        self.add_value(name, desc, ValueKind::Input)
    }

    /// A trained tensor.
    pub fn parameter(&mut self, name: &str, desc: TensorDesc) -> ValueId {
        self.add_value(name, desc, ValueKind::Parameter)
    }

    /// A tensor that survives runs without being trained.
    pub fn state(&mut self, name: &str, desc: TensorDesc) -> ValueId {
        self.add_value(name, desc, ValueKind::State)
    }

    /// A tensor whose content is known now.
    pub fn constant(&mut self, name: &str, tensor: &HostTensor) -> ValueId {
        let words = Arc::new(tensor.to_words());
        self.add_value(name, tensor.desc.clone(), ValueKind::Constant(words))
    }

    /// Prefix of the names of nodes added from here on.
    pub fn set_scope(&mut self, scope: &str) {
        self.scope = scope.to_owned();
    }

    /// Applies an operator; returns its outputs.
    ///
    /// # Errors
    /// Shapes that the operator refuses, with the node's name.
    pub fn apply(
        &mut self,
        op: impl Operator + 'static,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        let scope = self.scope.clone();
        self.apply_boxed(&scope, Arc::new(op), inputs)
    }

    /// Applies an operator with a single output.
    ///
    /// # Errors
    /// Shapes that the operator refuses, with the node's name.
    pub fn apply1(&mut self, op: impl Operator + 'static, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        Ok(self.apply(op, inputs)?[0])
    }

    fn apply_boxed(
        &mut self,
        scope: &str,
        op: Arc<dyn Operator>,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        let name = if scope.is_empty() { op.name().to_owned() } else { format!("{scope}.{}", op.name()) };
        let descs: Vec<TensorDesc> = inputs.iter().map(|&v| self.values[v.0].desc.clone()).collect();
        let inferred = ops::infer(op.as_ref(), &descs)
            .map_err(|source| GraphError::Op { node: name.clone(), source })?;
        let outputs: Vec<ValueId> = inferred
            .into_iter()
            .enumerate()
            .map(|(ix, desc)| {
                let value = format!("{name}#{}.{ix}", self.nodes.len());
                self.add_value(&value, desc, ValueKind::Computed)
            })
            .collect();
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Keeps a computed value readable after a run.
    pub fn mark_output(&mut self, value: ValueId) {
        if !self.outputs.contains(&value) {
            self.outputs.push(value);
        }
    }

    /// Says that an input is written anew before every run: its memory serves other values once the nodes that read it are done.
    pub fn write_anew(&mut self, input: ValueId) {
        assert_eq!(self.values[input.0].kind, ValueKind::Input, "only inputs are written before each run");
        self.fleeting.push(input);
    }

    /// Lets nodes write over the computed value that they are the last to read, where their operators can. No gradient flows
    /// through such a node, and of the values of the graph only its outputs can be read after a run.
    pub fn write_over_inputs(&mut self) {
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let (Some(&input), Some(&output)) = (node.inputs.first(), node.outputs.first()) else { continue };
            let later = self.nodes[at + 1..].iter().flat_map(|node| &node.inputs);
            let last = !later.chain(&node.inputs[1..]).chain(&self.outputs).any(|value| *value == input);
            if last
                && self.values[input.0].kind == ValueKind::Computed
                && self.desc(input) == self.desc(output)
                && let Some(op) = OverInput::new(Arc::clone(&node.op))
            {
                self.nodes[at].op = Arc::new(op);
            }
        }
    }

    /// Description of a value.
    pub fn desc(&self, value: ValueId) -> &TensorDesc {
        &self.values[value.0].desc
    }

    /// The value with this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name).map(ValueId)
    }

    /// Values of a kind, in order of creation.
    pub fn values_of(&self, matches: impl Fn(&ValueKind) -> bool) -> Vec<ValueId> {
        (0..self.values.len()).map(ValueId).filter(|v| matches(&self.values[v.0].kind)).collect()
    }

    /// Every trained tensor, in order of creation.
    pub fn parameters(&self) -> Vec<ValueId> {
        self.values_of(|kind| *kind == ValueKind::Parameter)
    }

    /// Runs the graph with the f64 references. `feeds` gives every value that no node computes, except
    /// constants. Returns all values.
    ///
    /// # Errors
    /// A value without a feed.
    pub fn evaluate_reference(
        &self,
        feeds: &HashMap<ValueId, HostTensor>,
    ) -> Result<Vec<HostTensor>, GraphError> {
        let mut values: Vec<Option<HostTensor>> = vec![None; self.values.len()];
        for (ix, value) in self.values.iter().enumerate() {
            values[ix] = match &value.kind {
                ValueKind::Constant(words) => Some(HostTensor::from_words(value.desc.clone(), words)),
                ValueKind::Computed => None,
                _ => Some(
                    feeds
                        .get(&ValueId(ix))
                        .cloned()
                        .ok_or_else(|| GraphError::Invalid(format!("no feed for '{}'", value.name)))?,
                ),
            };
        }
        for node in &self.nodes {
            let inputs: Vec<&HostTensor> = node
                .inputs
                .iter()
                .map(|v| values[v.0].as_ref().expect("nodes are in execution order"))
                .collect();
            let outputs = node.op.reference(&inputs);
            for (value, tensor) in node.outputs.iter().zip(outputs) {
                values[value.0] = Some(tensor);
            }
        }
        Ok(values.into_iter().map(|v| v.expect("every value is fed or computed")).collect())
    }
}

impl GradientBuilder for Graph {
    fn desc(&self, value: ValueId) -> &TensorDesc {
        Graph::desc(self, value)
    }

    fn apply(&mut self, op: Box<dyn Operator>, inputs: &[ValueId]) -> Result<Vec<ValueId>, OpError> {
        let scope = self.scope.clone();
        self.apply_boxed(&scope, Arc::from(op), inputs).map_err(|error| match error {
            GraphError::Op { source, .. } => source,
            _ => unreachable!("applying an operator fails only in its shape rule"),
        })
    }
}
