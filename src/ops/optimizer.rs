//! One training step on the device: Adam and AdamW, clipping by the global gradient norm without reading
//! anything back, and the moving average of the weights.
//!
//! Clipping: start an accumulator `[1]` at 0, chain [`AccumulateSumOfSquares`] over all gradients, take
//! [`ClipFactor`] of it, and hand that to every [`Adam`]. A gradient that is not finite makes the
//! accumulator infinite or NaN, the factor 0, and the step a no-op; the host sees it in the accumulator.

use super::reduction::{CHAIN, CHUNK, SUM_ROWS, sum_rows};
use super::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, Stored, expect_inputs};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// Where epsilon stands in [`Adam`]; the first moment is corrected for its bias alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdamForm {
    /// lr sqrt(1-beta2^t) / (1-beta1^t) * m / (sqrt(v) + epsilon): Keras, and the efficient form at the
    /// end of section 2 of Kingma & Ba.
    Keras,
    /// lr * m_hat / (sqrt(v_hat) + epsilon): PyTorch, and algorithm 1 of Kingma & Ba.
    PyTorch,
}

/// `adam`: one step of Adam with decoupled weight decay (AdamW, Loshchilov & Hutter 2019), in place.
///
/// Inputs: param, m, v and grad of one shape, `step_state` `[8]` (see [`Adam::step_state`]) and the clip
/// factor `[1]` (see [`ClipFactor`]; a constant 1 to not clip). Outputs: param, m, v updated in place.
/// A clip factor of 0 leaves them as they are. Attributes are f64 because 1 - beta2 loses three digits when
/// beta2 is rounded to f32 first.
#[derive(Debug, Clone)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Guard against division by zero.
    pub epsilon: f64,
    /// Decoupled weight decay: param shrinks by lr * `weight_decay` before the step; 0 for plain Adam.
    pub weight_decay: f64,
    /// Where epsilon stands.
    pub form: AdamForm,
    /// Factor on the learning rate, for parameters that are to learn slower or faster than others; 1 for most.
    pub rate: f64,
}

impl Adam {
    /// What the host writes before step `t` (from 1): learning rate, 1 - beta1^t, 1 - beta2^t, factor on
    /// the gradients (1 / number of accumulated batches, say), and four reserved zeros. The powers are
    /// taken in f64: in f32 1 - 0.999^t loses three digits at the first step.
    pub fn step_state(&self, t: u64, lr: f64, grad_scale: f64) -> [f32; 8] {
        let correction = |beta: f64| -f64::exp_m1(t as f64 * beta.ln());
        let [c1, c2] = [correction(self.beta1), correction(self.beta2)];
        [lr as f32, c1 as f32, c2 as f32, grad_scale as f32, 0.0, 0.0, 0.0, 0.0]
    }
}

/// Registry entry of [`Adam`].
pub static ADAM: OpDef = OpDef {
    name: "adam",
    summary: "Adam or AdamW step in place, in Keras' or PyTorch's form",
    shaders: &["optimizer/adam.wgsl"],
    cases: || {
        let case = |name: &str, form: AdamForm, weight_decay: f64, shape: &[usize], clip: Fill| {
            let desc = TensorDesc::f32(shape);
            let rate = if name.contains("slower") { 0.3 } else { 1.0 };
            let op = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-7, weight_decay, form, rate };
            let inputs = vec![
                (desc.clone(), Fill::Normal(1.0)),
                (desc.clone(), Fill::Normal(0.1)),
                (desc.clone(), Fill::Uniform(0.0, 0.1)),
                (desc, Fill::Normal(1.0)),
                (TensorDesc::f32(&[8]), Fill::Uniform(0.1, 0.9)),
                (TensorDesc::f32(&[1]), clip),
            ];
            Case::new(name, op, inputs)
        };
        let clip = Fill::Uniform(0.2, 1.0);
        vec![
            case("Keras", AdamForm::Keras, 0.0, &[5, 3, 3, 3, 7], clip),
            case("PyTorch with decay", AdamForm::PyTorch, 0.01, &[5, 3, 3, 3, 7], clip),
            case("slower, with decay", AdamForm::Keras, 0.01, &[3, 2, 1, 5, 3], clip),
            case("fours", AdamForm::PyTorch, 0.01, &[5, 4, 3, 3, 3], clip),
            case("scalar", AdamForm::PyTorch, 0.0, &[1], clip),
            case("skipped step", AdamForm::Keras, 0.01, &[3, 5], Fill::Integer(1)),
            case("256 to 256 convolution", AdamForm::PyTorch, 0.01, &[256, 256, 3, 3, 3], clip).bench_only(),
        ]
    },
};

