//! Running statistics of batch normalisation: their update, and normalisation by them.

use super::layout::*;
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::activation::Activation;
use crate::ops::{
    Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, Stored, expect_inputs, expect_ncdhw,
};
use crate::tensor::{HostTensor, TensorDesc};

/// `batch_norm_update`: running = (1 - momentum) * running + momentum * new, in place, with the batch's
/// biased variance recovered as 1 / inv_std^2 - eps.
///
/// Inputs: running_mean, running_var (overwritten), and mean, inv_std of [`Norm`](super::Norm) with
/// [`NormKind::Batch`]; all `[C]`. Outputs: running_mean, running_var.
#[derive(Debug, Clone)]
pub struct BatchNormUpdate {
    /// Weight of the new statistics: 0.01 in Keras (which calls 0.99 the momentum), 0.1 in PyTorch.
    pub momentum: f32,
    /// The forward's eps.
    pub eps: f32,
}

/// Registry entry of [`BatchNormUpdate`].
pub static BATCH_NORM_UPDATE: OpDef = OpDef {
    name: "batch_norm_update",
    summary: "running statistics of batch normalisation, in place",
    shaders: &["norm/batch_norm_update.wgsl"],
    cases: || {
        let channels = TensorDesc::f32(&[67]);
        let inputs = vec![
            (channels.clone(), Fill::Normal(1.0)),
            (channels.clone(), Fill::Uniform(0.5, 2.0)),
            (channels.clone(), Fill::Normal(1.0)),
            (channels, Fill::Uniform(0.5, 2.0)),
        ];
        let mut overflowed = inputs.clone();
        overflowed[2].1 = Fill::Values(&[0.5, f32::NAN, -1.0, f32::INFINITY]);
        overflowed[3].1 = Fill::Values(&[0.5, 1.5, f32::NAN, 2.0, 0.0]);
        let op = || BatchNormUpdate { momentum: 0.01, eps: 1e-3 };
        vec![Case::new("odd", op(), inputs), Case::new("statistics that are not finite", op(), overflowed)]
    },
};

impl Operator for BatchNormUpdate {
    fn name(&self) -> &'static str {
        "batch_norm_update"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 4)?;
        for ix in 0..4 {
            expect_desc(self.name(), inputs, ix, &TensorDesc::f32(&[inputs[0].len()]))?;
        }
        Ok(inputs[..2].to_vec())
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new("norm/batch_norm_update.wgsl"))
                .bind("running_mean", Slot::Output(0))
                .bind("running_var", Slot::Output(1))
                .bind("mean", Slot::Input(2))
                .bind("inv_std", Slot::Input(3))
                .params(Params::new().u32("n", n).f32("momentum", self.momentum).f32("eps", self.eps))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (momentum, eps) = (f64::from(self.momentum), f64::from(self.eps));
        let variance =
            inputs[3].data.iter().map(|s| if s.is_nan() { *s } else { (1.0 / (s * s) - eps).max(0.0) });
        let new: Vec<(f64, f64)> = inputs[2].data.iter().copied().zip(variance).collect();
        let blend = |running: &HostTensor, pick: fn(&(f64, f64)) -> f64| {
            let data = running.data.iter().zip(&new).map(|(old, new)| {
                match new.0.is_finite() && new.1.is_finite() {
                    true => (1.0 - momentum) * old + momentum * pick(new),
                    false => *old,
                }
            });
            HostTensor::new(running.desc.clone(), data.collect())
        };
        vec![blend(inputs[0], |new| new.0), blend(inputs[1], |new| new.1)]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1)]
    }
}

/// `batch_norm_inference`: y = activation((x - running_mean) / sqrt(running_var + eps) * gamma + beta),
/// for graphs that do not fold it into a convolution. It has no backward.
///
/// Inputs: x `[N, C, D, H, W]`, gamma, beta, running_mean, running_var `[C]`. Output: y as x.
#[derive(Debug, Clone)]
pub struct BatchNormInference {
    /// Added to the variance.
    pub eps: f32,
    /// Applied last.
    pub activation: Activation,
}

/// Registry entry of [`BatchNormInference`].
pub static BATCH_NORM_INFERENCE: OpDef = OpDef {
    name: "batch_norm_inference",
    summary: "batch normalisation by running statistics, affine, activation",
    shaders: &["norm/apply.wgsl"],
    cases: || {
        let inputs = |shape: [usize; 5]| {
            let channels = TensorDesc::f32(&[shape[1]]);
            vec![
                (TensorDesc::f32(&shape), Fill::Normal(1.0)),
                (channels.clone(), Fill::Normal(1.0)),
                (channels.clone(), Fill::Normal(1.0)),
                (channels.clone(), Fill::Normal(1.0)),
                (channels, Fill::Uniform(0.5, 2.0)),
            ]
        };
        let op = |activation| BatchNormInference { eps: 1e-3, activation };
        vec![
            Case::new("odd, batch of 2", op(Activation::None), inputs([2, 3, 3, 5, 7])),
            Case::new("ReLU, several chunks", op(Activation::Relu), inputs([1, 2, 17, 31, 33])),
            Case::new("fours", op(Activation::LeakyRelu(0.1)), inputs([2, 3, 3, 4, 7])),
            Case::new("axes of extent 1", op(Activation::LeakyRelu(0.1)), inputs([3, 4, 1, 1, 1])),
            Case::new("large", op(Activation::Relu), inputs([1, 16, 96, 128, 160])).bench_only(),
        ]
    },
};

impl Operator for BatchNormInference {
    fn name(&self) -> &'static str {
        "batch_norm_inference"
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 5)?;
        let shape = expect_ncdhw(self.name(), inputs, 0)?;
        for ix in 1..5 {
            expect_desc(self.name(), inputs, ix, &TensorDesc::f32(&[shape[1]]))?;
        }
        Ok(vec![inputs[0].clone()])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].voxels())
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let layout = Layout::new(NormKind::Batch, &inputs[0]);
        let (mean, variance) = (Slot::Input(3), Slot::Input(4));
        let mut lowered = Lowered::default();
        let eps = Some(self.eps);
        let stored = Stored::of(variant);
        push_apply(&mut lowered, &layout, &inputs[0], caps, mean, variance, eps, self.activation, stored);
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [x, gamma, beta, mean, variance] = [0, 1, 2, 3, 4].map(|ix| &inputs[ix].data);
        let layout = Layout::new(NormKind::Batch, &inputs[0].desc);
        let y = x.iter().enumerate().map(|(i, x)| {
            let c = i / layout.voxels % layout.channels;
            let xhat = (x - mean[c]) / (variance[c] + f64::from(self.eps)).sqrt();
            self.activation.apply(xhat * gamma[c] + beta[c])
        });
        vec![HostTensor::new(inputs[0].desc.clone(), y.collect())]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 4.0 * n, bytes: 2.0 * inputs[0].bytes() as f64 }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // The sum of beta and a product of three factors.
        Precision::sum_of(4)
    }
}
