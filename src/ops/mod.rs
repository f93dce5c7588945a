//! The operator contract and the registry. One file per operator family; everything about an operator
//! stands there: shape rule, lowering, backward, f64 reference, cost, cases.

pub mod activation;
pub mod activation_kind;
pub mod augment;
pub mod cast;
pub mod concat;
pub mod conv3d;
pub mod conv_transpose3d;
pub mod dropout;
pub mod elementwise;
mod fill;
pub mod label;
pub mod loss;
pub mod n4;
pub mod norm;
pub mod normalise;
pub mod optimizer;
pub mod pool;
mod reduction;
pub mod resample;
pub mod softmax;
pub mod upsample;
mod winograd;

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;

use thiserror::Error;

use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
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

    /// `(output, input)` pairs that share one buffer: the output is the input updated in place. The
    /// kernel binds the output alone, `read_write`.
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }
}

/// How a case fills an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform in an interval.
    Uniform(f32, f32),
    /// 0 or 1 with this probability of 1.
    Binary(f32),
    /// Integers in `0..n`.
    Integer(u32),
    /// Distinct values at least 0.01 apart in random order: for operators with kinks at ties (max).
    Distinct,
    /// Normal, but at least 0.1 away from 0: for operators with a kink at 0 (ReLU).
    AwayFromZero,
    /// These values, repeated: parameters, and volumes with NaN or infinity in them.
    Values(&'static [f32]),
}

/// Makes those inputs half precision that are activations of `op`; `false` for operators that know no f16.
pub fn halve_activations(op: &dyn Operator, inputs: &mut [(TensorDesc, Fill)]) -> bool {
    let activations = op.activations().min(inputs.len());
    for (desc, _) in &mut inputs[..activations] {
        if desc.dtype == DType::F32 {
            desc.dtype = DType::F16;
        }
    }
    activations > 0
}

/// Shapes and attributes on which an operator is tested and timed.
#[derive(Debug)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// The operator with its attributes.
    pub op: Box<dyn Operator>,
    /// Its inputs.
    pub inputs: Vec<(TensorDesc, Fill)>,
    /// Which inputs are checked against finite differences; empty for operators without a backward.
    pub differentiable: Vec<usize>,
    /// Too large for the f64 reference in a test: timed only.
    pub bench_only: bool,
}

impl Case {
    /// A test case without gradients.
    pub fn new(name: &str, op: impl Operator + 'static, inputs: Vec<(TensorDesc, Fill)>) -> Self {
        Self {
            name: name.to_owned(),
            op: Box::new(op),
            inputs,
            differentiable: Vec::new(),
            bench_only: false,
        }
    }

    /// Also checks the backward by these inputs.
    #[must_use]
    pub fn differentiable(mut self, inputs: &[usize]) -> Self {
        self.differentiable = inputs.to_vec();
        self
    }

    /// The same with activations in half precision, without gradients; `None` for operators that know no f16.
    #[must_use]
    pub fn in_f16(mut self) -> Option<Self> {
        let halved = halve_activations(self.op.as_ref(), &mut self.inputs);
        self.name += ", f16";
        self.differentiable.clear();
        halved.then_some(self)
    }

    /// For timing only.
    #[must_use]
    pub fn bench_only(mut self) -> Self {
        self.bench_only = true;
        self
    }
}

/// An entry of the registry.
pub struct OpDef {
    /// The operator's name, as `Operator::name` says.
    pub name: &'static str,
    /// One line for the docs table.
    pub summary: &'static str,
    /// Every shader file that the operator's variants use.
    pub shaders: &'static [&'static str],
    /// Test and timing cases.
    pub cases: fn() -> Vec<Case>,
}

impl OpDef {
    /// The cases, and those of operators that take half precision in f16 too.
    pub fn cases_by_dtype(&self) -> Vec<Case> {
        let mut cases = (self.cases)();
        cases.extend((self.cases)().into_iter().filter_map(Case::in_f16));
        cases
    }
}

