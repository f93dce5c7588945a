//! Joining and cutting tensors along the channels. Networks prefer kernels that bind both inputs of a
//! skip connection; these are for graphs without such a kernel.

use std::ops::Range;

use super::constant::Constant;
use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Stored, ValueId, batch_pieces,
    expect_inputs, expect_ncdhw, sample_range,
};
use crate::gpu::{Caps, Dispatch, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

const COPY_CHANNELS: &str = "concat/copy_channels.wgsl";

/// Channels `begin..begin + count` of one side of a copy.
struct Side<'a> {
    slot: Slot,
    desc: &'a TensorDesc,
    begin: usize,
}

/// Copies `count` channels of every sample.
fn copy_channels(
    from: &Side<'_>,
    to: &Side<'_>,
    count: usize,
    piece: &Range<usize>,
    stored: Stored,
    caps: &Caps,
) -> Dispatch {
    let voxels = from.desc.voxels() / stored.elements();
    let block = count * voxels;
    let n = piece.len() * block;
    Dispatch::new(stored.kernel(COPY_CHANNELS, from.desc, caps))
        .bind_range("x", from.slot, sample_range(from.desc, piece))
        .bind_range("y", to.slot, sample_range(to.desc, piece))
        .params(
            Params::new()
                .u32("n", n)
                .u32("block", block)
                .u32("x_begin", from.begin * voxels)
                .u32("x_stride", from.desc.shape[1] * voxels)
                .u32("y_begin", to.begin * voxels)
                .u32("y_stride", to.desc.shape[1] * voxels),
        )
        .flat(n, FLAT)
}

/// `concat`: inputs `[N, C_k, D, H, W]`, two or more; output `[N, sum of C_k, D, H, W]`.
#[derive(Debug, Clone)]
pub struct Concat;

/// Registry entry of [`Concat`].
pub static CONCAT: OpDef = OpDef {
    name: "concat",
    summary: "joins tensors along the channels",
    shaders: &[COPY_CHANNELS],
    cases: || {
        let case = |name: &str, batch: usize, channels: &[usize], grid: [usize; 3]| {
            let desc = |&c: &usize| TensorDesc::f32(&[batch, c, grid[0], grid[1], grid[2]]);
            let inputs = channels.iter().map(|c| (desc(c), Fill::Normal(1.0))).collect();
            let all: Vec<usize> = (0..channels.len()).collect();
            Case::new(name, Concat, inputs).differentiable(&all)
        };
        vec![
            case("odd", 2, &[3, 2], [5, 7, 9]),
            case("fours", 2, &[3, 2], [5, 7, 8]),
            case("three of one voxel", 3, &[1, 4, 2], [1, 1, 1]),
            case("skip at 2 mm", 1, &[16, 8], [96, 128, 80]).bench_only(),
        ]
    },
};

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        if inputs.len() < 2 {
            return Err(OpError::new("concat", inputs, "expects two inputs or more"));
        }
        let mut shape = expect_ncdhw("concat", inputs, 0)?;
        shape[1] = 0;
        for ix in 0..inputs.len() {
            let [n, c, d, h, w] = expect_ncdhw("concat", inputs, ix)?;
            if [n, d, h, w] != [shape[0], shape[2], shape[3], shape[4]] {
                return Err(OpError::new("concat", inputs, "only the number of channels may differ"));
            }
            shape[1] += c;
        }
        Ok(vec![TensorDesc::f32(&shape)])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].voxels())
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let mut lowered = Lowered::default();
        let mut begin = 0;
        for (ix, desc) in inputs.iter().enumerate() {
            let from = Side { slot: Slot::Input(ix), desc, begin: 0 };
            let to = Side { slot: Slot::Output(0), desc: &outputs[0], begin };
            for piece in batch_pieces(&[desc, &outputs[0]], caps) {
                lowered.push(copy_channels(&from, &to, desc.shape[1], &piece, stored, caps));
            }
            begin += desc.shape[1];
        }
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None; io.inputs.len()]) };
        let mut grads = Vec::with_capacity(io.inputs.len());
        let mut start = 0;
        for (&input, &needed) in io.inputs.iter().zip(io.needs) {
            let count = graph.desc(input).shape[1];
            grads.push(if needed {
                Some(graph.apply(Box::new(SliceChannels { start, count }), &[dy])?[0])
            } else {
                None
            });
            start += count;
        }
        Ok(grads)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        let mut shape = descs[0].shape.clone();
        shape[1] = descs.iter().map(|d| d.shape[1]).sum();
        let mut data = Vec::new();
        for n in 0..shape[0] {
            for input in inputs {
                let sample = input.data.len() / shape[0];
                data.extend_from_slice(&input.data[n * sample..][..sample]);
            }
        }
        vec![HostTensor::new(TensorDesc::f32(&shape), data)]
    }

    fn cost(&self, _: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        Cost { flops: 0.0, bytes: 2.0 * outputs[0].bytes() as f64 }
    }
}

