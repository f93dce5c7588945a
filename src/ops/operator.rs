//! The operator contract: what every operator says about itself, and the words it says it in.

use std::any::Any;
use std::fmt::Debug;

use thiserror::Error;

use crate::gpu::{Caps, Lowered};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// A shape or attribute that an operator does not accept.
#[derive(Debug, Error)]
#[error("{operator}: {reason} (inputs: {inputs})")]
pub struct OpError {
    /// The operator's name.
    pub operator: &'static str,
    /// What is wrong.
    pub reason: String,
    /// The inputs' descriptions.
    pub inputs: String,
}

impl OpError {
    /// Builds the error from the inputs at hand.
    pub fn new(operator: &'static str, inputs: &[TensorDesc], reason: impl Into<String>) -> Self {
        let inputs = inputs.iter().map(|d| format!("{d:?}")).collect::<Vec<_>>().join(", ");
        Self { operator, reason: reason.into(), inputs }
    }
}

/// A value in a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// Work and traffic of an operator, for rooflines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations (a fused multiply-add counts 2).
    pub flops: f64,
    /// The fewest bytes that must move: every input read once, every output written once.
    pub bytes: f64,
}

/// How exact a kernel can be; see [`Precision::tolerance`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Precision {
    /// Number of terms that one output sums.
    pub reduction: usize,
    /// Relative error of one term; `f32::EPSILON` unless the operator uses transcendental functions.
    pub epsilon: f64,
}

/// Errors of an f16 output, in units of its last place at the largest magnitude: half a unit each for rounding the
/// output, for the half of a sum that a two-input convolution leaves in it, and, more rarely all of one sign, for
/// weights that a kernel packs as f16.
const HALF_UNITS: f64 = 4.0;

impl Precision {
    /// Single precision with sums of this length.
    pub fn sum_of(reduction: usize) -> Self {
        Self { reduction: reduction.max(1), epsilon: f32::EPSILON as f64 }
    }

    /// Absolute tolerance for an output of this type whose largest magnitude is `scale`: `8 * epsilon *
    /// sqrt(reduction) * scale` for sums in f32, which those of f16 tensors are too, and 4 times f16's epsilon for
    /// storing f16; integers are exact.
    pub fn tolerance(&self, scale: f64, output: DType) -> f64 {
        let scale = scale.max(f64::MIN_POSITIVE);
        let sum = 8.0 * self.epsilon * (self.reduction.max(1) as f64).sqrt() * scale;
        match output {
            DType::F32 => sum,
            DType::F16 => sum + HALF_UNITS * f64::from(half::f16::EPSILON) * scale,
            DType::U32 => 0.0,
        }
    }
}

/// Adds nodes to a graph while gradients are built.
pub trait GradientBuilder {
    /// Description of a value.
    fn desc(&self, value: ValueId) -> &TensorDesc;
    /// Applies an operator; returns its outputs.
    ///
    /// # Errors
    /// Shapes that the operator refuses.
    fn apply(&mut self, op: Box<dyn Operator>, inputs: &[ValueId]) -> Result<Vec<ValueId>, OpError>;
}

/// What the backward rule of an operator sees of its node.
pub struct NodeIo<'a> {
    /// The node's inputs.
    pub inputs: &'a [ValueId],
    /// The node's outputs.
    pub outputs: &'a [ValueId],
    /// Gradient of the loss by each output; `None` where nothing flows back.
    pub grad_outputs: &'a [Option<ValueId>],
    /// Which inputs need a gradient.
    pub needs: &'a [bool],
}

/// Element type by which an operator's arithmetic is judged: half precision where any of these tensors has it.
pub fn arithmetic_dtype<'a>(mut tensors: impl Iterator<Item = &'a TensorDesc>) -> DType {
    if tensors.any(|desc| desc.dtype == DType::F16) { DType::F16 } else { DType::F32 }
}

