//! `conv3d` with one or two inputs, and its gradients `conv3d_grad_input`, `conv3d_grad_weight` and
//! `sum_channels` (the gradient by the bias).
//!
//! A second input stands for the second half of a channel concatenation: `conv3d(x1, x2, w)` equals
//! `conv3d(concat(x1, x2), w)` without the concatenated tensor, which may exceed a storage binding.

use std::ops::Range;

use super::activation_kind::Activation;
use super::winograd::{self, WINOGRAD_3D, WINOGRAD_HW};
use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId,
    batch_pieces, element_kernel, expect_ncdhw, sample_range,
};
use crate::gpu::{Caps, DeviceClass, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{DType, HostTensor, TensorDesc};

const NAIVE: &str = "conv3d/naive.wgsl";
const DIRECT: &str = "conv3d/direct.wgsl";
const DIRECT_X4: &str = "conv3d/direct_x4.wgsl";
const LANES: &str = "conv3d/lanes.wgsl";
const TILE: &str = "conv3d/tile.wgsl";
const GEMM: &str = "conv3d/gemm.wgsl";
const SINGLE: &str = "conv3d/single.wgsl";
const WINOGRAD_W4: &str = "conv3d/winograd_w4.wgsl";
pub(super) const PACK: &str = "conv3d/pack.wgsl";
const COOP: &str = "conv3d/coop.wgsl";
const PACK_COOP: &str = "conv3d/pack_coop.wgsl";
const PACK_WINOGRAD_W4: &str = "conv3d/pack_winograd_w4.wgsl";
const CHANNELS_LAST: &str = "conv3d/channels_last.wgsl";
const GRAD_WEIGHT: &str = "conv3d/grad_weight.wgsl";
const GRAD_WEIGHT_NAIVE: &str = "conv3d/grad_weight_naive.wgsl";
const REDUCE: &str = "conv3d/reduce.wgsl";

/// Kernels of [`lower_pass`]; the first serves only the gradient of a strided convolution by its input, the last two only
/// activations in f16.
const SHADERS: &[&str] = &[
    super::conv_transpose3d::NAIVE,
    NAIVE,
    DIRECT,
    DIRECT_X4,
    SINGLE,
    LANES,
    TILE,
    GEMM,
    WINOGRAD_W4,
    PACK,
    PACK_WINOGRAD_W4,
    winograd::MULTIPLY,
    winograd::PACK_3D,
    winograd::INPUT_3D,
    winograd::OUTPUT_3D,
    winograd::PACK_HW,
    winograd::INPUT_HW,
    winograd::OUTPUT_HW,
    COOP,
    PACK_COOP,
];

/// Stride, dilation and zero padding of a convolution, axes in the order D, H, W.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Step between outputs, in input voxels.
    pub stride: [usize; 3],
    /// Step between taps, in input voxels.
    pub dilation: [usize; 3],
    /// Zeros before and after each axis.
    pub padding: [[usize; 2]; 3],
}

impl Window {
    /// Stride 1, dilation 1, output as large as the input; an even kernel pads one more after than
    /// before, as Keras does.
    pub fn same(kernel: [usize; 3]) -> Self {
        Self { stride: [1; 3], dilation: [1; 3], padding: kernel.map(|k| [(k - 1) / 2, k / 2]) }
    }

    /// The same padding before and after each axis.
    pub fn symmetric(stride: [usize; 3], dilation: [usize; 3], padding: [usize; 3]) -> Self {
        Self { stride, dilation, padding: padding.map(|p| [p, p]) }
    }

    /// Extents of a convolution's output, `None` where the kernel exceeds the padded input.
    pub fn output(&self, input: [usize; 3], kernel: [usize; 3]) -> Option<[usize; 3]> {
        let mut out = [0; 3];
        for a in 0..3 {
            let reach = self.dilation[a] * (kernel[a] - 1) + 1;
            let padded = input[a] + self.padding[a][0] + self.padding[a][1];
            out[a] = padded.checked_sub(reach)? / self.stride[a] + 1;
        }
        Some(out)
    }

    /// Zeros before each axis; for a transposed convolution what is cropped there.
    pub(super) fn padding_before(&self) -> [i32; 3] {
        self.padding.map(|[before, _]| before as i32)
    }

    fn is_dense(&self) -> bool {
        self.stride == [1; 3] && self.dilation == [1; 3]
    }
}

/// Spatial extents and channel count of `[N, C, D, H, W]`.
pub(crate) fn spatial(shape: &[usize]) -> [usize; 3] {
    [shape[2], shape[3], shape[4]]
}

/// Shape parameters that all convolution kernels share.
fn shape_params(c_in: usize, c_out: usize, input: [usize; 3], output: [usize; 3]) -> Params {
    Params::new()
        .u32("c_in", c_in)
        .u32("c_out", c_out)
        .i32("in_d", input[0] as i32)
        .i32("in_h", input[1] as i32)
        .i32("in_w", input[2] as i32)
        .i32("out_d", output[0] as i32)
        .i32("out_h", output[1] as i32)
        .i32("out_w", output[2] as i32)
}

pub(super) fn pad_params(params: Params, pad: [i32; 3]) -> Params {
    params.i32("pad_d", pad[0]).i32("pad_h", pad[1]).i32("pad_w", pad[2])
}

fn window_params(params: Params, window: &Window, pad: [i32; 3]) -> Params {
    let [sd, sh, sw] = window.stride.map(|v| v as i32);
    let [dd, dh, dw] = window.dilation.map(|v| v as i32);
    pad_params(params, pad)
        .i32("stride_d", sd)
        .i32("stride_h", sh)
        .i32("stride_w", sw)
        .i32("dilation_d", dd)
        .i32("dilation_h", dh)
        .i32("dilation_w", dw)
}

/// How [`pack_weights`] reads the weights `[rows, row_channels, taps]`.
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

/// What the kernel on cooperative matrices is made for: the matrices that the adapter multiplies, and its subgroups.
#[derive(Clone, Copy)]
struct Coop {
    /// Edge of a matrix.
    edge: usize,
    /// Most invocations of a subgroup.
    subgroup: usize,
}

impl Coop {
    /// Voxels of a workgroup along d, h and w.
    const VOXELS: [usize; 3] = [2, 4, 16];
    /// Input channels that a workgroup holds at a time.
    const DEPTH: usize = 16;

