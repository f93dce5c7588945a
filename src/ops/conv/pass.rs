//! One pass of a convolution over one input: the names of the kernels, how they read their weights, and what all their
//! launches share.

use super::window::{Window, spatial};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{FLAT, batch_pieces, element_kernel, sample_range};
use crate::tensor::TensorDesc;

pub(super) const NAIVE: &str = "conv3d/naive.wgsl";
pub(super) const DIRECT: &str = "conv3d/direct.wgsl";
pub(super) const DIRECT_X4: &str = "conv3d/direct_x4.wgsl";
pub(super) const LANES: &str = "conv3d/lanes.wgsl";
pub(super) const TILE: &str = "conv3d/tile.wgsl";
pub(super) const GEMM: &str = "conv3d/gemm.wgsl";
pub(super) const SINGLE: &str = "conv3d/single.wgsl";
pub(super) const WINOGRAD_W4: &str = "conv3d/winograd_w4.wgsl";
pub(super) const PACK: &str = "conv3d/pack.wgsl";
pub(super) const COOP: &str = "conv3d/coop.wgsl";
pub(super) const PACK_COOP: &str = "conv3d/pack_coop.wgsl";
pub(super) const PACK_WINOGRAD_W4: &str = "conv3d/pack_winograd_w4.wgsl";
pub(super) const TRANSPOSED: &str = "conv_transpose3d/naive.wgsl";
pub(super) const CELL: &str = "conv_transpose3d/cell.wgsl";
pub(super) const WINOGRAD_MULTIPLY: &str = "conv3d/winograd_multiply.wgsl";
pub(super) const PACK_WINOGRAD_3D: &str = "conv3d/pack_winograd_3d.wgsl";
pub(super) const WINOGRAD_3D_INPUT: &str = "conv3d/winograd_3d_input.wgsl";
pub(super) const WINOGRAD_3D_OUTPUT: &str = "conv3d/winograd_3d_output.wgsl";
pub(super) const PACK_WINOGRAD_HW: &str = "conv3d/pack_winograd_hw.wgsl";
pub(super) const WINOGRAD_HW_INPUT: &str = "conv3d/winograd_hw_input.wgsl";
pub(super) const WINOGRAD_HW_OUTPUT: &str = "conv3d/winograd_hw_output.wgsl";
pub(super) const WINOGRAD_HW_EXPAND: &str = "conv3d/winograd_hw_expand.wgsl";
pub(super) const WINOGRAD_HW_CORRELATE: &str = "conv3d/winograd_hw_correlate.wgsl";
pub(super) const WINOGRAD_HW_WEIGHT: &str = "conv3d/winograd_hw_weight.wgsl";

/// Shape parameters that all convolution kernels share.
pub(super) fn shape_params(c_in: usize, c_out: usize, input: [usize; 3], output: [usize; 3]) -> Params {
    Params::new()
        .u32("c_in", c_in)
        .u32("c_out", c_out)
        .i32("in_d", input[0])
        .i32("in_h", input[1])
        .i32("in_w", input[2])
        .i32("out_d", output[0])
        .i32("out_h", output[1])
        .i32("out_w", output[2])
}

/// Adds the zeros before each axis.
pub(super) fn pad_params(params: Params, pad: [i32; 3]) -> Params {
    params.i32("pad_d", pad[0]).i32("pad_h", pad[1]).i32("pad_w", pad[2])
}

/// Adds stride, dilation and padding.
pub(super) fn window_params(params: Params, window: &Window, pad: [i32; 3]) -> Params {
    let [sd, sh, sw] = window.stride;
    let [dd, dh, dw] = window.dilation;
    pad_params(params, pad)
        .i32("stride_d", sd)
        .i32("stride_h", sh)
        .i32("stride_w", sw)
        .i32("dilation_d", dd)
        .i32("dilation_h", dh)
        .i32("dilation_w", dw)
}

/// How [`pack_with`] reads the weights `[rows, row_channels, taps]`.
pub(crate) struct Packing {
    /// Channels that the convolution writes.
    pub n_out: usize,
    /// Channels that it reads.
    pub n_in: usize,
    /// Extents of the kernel.
    pub kernel: [usize; 3],
    /// Second extent of the weights.
    pub row_channels: usize,
    /// First of the channels along the second extent that take part.
    pub first: usize,
    /// Rows are the channels read (a transposed convolution) instead of those written.
    pub swap: bool,
    /// Reverse the taps.
    pub flip: bool,
}

impl Packing {
    /// Weights packed in tiles of `tile` output channels, `values` for each pair of channels.
    pub(super) fn packed(&self, tile: usize, values: usize) -> TensorDesc {
        TensorDesc::f32(&[self.n_out.next_multiple_of(tile), self.n_in, values])
    }
}

