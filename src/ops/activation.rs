//! Elementwise activations: operators with their gradients, and those that other operators fuse into their last step.

use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, Stored, ValueId,
    batch_pieces, expect_inputs, sample_range,
};
use crate::gpu::{Caps, Dispatch, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// An activation fused into an operator; kernels know it by its [`negative_slope`](Activation::negative_slope).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// y = x
    #[default]
    None,
    /// y = max(x, 0)
    Relu,
    /// y = x above 0, slope * x below
    LeakyRelu(f32),
}

impl Activation {
    /// What multiplies values below 0.
    pub fn negative_slope(self) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Relu => 0.0,
            Self::LeakyRelu(slope) => slope,
        }
    }

    /// The definition.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
            Self::LeakyRelu(_) => x * self.derivative(x),
        }
    }

    /// The derivative at x, from below where x is 0. Only the sign of x counts, so for a slope above 0
    /// the output serves as well as the input.
    pub fn derivative(self, x: f64) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Relu => f64::from(u8::from(x > 0.0)),
            Self::LeakyRelu(slope) => {
                if x > 0.0 {
                    1.0
                } else {
                    f64::from(slope)
                }
            }
        }
    }
}

/// Relative error of the activations built on `exp`, for which WGSL grants 3 + 2|x| ulp.
const EXP_EPSILON: f64 = 8.0 * f32::EPSILON as f64;

/// Which form of GELU (Hendrycks & Gimpel 2016).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeluForm {
    /// x Phi(x), Phi being the normal distribution function.
    Erf,
    /// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    Tanh,
}

/// An activation y = f(x) of a tensor `[N, ...]` of any rank; the output has the input's shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activate {
    /// `relu`: max(x, 0).
    Relu,
    /// `leaky_relu`: x above 0, slope * x below.
    LeakyRelu {
        /// Slope below 0; not negative, so that the gradient follows from the output.
        slope: f32,
    },
    /// `gelu`.
    Gelu(
        /// Exact or approximate.
        GeluForm,
    ),
    /// `sigmoid`: 1 / (1 + exp(-x)).
    Sigmoid,
}

impl Activate {
    fn grad_name(self) -> &'static str {
        match self {
            Activate::Relu => "relu_grad",
            Activate::LeakyRelu { .. } => "leaky_relu_grad",
            Activate::Gelu(_) => "gelu_grad",
            Activate::Sigmoid => "sigmoid_grad",
        }
    }

    fn define(self) -> &'static str {
        match self {
            Activate::Relu | Activate::LeakyRelu { .. } => "RELU",
            Activate::Gelu(GeluForm::Erf) => "GELU_ERF",
            Activate::Gelu(GeluForm::Tanh) => "GELU_TANH",
            Activate::Sigmoid => "SIGMOID",
        }
    }

    fn slope(self) -> f32 {
        if let Activate::LeakyRelu { slope } = self { slope } else { 0.0 }
    }

    /// Whether the gradient follows from the output, so that the input need not be kept.
    fn saves_output(self) -> bool {
        !matches!(self, Activate::Gelu(_))
    }

    fn check(self, name: &'static str, inputs: &[TensorDesc]) -> Result<(), OpError> {
        if inputs[0].is_empty() {
            return Err(OpError::new(name, inputs, "empty tensor"));
        }
        if !(0.0..).contains(&self.slope()) {
            return Err(OpError::new(name, inputs, "the slope must not be negative"));
        }
        Ok(())
    }

    fn value(self, x: f64) -> f64 {
        match self {
            Activate::Relu | Activate::LeakyRelu { .. } => {
                if x > 0.0 {
                    x
                } else {
                    self.slope() as f64 * x
                }
            }
            Activate::Gelu(GeluForm::Erf) => x * normal_cdf(x),
            Activate::Gelu(GeluForm::Tanh) => 0.5 * x * (1.0 + gelu_argument(x).tanh()),
            Activate::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }

    /// The derivative from what the forward pass saved.
    fn derivative(self, saved: f64) -> f64 {
        match self {
            Activate::Relu | Activate::LeakyRelu { .. } => {
                if saved > 0.0 {
                    1.0
                } else {
                    self.slope() as f64
                }
            }
            Activate::Gelu(GeluForm::Erf) => {
                let density = (-0.5 * saved * saved).exp() / std::f64::consts::TAU.sqrt();
                normal_cdf(saved) + saved * density
            }
            Activate::Gelu(GeluForm::Tanh) => {
                let tanh = gelu_argument(saved).tanh();
                let slope = std::f64::consts::FRAC_2_PI.sqrt() * (1.0 + 3.0 * 0.044715 * saved * saved);
                0.5 * (1.0 + tanh) + 0.5 * saved * (1.0 - tanh * tanh) * slope
            }
            Activate::Sigmoid => saved * (1.0 - saved),
        }
    }

    fn precision(self) -> Precision {
        match self {
            Activate::Relu | Activate::LeakyRelu { .. } => Precision::sum_of(1),
            Activate::Gelu(_) | Activate::Sigmoid => Precision { reduction: 1, epsilon: EXP_EPSILON },
        }
    }

    fn flops(self) -> f64 {
        match self {
            Activate::Relu | Activate::LeakyRelu { .. } => 1.0,
            Activate::Gelu(_) => 30.0,
            Activate::Sigmoid => 5.0,
        }
    }
}

