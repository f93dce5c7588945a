//! Gradients of normalisation: `norm_grad_reduce` and `norm_grad_input`.

use super::layout::*;
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::activation::Activation;
use crate::ops::{
    Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, Stored, batch_pieces, expect_inputs,
    expect_ncdhw, sample_range,
};
use crate::tensor::{HostTensor, TensorDesc};

/// `norm_grad_reduce`: the sums that the backward of normalisation needs. With xhat = (x - mean) *
/// inv_std, z = xhat * gamma + beta and dz = dy * activation'(z):
/// dgamma = sum of dz * xhat and dbeta = sum of dz per channel, and for each group the pair of sums of
/// gamma * dz and gamma * dz * xhat.
///
/// Inputs: x, dy `[N, C, D, H, W]`, gamma, beta `[C]`, mean, inv_std (shape by the kind).
/// Outputs: dgamma, dbeta `[C]`, sums `[number of groups, 2]`.
#[derive(Debug, Clone)]
pub struct NormGradReduce {
    /// Which elements share statistics.
    pub kind: NormKind,
    /// The forward's activation.
    pub activation: Activation,
}

/// `norm_grad_input`: gradient of normalisation by its input, dx = inv_std * (gamma * dz - sums.0 / m -
/// xhat * sums.1 / m) with m elements in a group; the other symbols as in [`NormGradReduce`].
///
/// Inputs: those of [`NormGradReduce`], then its output sums `[number of groups, 2]`. Output: dx as x.
#[derive(Debug, Clone)]
pub struct NormGradInput {
    /// Which elements share statistics.
    pub kind: NormKind,
    /// The forward's activation.
    pub activation: Activation,
}

/// Inputs of a gradient case: x, dy, gamma, beta, mean, inv_std.
fn grad_inputs(kind: NormKind, shape: [usize; 5]) -> Vec<(TensorDesc, Fill)> {
    let (x, channels) = (TensorDesc::f32(&shape), TensorDesc::f32(&[shape[1]]));
    let stats = stats_desc(kind, shape);
    vec![
        (x.clone(), Fill::Normal(1.0)),
        (x, Fill::Normal(1.0)),
        (channels.clone(), Fill::Normal(1.0)),
        (channels, Fill::Normal(1.0)),
        (stats.clone(), Fill::Normal(0.5)),
        (stats, Fill::Uniform(0.5, 2.0)),
    ]
}

/// Name, kind, activation, shape and whether it is for timing only, of both gradient operators' cases.
const GRAD_CASES: [(&str, NormKind, Activation, [usize; 5], bool); 9] = [
    ("fours", NormKind::Instance, Activation::LeakyRelu(0.01), [2, 5, 3, 5, 8], false),
    ("fours, several chunks a row", NormKind::Batch, Activation::Relu, [2, 2, 17, 31, 36], false),
    ("batch", NormKind::Batch, Activation::Relu, [3, 4, 3, 5, 7], false),
    ("instance", NormKind::Instance, Activation::LeakyRelu(0.01), [2, 5, 3, 5, 7], false),
    ("group", NormKind::Group { groups: 2 }, Activation::None, [2, 6, 3, 5, 7], false),
    ("several chunks a row", NormKind::Group { groups: 1 }, Activation::Relu, [2, 2, 17, 31, 33], false),
    ("axes of extent 1", NormKind::Batch, Activation::None, [1, 3, 1, 1, 6], false),
    ("large", NormKind::Instance, Activation::LeakyRelu(0.01), [1, 16, 96, 128, 160], true),
    ("deep", NormKind::Batch, Activation::Relu, [1, 32, 48, 64, 64], true),
];

fn grad_case(name: &str, op: impl Operator + 'static, inputs: Vec<(TensorDesc, Fill)>, bench: bool) -> Case {
    let case = Case::new(name, op, inputs);
    if bench { case.bench_only() } else { case }
}

