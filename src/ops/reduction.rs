//! Sums in a fixed order: the second stages that deterministic reductions share, and `sum_channels`.

use super::{
    Case, FLAT, Fill, OpDef, OpError, Operator, Precision, batch_pieces, expect_inputs, expect_ncdhw,
    sample_range,
};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// Elements that one workgroup of a first stage sums. With 64 invocations no chain of f32 additions is
/// longer than 64 terms, so sums over millions of voxels keep six digits.
pub(super) const CHUNK: usize = 4096;

/// Longest chain of additions in the two stages together, for [`super::Precision`].
pub(super) const CHAIN: usize = 128;

/// File of the kernel of [`sum_rows`].
pub(super) const SUM_ROWS: &str = "reduce/sum_rows.wgsl";

/// Sums `x [rows, terms, lanes]` over the terms into `y [rows, lanes]`, or adds to `y`.
pub(super) fn sum_rows(x: Slot, y: Slot, [rows, terms, lanes]: [usize; 3], accumulate: bool) -> Dispatch {
    Dispatch::new(KernelKey::new(SUM_ROWS).define("ACCUMULATE", u32::from(accumulate)))
        .bind("x", x)
        .bind("y", y)
        .params(Params::new().u32("terms", terms).u32("lanes", lanes))
        .grid([lanes, rows, 1])
}

/// File of the kernel of [`sum_chunks`].
pub(super) const SUM_CHUNKS: &str = "reduce/sum_chunks.wgsl";

/// Sums `sums [chunks, n]` over the chunks into `y [n]`, in their order.
pub(super) fn sum_chunks(sums: Slot, y: Slot, [chunks, n]: [usize; 2]) -> Dispatch {
    Dispatch::new(KernelKey::new(SUM_CHUNKS))
        .bind("sums", sums)
        .bind("y", y)
        .params(Params::new().u32("n", n).u32("chunks", chunks))
        .flat(n, FLAT)
}

const SUM_VOXELS: &str = "reduce/sum_channels.wgsl";

/// `sum_channels`: `y[c] = Σ_{n,v} x[n,c,v]`: the gradient by a bias. Input `[N, C, D, H, W]`, output `[C]`.
#[derive(Debug, Clone)]
pub struct SumChannels;

/// Registry entry of [`SumChannels`].
pub static SUM_CHANNELS: OpDef = OpDef {
    name: "sum_channels",
    summary: "sum over batch and voxels by channel: the gradient by a bias",
    shaders: &[SUM_VOXELS, SUM_CHUNKS],
    cases: || {
        [[2, 5, 3, 6, 9], [1, 1, 1, 1, 1], [3, 2, 17, 13, 11]]
            .into_iter()
            .map(|shape| {
                Case::new(
                    &TensorDesc::f32(&shape).to_string(),
                    SumChannels,
                    vec![(TensorDesc::f32(&shape), Fill::Normal(1.0))],
                )
            })
            .collect()
    },
};

/// Voxels that one invocation of `sum_channels` adds.
const VOXELS_EACH: usize = 256;

impl Operator for SumChannels {
    fn name(&self) -> &'static str {
        "sum_channels"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("sum_channels", inputs, 1)?;
        let shape = expect_ncdhw("sum_channels", inputs, 0)?;
        Ok(vec![TensorDesc::f32(&[shape[1]])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let mut lowered = Lowered::default();
        let x = &inputs[0];
        let (channels, volume) = (x.shape[1], x.voxels());
        let pieces = batch_pieces(&[x], caps);
        let parts = volume.div_ceil(VOXELS_EACH);
        let rows = pieces[0].len() * parts;
        let sums = lowered.scratch((rows * pieces.len() * channels) as u64 * 4);
        for (ix, piece) in pieces.iter().enumerate() {
            lowered.push(
                Dispatch::new(KernelKey::new(SUM_VOXELS))
                    .bind_range("x", Slot::Input(0), sample_range(x, piece))
                    .bind("sums", sums)
                    .params(
                        Params::new()
                            .u32("channels", channels)
                            .u32("volume", volume)
                            .u32("parts", parts)
                            .u32("rows", rows)
                            .u32("first_row", ix * rows),
                    )
                    .flat(rows * channels, FLAT),
            );
        }
        lowered.push(sum_chunks(sums, Slot::Output(0), [rows * pieces.len(), channels]));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let x = inputs[0];
        let mut y = HostTensor::zeros(TensorDesc::f32(&[x.desc.shape[1]]));
        for (ix, value) in x.data.iter().enumerate() {
            y.data[ix / x.desc.voxels() % x.desc.shape[1]] += value;
        }
        vec![y]
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[0].shape[0] * inputs[0].voxels())
    }
}