/// sqrt(2/pi) (x + 0.044715 x^3).
fn gelu_argument(x: f64) -> f64 {
    std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)
}

/// Normal distribution function: 1/2 + phi(x) (x + x^3/3 + x^5/(3 5) + ...), Marsaglia 2004.
fn normal_cdf(x: f64) -> f64 {
    if x.abs() > 9.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}

fn forward_cases(ops: &[Activate]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &op in ops {
        let mut add = |name: &str, shape: &[usize], fill: Fill| {
            let inputs = vec![(TensorDesc::f32(shape), fill)];
            cases.push(Case::new(&format!("{op:?}, {name}"), op, inputs).differentiable(&[0]));
        };
        add("odd", &[2, 3, 5, 7, 9], Fill::AwayFromZero);
        add("fours", &[2, 3, 5, 7, 4], Fill::AwayFromZero);
        add("one element", &[1], Fill::AwayFromZero);
        add("wide range", &[1, 2, 3, 11, 13], Fill::Uniform(-12.0, 12.0));
        let inputs = vec![(TensorDesc::f32(&[2, 3, 5, 7, 4]), Fill::Normal(1.0))];
        cases.push(Case::new(&format!("{op:?}, in place"), op, inputs).in_place());
        let inputs = vec![(TensorDesc::f32(&[1, 16, 96, 128, 160]), Fill::Normal(1.0))];
        cases.push(Case::new(&format!("{op:?}, 16 channels at 2 mm"), op, inputs).bench_only());
    }
    cases
}

fn grad_cases(ops: &[Activate]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &op in ops {
        let case = |name: &str, shape: &[usize]| {
            // Saved outputs of a sigmoid lie in (0, 1).
            let saved =
                if op == Activate::Sigmoid { Fill::Uniform(0.0, 1.0) } else { Fill::Uniform(-6.0, 6.0) };
            let desc = TensorDesc::f32(shape);
            let inputs = vec![(desc.clone(), saved), (desc, Fill::Normal(1.0))];
            Case::new(&format!("{op:?}, {name}"), ActivateGrad(op), inputs)
        };
        let odd = case("odd", &[2, 3, 5, 7, 9]);
        let fours = case("fours", &[2, 3, 5, 7, 4]);
        let bench = case("16 channels at 2 mm", &[1, 16, 96, 128, 160]).bench_only();
        cases.extend([odd, fours, bench]);
    }
    cases
}

const FORWARD: &str = "activation/forward.wgsl";
const GRAD: &str = "activation/grad.wgsl";
const LEAKY: Activate = Activate::LeakyRelu { slope: 0.2 };
const GELUS: [Activate; 2] = [Activate::Gelu(GeluForm::Erf), Activate::Gelu(GeluForm::Tanh)];

/// Registry entry of [`Activate::Relu`].
pub static RELU: OpDef = OpDef {
    name: "relu",
    summary: "max(x, 0)",
    shaders: &[FORWARD],
    cases: || forward_cases(&[Activate::Relu]),
};

/// Registry entry of the gradient of [`Activate::Relu`].
pub static RELU_GRAD: OpDef = OpDef {
    name: "relu_grad",
    summary: "gradient of relu, from its output",
    shaders: &[GRAD],
    cases: || grad_cases(&[Activate::Relu]),
};