impl Operator for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("adam", inputs, 6)?;
        if inputs[1..4].iter().any(|desc| *desc != inputs[0]) {
            return Err(OpError::new("adam", inputs, "param, m, v and grad differ in shape"));
        }
        if inputs[4] != TensorDesc::f32(&[8]) || inputs[5] != TensorDesc::f32(&[1]) {
            return Err(OpError::new("adam", inputs, "needs a step state [8] and a clip factor [1]"));
        }
        Ok(inputs[..3].to_vec())
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].len())
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let n = inputs[0].len() / stored.elements();
        let pytorch = u32::from(self.form == AdamForm::PyTorch);
        Lowered::one(
            Dispatch::new(stored.kernel("optimizer/adam.wgsl", &inputs[0], caps).define("PYTORCH", pytorch))
                .bind("param", Slot::Output(0))
                .bind("m", Slot::Output(1))
                .bind("v", Slot::Output(2))
                .bind("grad", Slot::Input(3))
                .bind("step_state", Slot::Input(4))
                .bind("clip", Slot::Input(5))
                .params(
                    Params::new()
                        .u32("n", n)
                        .f32("beta1", self.beta1 as f32)
                        .f32("one_minus_beta1", (1.0 - self.beta1) as f32)
                        .f32("beta2", self.beta2 as f32)
                        .f32("one_minus_beta2", (1.0 - self.beta2) as f32)
                        .f32("epsilon", self.epsilon as f32)
                        .f32("decay", self.weight_decay as f32)
                        .f32("rate", self.rate as f32),
                )
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [mut param, mut m, mut v] = [inputs[0].clone(), inputs[1].clone(), inputs[2].clone()];
        let [lr, c1, c2, grad_scale] = [0, 1, 2, 3].map(|ix| inputs[4].data[ix]);
        let lr = lr * self.rate;
        let clip = inputs[5].data[0];
        if clip > 0.0 {
            let Adam { beta1, beta2, epsilon, weight_decay: decay, .. } = *self;
            for ix in 0..param.data.len() {
                let g = inputs[3].data[ix] * grad_scale * clip;
                let m = &mut m.data[ix];
                let v = &mut v.data[ix];
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                let step = match self.form {
                    AdamForm::Keras => lr * c2.sqrt() / c1 * *m / (v.sqrt() + epsilon),
                    AdamForm::PyTorch => lr * (*m / c1) / ((*v / c2).sqrt() + epsilon),
                };
                param.data[ix] = param.data[ix] * (1.0 - lr * decay) - step;
            }
        }
        vec![param, m, v]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 20.0 * n, bytes: 28.0 * n }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // Each output sums at most three rounded terms.
        Precision::sum_of(4)
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1), (2, 2)]
    }
}

/// `accumulate_sum_of_squares`: inputs an accumulator `[1]` and any tensor; output the accumulator, in
/// place, increased by the sum of the tensor's squares. Infinite or NaN once a tensor has such an
/// element, or one beyond 1e19, whose square f32 does not hold.
#[derive(Debug, Clone)]
pub struct AccumulateSumOfSquares;

/// Registry entry of [`AccumulateSumOfSquares`].
pub static ACCUMULATE_SUM_OF_SQUARES: OpDef = OpDef {
    name: "accumulate_sum_of_squares",
    summary: "accumulator += sum of x^2, in place",
    shaders: &["optimizer/sum_of_squares.wgsl", SUM_ROWS],
    cases: || {
        let case = |name: &str, shape: &[usize]| {
            let inputs = vec![
                (TensorDesc::f32(&[1]), Fill::Uniform(0.0, 10.0)),
                (TensorDesc::f32(shape), Fill::Normal(1.0)),
            ];
            Case::new(name, AccumulateSumOfSquares, inputs)
        };
        vec![
            case("bias", &[7]),
            case("several workgroups", &[37, 13, 3, 3, 3]),
            case("256 to 256 convolution", &[256, 256, 3, 3, 3]).bench_only(),
        ]
    },
};