/// Every operator, in stable order.
pub static OPS: &[&OpDef] = &[
    &conv3d::CONV3D,
    &conv3d::CONV3D_GRAD_INPUT,
    &conv3d::CONV3D_GRAD_WEIGHT,
    &conv3d::SUM_CHANNELS_OP,
    &conv_transpose3d::CONV_TRANSPOSE3D,
    &augment::INTENSITY_AUGMENT,
    &elementwise::ADD,
    &elementwise::SCALE,
    &cast::CAST,
    &FILL,
    &norm::INSTANCE_NORM,
    &norm::BATCH_NORM,
    &norm::GROUP_NORM,
    &norm::NORM_GRAD_REDUCE,
    &norm::NORM_GRAD_INPUT,
    &norm::BATCH_NORM_UPDATE,
    &norm::BATCH_NORM_INFERENCE,
    &pool::MAX_POOL3D,
    &pool::MAX_POOL3D_GRAD,
    &upsample::UPSAMPLE,
    &upsample::UPSAMPLE_GRAD,
    &loss::SOFT_DICE_LOSS,
    &loss::SOFT_DICE_LOSS_GRAD,
    &loss::BCE_LOSS,
    &loss::BCE_LOSS_GRAD,
    &loss::FOCAL_LOSS,
    &loss::FOCAL_LOSS_GRAD,
    &loss::DICE_BCE_LOSS,
    &loss::DICE_BCE_LOSS_GRAD,
    &loss::OVERLAP_COUNTS,
    &optimizer::ADAM,
    &optimizer::ACCUMULATE_SUM_OF_SQUARES,
    &optimizer::CLIP_FACTOR,
    &optimizer::EMA,
    &activation::RELU,
    &activation::RELU_GRAD,
    &activation::LEAKY_RELU,
    &activation::LEAKY_RELU_GRAD,
    &activation::GELU,
    &activation::GELU_GRAD,
    &activation::SIGMOID,
    &activation::SIGMOID_GRAD,
    &dropout::DROPOUT,
    &softmax::SOFTMAX,
    &softmax::SOFTMAX_GRAD,
    &concat::CONCAT,
    &concat::SLICE_CHANNELS,
    &resample::RESAMPLE,
    &resample::RESAMPLE_DEFORMED,
    &resample::CONVOLVE_AXIS,
    &normalise::MIN_MAX,
    &normalise::MOMENTS,
    &normalise::HISTOGRAM,
    &normalise::PERCENTILES,
    &normalise::RESCALE,
    &normalise::STANDARDISE,
    &label::THRESHOLD,
    &label::COMPONENTS,
    &label::LARGEST_COMPONENT,
    &label::FILL_HOLES,
    &label::DISTANCE,
    &label::APPLY_MASK,
    &n4::LOG_SHRINK,
    &n4::RANGE,
    &n4::HISTOGRAM,
    &n4::SHARPEN,
    &n4::RESIDUAL_CONTRACT,
    &n4::CONTRACT,
    &n4::LATTICE_UPDATE,
    &n4::EVALUATE,
    &n4::FIELD_UPDATE,
    &n4::APPLY,
];

/// The entry of the operator with this name.
pub fn find(name: &str) -> Option<&'static OpDef> {
    OPS.iter().find(|def| def.name == name).copied()
}

/// Invocations in a workgroup of the flat kernels: a multiple of every subgroup size, and large enough
/// to hide latency without exceeding the 256 that WebGPU guarantees.
pub const FLAT: usize = 64;

/// Sets `n` elements of a slot to `value` (bit pattern for integer tensors): clears accumulators.
pub fn fill_dispatch(slot: Slot, n: usize, bits: u32) -> Dispatch {
    Dispatch::new(KernelKey::new("fill/fill.wgsl"))
        .bind("y", slot)
        .params(Params::new().u32("n", n).u32("bits", bits as usize))
        .flat(n, FLAT)
}

