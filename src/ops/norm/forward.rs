//! Normalisation by the statistics of its own input: `batch_norm`, `instance_norm` and `group_norm`.

use super::backward::{NormGradInput, NormGradReduce};
use super::layout::*;
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::activation::Activation;
use crate::ops::{
    Case, Cost, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, Stored, ValueId,
    batch_pieces, expect_inputs, expect_ncdhw, sample_range,
};
use crate::tensor::{HostTensor, TensorDesc};

/// `batch_norm`, `instance_norm` or `group_norm` by its kind, with the statistics of its own input:
/// y = activation((x - mean) * inv_std * gamma + beta), inv_std = 1 / sqrt(variance + eps), the variance
/// biased.
///
/// Inputs: x `[N, C, D, H, W]`, gamma `[C]`, beta `[C]`. Outputs: y as x, mean and inv_std of the shape
/// that the kind says. Gradients flow through y alone.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Which elements share statistics.
    pub kind: NormKind,
    /// Added to the variance: 1e-3 in Keras' batch normalisation, 1e-5 in PyTorch.
    pub eps: f32,
    /// Applied last.
    pub activation: Activation,
}

/// A tensor whose mean is far above its spread: sums of squares in single precision lose its variance.
const OFFSET: Fill = Fill::Uniform(100.0, 101.0);

fn norm_cases(norms: &[Norm]) -> Vec<Case> {
    let case = |name: &str, op: &Norm, shape: [usize; 5], fill: Fill| {
        let channels = TensorDesc::f32(&[shape[1]]);
        let inputs = vec![
            (TensorDesc::f32(&shape), fill),
            (channels.clone(), Fill::Normal(1.0)),
            (channels, Fill::Normal(1.0)),
        ];
        Case::new(&format!("{name} {:?} {:?}", op.kind, op.activation), op.clone(), inputs)
    };
    let mut cases = Vec::new();
    for norm in norms {
        cases.push(
            case("odd, batch of 2", norm, [2, 6, 3, 5, 7], Fill::Normal(1.0)).differentiable(&[0, 1, 2]),
        );
        cases.push(case("mean far above spread", norm, [2, 6, 5, 9, 11], OFFSET));
    }
    let norm = &norms[0];
    cases.push(case("several chunks a row", norm, [2, 2, 17, 31, 33], Fill::Normal(2.0)));
    cases.push(case("fours", norm, [2, 6, 3, 5, 12], Fill::Normal(1.0)));
    cases.push(case("fours, several chunks a row", norm, [2, 2, 17, 31, 36], OFFSET));
    cases.push(case("in place", norm, [2, 6, 3, 5, 7], Fill::Normal(1.0)).in_place());
    cases.push(case("fours in place", norm, [2, 6, 3, 5, 12], Fill::Normal(1.0)).in_place());
    cases.push(case("axes of extent 1", norm, [3, 2, 1, 1, 9], Fill::Normal(1.0)).differentiable(&[0, 1, 2]));
    cases.push(case("large", norm, [1, 16, 96, 128, 160], Fill::Normal(1.0)).bench_only());
    cases.push(case("deep", norm, [1, 32, 48, 64, 64], Fill::Normal(1.0)).bench_only());
    cases
}

const NORM_SHADERS: &[&str] = &["norm/stats_partial.wgsl", "norm/stats_finish.wgsl", "norm/apply.wgsl"];

/// Registry entry of [`Norm`] with [`NormKind::Batch`].
pub static BATCH_NORM: OpDef = OpDef {
    name: "batch_norm",
    summary: "normalisation by the batch's statistics per channel, affine, activation",
    shaders: NORM_SHADERS,
    cases: || {
        let norm = |activation| Norm { kind: NormKind::Batch, eps: 1e-3, activation };
        norm_cases(&[norm(Activation::None), norm(Activation::Relu)])
    },
};

/// Registry entry of [`Norm`] with [`NormKind::Instance`].
pub static INSTANCE_NORM: OpDef = OpDef {
    name: "instance_norm",
    summary: "normalisation per sample and channel, affine, activation",
    shaders: NORM_SHADERS,
    cases: || {
        let norm = |activation| Norm { kind: NormKind::Instance, eps: 1e-5, activation };
        norm_cases(&[norm(Activation::LeakyRelu(0.01)), norm(Activation::None)])
    },
};

/// Registry entry of [`Norm`] with [`NormKind::Group`].
pub static GROUP_NORM: OpDef = OpDef {
    name: "group_norm",
    summary: "normalisation per sample and group of channels, affine, activation",
    shaders: NORM_SHADERS,
    cases: || {
        let norm = |groups, activation| Norm { kind: NormKind::Group { groups }, eps: 1e-5, activation };
        norm_cases(&[
            norm(2, Activation::Relu),
            norm(1, Activation::None),
            norm(3, Activation::LeakyRelu(0.2)),
        ])
    },
};