/// Registry entry of [`NormGradReduce`].
pub static NORM_GRAD_REDUCE: OpDef = OpDef {
    name: "norm_grad_reduce",
    summary: "gradient of normalisation by gamma and beta, and the sums of each group",
    shaders: &["norm/grad_partial.wgsl", "norm/grad_rows.wgsl", "norm/grad_finish.wgsl"],
    cases: || {
        let case = |(name, kind, activation, shape, bench): (&str, _, _, _, _)| {
            grad_case(name, NormGradReduce { kind, activation }, grad_inputs(kind, shape), bench)
        };
        GRAD_CASES.into_iter().map(case).collect()
    },
};

/// Registry entry of [`NormGradInput`].
pub static NORM_GRAD_INPUT: OpDef = OpDef {
    name: "norm_grad_input",
    summary: "gradient of normalisation by its input",
    shaders: &["norm/grad_input.wgsl"],
    cases: || {
        let case = |(name, kind, activation, shape, bench): (&str, _, _, _, _)| {
            let mut inputs = grad_inputs(kind, shape);
            let layout = Layout::new(kind, &inputs[0].0);
            // Sums grow with the square root of the number of random terms.
            let spread = (layout.elements() as f32).sqrt();
            inputs.push((TensorDesc::f32(&[layout.groups, 2]), Fill::Normal(spread)));
            grad_case(name, NormGradInput { kind, activation }, inputs, bench)
        };
        GRAD_CASES.into_iter().map(case).collect()
    },
};

/// Checks the six inputs that both gradient operators share; returns the extents of x.
fn check_grad_inputs(
    name: &'static str,
    kind: NormKind,
    inputs: &[TensorDesc],
) -> Result<[usize; 5], OpError> {
    let shape = expect_ncdhw(name, inputs, 0)?;
    check_groups(name, inputs, kind, shape[1])?;
    expect_desc(name, inputs, 1, &inputs[0])?;
    for ix in 2..4 {
        expect_desc(name, inputs, ix, &TensorDesc::f32(&[shape[1]]))?;
    }
    for ix in 4..6 {
        expect_desc(name, inputs, ix, &stats_desc(kind, shape))?;
    }
    Ok(shape)
}

/// Row, xhat and dz of every element, in order of memory.
fn grad_terms<'a>(
    layout: &'a Layout,
    activation: Activation,
    inputs: &'a [&HostTensor],
) -> impl Iterator<Item = (usize, f64, f64)> + 'a {
    let [x, dy, gamma, beta, mean, inv_std] = [0, 1, 2, 3, 4, 5].map(|ix| inputs[ix].data.as_slice());
    x.iter().zip(dy).enumerate().map(move |(i, (x, dy))| {
        let row = i / layout.voxels;
        let (g, c) = (layout.group_of(row), row % layout.channels);
        let xhat = (x - mean[g]) * inv_std[g];
        (row, xhat, dy * activation.derivative(xhat * gamma[c] + beta[c]))
    })
}

/// A launch for `piece` of the batch with the bindings that both gradient kernels share.
fn grad_dispatch(key: KernelKey, x: &TensorDesc, piece: &std::ops::Range<usize>) -> Dispatch {
    Dispatch::new(key)
        .bind_range("x", Slot::Input(0), sample_range(x, piece))
        .bind_range("dy", Slot::Input(1), sample_range(x, piece))
        .bind("gamma", Slot::Input(2))
        .bind("beta", Slot::Input(3))
        .bind("mean", Slot::Input(4))
        .bind("inv_std", Slot::Input(5))
}