    /// `None` where the adapter multiplies no matrices.
    fn of(caps: &Caps) -> Option<Self> {
        let (edge, [_, subgroup]) = (caps.cooperative_tile? as usize, caps.subgroup_size?);
        Some(Self { edge, subgroup: subgroup as usize })
    }

    /// Subgroups of a workgroup: each computes 4 runs of voxels.
    fn subgroups(self) -> usize {
        Self::VOXELS.iter().product::<usize>() / (4 * self.edge)
    }

    /// Whether the input tile with its halo, and a tile of sums a subgroup, fit into workgroup memory.
    fn takes(self, window: &Window, kernel: [usize; 3]) -> bool {
        let halo: usize = (0..3).map(|a| Self::VOXELS[a] + kernel[a] - 1).product();
        let bytes = halo * Self::DEPTH * 2 + self.subgroups() * self.edge * self.edge * 4;
        window.is_dense() && bytes <= 16 << 10 && self.subgroups() * self.subgroup <= 256
    }

    fn form(self, n_out: usize, output: [usize; 3]) -> Form {
        let groups = if n_out > self.edge { 2 } else { 1 };
        let tiles: usize = (0..3).map(|a| output[a].div_ceil(Self::VOXELS[a])).product();
        let workgroup = self.subgroups() * self.subgroup;
        Form {
            path: COOP,
            tile: groups * self.edge,
            defines: vec![
                ("TILE8", (self.edge == 8).into()),
                ("TILE16", (self.edge == 16).into()),
                ("GROUPS", groups as u32),
                ("WIDE2", (groups == 2).into()),
                ("SUBGROUP", self.subgroup as u32),
            ],
            general: false,
            workgroup,
            invocations: tiles * workgroup,
        }
    }
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
        let [kd, kh, kw] = self.weight.1.kernel.map(|k| k as i32);
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
            dispatch.workgroups[2] = (piece.len() * channel_tiles) as u32;
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

/// Legal forward variants for these channels read and written and extents of the output, preferred first. What was
/// measured on which adapter, and what was not, stands in docs/kernels.md.
pub(crate) fn direct_variants(
    window: &Window,
    kernel: [usize; 3],
    [n_in, n_out]: [usize; 2],
    output: [usize; 3],
    caps: &Caps,
) -> Vec<&'static str> {
    let software = caps.class == DeviceClass::Software;
    let mut variants = Vec::new();
    let mut offer = |variant, first: bool| variants.insert(if first { 0 } else { variants.len() }, variant);
    if window.is_dense() && matches!(kernel[2], 1 | 3) {
        offer("direct_x4", true);
        if matches!(caps.lanes(), Some(8 | 16 | 32 | 64)) {
            offer("lanes", false);
        }
        if kernel[2] == 3 {
            offer("winograd_w4", false);
            if kernel[0] <= 3 && kernel[1] <= 3 {
                offer("tile", !software && n_out > 8);
            }
        }
        if kernel[1..] == [3; 2] {
            // Loads and stores cost a processor more than multiplications, and this variant needs fewest of all, once
            // its transforms serve enough channels and windows.
            let pays = n_in.min(n_out) >= 16 && winograd::windows(output) >= 128;
            offer(WINOGRAD_HW, software && pays);
        }
        if kernel == [3; 3] {
            offer(WINOGRAD_3D, false);
        }
    }
    if window.is_dense() {
        offer("single", n_out == 1);
    }
    variants.extend(["direct", "gemm", "naive"]);
    variants
}

