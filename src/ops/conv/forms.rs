//! The variants of a convolution: which are legal, which is preferred, and how a pass becomes launches in each.

use super::pass::*;
use super::window::{IN_BOUNDS, Window, spatial};
use super::winograd::{self, WINOGRAD_3D, WINOGRAD_HW};
use crate::gpu::{Caps, DeviceClass, Lowered};
use crate::ops::FLAT;
use crate::tensor::TensorDesc;

/// Kernels of [`lower_pass`] and [`lower_transposed`]; the first two serve only transposed convolutions, the last two only
/// activations in f16.
pub(super) const SHADERS: &[&str] = &[
    TRANSPOSED,
    CELL,
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
    WINOGRAD_MULTIPLY,
    PACK_WINOGRAD_3D,
    WINOGRAD_3D_INPUT,
    WINOGRAD_3D_OUTPUT,
    PACK_WINOGRAD_HW,
    WINOGRAD_HW_INPUT,
    WINOGRAD_HW_OUTPUT,
    COOP,
    PACK_COOP,
];

/// What the kernel on cooperative matrices is made for: the matrices that the adapter multiplies, and its subgroups.
#[derive(Clone, Copy)]
pub(super) struct Coop {
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
    pub fn of(caps: &Caps) -> Option<Self> {
        let (edge, [_, subgroup]) = (caps.cooperative_tile? as usize, caps.subgroup_size?);
        Some(Self { edge, subgroup: subgroup as usize })
    }

    /// Subgroups of a workgroup: each computes 4 runs of voxels.
    fn subgroups(self) -> usize {
        Self::VOXELS.iter().product::<usize>() / (4 * self.edge)
    }

    /// Whether the input tile with its halo, and a tile of sums a subgroup, fit into workgroup memory.
    pub fn takes(self, window: &Window, kernel: [usize; 3]) -> bool {
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
                ("GROUPS", groups),
                ("WIDE2", (groups == 2).into()),
                ("SUBGROUP", self.subgroup),
            ],
            general: false,
            workgroup,
            invocations: tiles * workgroup,
        }
    }
}

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
    if row_columns(window, kernel[2]) <= MOST_COLUMNS {
        offer("direct_x4", true);
    }
    if window.is_dense() && matches!(kernel[2], 1 | 3) {
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

/// Most columns of a row of the input that an invocation of `direct_x4` holds.
const MOST_COLUMNS: usize = 16;

/// Columns of a row of the input that 4 voxels of the output read, where the kernel is `kw` wide.
fn row_columns(window: &Window, kw: usize) -> usize {
    let span = 3 * window.stride[2] + 1;
    span + window.dilation[2].min(span) * (kw - 1)
}

/// Legal variants of a transposed convolution, where `window.padding` is what is cropped, preferred first. With stride 1 it is
/// a convolution.
pub(super) fn transposed_variants(
    window: &Window,
    kernel: [usize; 3],
    channels: [usize; 2],
    output: [usize; 3],
    caps: &Caps,
) -> Vec<&'static str> {
    if window.stride == [1; 3] {
        return direct_variants(window, kernel, channels, output, caps);
    }
    let cell = [[2; 3], [3; 3]].contains(&kernel) && window.stride == [2; 3] && window.dilation == [1; 3];
    if cell { vec!["cell", "naive"] } else { vec!["naive"] }
}