/// Output descriptions of an operator: its own rule, and that half precision appears only where the operator takes
/// it: in all of its activations or in none.
///
/// # Errors
/// Shapes and types that the operator does not accept.
pub fn infer(op: &dyn Operator, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
    let (activations, others) = inputs.split_at(op.activations().min(inputs.len()));
    let half = |desc: &TensorDesc| desc.dtype == DType::F16;
    if others.iter().any(half) {
        return Err(OpError::new(op.name(), inputs, "does not take half precision (f16) here"));
    }
    if activations.iter().any(half) && !activations.iter().all(half) {
        return Err(OpError::new(op.name(), inputs, "takes activations of one type"));
    }
    op.infer(inputs)
}

/// An operator with its attributes: a value that is shape-checked, lowered to kernels, differentiated,
/// and defined by an f64 reference.
pub trait Operator: Any + Debug + Send + Sync {
    /// The name in the registry.
    fn name(&self) -> &'static str;

    /// Output descriptions from input descriptions. Call [`infer()`], which checks types too.
    ///
    /// # Errors
    /// Every shape that the operator does not accept; lowering relies on it.
    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError>;

    /// How many inputs, from the first on, are activations: tensors that may be f16, all of them or none; the first
    /// output then is f16 as well. Weights, statistics and whatever else follows stay f32 or u32.
    fn activations(&self) -> usize {
        0
    }

    /// Names of the legal kernel variants for these inputs, preferred first; the last always is legal.
    fn variants(&self, _inputs: &[TensorDesc], _caps: &Caps) -> Vec<&'static str> {
        vec!["default"]
    }

    /// Launches of `variant` for these inputs (validated by `infer`). Pure: needs no device.
    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered;

    /// Nodes that compute the gradient by each input. The default: no gradient flows.
    ///
    /// # Errors
    /// Shapes that a gradient operator refuses.
    fn backward(
        &self,
        _graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None; io.inputs.len()])
    }

    /// The definition: a naive implementation in f64.
    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor>;

    /// Work and traffic.
    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: outputs.iter().map(|d| d.len() as f64).sum(), bytes }
    }

    /// Flops of [`Operator::reference`], where it is not about the work of the kernels: a check chooses its size by them.
    fn reference_flops(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> f64 {
        self.cost(inputs, outputs).flops
    }

    /// How exact the kernels are.
    fn precision(&self, _inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(1)
    }

    /// Outputs that are records: quantities of unlike magnitude, each judged by its own instead of by the largest.
    fn records(&self) -> &'static [usize] {
        &[]
    }

    /// `(output, input)` pairs that share one buffer: the output is the input updated in place. The
    /// kernel binds the output alone, `read_write`.
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// Whether the first output may take the place of the first input, of the same description: of each element, the kernels
    /// that bind both read it before they write it, and know `IN_PLACE`, with which they bind the output alone.
    fn takes_place(&self) -> bool {
        false
    }
}

/// Refuses a number of inputs other than `n`.
pub(crate) fn expect_inputs(name: &'static str, inputs: &[TensorDesc], n: usize) -> Result<(), OpError> {
    if inputs.len() == n {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("expects {n} inputs, got {}", inputs.len())))
    }
}

/// The extents `[N, C, D, H, W]` of an input, or an error naming the operator.
pub(crate) fn expect_ncdhw(
    name: &'static str,
    inputs: &[TensorDesc],
    ix: usize,
) -> Result<[usize; 5], OpError> {
    inputs[ix].ncdhw().filter(|shape| shape.iter().all(|&n| n > 0)).ok_or_else(|| {
        OpError::new(name, inputs, format!("input {ix} must be N C D H W without an empty axis"))
    })
}

/// The extents `[D, H, W]` of a single f32 or u32 volume, whose axes before the last three are 1, or an error
/// naming the operator.
pub(crate) fn expect_volume(
    name: &'static str,
    inputs: &[TensorDesc],
    ix: usize,
) -> Result<[usize; 3], OpError> {
    match inputs[ix].shape.as_slice() {
        [ones @ .., d, h, w] if d * h * w > 0 && ones.iter().all(|&n| n == 1) => Ok([*d, *h, *w]),
        _ => Err(OpError::new(name, inputs, format!("input {ix} must be one volume without an empty axis"))),
    }
}