/// A kernel variant for a number of output channels.
struct Form {
    path: &'static str,
    /// Output channels of a tile of packed weights.
    tile: usize,
    /// Constants of the kernel beside those that all share.
    defines: Vec<(&'static str, u32)>,
    /// Whether stride, dilation and the kernel's extents are parameters; else they are constants.
    general: bool,
    /// Invocations of a workgroup.
    workgroup: usize,
    /// Invocations for one sample and one tile of channels.
    invocations: usize,
}

impl Form {
    fn new(variant: &str, n_out: usize, output: [usize; 3], caps: &Caps) -> Self {
        let [d, h, w] = output;
        let (rows, voxels) = (d * h, d * h * w);
        let groups = |limit: usize| match n_out.div_ceil(4).next_power_of_two() {
            n if n > limit => limit,
            n => n,
        };
        let wide =
            |n: usize| vec![("GROUPS", n as u32), ("WIDE2", (n >= 2).into()), ("WIDE4", (n >= 4).into())];
        let form = |path, tile, defines| Self {
            path,
            tile,
            defines,
            general: false,
            workgroup: FLAT,
            invocations: rows * w.div_ceil(4),
        };
        match variant {
            "direct_x4" => form(DIRECT_X4, 4 * groups(4), wide(groups(4))),
            "single" => form(SINGLE, 1, Vec::new()),
            "winograd_w4" => form(WINOGRAD_W4, 4 * groups(2), wide(groups(2))),
            "lanes" => {
                let lanes =
                    caps.lanes().expect("variants offers lanes where subgroups have one size") as usize;
                let n = if n_out > lanes { 2 } else { 1 };
                let defines = vec![("L", lanes as u32), ("GROUPS", n as u32), ("WIDE2", (n == 2).into())];
                Self { invocations: rows * w.div_ceil(12) * lanes, ..form(LANES, n * lanes, defines) }
            }
            "tile" => {
                let tiles = d.div_ceil(4) * h.div_ceil(4) * w.div_ceil(32);
                Self { workgroup: 256, invocations: tiles * 256, ..form(TILE, 16, Vec::new()) }
            }
            "coop" => {
                let coop = Coop::of(caps).expect("variants offers coop where there are matrices");
                coop.form(n_out, output)
            }
            "gemm" => {
                Self { general: true, workgroup: 128, invocations: voxels, ..form(GEMM, 64, Vec::new()) }
            }
            "direct" => {
                let n = if n_out > 4 { 4 } else { 1 };
                Self { general: true, invocations: voxels, ..form(DIRECT, 4 * n, wide(n)) }
            }
            _ => Self { general: true, invocations: voxels * n_out, ..form(NAIVE, 1, Vec::new()) },
        }
    }
}

/// Adds the launches of one pass.
pub(crate) fn lower_pass(lowered: &mut Lowered, pass: &Pass<'_>, caps: &Caps, variant: &str) {
    match variant {
        WINOGRAD_3D => return winograd::lower_3d(lowered, pass, caps),
        WINOGRAD_HW => return winograd::lower_hw(lowered, pass, caps),
        _ => {}
    }
    let (weight, packing) = &pass.weight;
    let form = Form::new(variant, packing.n_out, spatial(&pass.y.1.shape), caps);
    let [kd, kh, kw] = packing.kernel;
    let taps = kd * kh * kw;
    let (pack, packed) = match form.path {
        WINOGRAD_W4 => (PACK_WINOGRAD_W4, packing.packed(form.tile, kd * kh * 6)),
        COOP => {
            let n_out = packing.n_out.next_multiple_of(form.tile);
            (PACK_COOP, TensorDesc::f16(&[n_out, packing.n_in.next_multiple_of(Coop::DEPTH), taps]))
        }
        _ => (PACK, packing.packed(form.tile, taps)),
    };
    let packed = pack_with(lowered, pack, *weight, packing, form.tile, &packed, 1);
    let mut key = pass.kernel(form.path);
    for (name, value) in form.defines {
        key = key.define(name, value);
    }
    let params = if form.general {
        pass.window_params()
    } else {
        key = key
            .define("KD", kd as u32)
            .define("KH", kh as u32)
            .define("KW", kw as u32)
            .define("TAPS3", (kw == 3).into());
        pad_params(pass.shape_params(), pass.pad)
    };
    // The naive kernel has an invocation for each channel.
    let channel_tiles = if form.path == NAIVE { 1 } else { packing.n_out.div_ceil(form.tile) };
    let grid = [form.invocations, form.workgroup, channel_tiles];
    pass.launch(lowered, &key, &params, packed, grid, caps);
}

/// `conv3d`: `y[n,co,o] = act(bias[co] + Σ x[n,ci,o·stride + k·dilation − pad] · weight[co,ci,k])`.
///
/// Inputs: x `[N, C1, D, H, W]`, with `two_inputs` x2 `[N, C2, D, H, W]`, weight `[c_out, C1 (+ C2), kd, kh,
/// kw]` (PyTorch's layout), with `bias` a vector `[c_out]`. Output `[N, c_out, OD, OH, OW]`.
#[derive(Debug, Clone)]
pub struct Conv3d {
    /// Stride, dilation and padding.
    pub window: Window,
    /// Whether a second input follows the first.
    pub two_inputs: bool,
    /// Whether a bias is the last input.
    pub bias: bool,
    /// Activation fused into the kernel. Inference only: its backward is refused.
    pub activation: Activation,
}

impl Conv3d {
    /// A plain convolution of one input.
    pub fn new(window: Window, bias: bool) -> Self {
        Self { window, two_inputs: false, bias, activation: Activation::None }
    }

    fn sources(&self) -> usize {
        1 + usize::from(self.two_inputs)
    }