/// A kernel variant for a number of output channels.
struct Form {
    path: &'static str,
    /// Output channels of a tile of packed weights.
    tile: usize,
    /// Constants of the kernel beside those that all share.
    defines: Vec<(&'static str, usize)>,
    /// Whether stride, dilation and the kernel's extents are parameters; else they are constants.
    general: bool,
    /// Invocations of a workgroup.
    workgroup: usize,
    /// Invocations for one sample and one tile of channels.
    invocations: usize,
}

impl Form {
    fn new(variant: &str, n_out: usize, output: [usize; 3], window: &Window, caps: &Caps) -> Self {
        let [d, h, w] = output;
        let (rows, voxels) = (d * h, d * h * w);
        let groups = |limit: usize| match n_out.div_ceil(4).next_power_of_two() {
            n if n > limit => limit,
            n => n,
        };
        let wide = |n: usize| vec![("GROUPS", n), ("WIDE2", (n >= 2).into()), ("WIDE4", (n >= 4).into())];
        let form = |path, tile, defines| Self {
            path,
            tile,
            defines,
            general: false,
            workgroup: FLAT,
            invocations: rows * w.div_ceil(4),
        };
        match variant {
            "direct_x4" => {
                let ([sd, sh, sw], [dd, dh, dw]) = (window.stride, window.dilation);
                let defines = vec![
                    ("GROUPS", groups(4)),
                    ("STRIDE_D", sd),
                    ("STRIDE_H", sh),
                    ("STRIDE_W", sw),
                    ("DILATION_D", dd),
                    ("DILATION_H", dh),
                    ("DILATION_W", dw),
                ];
                form(DIRECT_X4, 4 * groups(4), defines)
            }
            "single" => form(SINGLE, 1, Vec::new()),
            "winograd_w4" => form(WINOGRAD_W4, 4 * groups(2), wide(groups(2))),
            "lanes" => {
                let lanes =
                    caps.lanes().expect("variants offers lanes where subgroups have one size") as usize;
                let n = if n_out > lanes { 2 } else { 1 };
                let defines = vec![("L", lanes), ("GROUPS", n), ("WIDE2", (n == 2).into())];
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
    let form = Form::new(variant, packing.n_out, spatial(&pass.y.1.shape), &pass.window, caps);
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
        key = key.count(name, value);
    }
    let params = if form.general {
        pass.window_params()
    } else {
        key = key.count("KD", kd).count("KH", kh).count("KW", kw).define("TAPS3", (kw == 3).into());
        pad_params(pass.shape_params(), pass.pad)
    };
    // The naive kernel has an invocation for each channel.
    let channel_tiles = if form.path == NAIVE { 1 } else { packing.n_out.div_ceil(form.tile) };
    let grid = [form.invocations, form.workgroup, channel_tiles];
    pass.launch(lowered, &key, &params, packed, grid, caps);
}

/// Adds the launches of a transposed convolution: the pass reads weights as [`Packing::swap`] has it, and its window's padding
/// is what is cropped.
pub(super) fn lower_transposed(lowered: &mut Lowered, mut pass: Pass<'_>, caps: &Caps, variant: &str) {
    let kernel = pass.weight.1.kernel;
    if pass.window.stride == [1; 3] {
        // Each output gathers what the inputs round it scatter.
        pass.weight.1.flip = true;
        pass.pad = std::array::from_fn(|a| {
            i32::try_from(pass.window.dilation[a] * (kernel[a] - 1)).expect(IN_BOUNDS) - pass.pad[a]
        });
        return lower_pass(lowered, &pass, caps, variant);
    }
    let (weight, packing) = &pass.weight;
    let (y, n_out) = (pass.y.1, packing.n_out);
    if variant == "cell" {
        let packed = pack_weights(lowered, *weight, packing, 4);
        let cells_each = cells_each(caps);
        let key = pass.kernel(CELL).define("K3", (kernel[0] == 3).into()).count("CELLS", cells_each);
        let [d, h, w] = std::array::from_fn(|a| (y.shape[2 + a] + pass.window.padding[a][0]).div_ceil(2));
        let grid = [d * h * w.div_ceil(cells_each), FLAT, n_out.div_ceil(4)];
        pass.launch(lowered, &key, &pad_params(pass.shape_params(), pass.pad), packed, grid, caps);
    } else {
        let packed = pack_weights(lowered, *weight, packing, 1);
        let grid = [n_out * y.voxels(), FLAT, 1];
        pass.launch(lowered, &pass.kernel(TRANSPOSED), &pass.window_params(), packed, grid, caps);
    }
}

/// Cells along w that an invocation of `cell` computes: what is loaded of the weights serves all of them. On a GPU the
/// registers of more than three leave too few waves.
fn cells_each(caps: &Caps) -> usize {
    if caps.class == DeviceClass::Software { 2 } else { 3 }
}
