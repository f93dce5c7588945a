//! Shapes and attributes on which operators are tested and timed, the random tensors that go with them, and the
//! registry's entries, which hold both.

use rand::Rng;
use rand::seq::SliceRandom;

use super::operator::Operator;
use super::over_input::OverInput;
use crate::tensor::{DType, HostTensor, TensorDesc};

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

impl Fill {
    /// A tensor of this kind, rounded to what the device stores.
    pub fn sample(self, rng: &mut impl Rng, desc: &TensorDesc) -> HostTensor {
        let n = desc.len();
        let data: Vec<f64> = match self {
            Self::Normal(std) => (0..n).map(|_| normal(rng) * f64::from(std)).collect(),
            Self::Uniform(low, high) => (0..n).map(|_| f64::from(rng.random_range(low..high))).collect(),
            Self::Binary(p) => (0..n).map(|_| f64::from(u8::from(rng.random::<f32>() < p))).collect(),
            Self::Integer(below) => (0..n).map(|_| f64::from(rng.random_range(0..below))).collect(),
            Self::Distinct => {
                let mut order: Vec<usize> = (0..n).collect();
                order.shuffle(rng);
                order.into_iter().map(|ix| (ix as f64 - n as f64 / 2.0) * 0.01).collect()
            }
            Self::Values(values) => values.iter().cycle().take(n).map(|&v| f64::from(v)).collect(),
            Self::AwayFromZero => (0..n)
                .map(|_| {
                    let value = normal(rng);
                    value + 0.1 * value.signum()
                })
                .collect(),
        };
        let words = HostTensor::new(desc.clone(), data).to_words();
        HostTensor::from_words(desc.clone(), &words)
    }
}

/// A standard normal number (Box-Muller).
fn normal(rng: &mut impl Rng) -> f64 {
    let u: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
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

    /// The output in the place of the first input, without gradients.
    ///
    /// # Panics
    /// When the operator cannot.
    #[must_use]
    pub fn in_place(mut self) -> Self {
        let op = OverInput::new(self.op.into()).expect("the case's operator takes the place of its input");
        self.op = Box::new(op);
        self.differentiable.clear();
        self
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