impl Operator for NormGradReduce {
    fn name(&self) -> &'static str {
        "norm_grad_reduce"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 6)?;
        let shape = check_grad_inputs(self.name(), self.kind, inputs)?;
        let channels = TensorDesc::f32(&[shape[1]]);
        let groups = Layout::new(self.kind, &inputs[0]).groups;
        Ok(vec![channels.clone(), channels, TensorDesc::f32(&[groups, 2])])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].voxels())
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let layout = Layout::new(self.kind, &inputs[0]);
        let mut lowered = Lowered::default();
        let parts = lowered.scratch(layout.parts_bytes());
        let rows = lowered.scratch(layout.rows() as u64 * 8);
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let params = layout.row_params(piece.len(), piece.start, REDUCE_CHUNK, stored);
            lowered.push(
                grad_dispatch(stored.kernel("norm/grad_partial.wgsl", &inputs[0], caps), &inputs[0], &piece)
                    .bind("parts", parts)
                    .params(params.f32("slope", self.activation.negative_slope()))
                    .flat(layout.invocations(piece.len(), REDUCE_CHUNK), LANES),
            );
        }
        lowered.push(
            Dispatch::new(KernelKey::new("norm/grad_rows.wgsl"))
                .bind("parts", parts)
                .bind("rows", rows)
                .params(
                    Params::new()
                        .u32("n_rows", layout.rows())
                        .u32("n_chunks", layout.voxels.div_ceil(REDUCE_CHUNK)),
                )
                .flat(layout.rows() * LANES, LANES),
        );
        lowered.push(
            Dispatch::new(KernelKey::new("norm/grad_finish.wgsl"))
                .bind("rows", rows)
                .bind("gamma", Slot::Input(2))
                .bind("dgamma", Slot::Output(0))
                .bind("dbeta", Slot::Output(1))
                .bind("sums", Slot::Output(2))
                .params(
                    Params::new()
                        .u32("n_batch", layout.batch)
                        .u32("channels", layout.channels)
                        .u32("n_groups", layout.groups)
                        .u32("rows_per_group", layout.rows_per_group)
                        .u32("first_row", layout.first_row)
                        .u32("row_step", layout.row_step),
                )
                .flat(layout.channels.max(layout.groups), FLAT),
        );
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let layout = Layout::new(self.kind, &inputs[0].desc);
        let gamma = &inputs[2].data;
        let mut dgamma = HostTensor::zeros(inputs[2].desc.clone());
        let mut dbeta = dgamma.clone();
        let mut sums = HostTensor::zeros(TensorDesc::f32(&[layout.groups, 2]));
        for (row, xhat, dz) in grad_terms(&layout, self.activation, inputs) {
            let (g, c) = (layout.group_of(row), row % layout.channels);
            dgamma.data[c] += dz * xhat;
            dbeta.data[c] += dz;
            sums.data[2 * g] += gamma[c] * dz;
            sums.data[2 * g + 1] += gamma[c] * dz * xhat;
        }
        vec![dgamma, dbeta, sums]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 8.0 * n, bytes: 8.0 * n }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        let layout = Layout::new(self.kind, &inputs[0]);
        Precision::sum_of(layout.elements().max(layout.batch * layout.voxels))
    }
}

impl Operator for NormGradInput {
    fn name(&self) -> &'static str {
        "norm_grad_input"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 7)?;
        check_grad_inputs(self.name(), self.kind, inputs)?;
        let groups = Layout::new(self.kind, &inputs[0]).groups;
        expect_desc(self.name(), inputs, 6, &TensorDesc::f32(&[groups, 2]))?;
        Ok(vec![inputs[0].clone()])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].voxels())
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let layout = Layout::new(self.kind, &inputs[0]);
        let inv_m = (1.0 / layout.elements() as f64) as f32;
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let params = layout.row_params(piece.len(), piece.start, POINT_CHUNK, stored).f32("inv_m", inv_m);
            lowered.push(
                grad_dispatch(stored.kernel("norm/grad_input.wgsl", &inputs[0], caps), &inputs[0], &piece)
                    .bind("sums", Slot::Input(6))
                    .bind_range("dx", Slot::Output(0), sample_range(&inputs[0], &piece))
                    .params(params.f32("slope", self.activation.negative_slope()))
                    .flat(layout.invocations(piece.len(), POINT_CHUNK), LANES),
            );
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let layout = Layout::new(self.kind, &inputs[0].desc);
        let (gamma, inv_std, sums) = (&inputs[2].data, &inputs[5].data, &inputs[6].data);
        let m = layout.elements() as f64;
        let dx = grad_terms(&layout, self.activation, inputs)
            .map(|(row, xhat, dz)| {
                let (g, c) = (layout.group_of(row), row % layout.channels);
                inv_std[g] * (gamma[c] * dz - sums[2 * g] / m - xhat * sums[2 * g + 1] / m)
            })
            .collect();
        vec![HostTensor::new(inputs[0].desc.clone(), dx)]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 10.0 * n, bytes: 12.0 * n }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // Three products and their sum.
        Precision::sum_of(4)
    }
}