impl Operator for AccumulateSumOfSquares {
    fn name(&self) -> &'static str {
        "accumulate_sum_of_squares"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("accumulate_sum_of_squares", inputs, 2)?;
        if inputs[0] != TensorDesc::f32(&[1]) {
            return Err(OpError::new("accumulate_sum_of_squares", inputs, "the accumulator is a scalar"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[1].len();
        let groups = n.div_ceil(CHUNK);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch(groups as u64 * 4);
        lowered.push(
            Dispatch::new(KernelKey::new("optimizer/sum_of_squares.wgsl").count("CHUNK", CHUNK))
                .bind("x", Slot::Input(1))
                .bind("partials", partials)
                .params(Params::new().u32("n", n))
                .grid([groups, 1, 1]),
        );
        lowered.push(sum_rows(partials, Slot::Output(0), [1, groups, 1], true));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let sum: f64 = inputs[1].data.iter().map(|x| x * x).sum();
        vec![HostTensor::new(inputs[0].desc.clone(), vec![inputs[0].data[0] + sum])]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[1].len() as f64;
        Cost { flops: 2.0 * n, bytes: 4.0 * n }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[1].len().min(CHAIN))
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

/// `clip_factor`: input the sum of squares `[1]` of all gradients; output the factor `[1]` that brings
/// their norm down to `max_norm`, at most 1, and 0 when the sum is not finite. The norm is that of the
/// gradients before `grad_scale` of [`Adam::step_state`]. An infinite `max_norm` only detects.
#[derive(Debug, Clone)]
pub struct ClipFactor {
    /// Largest norm to keep.
    pub max_norm: f32,
}

/// Registry entry of [`ClipFactor`].
pub static CLIP_FACTOR: OpDef = OpDef {
    name: "clip_factor",
    summary: "min(1, max_norm / norm) from a sum of squares, 0 when that is not finite",
    shaders: &["optimizer/clip_factor.wgsl"],
    cases: || {
        let scalar = || vec![(TensorDesc::f32(&[1]), Fill::Uniform(4.0, 9.0))];
        vec![
            Case::new("clips", ClipFactor { max_norm: 1.0 }, scalar()),
            Case::new("keeps", ClipFactor { max_norm: 5.0 }, scalar()),
        ]
    },
};

impl Operator for ClipFactor {
    fn name(&self) -> &'static str {
        "clip_factor"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("clip_factor", inputs, 1)?;
        let positive = self.max_norm > 0.0;
        if inputs[0] != TensorDesc::f32(&[1]) || !positive {
            return Err(OpError::new("clip_factor", inputs, "needs a scalar and a positive max_norm"));
        }
        Ok(inputs.to_vec())
    }

    fn lower(&self, _: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        Lowered::one(
            Dispatch::new(KernelKey::new("optimizer/clip_factor.wgsl"))
                .bind("sum_of_squares", Slot::Input(0))
                .bind("factor", Slot::Output(0))
                // The largest finite float stands for infinity, which WGSL need not support.
                .params(Params::new().f32("max_norm", self.max_norm.min(f32::MAX))),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let sum = inputs[0].data[0];
        let factor =
            if sum.is_finite() { (self.max_norm as f64 / (sum.sqrt() + 1e-6)).min(1.0) } else { 0.0 };
        vec![HostTensor::new(inputs[0].desc.clone(), vec![factor])]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(2)
    }
}

/// `ema`: inputs a moving average and a parameter of one shape; output the average, in place:
/// `decay` * average + (1 - `decay`) * param.
#[derive(Debug, Clone)]
pub struct Ema {
    /// Weight of the old average, in [0, 1].
    pub decay: f64,
}

/// Registry entry of [`Ema`].
pub static EMA: OpDef = OpDef {
    name: "ema",
    summary: "exponential moving average of a parameter, in place",
    shaders: &["optimizer/ema.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize]| {
            let desc = TensorDesc::f32(shape);
            let inputs = vec![(desc.clone(), Fill::Normal(1.0)), (desc, Fill::Normal(1.0))];
            Case::new(name, Ema { decay: 0.99 }, inputs)
        };
        vec![
            case("odd", &[5, 3, 3, 3, 7]),
            case("fours", &[5, 4, 3, 3, 3]),
            case("256 to 256 convolution", &[256, 256, 3, 3, 3]).bench_only(),
        ]
    },
};

impl Operator for Ema {
    fn name(&self) -> &'static str {
        "ema"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("ema", inputs, 2)?;
        if inputs[0] != inputs[1] {
            return Err(OpError::new("ema", inputs, "shapes differ"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].len())
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let n = inputs[0].len() / stored.elements();
        Lowered::one(
            Dispatch::new(stored.kernel("optimizer/ema.wgsl", &inputs[0], caps))
                .bind("average", Slot::Output(0))
                .bind("param", Slot::Input(1))
                .params(
                    Params::new()
                        .u32("n", n)
                        .f32("decay", self.decay as f32)
                        .f32("one_minus_decay", (1.0 - self.decay) as f32),
                )
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let decay = self.decay;
        let data = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, p)| decay * a + (1.0 - decay) * p);
        vec![HostTensor::new(inputs[0].desc.clone(), data.collect())]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 3.0 * n, bytes: 12.0 * n }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(2)
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}