    /// First channel of each source and number of channels of all.
    fn channels(&self, inputs: &[TensorDesc]) -> (Vec<usize>, usize) {
        let mut first = Vec::new();
        let mut total = 0;
        for x in &inputs[..self.sources()] {
            first.push(total);
            total += x.shape[1];
        }
        (first, total)
    }
}

/// Registry entry of [`Conv3d`].
pub static CONV3D: OpDef = OpDef {
    name: "conv3d",
    summary: "3D convolution of one or two inputs, fused bias and (leaky) ReLU",
    shaders: SHADERS.split_at(1).1,
    cases: conv3d_cases,
};

type ConvCase = (&'static str, [usize; 5], usize, usize, [usize; 3], Window, bool, Activation);

fn conv3d_cases() -> Vec<Case> {
    let same = Window::same;
    let table: Vec<ConvCase> = vec![
        ("odd sizes", [2, 5, 3, 6, 9], 0, 6, [3, 3, 3], same([3, 3, 3]), true, Activation::None),
        ("20 channels out", [1, 3, 4, 5, 7], 0, 20, [3, 3, 3], same([3, 3, 3]), true, Activation::None),
        (
            "wider than a tile of every kernel",
            [1, 3, 5, 5, 37],
            0,
            70,
            [3, 3, 3],
            same([3, 3, 3]),
            true,
            Activation::LeakyRelu(0.1),
        ),
        ("all extents 1", [1, 1, 1, 1, 1], 0, 1, [3, 3, 3], same([3, 3, 3]), true, Activation::None),
        ("pointwise", [2, 6, 3, 4, 5], 0, 7, [1, 1, 1], same([1, 1, 1]), true, Activation::None),
        ("two inputs", [2, 3, 4, 3, 6], 4, 9, [3, 3, 3], same([3, 3, 3]), true, Activation::None),
        ("many channels in", [1, 35, 3, 5, 6], 17, 12, [3, 3, 3], same([3, 3, 3]), true, Activation::Relu),
        ("even kernel pads after", [2, 4, 3, 5, 6], 0, 1, [1, 1, 2], same([1, 1, 2]), true, Activation::None),
        (
            "one channel out",
            [2, 3, 4, 5, 9],
            2,
            1,
            [3, 3, 3],
            same([3, 3, 3]),
            true,
            Activation::LeakyRelu(0.2),
        ),
        ("kernel 7 5 3", [1, 2, 5, 6, 7], 0, 3, [7, 5, 3], same([7, 5, 3]), false, Activation::None),
        (
            "stride 2",
            [2, 3, 7, 6, 9],
            0,
            5,
            [3, 3, 3],
            Window::symmetric([2; 3], [1; 3], [1; 3]),
            true,
            Activation::None,
        ),
        (
            "stride and dilation by axis",
            [1, 2, 9, 8, 11],
            0,
            4,
            [3, 2, 3],
            Window::symmetric([1, 2, 3], [2, 1, 3], [2, 0, 1]),
            false,
            Activation::None,
        ),
        (
            "no padding",
            [1, 2, 4, 5, 6],
            0,
            3,
            [3, 3, 3],
            Window::symmetric([1; 3], [1; 3], [0; 3]),
            true,
            Activation::None,
        ),
        (
            "fused leaky relu, two inputs",
            [1, 2, 3, 4, 6],
            3,
            5,
            [3, 3, 3],
            same([3, 3, 3]),
            true,
            Activation::LeakyRelu(0.01),
        ),
    ];
    let build = |(name, shape, c2, c_out, kernel, window, bias, slope): ConvCase| {
        let op = Conv3d { window, two_inputs: c2 > 0, bias, activation: slope };
        let c_in = shape[1] + c2;
        let mut inputs = vec![(TensorDesc::f32(&shape), Fill::Normal(1.0))];
        if c2 > 0 {
            inputs.push((TensorDesc::f32(&[shape[0], c2, shape[2], shape[3], shape[4]]), Fill::Normal(1.0)));
        }
        inputs.push((TensorDesc::f32(&[c_out, c_in, kernel[0], kernel[1], kernel[2]]), Fill::Normal(0.3)));
        if bias {
            inputs.push((TensorDesc::f32(&[c_out]), Fill::Normal(1.0)));
        }
        let all: Vec<usize> = (0..inputs.len()).collect();
        let case = Case::new(name, op, inputs);
        if slope == Activation::None { case.differentiable(&all) } else { case }
    };
    let mut cases: Vec<Case> = table.into_iter().map(build).collect();
    for (name, shape, c2, c_out) in [
        ("1 to 16, 2 mm grid", [1, 1, 96, 128, 160], 0, 16),
        ("16+16 to 16, 2 mm grid", [1, 16, 96, 128, 160], 16, 16),
        ("64 to 64, 4 mm grid", [1, 64, 48, 64, 80], 0, 64),
        ("16+16 to 16, 4 mm grid", [1, 16, 48, 64, 64], 16, 16),
    ] {
        cases.push(
            build((name, shape, c2, c_out, [3; 3], same([3; 3]), false, Activation::None)).bench_only(),
        );
    }
    let last = [1, 1, 2];
    let head = ("16 to 1, 2 mm grid", [1, 16, 96, 128, 160], 0, 1, last, same(last), true, Activation::None);
    cases.push(build(head).bench_only());
    cases
}

impl Operator for Conv3d {
    fn name(&self) -> &'static str {
        "conv3d"
    }

    fn activations(&self) -> usize {
        self.sources()
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let fail = |reason: String| OpError::new("conv3d", inputs, reason);
        let expected = self.sources() + 1 + usize::from(self.bias);
        if inputs.len() != expected {
            return Err(fail(format!("expects {expected} inputs, got {}", inputs.len())));
        }
        let x = expect_ncdhw("conv3d", inputs, 0)?;
        if self.two_inputs {
            let x2 = expect_ncdhw("conv3d", inputs, 1)?;
            if x2[0] != x[0] || x2[2..] != x[2..] {
                return Err(fail("the two inputs differ in batch or extents".into()));
            }
        }
        let w = expect_ncdhw("conv3d", inputs, self.sources())?;
        let (_, total) = self.channels(inputs);
        if w[1] != total {
            return Err(fail(format!("the weights read {} channels, the inputs have {total}", w[1])));
        }
        if self.bias && inputs[self.sources() + 1].shape != [w[0]] {
            return Err(fail(format!("the bias must have shape [{}]", w[0])));
        }
        if self.window.stride.contains(&0) || self.window.dilation.contains(&0) {
            return Err(fail("stride and dilation start at 1".into()));
        }
        let out = self
            .window
            .output(spatial(&x), spatial(&w))
            .ok_or_else(|| fail("the kernel exceeds the padded input".into()))?;
        Ok(vec![inputs[0].with_shape(&[x[0], w[0], out[0], out[1], out[2]])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        let weight = &inputs[self.sources()].shape;
        let kernel = spatial(weight);
        let output = self.window.output(spatial(&inputs[0].shape), kernel).unwrap_or_default();
        let mut variants =
            direct_variants(&self.window, kernel, [inputs[0].shape[1], weight[0]], output, caps);
        let coop = Coop::of(caps).filter(|coop| coop.takes(&self.window, kernel));
        if let (DType::F16, Some(_)) = (inputs[0].dtype, coop) {
            // Rounds of few channels multiply mostly zeros; and where matrices are computed on the CPU, they are slow.
            let filled = inputs[..self.sources()].iter().all(|x| x.shape[1] >= 8) && weight[0] >= 8;
            let first = filled && caps.class != DeviceClass::Software;
            variants.insert(if first { 0 } else { variants.len() - 1 }, "coop");
        }
        let sources = inputs[..self.sources()].iter();
        let y = self.infer(inputs).unwrap_or_default();
        winograd::retain_bindable(&mut variants, &sources.chain(&y).collect::<Vec<_>>(), caps);
        variants
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let mut lowered = Lowered::default();
        let sources = self.sources();
        let weight = &inputs[sources];
        let (first, total) = self.channels(inputs);
        let at_once = winograd::takes_both(variant, [total, weight.shape[0]], weight.shape[2]);
        let step = if at_once { sources } else { 1 };
        for source in (0..sources).step_by(step) {
            let last = source + step == sources;
            let packing = Packing {
                n_out: weight.shape[0],
                n_in: inputs[source..source + step].iter().map(|x| x.shape[1]).sum(),
                kernel: spatial(&weight.shape),
                row_channels: total,
                first: first[source],
                swap: false,
                flip: false,
            };
            lower_pass(
                &mut lowered,
                &Pass {
                    x: (Slot::Input(source), &inputs[source]),
                    x2: (step == 2).then(|| (Slot::Input(source + 1), &inputs[source + 1])),
                    y: (Slot::Output(0), &outputs[0]),
                    weight: (Slot::Input(sources), packing),
                    bias: (last && self.bias).then_some(Slot::Input(sources + 1)),
                    window: self.window,
                    pad: self.window.padding_before(),
                    negative_slope: if last { self.activation.negative_slope() } else { 1.0 },
                    accumulate: source > 0,
                },
                caps,
                variant,
            );
        }
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let mut grads = vec![None; io.inputs.len()];
        let Some(dy) = io.grad_outputs[0] else { return Ok(grads) };
        let descs: Vec<TensorDesc> = io.inputs.iter().map(|&v| graph.desc(v).clone()).collect();
        if self.activation != Activation::None {
            return Err(OpError::new(
                "conv3d",
                &descs,
                "a fused activation has no backward; use an operator of its own",
            ));
        }
        let sources = self.sources();
        let (first, _) = self.channels(&descs);
        for source in 0..sources {
            if io.needs[source] {
                let channels = first[source]..first[source] + descs[source].shape[1];
                let op =
                    Conv3dGradInput { window: self.window, input: spatial(&descs[source].shape), channels };
                grads[source] = Some(graph.apply(Box::new(op), &[dy, io.inputs[sources]])?[0]);
            }
        }
        if io.needs[sources] {
            let op = Conv3dGradWeight {
                window: self.window,
                two_inputs: self.two_inputs,
                kernel: spatial(&descs[sources].shape),
            };
            let mut inputs = io.inputs[..sources].to_vec();
            inputs.push(dy);
            grads[sources] = Some(graph.apply(Box::new(op), &inputs)?[0]);
        }
        if self.bias && io.needs[sources + 1] {
            grads[sources + 1] = Some(graph.apply(Box::new(SumChannels), &[dy])?[0]);
        }
        Ok(grads)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        let mut y = HostTensor::zeros(self.infer(&descs).expect("shapes were inferred before")[0].clone());
        let sources = self.sources();
        let (first, total) = self.channels(&descs);
        let w = inputs[sources];
        let kernel = spatial(&w.desc.shape);
        for (source, x) in inputs[..sources].iter().enumerate() {
            for_each_tap(
                &self.window,
                &x.desc.shape,
                &y.desc.shape.clone(),
                kernel,
                |n, i, o, tap, volumes| {
                    for co in 0..w.desc.shape[0] {
                        for ci in 0..x.desc.shape[1] {
                            let weight = w.data[(co * total + first[source] + ci) * volumes.taps + tap];
                            let value = x.data[(n * x.desc.shape[1] + ci) * volumes.input + i];
                            y.data[(n * w.desc.shape[0] + co) * volumes.output + o] += weight * value;
                        }
                    }
                },
            );
        }
        let volume = y.desc.voxels();
        for (ix, value) in y.data.iter_mut().enumerate() {
            if self.bias {
                *value += inputs[sources + 1].data[ix / volume % w.desc.shape[0]];
            }
            *value = self.activation.apply(*value);
        }
        vec![y]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let per_output: usize = inputs[self.sources()].shape[1..].iter().product();
        conv_cost(per_output * outputs[0].len(), inputs, outputs)
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[self.sources()].shape[1..].iter().product())
    }
}

pub(crate) fn conv_cost(multiplications: usize, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
    let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
    Cost { flops: 2.0 * multiplications as f64, bytes }
}

/// Element counts that index arithmetic in the references needs.
pub(crate) struct Volumes {
    pub input: usize,
    pub output: usize,
    pub taps: usize,
}

/// Calls `visit(n, input voxel, output voxel, tap, volumes)` for every pair of voxels that a tap of a
/// convolution connects.
pub(crate) fn for_each_tap(
    window: &Window,
    input: &[usize],
    output: &[usize],
    kernel: [usize; 3],
    mut visit: impl FnMut(usize, usize, usize, usize, &Volumes),
) {
    let (i, o) = (spatial(input), spatial(output));
    let volumes =
        Volumes { input: i.iter().product(), output: o.iter().product(), taps: kernel.iter().product() };
    let source = |axis: usize, out: usize, tap: usize| {
        (out * window.stride[axis] + tap * window.dilation[axis])
            .checked_sub(window.padding[axis][0])
            .filter(|&at| at < i[axis])
    };
    for n in 0..input[0] {
        for od in 0..o[0] {
            for oh in 0..o[1] {
                for ow in 0..o[2] {
                    for tap in 0..volumes.taps {
                        let (kd, kh, kw) =
                            (tap / (kernel[1] * kernel[2]), tap / kernel[2] % kernel[1], tap % kernel[2]);
                        if let (Some(id), Some(ih), Some(iw)) =
                            (source(0, od, kd), source(1, oh, kh), source(2, ow, kw))
                        {
                            let at = (id * i[1] + ih) * i[2] + iw;
                            visit(n, at, (od * o[1] + oh) * o[2] + ow, tap, &volumes);
                        }
                    }
                }
            }
        }
    }
}

/// `conv3d_grad_input`: dx from dy `[N, c_out, OD, OH, OW]` and weight `[c_out, C, kd, kh, kw]`, for the
/// channels `channels` of the convolution's (concatenated) input: `[N, channels, D, H, W]`.
#[derive(Debug, Clone)]
pub struct Conv3dGradInput {
    /// The convolution's window.
    pub window: Window,
    /// Extents of the convolution's input.
    pub input: [usize; 3],
    /// Channels of the concatenated input that this gradient is for.
    pub channels: Range<usize>,
}

/// Registry entry of [`Conv3dGradInput`].
pub static CONV3D_GRAD_INPUT: OpDef = OpDef {
    name: "conv3d_grad_input",
    summary: "gradient of conv3d by its input",
    shaders: SHADERS.split_at(SHADERS.len() - 2).0,
    cases: || {
        let case = |name: &str, window: Window, input, dy: [usize; 5], weight: [usize; 5], channels| {
            Case::new(
                name,
                Conv3dGradInput { window, input, channels },
                vec![
                    (TensorDesc::f32(&dy), Fill::Normal(1.0)),
                    (TensorDesc::f32(&weight), Fill::Normal(0.3)),
                ],
            )
        };
        let same = Window::same([3; 3]);
        let strided = Window::symmetric([2; 3], [1; 3], [1; 3]);
        let dilated = Window::symmetric([1; 3], [2; 3], [2; 3]);
        vec![
            case("odd sizes", same, [3, 5, 7], [2, 4, 3, 5, 7], [4, 6, 3, 3, 3], 0..6),
            case("second of two inputs", same, [3, 2, 5], [1, 4, 3, 2, 5], [4, 9, 3, 3, 3], 4..9),
            case("even kernel", Window::same([1, 1, 2]), [3, 5, 6], [2, 1, 3, 5, 6], [1, 4, 1, 1, 2], 0..4),
            case("stride 2", strided, [7, 6, 9], [2, 3, 4, 3, 5], [3, 5, 3, 3, 3], 0..5),
            case("dilation 2", dilated, [5, 6, 7], [1, 3, 5, 6, 7], [3, 2, 3, 3, 3], 0..2),
            case("32 to 32, 4 mm grid", same, [48, 64, 64], [1, 32, 48, 64, 64], [32, 32, 3, 3, 3], 0..32)
                .bench_only(),
        ]
    },
};

impl Conv3dGradInput {
    /// Zeros before each axis of the equivalent convolution of dy with the flipped kernel (stride 1).
    fn flipped_padding(&self, kernel: [usize; 3]) -> [i32; 3] {
        std::array::from_fn(|a| {
            (self.window.dilation[a] * (kernel[a] - 1)) as i32 - self.window.padding[a][0] as i32
        })
    }
}

impl Operator for Conv3dGradInput {
    fn name(&self) -> &'static str {
        "conv3d_grad_input"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        super::expect_inputs("conv3d_grad_input", inputs, 2)?;
        let fail = |reason: &str| OpError::new("conv3d_grad_input", inputs, reason);
        let dy = expect_ncdhw("conv3d_grad_input", inputs, 0)?;
        let w = expect_ncdhw("conv3d_grad_input", inputs, 1)?;
        if dy[1] != w[0] || self.channels.end > w[1] || self.channels.is_empty() {
            return Err(fail("channels of dy, weight and attribute disagree"));
        }
        if self.window.output(self.input, spatial(&w)) != Some(spatial(&dy)) {
            return Err(fail("dy does not have the extents of the convolution's output"));
        }
        let [d, h, w] = self.input;
        Ok(vec![TensorDesc::f32(&[dy[0], self.channels.len(), d, h, w])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        if self.window.stride == [1; 3] {
            let channels = [inputs[0].shape[1], self.channels.len()];
            let mut variants =
                direct_variants(&self.window, spatial(&inputs[1].shape), channels, self.input, caps);
            let dx = self.infer(inputs).unwrap_or_default();
            winograd::retain_bindable(
                &mut variants,
                &inputs[..1].iter().chain(&dx).collect::<Vec<_>>(),
                caps,
            );
            variants
        } else {
            vec!["naive"]
        }
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let mut lowered = Lowered::default();
        let kernel = spatial(&inputs[1].shape);
        let flipped = self.window.stride == [1; 3];
        let packing = Packing {
            n_out: self.channels.len(),
            n_in: inputs[0].shape[1],
            kernel,
            row_channels: inputs[1].shape[1],
            first: self.channels.start,
            swap: true,
            flip: flipped,
        };
        let pass = Pass {
            x: (Slot::Input(0), &inputs[0]),
            x2: None,
            y: (Slot::Output(0), &outputs[0]),
            weight: (Slot::Input(1), packing),
            bias: None,
            window: self.window,
            pad: if flipped { self.flipped_padding(kernel) } else { self.window.padding_before() },
            negative_slope: 1.0,
            accumulate: false,
        };
        if flipped {
            lower_pass(&mut lowered, &pass, caps, variant);
        } else {
            super::conv_transpose3d::lower_naive(&mut lowered, &pass, caps);
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (dy, w) = (inputs[0], inputs[1]);
        let [d, h, width] = self.input;
        let count = self.channels.len();
        let mut dx = HostTensor::zeros(TensorDesc::f32(&[dy.desc.shape[0], count, d, h, width]));
        let shape = dx.desc.shape.clone();
        let kernel = spatial(&w.desc.shape);
        for_each_tap(&self.window, &shape, &dy.desc.shape, kernel, |n, i, o, tap, volumes| {
            for co in 0..w.desc.shape[0] {
                for (c, ci) in self.channels.clone().enumerate() {
                    let weight = w.data[(co * w.desc.shape[1] + ci) * volumes.taps + tap];
                    dx.data[(n * count + c) * volumes.input + i] +=
                        weight * dy.data[(n * w.desc.shape[0] + co) * volumes.output + o];
                }
            }
        });
        vec![dx]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let taps: usize = inputs[1].shape[2..].iter().product();
        conv_cost(inputs[0].len() * self.channels.len() * taps, inputs, outputs)
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[0].shape[1] * inputs[1].shape[2..].iter().product::<usize>())
    }
}

/// `conv3d_grad_weight`: dweight `[c_out, C1 (+ C2), kd, kh, kw]` from x (and x2) and dy.
#[derive(Debug, Clone)]
pub struct Conv3dGradWeight {
    /// The convolution's window.
    pub window: Window,
    /// Whether a second input follows the first.
    pub two_inputs: bool,
    /// Extents of the kernel.
    pub kernel: [usize; 3],
}

/// Registry entry of [`Conv3dGradWeight`].
pub static CONV3D_GRAD_WEIGHT: OpDef = OpDef {
    name: "conv3d_grad_weight",
    summary: "gradient of conv3d by its weights; deterministic split reduction",
    shaders: &[
        CHANNELS_LAST,
        GRAD_WEIGHT,
        GRAD_WEIGHT_NAIVE,
        REDUCE,
        winograd::INPUT_HW,
        winograd::EXPAND_HW,
        winograd::CORRELATE_HW,
        winograd::WEIGHT_HW,
    ],
    cases: || {
        let case = |name: &str, window: Window, kernel, x: [usize; 5], c2: usize, dy: [usize; 5]| {
            let op = Conv3dGradWeight { window, two_inputs: c2 > 0, kernel };
            let mut inputs = vec![(TensorDesc::f32(&x), Fill::Normal(1.0))];
            if c2 > 0 {
                inputs.push((TensorDesc::f32(&[x[0], c2, x[2], x[3], x[4]]), Fill::Normal(1.0)));
            }
            inputs.push((TensorDesc::f32(&dy), Fill::Normal(1.0)));
            Case::new(name, op, inputs)
        };
        let same = Window::same([3; 3]);
        let strided = Window::symmetric([2; 3], [1; 3], [1; 3]);
        let mixed = Window::symmetric([1, 2, 1], [2, 1, 1], [2, 1, 0]);
        vec![
            case("odd sizes", same, [3; 3], [2, 5, 3, 6, 9], 0, [2, 6, 3, 6, 9]),
            case("18 channels out", same, [3; 3], [1, 3, 4, 5, 2], 0, [1, 18, 4, 5, 2]),
            case("width 1", same, [3; 3], [1, 2, 3, 4, 1], 0, [1, 3, 3, 4, 1]),
            case("two inputs", same, [3; 3], [1, 3, 4, 2, 5], 6, [1, 4, 4, 2, 5]),
            case("pointwise", Window::same([1; 3]), [1; 3], [2, 7, 3, 4, 5], 0, [2, 5, 3, 4, 5]),
            case("even kernel", Window::same([1, 1, 2]), [1, 1, 2], [2, 4, 3, 5, 6], 0, [2, 1, 3, 5, 6]),
            case("stride 2", strided, [3; 3], [2, 3, 7, 6, 9], 0, [2, 5, 4, 3, 5]),
            case("stride and dilation", mixed, [3, 3, 3], [1, 2, 5, 7, 6], 0, [1, 3, 5, 4, 4]),
            case("32 to 32, 4 mm grid", same, [3; 3], [1, 32, 48, 64, 64], 0, [1, 32, 48, 64, 64])
                .bench_only(),
        ]
    },
};

/// Largest size of the partial sums, in bytes.
const MAX_PARTIAL_BYTES: usize = 32 << 20;

impl Conv3dGradWeight {
    fn sources(&self) -> usize {
        1 + usize::from(self.two_inputs)
    }

    fn geometry(&self, x: &TensorDesc, dy: &TensorDesc) -> Params {
        let [kd, kh, kw] = self.kernel;
        let params = shape_params(x.shape[1], dy.shape[1], spatial(&x.shape), spatial(&dy.shape));
        window_params(params, &self.window, self.window.padding_before())
            .u32("kd", kd)
            .u32("kh", kh)
            .u32("kw", kw)
    }

    fn lower_split(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps) -> Lowered {
        let mut lowered = Lowered::default();
        let sources = self.sources();
        let dy = &inputs[sources];
        let c_out = dy.shape[1];
        let row_channels = outputs[0].shape[1];
        let weights = outputs[0].len();
        let pieces = {
            let tensors: Vec<&TensorDesc> = inputs.iter().collect();
            batch_pieces(&tensors, caps)
        };
        let groups = [1, 2, 4][usize::from(c_out > 4) + usize::from(c_out > 8)];
        let channel_tiles = c_out.div_ceil(4 * groups);
        let slide = self.window.is_dense() && self.kernel[2] == 3;
        // Enough chunks to fill the device, few enough that the partial sums stay small.
        let rows = pieces[0].len() * dy.shape[2] * dy.shape[3];
        let lanes = row_channels * self.kernel[0] * self.kernel[1];
        let wanted = match caps.class {
            DeviceClass::Software => 64,
            _ => 2048,
        };
        let chunks = (wanted / (channel_tiles * lanes.div_ceil(FLAT)).max(1))
            .min(MAX_PARTIAL_BYTES / (weights * 4 * pieces.len()))
            .clamp(1, rows);
        let rows_per_chunk = rows.div_ceil(chunks);
        let chunks = rows.div_ceil(rows_per_chunk);
        let sums = lowered.scratch((weights * chunks * pieces.len()) as u64 * 4);
        let transposed_bytes =
            |x: &TensorDesc, n: usize| (n * x.voxels() * x.shape[1].next_multiple_of(4)) as u64 * 4;
        let dy_last = lowered.scratch(transposed_bytes(dy, pieces[0].len()));
        let x_last: Vec<Slot> =
            (0..sources).map(|s| lowered.scratch(transposed_bytes(&inputs[s], pieces[0].len()))).collect();
        for (ix, piece) in pieces.iter().enumerate() {
            let mut transpose = |slot: Slot, desc: &TensorDesc, to: Slot| {
                let mut dispatch = Dispatch::new(KernelKey::new(CHANNELS_LAST))
                    .bind_range("x", slot, sample_range(desc, piece))
                    .bind("y", to)
                    .params(Params::new().u32("channels", desc.shape[1]).u32("volume", desc.voxels()))
                    .flat(desc.voxels(), FLAT);
                dispatch.workgroups[2] = (piece.len() * desc.shape[1].div_ceil(16)) as u32;
                lowered.push(dispatch);
            };
            transpose(Slot::Input(sources), dy, dy_last);
            for (source, &to) in x_last.iter().enumerate() {
                transpose(Slot::Input(source), &inputs[source], to);
            }
            let mut first_channel = 0;
            for (source, &from) in x_last.iter().enumerate() {
                let x = &inputs[source];
                let pairs = x.shape[1] * self.kernel[0] * self.kernel[1];
                let params = self
                    .geometry(x, dy)
                    .u32("batch", piece.len())
                    .u32("rows_per_chunk", rows_per_chunk)
                    .u32("first_chunk", ix * chunks)
                    .u32("row_channels", row_channels)
                    .u32("first_channel", first_channel)
                    .u32("weights", weights);
                let key = KernelKey::new(GRAD_WEIGHT)
                    .define("GROUPS", groups as u32)
                    .define("WIDE2", (groups >= 2).into())
                    .define("WIDE4", (groups >= 4).into())
                    .define("SLIDE", slide.into());
                lowered.push(
                    Dispatch::new(key)
                        .bind("x", from)
                        .bind("dy", dy_last)
                        .bind("sums", sums)
                        .params(params)
                        .grid([pairs.div_ceil(FLAT), channel_tiles, chunks]),
                );
                first_channel += x.shape[1];
            }
        }
        lowered.push(
            Dispatch::new(KernelKey::new(REDUCE))
                .bind("sums", sums)
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", weights).u32("chunks", chunks * pieces.len()))
                .flat(weights, FLAT),
        );
        lowered
    }

    /// What was measured on which adapter stands in docs/kernels.md.
    fn prefers_winograd(&self, inputs: &[TensorDesc], caps: &Caps) -> bool {
        let dy = &inputs[self.sources()];
        caps.class == DeviceClass::Software
            && dy.shape[1].min(inputs[0].shape[1]) >= 32
            && winograd::windows(spatial(&dy.shape)) >= 128
    }

    fn lower_winograd(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps) -> Lowered {
        let mut lowered = Lowered::default();
        let sources = self.sources();
        let pad = self.window.padding.map(|p| p[0] as i32);
        let mut first = 0;
        for (source, x) in inputs[..sources].iter().enumerate() {
            winograd::lower_grad_weight(
                &mut lowered,
                (Slot::Input(source), x),
                (Slot::Input(sources), &inputs[sources]),
                (Slot::Output(0), outputs[0].shape[1], first),
                (self.kernel[0], pad),
                caps,
            );
            first += x.shape[1];
        }
        lowered
    }

    fn lower_naive(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps) -> Lowered {
        let mut lowered = Lowered::default();
        let sources = self.sources();
        let dy = &inputs[sources];
        let mut first_channel = 0;
        for (source, x) in inputs[..sources].iter().enumerate() {
            for (ix, piece) in batch_pieces(&[x, dy], caps).iter().enumerate() {
                let params = self
                    .geometry(x, dy)
                    .u32("batch", piece.len())
                    .u32("row_channels", outputs[0].shape[1])
                    .u32("first_channel", first_channel);
                let weights = dy.shape[1] * x.shape[1] * self.kernel.iter().product::<usize>();
                lowered.push(
                    Dispatch::new(KernelKey::new(GRAD_WEIGHT_NAIVE).define("ACCUMULATE", (ix > 0).into()))
                        .bind_range("x", Slot::Input(source), sample_range(x, piece))
                        .bind_range("dy", Slot::Input(sources), sample_range(dy, piece))
                        .bind("dweight", Slot::Output(0))
                        .params(params)
                        .flat(weights, FLAT),
                );
            }
            first_channel += x.shape[1];
        }
        lowered
    }
}

impl Operator for Conv3dGradWeight {
    fn name(&self) -> &'static str {
        "conv3d_grad_weight"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let sources = self.sources();
        super::expect_inputs("conv3d_grad_weight", inputs, sources + 1)?;
        let fail = |reason: &str| OpError::new("conv3d_grad_weight", inputs, reason);
        let x = expect_ncdhw("conv3d_grad_weight", inputs, 0)?;
        let dy = expect_ncdhw("conv3d_grad_weight", inputs, sources)?;
        let mut c_in = x[1];
        if self.two_inputs {
            let x2 = expect_ncdhw("conv3d_grad_weight", inputs, 1)?;
            if x2[0] != x[0] || x2[2..] != x[2..] {
                return Err(fail("the two inputs differ in batch or extents"));
            }
            c_in += x2[1];
        }
        if dy[0] != x[0] || self.window.output(spatial(&x), self.kernel) != Some(spatial(&dy)) {
            return Err(fail("dy does not have the extents of the convolution's output"));
        }
        let [kd, kh, kw] = self.kernel;
        Ok(vec![TensorDesc::f32(&[dy[1], c_in, kd, kh, kw])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        let mut variants = vec!["split", "naive"];
        if self.window.is_dense() && self.kernel[1..] == [3; 2] {
            variants.insert(usize::from(!self.prefers_winograd(inputs, caps)), WINOGRAD_HW);
        }
        winograd::retain_bindable(&mut variants, &inputs.iter().collect::<Vec<_>>(), caps);
        variants
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        match variant {
            "split" => self.lower_split(inputs, outputs, caps),
            WINOGRAD_HW => self.lower_winograd(inputs, outputs, caps),
            _ => self.lower_naive(inputs, outputs, caps),
        }
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        let mut dw = HostTensor::zeros(self.infer(&descs).expect("shapes were inferred before")[0].clone());
        let sources = self.sources();
        let dy = inputs[sources];
        let (c_out, total) = (dw.desc.shape[0], dw.desc.shape[1]);
        let mut first = 0;
        for x in &inputs[..sources] {
            let c_in = x.desc.shape[1];
            for_each_tap(
                &self.window,
                &x.desc.shape,
                &dy.desc.shape,
                self.kernel,
                |n, i, o, tap, volumes| {
                    for co in 0..c_out {
                        for ci in 0..c_in {
                            dw.data[(co * total + first + ci) * volumes.taps + tap] += x.data
                                [(n * c_in + ci) * volumes.input + i]
                                * dy.data[(n * c_out + co) * volumes.output + o];
                        }
                    }
                },
            );
            first += c_in;
        }
        vec![dw]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let dy = &inputs[self.sources()];
        let per_voxel: usize = outputs[0].len();
        conv_cost(per_voxel * dy.shape[0] * dy.voxels(), inputs, outputs)
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        let dy = &inputs[self.sources()];
        Precision::sum_of(dy.shape[0] * dy.voxels())
    }
}

const SUM_CHANNELS: &str = "conv3d/sum_channels.wgsl";

/// `sum_channels`: `y[c] = Σ_{n,v} x[n,c,v]`: the gradient by a bias. Input `[N, C, D, H, W]`, output `[C]`.
#[derive(Debug, Clone)]
pub struct SumChannels;

/// Registry entry of [`SumChannels`].
pub static SUM_CHANNELS_OP: OpDef = OpDef {
    name: "sum_channels",
    summary: "sum over batch and voxels by channel: the gradient by a bias",
    shaders: &[SUM_CHANNELS, REDUCE],
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
const SUM_LENGTH: usize = 256;

impl Operator for SumChannels {
    fn name(&self) -> &'static str {
        "sum_channels"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        super::expect_inputs("sum_channels", inputs, 1)?;
        let shape = expect_ncdhw("sum_channels", inputs, 0)?;
        Ok(vec![TensorDesc::f32(&[shape[1]])])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let mut lowered = Lowered::default();
        let x = &inputs[0];
        let (channels, volume) = (x.shape[1], x.voxels());
        let pieces = batch_pieces(&[x], caps);
        let parts = volume.div_ceil(SUM_LENGTH);
        let rows = pieces[0].len() * parts;
        let sums = lowered.scratch((rows * pieces.len() * channels) as u64 * 4);
        for (ix, piece) in pieces.iter().enumerate() {
            lowered.push(
                Dispatch::new(KernelKey::new(SUM_CHANNELS))
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
        lowered.push(
            Dispatch::new(KernelKey::new(REDUCE))
                .bind("sums", sums)
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", outputs[0].len()).u32("chunks", rows * pieces.len()))
                .flat(channels, FLAT),
        );
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
