//! Rows and groups: what all kernels of the family share.

use crate::gpu::{Caps, Dispatch, Lowered, Params, Slot};
use crate::ops::activation::Activation;
use crate::ops::{OpError, Stored, batch_pieces, sample_range};
use crate::tensor::TensorDesc;

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
pub(super) const LANES: usize = 256;
/// Elements that a workgroup of a reduction takes: 32 an invocation amortise the two barriers, and a
/// 32-channel grid of 48 x 64 x 64 still fills a large GPU.
pub(super) const REDUCE_CHUNK: usize = 8192;
/// Elements that a workgroup of a pointwise kernel takes.
pub(super) const POINT_CHUNK: usize = 4096;

/// Rows (one channel of one sample) and how they form groups: group g consists of the rows
/// `g * first_row + k * row_step` for `k < rows_per_group`, and row r belongs to group
/// `r / row_div % groups`.
pub(super) struct Layout {
    pub batch: usize,
    pub channels: usize,
    pub voxels: usize,
    pub groups: usize,
    pub rows_per_group: usize,
    pub first_row: usize,
    pub row_step: usize,
    pub row_div: usize,
}

impl Layout {
    pub fn new(kind: NormKind, x: &TensorDesc) -> Self {
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

    pub fn rows(&self) -> usize {
        self.batch * self.channels
    }

    /// Elements of a group.
    pub fn elements(&self) -> usize {
        self.rows_per_group * self.voxels
    }

    pub fn group_of(&self, row: usize) -> usize {
        row / self.row_div % self.groups
    }

    /// Parameters that tell a kernel which chunk of which row a workgroup takes, for `samples` samples
    /// from `first_sample` on. The kernel counts in `stored`.
    pub fn chunk_params(&self, samples: usize, first_sample: usize, chunk: usize, stored: Stored) -> Params {
        Params::new()
            .u32("n_rows", samples * self.channels)
            .u32("row0", first_sample * self.channels)
            .u32("voxels", self.voxels / stored.elements())
            .u32("chunk", chunk / stored.elements())
            .u32("n_chunks", self.voxels.div_ceil(chunk))
    }

    /// As [`Layout::chunk_params`], and what a kernel needs to find the channel and the group of a row.
    pub fn row_params(&self, samples: usize, first_sample: usize, chunk: usize, stored: Stored) -> Params {
        self.chunk_params(samples, first_sample, chunk, stored)
            .u32("channels", self.channels)
            .u32("row_div", self.row_div)
            .u32("n_groups", self.groups)
    }

    /// Invocations that take every chunk of every row of `samples` samples.
    pub fn invocations(&self, samples: usize, chunk: usize) -> usize {
        samples * self.channels * self.voxels.div_ceil(chunk) * LANES
    }

    /// Bytes of the partial sums of a reduction: one pair a chunk.
    pub fn parts_bytes(&self) -> u64 {
        (self.rows() * self.voxels.div_ceil(REDUCE_CHUNK) * 8) as u64
    }
}

/// Shape of the mean and of the inverse standard deviation.
pub(super) fn stats_desc(kind: NormKind, [batch, channels, ..]: [usize; 5]) -> TensorDesc {
    match kind {
        NormKind::Batch => TensorDesc::f32(&[channels]),
        NormKind::Instance => TensorDesc::f32(&[batch, channels]),
        NormKind::Group { groups } => TensorDesc::f32(&[batch, groups]),
    }
}

/// Refuses channels that do not split into groups.
pub(super) fn check_groups(
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
pub(super) fn expect_desc(
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
pub(super) fn push_apply(
    lowered: &mut Lowered,
    layout: &Layout,
    x_desc: &TensorDesc,
    caps: &Caps,
    mean: Slot,
    spread: Slot,
    variance_eps: Option<f32>,
    activation: Activation,
    stored: Stored,
) {
    let kernel =
        stored.kernel("norm/apply.wgsl", x_desc, caps).define("FROM_VARIANCE", variance_eps.is_some().into());
    for piece in batch_pieces(&[x_desc], caps) {
        let params = layout.row_params(piece.len(), piece.start, POINT_CHUNK, stored);
        lowered.push(
            Dispatch::new(kernel.clone())
                .bind_range("x", Slot::Input(0), sample_range(x_desc, &piece))
                .bind("gamma", Slot::Input(1))
                .bind("beta", Slot::Input(2))
                .bind("mean", mean)
                .bind("spread", spread)
                .bind_range("y", Slot::Output(0), sample_range(x_desc, &piece))
                .params(
                    params.f32("eps", variance_eps.unwrap_or(0.0)).f32("slope", activation.negative_slope()),
                )
                .flat(layout.invocations(piece.len(), POINT_CHUNK), LANES),
        );
    }
}
