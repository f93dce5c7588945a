//! Batch, instance and group normalisation: one family, which differs only in the set of elements that
//! share a mean and a variance. Statistics, application, backward, and the running statistics of batch
//! normalisation.
//!
//! Every kernel sees a tensor `[N, C, D, H, W]` as `N * C` rows of `D * H * W` contiguous voxels, and a
//! group as a set of rows (`Layout`).

use super::activation_kind::Activation;
use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId,
    batch_pieces, element_kernel, expect_inputs, expect_ncdhw, sample_range,
};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// Which elements share a mean and a variance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Per channel, over the batch and space (Ioffe and Szegedy 2015). Statistics are `[C]`.
    Batch,
    /// Per sample and channel, over space (Ulyanov et al. 2016). Statistics are `[N, C]`.
    Instance,
    /// Per sample and group of neighbouring channels (Wu and He 2018). Statistics are `[N, groups]`.
    Group {
        /// Number of groups; divides the number of channels.
        groups: usize,
    },
}

/// Invocations in a workgroup of the row kernels.
const LANES: usize = 256;
/// Elements that a workgroup of a reduction takes: 32 an invocation amortise the two barriers, and a
/// 32-channel grid of 48 x 64 x 64 still fills a large GPU.
const REDUCE_CHUNK: usize = 8192;
/// Elements that a workgroup of a pointwise kernel takes.
const POINT_CHUNK: usize = 4096;

/// Rows (one channel of one sample) and how they form groups: group g consists of the rows
/// `g * first_row + k * row_step` for `k < rows_per_group`, and row r belongs to group
/// `r / row_div % groups`.
struct Layout {
    batch: usize,
    channels: usize,
    voxels: usize,
    groups: usize,
    rows_per_group: usize,
    first_row: usize,
    row_step: usize,
    row_div: usize,
}

impl Layout {
    fn new(kind: NormKind, x: &TensorDesc) -> Self {
        let [batch, channels, ..] = x.ncdhw().expect("infer accepted N C D H W");
        let (groups, rows_per_group, first_row, row_step, row_div) = match kind {
            NormKind::Batch => (channels, batch, 1, channels, 1),
            NormKind::Instance => (batch * channels, 1, 1, 1, 1),
            NormKind::Group { groups } => {
                let size = channels / groups;
                (batch * groups, size, size, 1, size)
            }
        };
        Self { batch, channels, voxels: x.voxels(), groups, rows_per_group, first_row, row_step, row_div }
    }

    fn rows(&self) -> usize {
        self.batch * self.channels
    }

    /// Elements of a group.
    fn elements(&self) -> usize {
        self.rows_per_group * self.voxels
    }

    fn group_of(&self, row: usize) -> usize {
        row / self.row_div % self.groups
    }

    /// Parameters that tell a kernel which chunk of which row a workgroup takes, for `samples` samples
    /// from `first_sample` on.
    fn chunk_params(&self, samples: usize, first_sample: usize, chunk: usize) -> Params {
        Params::new()
            .u32("n_rows", samples * self.channels)
            .u32("row0", first_sample * self.channels)
            .u32("voxels", self.voxels)
            .u32("chunk", chunk)
            .u32("n_chunks", self.voxels.div_ceil(chunk))
    }

    /// As [`Layout::chunk_params`], and what a kernel needs to find the channel and the group of a row.
    fn row_params(&self, samples: usize, first_sample: usize, chunk: usize) -> Params {
        self.chunk_params(samples, first_sample, chunk)
            .u32("channels", self.channels)
            .u32("row_div", self.row_div)
            .u32("n_groups", self.groups)
    }

    /// Invocations that take every chunk of every row of `samples` samples.
    fn invocations(&self, samples: usize, chunk: usize) -> usize {
        samples * self.channels * self.voxels.div_ceil(chunk) * LANES
    }

    /// Bytes of the partial sums of a reduction: one pair a chunk.
    fn parts_bytes(&self) -> u64 {
        (self.rows() * self.voxels.div_ceil(REDUCE_CHUNK) * 8) as u64
    }
}

/// Shape of the mean and of the inverse standard deviation.
fn stats_desc(kind: NormKind, [batch, channels, ..]: [usize; 5]) -> TensorDesc {
    match kind {
        NormKind::Batch => TensorDesc::f32(&[channels]),
        NormKind::Instance => TensorDesc::f32(&[batch, channels]),
        NormKind::Group { groups } => TensorDesc::f32(&[batch, groups]),
    }
}