/// Registry entry of [`Activate::LeakyRelu`].
pub static LEAKY_RELU: OpDef = OpDef {
    name: "leaky_relu",
    summary: "x above 0, slope * x below",
    shaders: &[FORWARD],
    cases: || forward_cases(&[LEAKY]),
};

/// Registry entry of the gradient of [`Activate::LeakyRelu`].
pub static LEAKY_RELU_GRAD: OpDef = OpDef {
    name: "leaky_relu_grad",
    summary: "gradient of leaky_relu, from its output",
    shaders: &[GRAD],
    cases: || grad_cases(&[LEAKY]),
};

/// Registry entry of [`Activate::Gelu`].
pub static GELU: OpDef = OpDef {
    name: "gelu",
    summary: "x Phi(x), exact or in the tanh form",
    shaders: &[FORWARD],
    cases: || forward_cases(&GELUS),
};

/// Registry entry of the gradient of [`Activate::Gelu`].
pub static GELU_GRAD: OpDef = OpDef {
    name: "gelu_grad",
    summary: "gradient of gelu, from its input",
    shaders: &[GRAD],
    cases: || grad_cases(&GELUS),
};

/// Registry entry of [`Activate::Sigmoid`].
pub static SIGMOID: OpDef = OpDef {
    name: "sigmoid",
    summary: "1 / (1 + exp(-x))",
    shaders: &[FORWARD],
    cases: || forward_cases(&[Activate::Sigmoid]),
};

/// Registry entry of the gradient of [`Activate::Sigmoid`].
pub static SIGMOID_GRAD: OpDef = OpDef {
    name: "sigmoid_grad",
    summary: "gradient of sigmoid, from its output",
    shaders: &[GRAD],
    cases: || grad_cases(&[Activate::Sigmoid]),
};

impl Operator for Activate {
    fn name(&self) -> &'static str {
        match self {
            Activate::Relu => "relu",
            Activate::LeakyRelu { .. } => "leaky_relu",
            Activate::Gelu(_) => "gelu",
            Activate::Sigmoid => "sigmoid",
        }
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        self.check(self.name(), inputs)?;
        Ok(inputs.to_vec())
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].len() / inputs[0].shape[0])
    }

    fn takes_place(&self) -> bool {
        true
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let n = inputs[0].len() / inputs[0].shape[0] * piece.len() / stored.elements();
            lowered.push(
                Dispatch::new(stored.kernel(FORWARD, &inputs[0], caps).define(self.define(), 1))
                    .bind_range("x", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("y", Slot::Output(0), sample_range(&outputs[0], &piece))
                    .params(Params::new().u32("n", n).f32("slope", self.slope()))
                    .flat(n, FLAT),
            );
        }
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None]) };
        let saved = if self.saves_output() { io.outputs[0] } else { io.inputs[0] };
        Ok(vec![Some(graph.apply(Box::new(ActivateGrad(*self)), &[saved, dy])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let data = inputs[0].data.iter().map(|&x| self.value(x)).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: self.flops() * n, bytes: 2.0 * inputs[0].bytes() as f64 }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        (*self).precision()
    }
}

/// Gradient of an [`Activate`]. Inputs: what it saved (the output, but the input for GELU) and the
/// gradient by the output, of one shape. Output: the gradient by the input.
#[derive(Debug, Clone)]
pub struct ActivateGrad(
    /// The activation.
    pub Activate,
);

impl Operator for ActivateGrad {
    fn name(&self) -> &'static str {
        self.0.grad_name()
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        self.0.check(self.name(), inputs)?;
        if inputs[0] != inputs[1] {
            return Err(OpError::new(self.name(), inputs, "shapes differ"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].len() / inputs[0].shape[0])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let n = inputs[0].len() / inputs[0].shape[0] * piece.len() / stored.elements();
            lowered.push(
                Dispatch::new(stored.kernel(GRAD, &inputs[0], caps).define(self.0.define(), 1))
                    .bind_range("saved", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("dy", Slot::Input(1), sample_range(&inputs[1], &piece))
                    .bind_range("dx", Slot::Output(0), sample_range(&outputs[0], &piece))
                    .params(Params::new().u32("n", n).f32("slope", self.0.slope()))
                    .flat(n, FLAT),
            );
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let pairs = inputs[0].data.iter().zip(&inputs[1].data);
        let data = pairs.map(|(&saved, dy)| dy * self.0.derivative(saved)).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: self.0.flops() * n, bytes: 12.0 * n }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        self.0.precision()
    }
}