/// `slice_channels`: input `[N, C, D, H, W]`; output its channels `start..start + count`.
#[derive(Debug, Clone)]
pub struct SliceChannels {
    /// First channel.
    pub start: usize,
    /// Number of channels.
    pub count: usize,
}

/// Registry entry of [`SliceChannels`].
pub static SLICE_CHANNELS: OpDef = OpDef {
    name: "slice_channels",
    summary: "a run of channels",
    shaders: &[COPY_CHANNELS],
    cases: || {
        let case = |name: &str, start: usize, count: usize, shape: &[usize]| {
            let inputs = vec![(TensorDesc::f32(shape), Fill::Normal(1.0))];
            Case::new(name, SliceChannels { start, count }, inputs).differentiable(&[0])
        };
        vec![
            case("middle", 1, 2, &[2, 5, 3, 5, 7]),
            case("fours", 1, 2, &[2, 5, 3, 4, 7]),
            case("head", 0, 3, &[2, 4, 1, 2, 3]),
            case("tail", 3, 1, &[3, 4, 1, 1, 1]),
            case("all", 0, 2, &[1, 2, 3, 1, 2]),
            case("half at 2 mm", 8, 8, &[1, 16, 96, 128, 160]).bench_only(),
        ]
    },
};

impl Operator for SliceChannels {
    fn name(&self) -> &'static str {
        "slice_channels"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("slice_channels", inputs, 1)?;
        let [n, c, d, h, w] = expect_ncdhw("slice_channels", inputs, 0)?;
        if self.count == 0 || self.start + self.count > c {
            let range = format!("channels {}..{} do not exist", self.start, self.start + self.count);
            return Err(OpError::new("slice_channels", inputs, range));
        }
        Ok(vec![TensorDesc::f32(&[n, self.count, d, h, w])])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].voxels())
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let mut lowered = Lowered::default();
        let from = Side { slot: Slot::Input(0), desc: &inputs[0], begin: self.start };
        let to = Side { slot: Slot::Output(0), desc: &outputs[0], begin: 0 };
        for piece in batch_pieces(&[&inputs[0], &outputs[0]], caps) {
            lowered.push(copy_channels(&from, &to, self.count, &piece, stored, caps));
        }
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None]) };
        // Zeros before and after the slice.
        let x = graph.desc(io.inputs[0]).clone();
        let mut zeros = |channels: usize| {
            let mut desc = x.clone();
            desc.shape[1] = channels;
            let fill = Constant { desc, value: 0.0 };
            graph.apply(Box::new(fill), &[]).map(|outputs| outputs[0])
        };
        let after = x.shape[1] - self.start - self.count;
        let mut parts = Vec::new();
        if self.start > 0 {
            parts.push(zeros(self.start)?);
        }
        parts.push(dy);
        if after > 0 {
            parts.push(zeros(after)?);
        }
        if parts.len() == 1 {
            return Ok(vec![Some(dy)]);
        }
        Ok(vec![Some(graph.apply(Box::new(Concat), &parts)?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut shape = inputs[0].desc.shape.clone();
        let voxels = inputs[0].desc.voxels();
        let sample = shape[1] * voxels;
        shape[1] = self.count;
        let mut data = Vec::new();
        for sample in inputs[0].data.chunks_exact(sample) {
            data.extend_from_slice(&sample[self.start * voxels..][..self.count * voxels]);
        }
        vec![HostTensor::new(TensorDesc::f32(&shape), data)]
    }

    fn cost(&self, _: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        Cost { flops: 0.0, bytes: 2.0 * outputs[0].bytes() as f64 }
    }
}