fn check_groups(
    name: &'static str,
    inputs: &[TensorDesc],
    kind: NormKind,
    channels: usize,
) -> Result<(), OpError> {
    match kind {
        NormKind::Group { groups } if !channels.is_multiple_of(groups) => {
            Err(OpError::new(name, inputs, format!("{channels} channels do not split into {groups} groups")))
        }
        _ => Ok(()),
    }
}

/// Refuses an input of another description than `want`.
fn expect_desc(
    name: &'static str,
    inputs: &[TensorDesc],
    ix: usize,
    want: &TensorDesc,
) -> Result<(), OpError> {
    if inputs[ix] == *want {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("input {ix} must be {want:?}")))
    }
}

/// Launches of y = activation((x - mean) * inv_std * gamma + beta); `variance_eps` says that `spread` is
/// a variance instead of the inverse standard deviation.
#[expect(clippy::too_many_arguments, reason = "one tensor each, named at both call sites")]
fn push_apply(
    lowered: &mut Lowered,
    layout: &Layout,
    x_desc: &TensorDesc,
    caps: &Caps,
    mean: Slot,
    spread: Slot,
    variance_eps: Option<f32>,
    activation: Activation,
) {
    let kernel =
        element_kernel("norm/apply.wgsl", x_desc).define("FROM_VARIANCE", variance_eps.is_some().into());
    for piece in batch_pieces(&[x_desc], caps) {
        let params = layout.row_params(piece.len(), piece.start, POINT_CHUNK);
        lowered.push(
            Dispatch::new(kernel.clone())
                .bind_range("x", Slot::Input(0), sample_range(x_desc, &piece))
                .bind("gamma", Slot::Input(1))
                .bind("beta", Slot::Input(2))
                .bind("mean", mean)
                .bind("spread", spread)
                .bind_range("y", Slot::Output(0), sample_range(x_desc, &piece))
                .params(activation.params(params.f32("eps", variance_eps.unwrap_or(0.0))))
                .flat(layout.invocations(piece.len(), POINT_CHUNK), LANES),
        );
    }
}

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

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let layout = Layout::new(self.kind, &inputs[0]);
        let (mean, inv_std) = (Slot::Output(1), Slot::Output(2));
        let mut lowered = Lowered::default();
        let parts = lowered.scratch(layout.parts_bytes());
        for piece in batch_pieces(&[&inputs[0]], caps) {
            lowered.push(
                Dispatch::new(element_kernel("norm/stats_partial.wgsl", &inputs[0]))
                    .bind_range("x", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind("parts", parts)
                    .params(layout.chunk_params(piece.len(), piece.start, REDUCE_CHUNK))
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
        push_apply(&mut lowered, &layout, &inputs[0], caps, mean, inv_std, None, self.activation);
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
const GRAD_CASES: [(&str, NormKind, Activation, [usize; 5], bool); 7] = [
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
fn grad_dispatch(path: &'static str, x: &TensorDesc, piece: &std::ops::Range<usize>) -> Dispatch {
    Dispatch::new(KernelKey::new(path))
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

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let layout = Layout::new(self.kind, &inputs[0]);
        let mut lowered = Lowered::default();
        let parts = lowered.scratch(layout.parts_bytes());
        let rows = lowered.scratch(layout.rows() as u64 * 8);
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let params = layout.row_params(piece.len(), piece.start, REDUCE_CHUNK);
            lowered.push(
                grad_dispatch("norm/grad_partial.wgsl", &inputs[0], &piece)
                    .bind("parts", parts)
                    .params(self.activation.params(params))
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

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let layout = Layout::new(self.kind, &inputs[0]);
        let inv_m = (1.0 / layout.elements() as f64) as f32;
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let params = layout.row_params(piece.len(), piece.start, POINT_CHUNK).f32("inv_m", inv_m);
            lowered.push(
                grad_dispatch("norm/grad_input.wgsl", &inputs[0], &piece)
                    .bind("sums", Slot::Input(6))
                    .bind_range("dx", Slot::Output(0), sample_range(&inputs[0], &piece))
                    .params(self.activation.params(params))
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

/// `batch_norm_update`: running = (1 - momentum) * running + momentum * new, in place, with the batch's
/// biased variance recovered as 1 / inv_std^2 - eps.
///
/// Inputs: running_mean, running_var (overwritten), and mean, inv_std of [`Norm`] with
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

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let layout = Layout::new(NormKind::Batch, &inputs[0]);
        let (mean, variance) = (Slot::Input(3), Slot::Input(4));
        let mut lowered = Lowered::default();
        let eps = Some(self.eps);
        push_apply(&mut lowered, &layout, &inputs[0], caps, mean, variance, eps, self.activation);
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