impl Operator for Norm {
    fn name(&self) -> &'static str {
        match self.kind {
            NormKind::Batch => "batch_norm",
            NormKind::Instance => "instance_norm",
            NormKind::Group { .. } => "group_norm",
        }
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let name = self.name();
        expect_inputs(name, inputs, 3)?;
        let shape = expect_ncdhw(name, inputs, 0)?;
        check_groups(name, inputs, self.kind, shape[1])?;
        for ix in 1..3 {
            expect_desc(name, inputs, ix, &TensorDesc::f32(&[shape[1]]))?;
        }
        let stats = stats_desc(self.kind, shape);
        Ok(vec![inputs[0].clone(), stats.clone(), stats])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].voxels())
    }

    fn takes_place(&self) -> bool {
        true
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let layout = Layout::new(self.kind, &inputs[0]);
        let (mean, inv_std) = (Slot::Output(1), Slot::Output(2));
        let mut lowered = Lowered::default();
        let parts = lowered.scratch(layout.parts_bytes());
        for piece in batch_pieces(&[&inputs[0]], caps) {
            lowered.push(
                Dispatch::new(stored.kernel("norm/stats_partial.wgsl", &inputs[0], caps))
                    .bind_range("x", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind("parts", parts)
                    .params(layout.chunk_params(piece.len(), piece.start, REDUCE_CHUNK, stored))
                    .flat(layout.invocations(piece.len(), REDUCE_CHUNK), LANES),
            );
        }
        lowered.push(
            Dispatch::new(KernelKey::new("norm/stats_finish.wgsl"))
                .bind("parts", parts)
                .bind("mean", mean)
                .bind("inv_std", inv_std)
                .params(
                    Params::new()
                        .u32("n_groups", layout.groups)
                        .u32("rows_per_group", layout.rows_per_group)
                        .u32("first_row", layout.first_row)
                        .u32("row_step", layout.row_step)
                        .u32("voxels", layout.voxels)
                        .u32("chunk", REDUCE_CHUNK)
                        .u32("n_chunks", layout.voxels.div_ceil(REDUCE_CHUNK))
                        .f32("eps", self.eps),
                )
                .flat(layout.groups * LANES, LANES),
        );
        push_apply(&mut lowered, &layout, &inputs[0], caps, mean, inv_std, None, self.activation, stored);
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None; 3]) };
        let mut inputs = vec![io.inputs[0], dy, io.inputs[1], io.inputs[2], io.outputs[1], io.outputs[2]];
        let reduce = NormGradReduce { kind: self.kind, activation: self.activation };
        let [dgamma, dbeta, sums] = graph.apply(Box::new(reduce), &inputs)?[..] else {
            unreachable!("norm_grad_reduce has three outputs")
        };
        let dx = if io.needs[0] {
            inputs.push(sums);
            let grad = NormGradInput { kind: self.kind, activation: self.activation };
            Some(graph.apply(Box::new(grad), &inputs)?[0])
        } else {
            None
        };
        Ok(vec![dx, Some(dgamma), Some(dbeta)])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (x, gamma, beta) = (inputs[0], &inputs[1].data, &inputs[2].data);
        let layout = Layout::new(self.kind, &x.desc);
        let stats = stats_desc(self.kind, x.desc.ncdhw().expect("infer accepted N C D H W"));
        let mut mean = HostTensor::zeros(stats.clone());
        let mut inv_std = HostTensor::zeros(stats);
        let mut members: Vec<Vec<f64>> = vec![Vec::new(); layout.groups];
        for (row, values) in x.data.chunks(layout.voxels).enumerate() {
            members[layout.group_of(row)].extend(values);
        }
        for (g, values) in members.iter().enumerate() {
            let m = values.len() as f64;
            mean.data[g] = values.iter().sum::<f64>() / m;
            let variance = values.iter().map(|v| (v - mean.data[g]).powi(2)).sum::<f64>() / m;
            inv_std.data[g] = 1.0 / (variance + f64::from(self.eps)).sqrt();
        }
        let mut y = x.clone();
        for (row, values) in y.data.chunks_mut(layout.voxels).enumerate() {
            let (g, c) = (layout.group_of(row), row % layout.channels);
            for v in values {
                let xhat = (*v - mean.data[g]) * inv_std.data[g];
                *v = self.activation.apply(xhat * gamma[c] + beta[c]);
            }
        }
        vec![y, mean, inv_std]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        // The statistics depend on every element, so a tensor larger than the caches is read twice.
        Cost { flops: 9.0 * n, bytes: 3.0 * inputs[0].bytes() as f64 }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(Layout::new(self.kind, &inputs[0]).elements())
    }
}