/// Splits a batch so that every binding stays within the adapter's limit: the whole batch in one piece
/// when all `tensors` (each `[N, ...]`) fit, else one sample a piece. Kernels see a piece as a batch of
/// its own; bind it with [`sample_range`].
pub fn batch_pieces(tensors: &[&TensorDesc], caps: &Caps) -> Vec<Range<usize>> {
    let batch = tensors.iter().map(|d| d.shape[0]).max().unwrap_or(1);
    let aligned = tensors.iter().all(|d| sample_bytes(d).is_multiple_of(caps.offset_alignment));
    if !aligned || tensors.iter().all(|d| d.bytes() <= caps.max_binding) {
        return std::iter::once(0..batch).collect();
    }
    (0..batch).map(|n| n..n + 1).collect()
}

fn sample_bytes(desc: &TensorDesc) -> u64 {
    (desc.len() / desc.shape[0].max(1)) as u64 * desc.dtype.bytes()
}

/// Bytes of the samples `piece` of a tensor `[N, ...]`, to the end of a 32-bit word.
pub fn sample_range(desc: &TensorDesc, piece: &Range<usize>) -> Range<u64> {
    let bytes = sample_bytes(desc);
    piece.start as u64 * bytes..(piece.end as u64 * bytes).next_multiple_of(4)
}

/// Channels of one sample that a kernel sees in one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planes {
    /// The bytes to bind.
    pub bytes: Range<u64>,
    /// Number of the first channel in the binding, counted over samples.
    pub first_plane: usize,
    /// The channels of the sample.
    pub channels: Range<usize>,
}

/// Splits sample `n` of a tensor `[N, C, ...]` by channels so that every binding stays within the adapter's limit: all
/// channels in one where the tensor or the sample fits.
pub fn sample_planes(desc: &TensorDesc, n: usize, caps: &Caps) -> Vec<Planes> {
    let channels = desc.shape[1];
    let sample = sample_bytes(desc);
    let plane = sample / channels.max(1) as u64;
    let fits = |bytes: u64| bytes <= caps.max_binding;
    let aligned = |bytes: u64| bytes.is_multiple_of(caps.offset_alignment);
    if fits(desc.bytes()) || !aligned(sample) || !(fits(sample) || (fits(plane) && aligned(plane))) {
        let whole = Planes { bytes: 0..desc.bytes(), first_plane: n * channels, channels: 0..channels };
        return vec![whole];
    }
    let most = ((caps.max_binding / plane.max(1)) as usize).min(channels);
    let base = n as u64 * sample;
    (0..channels)
        .step_by(most)
        .map(|first| {
            let last = (first + most).min(channels);
            let bytes = base + first as u64 * plane..(base + last as u64 * plane).next_multiple_of(4);
            Planes { bytes, first_plane: 0, channels: first..last }
        })
        .collect()
}

/// The kernel in `path`, for activations of this element type (`lib/element.wgsl`).
pub(crate) fn element_kernel(path: &'static str, activations: &TensorDesc) -> KernelKey {
    KernelKey::new(path).define("F16", (activations.dtype == DType::F16).into())
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

/// `fill`: a tensor of one value.
#[derive(Debug, Clone)]
pub struct Fill32 {
    /// Shape of the output.
    pub desc: TensorDesc,
    /// The value.
    pub value: f32,
}

/// Registry entry of [`Fill32`].
pub static FILL: OpDef = OpDef {
    name: "fill",
    summary: "tensor of one value",
    shaders: &["fill/fill.wgsl"],
    cases: || vec![Case::new("odd size", Fill32 { desc: TensorDesc::f32(&[3, 7, 11]), value: -2.5 }, vec![])],
};

impl Operator for Fill32 {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("fill", inputs, 0)?;
        Ok(vec![self.desc.clone()])
    }

    fn lower(&self, _: &[TensorDesc], outputs: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        Lowered::one(fill_dispatch(Slot::Output(0), outputs[0].len(), self.value.to_bits()))
    }

    fn reference(&self, _: &[&HostTensor]) -> Vec<HostTensor> {
        vec![HostTensor::new(self.desc.clone(), vec![self.value as f64; self.desc.len()])]
    }
}