/// Adds a launch that lays the weights out in tiles of `tile` output channels.
pub(crate) fn pack_weights(lowered: &mut Lowered, weight: Slot, packing: &Packing, tile: usize) -> Slot {
    let packed = packing.packed(tile, packing.kernel.iter().product());
    pack_with(lowered, PACK, weight, packing, tile, &packed, 1)
}

/// Adds a launch of the kernel `path` that lays the weights out as `packed`, in tiles of `tile` output channels, `each` values
/// an invocation.
pub(super) fn pack_with(
    lowered: &mut Lowered,
    path: &'static str,
    weight: Slot,
    packing: &Packing,
    tile: usize,
    packed: &TensorDesc,
    each: usize,
) -> Slot {
    let invocations = packed.len() / each;
    let slot = lowered.pass_scratch(PACKED, packed.bytes());
    lowered.push(
        Dispatch::new(element_kernel(path, packed).define("SWAP", packing.swap.into()))
            .bind("weight", weight)
            .bind("packed", slot)
            .params(
                Params::new()
                    .u32("n_out", packing.n_out)
                    .u32("n_in", packing.n_in)
                    .u32("taps", packing.kernel.iter().product())
                    .u32("tile", tile)
                    .u32("row_channels", packing.row_channels)
                    .u32("first", packing.first)
                    .u32("flip", packing.flip.into())
                    .u32("total", invocations),
            )
            .flat(invocations, FLAT),
    );
    slot
}

/// One pass of a convolution kernel over one input tensor, or two.
pub(crate) struct Pass<'a> {
    /// The tensor read and its description.
    pub x: (Slot, &'a TensorDesc),
    /// A second one, whose channels follow; for Winograd's variants, others take a pass for each.
    pub x2: Option<(Slot, &'a TensorDesc)>,
    /// The tensor written and its description.
    pub y: (Slot, &'a TensorDesc),
    /// The weights and how they are read.
    pub weight: (Slot, Packing),
    /// Bias by output channel.
    pub bias: Option<Slot>,
    /// Stride and dilation.
    pub window: Window,
    /// Zeros before each axis; negative crops.
    pub pad: [i32; 3],
    /// Slope below zero of the activation: 1 none, 0 ReLU.
    pub negative_slope: f32,
    /// Add to what `y` holds.
    pub accumulate: bool,
}

impl Pass<'_> {
    /// The kernel in `path`, which writes its output by `lib/conv_output.wgsl`.
    pub(super) fn kernel(&self, path: &'static str) -> KernelKey {
        element_kernel(path, self.y.1)
            .define("BIAS", self.bias.is_some().into())
            .define("ACCUMULATE", self.accumulate.into())
    }

    /// Binds the bias, where there is one.
    pub(super) fn with_bias(&self, dispatch: Dispatch) -> Dispatch {
        match self.bias {
            Some(bias) => dispatch.bind("bias", bias),
            None => dispatch,
        }
    }

    /// Channels, extents and activation.
    pub(super) fn shape_params(&self) -> Params {
        let (_, packing) = &self.weight;
        shape_params(packing.n_in, packing.n_out, spatial(&self.x.1.shape), spatial(&self.y.1.shape))
            .f32("negative_slope", self.negative_slope)
    }

    /// Those, and the window: the parameters of `lib/conv_window.wgsl`.
    pub(super) fn window_params(&self) -> Params {
        let [kd, kh, kw] = self.weight.1.kernel;
        window_params(self.shape_params(), &self.window, self.pad).i32("kd", kd).i32("kh", kh).i32("kw", kw)
    }

    /// Adds the launches of a kernel, one a piece of the batch: `invocations` in workgroups of `workgroup` for each
    /// sample and tile of channels.
    pub(super) fn launch(
        &self,
        lowered: &mut Lowered,
        key: &KernelKey,
        params: &Params,
        packed: Slot,
        [invocations, workgroup, channel_tiles]: [usize; 3],
        caps: &Caps,
    ) {
        let (x_slot, x) = self.x;
        let (y_slot, y) = self.y;
        for piece in batch_pieces(&[x, y], caps) {
            let mut dispatch = Dispatch::new(key.clone())
                .bind_range("x", x_slot, sample_range(x, &piece))
                .bind("weight", packed)
                .bind_range("y", y_slot, sample_range(y, &piece))
                .params(params.clone())
                .flat(invocations, workgroup);
            dispatch = dispatch.layers(piece.len() * channel_tiles);
            lowered.push(self.with_bias(dispatch));
        }
    }
}

/// Numbers of the temporaries that the passes of a convolution share: packed weights, and those of Winograd's variants,
/// whose gradient by the weights packs none.
const PACKED: usize = 0;
pub(super) const EXPANDED: usize = PACKED;
pub(super) const TRANSFORMED: usize = 1;
pub(super) const PRODUCTS: usize = 2;
