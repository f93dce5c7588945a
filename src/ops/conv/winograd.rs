//! Variants of `conv3d` and of its gradients by Winograd's minimal filtering (Lavin and Gray, *Fast Algorithms for
//! Convolutional Neural Networks*, 2016): windows of the input are transformed, multiplied point by point, and
//! transformed back, in slabs that bound the temporaries.
//!
//! - `winograd_hw`, F(4x4, 3x3) along h and w: 36 multiplications a tap along d for 16 voxels instead of 144;
//! - `winograd_3d`, F(2x2x2, 3x3x3): 64 for 8 voxels instead of 216.

use super::pass::{
    EXPANDED, PACK_WINOGRAD_3D, PACK_WINOGRAD_HW, PRODUCTS, Packing, Pass, TRANSFORMED, WINOGRAD_3D_INPUT,
    WINOGRAD_3D_OUTPUT, WINOGRAD_HW_CORRELATE, WINOGRAD_HW_EXPAND, WINOGRAD_HW_INPUT, WINOGRAD_HW_OUTPUT,
    WINOGRAD_HW_WEIGHT, WINOGRAD_MULTIPLY, pack_with, pad_params,
};
use super::window::spatial;
use crate::gpu::{Caps, DeviceClass, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{FLAT, element_kernel, sample_bytes, sample_planes};
use crate::tensor::TensorDesc;

/// Name of the variant F(2x2x2, 3x3x3).
pub(super) const WINOGRAD_3D: &str = "winograd_3d";
/// Name of the variant F(4x4, 3x3) along h and w.
pub(super) const WINOGRAD_HW: &str = "winograd_hw";

/// Points of the transformed domains.
const POINTS_3D: usize = 64;
const POINTS_HW: usize = 36;

/// Channels that an invocation of the products computes.
const TILE: usize = 16;

/// Most planes of output in a slab of `winograd_hw` whose windows alone would fill it: the planes that the taps along d
/// read beyond them are transformed once more for the next slab.
const PLANES: usize = 8;

/// Largest size in bytes of the transformed input, and of the products. For a whole volume they would take several times
/// the tensor, and what fits a cache need not travel to memory; a GPU needs more windows at a time to be busy.
fn slab_bytes(caps: &Caps) -> usize {
    let wanted = if caps.class == DeviceClass::Software { 2 << 20 } else { 32 << 20 };
    wanted.min(caps.max_binding as usize)
}

/// Windows of `winograd_hw` in a volume of these extents.
pub(super) fn windows([d, h, w]: [usize; 3]) -> usize {
    d * h.div_ceil(4) * w.div_ceil(4)
}

/// Most bytes of packed weights for which a pass takes both inputs of a convolution.
const MAX_PACKED_BYTES: usize = 8 << 20;

/// Whether one pass takes both inputs of a convolution and adds them up before it transforms back. In deep layers, which
/// are small, the memory for all packed weights would count for more than the time.
pub(super) fn takes_both(variant: &str, [n_in, n_out]: [usize; 2], taps_d: usize) -> bool {
    let values = match variant {
        WINOGRAD_3D => POINTS_3D,
        WINOGRAD_HW => POINTS_HW * taps_d,
        _ => return false,
    };
    n_in * n_out.next_multiple_of(TILE) * values * 4 <= MAX_PACKED_BYTES
}

/// Leaves these variants alone where a sample of a tensor exceeds a binding: no others bind sets of channels.
pub(super) fn retain_bindable(variants: &mut Vec<&'static str>, tensors: &[&TensorDesc], caps: &Caps) {
    let ours = [WINOGRAD_3D, WINOGRAD_HW];
    let exceeds = tensors.iter().any(|tensor| sample_bytes(tensor) > caps.max_binding);
    if exceeds && variants.iter().any(|variant| ours.contains(variant)) {
        variants.retain(|variant| ours.contains(variant));
    }
}

/// Adds the launches of a transform over sample `n` of `tensor`, whose channels are those from `first` on of the
/// transformed one: one launch for each set of channels that fits a binding.
fn transform(
    lowered: &mut Lowered,
    launch: &Dispatch,
    (name, slot, tensor): (&'static str, Slot, &TensorDesc),
    (n, first): (usize, usize),
    caps: &Caps,
) {
    for planes in sample_planes(tensor, n, caps) {
        let mut dispatch = launch.clone().bind_range(name, slot, planes.bytes);
        dispatch.params = dispatch
            .params
            .u32("first_channel", first + planes.channels.start)
            .u32("first_plane", planes.first_plane);
        lowered.push(dispatch.layers(planes.channels.len()));
    }
}

/// Adds the launches of a transform over sample `n` of a pass's input, or of both.
fn transform_inputs(lowered: &mut Lowered, launch: &Dispatch, pass: &Pass<'_>, n: usize, caps: &Caps) {
    let mut first = 0;
    for (slot, x) in [pass.x].into_iter().chain(pass.x2) {
        transform(lowered, launch, ("x", slot, x), (n, first), caps);
        first += x.shape[1];
    }
}

/// The product of the transformed input with the packed weights at `points` points.
struct Product {
    points: usize,
    /// Input and padded output channels.
    channels: [usize; 2],
    /// Taps along d, and quads of windows between two of them.
    taps: usize,
    shift: usize,
    /// Quads of windows in a channel of the input and of the output.
    quads: [usize; 2],
}

impl Product {
    fn dispatch(&self, caps: &Caps, v: Slot, weight: Slot, m: Slot) -> Dispatch {
        let step = if self.channels[0].is_multiple_of(2) { 2 } else { 1 };
        let key = KernelKey::new(WINOGRAD_MULTIPLY).define("STEP", step).define("WIDE", caps.wide.into());
        let dispatch = Dispatch::new(key)
            .bind("v", v)
            .bind("weight", weight)
            .bind("m", m)
            .params(
                Params::new()
                    .u32("c_in", self.channels[0])
                    .u32("taps", self.taps)
                    .u32("shift", self.shift)
                    .u32("in_quads", self.quads[0])
                    .u32("quads", self.quads[1])
                    .u32("channel_tiles", self.channels[1] / TILE),
            )
            .flat(self.quads[1], FLAT);
        dispatch.layers(self.points * self.channels[1] / TILE)
    }
}

fn input_params([d, h, w]: [usize; 3], pad: [i32; 3]) -> Params {
    pad_params(Params::new().u32("in_d", d).u32("in_h", h).u32("in_w", w), pad)
}

fn output_params([d, h, w]: [usize; 3]) -> Params {
    Params::new().u32("out_d", d).u32("out_h", h).u32("out_w", w)
}

/// Adds the launches of one pass of `winograd_3d`: a dense 3x3x3 window.
pub(super) fn lower_3d(lowered: &mut Lowered, pass: &Pass<'_>, caps: &Caps) {
    let (_, x) = pass.x;
    let (y_slot, y) = pass.y;
    let (weight, packing) = &pass.weight;
    let (input, output) = (spatial(&x.shape), spatial(&y.shape));
    let channels = packing.n_out.next_multiple_of(TILE);
    let packed =
        pack_with(lowered, PACK_WINOGRAD_3D, *weight, packing, TILE, &packing.packed(TILE, POINTS_3D), 1);
    let tiles = output.map(|n| n.div_ceil(2));
    let total: usize = tiles.iter().product();
    let bytes_per_window = POINTS_3D * packing.n_in.max(channels) * 4;
    let stride = (slab_bytes(caps) / bytes_per_window / 4 * 4).clamp(4, total.next_multiple_of(4));
    let transformed = lowered.pass_scratch(TRANSFORMED, (POINTS_3D * packing.n_in * stride * 4) as u64);
    let products = lowered.pass_scratch(PRODUCTS, (POINTS_3D * channels * stride * 4) as u64);
    let product = Product {
        points: POINTS_3D,
        channels: [packing.n_in, channels],
        taps: 1,
        shift: 0,
        quads: [stride / 4; 2],
    };
    for n in 0..x.shape[0] {
        for first in (0..total).step_by(stride) {
            let slab = |params: Params| {
                params
                    .u32("tiles_h", tiles[1])
                    .u32("tiles_w", tiles[2])
                    .u32("first", first)
                    .u32("count", stride.min(total - first))
                    .u32("stride", stride)
            };
            let params = slab(input_params(input, pass.pad));
            let launch = Dispatch::new(element_kernel(WINOGRAD_3D_INPUT, x))
                .bind("v", transformed)
                .params(params.u32("channels", packing.n_in))
                .flat(stride, FLAT);
            transform_inputs(lowered, &launch, pass, n, caps);
            lowered.push(product.dispatch(caps, transformed, packed, products));
            let params = slab(output_params(output))
                .u32("channels", channels)
                .f32("negative_slope", pass.negative_slope);
            let launch = Dispatch::new(pass.kernel(WINOGRAD_3D_OUTPUT))
                .bind("m", products)
                .params(params)
                .flat(stride, FLAT);
            transform(lowered, &pass.with_bias(launch), ("y", y_slot, y), (n, 0), caps);
        }
    }
}

/// Slabs of `winograd_hw`: `span` windows of each of `planes` planes of the output.
struct Slabs {
    /// Extents of the output, and windows of a plane along h and w.
    output: [usize; 3],
    tiles: [usize; 2],
    /// Taps along d.
    taps: usize,
    planes: usize,
    /// A multiple of 4.
    span: usize,
}

impl Slabs {
    /// Slabs whose transforms take up to `bytes` in so many channels.
    fn new(output: [usize; 3], taps: usize, channels: usize, bytes: usize) -> Self {
        let tiles = [output[1].div_ceil(4), output[2].div_ceil(4)];
        let samples = bytes / (POINTS_HW * channels * 4);
        let span = samples / (PLANES.min(output[0]) + taps - 1) / 4 * 4;
        let span = span.clamp(4, (tiles[0] * tiles[1]).next_multiple_of(4));
        let planes = (samples / span).saturating_sub(taps - 1).clamp(1, output[0]);
        Self { output, tiles, taps, planes, span }
    }

    /// Samples of a transformed channel of the input.
    fn in_stride(&self) -> usize {
        (self.planes + self.taps - 1) * self.span
    }

    /// Samples of a transformed channel of the output.
    fn out_stride(&self) -> usize {
        self.planes * self.span
    }

    fn iter(&self) -> impl Iterator<Item = Slab<'_>> {
        let firsts = (0..self.tiles[0] * self.tiles[1]).step_by(self.span);
        firsts.flat_map(move |first| {
            (0..self.output[0]).step_by(self.planes).map(move |first_d| Slab { slabs: self, first, first_d })
        })
    }
}

/// One of them.
struct Slab<'a> {
    slabs: &'a Slabs,
    /// First window of each plane.
    first: usize,
    /// First plane.
    first_d: usize,
}

impl Slab<'_> {
    /// Samples of the output.
    fn out_total(&self) -> usize {
        self.slabs.planes.min(self.slabs.output[0] - self.first_d) * self.slabs.span
    }

    fn launch(&self, key: KernelKey, params: Params, total: usize) -> Dispatch {
        let slabs = self.slabs;
        let params = params
            .u32("tiles_w", slabs.tiles[1])
            .u32("first", self.first)
            .u32("count", slabs.span.min(slabs.tiles[0] * slabs.tiles[1] - self.first))
            .u32("span", slabs.span)
            .u32("first_d", self.first_d)
            .u32("total", total);
        Dispatch::new(key).params(params).flat(total, FLAT)
    }

    /// Transforms the input into `channels` channels of `v`.
    fn input(&self, key: KernelKey, input: [usize; 3], pad: [i32; 3], channels: usize, v: Slot) -> Dispatch {
        let total = self.out_total() + (self.slabs.taps - 1) * self.slabs.span;
        let params = input_params(input, pad).u32("stride", self.slabs.in_stride()).u32("channels", channels);
        self.launch(key, params, total).bind("v", v)
    }

    /// Transforms to or from the output, which has `channels` channels in slot `name`, `stride` samples each.
    fn output(
        &self,
        key: KernelKey,
        stride: usize,
        channels: usize,
        (name, slot): (&'static str, Slot),
    ) -> Dispatch {
        let params = output_params(self.slabs.output).u32("stride", stride).u32("channels", channels);
        self.launch(key, params, self.out_total()).bind(name, slot)
    }
}

/// Adds the launches of one pass of `winograd_hw`: a dense window with 3x3 taps along h and w.
pub(super) fn lower_hw(lowered: &mut Lowered, pass: &Pass<'_>, caps: &Caps) {
    let (_, x) = pass.x;
    let (y_slot, y) = pass.y;
    let (weight, packing) = &pass.weight;
    let &Packing { n_in, n_out, kernel: [taps, ..], .. } = packing;
    let packed = packing.packed(TILE, POINTS_HW * taps);
    let packed = pack_with(lowered, PACK_WINOGRAD_HW, *weight, packing, TILE, &packed, POINTS_HW);
    let channels = n_out.next_multiple_of(TILE);
    let slabs = Slabs::new(spatial(&y.shape), taps, n_in.max(channels), slab_bytes(caps));
    let bytes = |channels: usize, stride: usize| (POINTS_HW * channels * stride * 4) as u64;
    let transformed = lowered.pass_scratch(TRANSFORMED, bytes(n_in, slabs.in_stride()));
    let products = lowered.pass_scratch(PRODUCTS, bytes(channels, slabs.out_stride()));
    for n in 0..x.shape[0] {
        for slab in slabs.iter() {
            let launch = slab.input(
                element_kernel(WINOGRAD_HW_INPUT, x),
                spatial(&x.shape),
                pass.pad,
                n_in,
                transformed,
            );
            transform_inputs(lowered, &launch, pass, n, caps);
            let product = Product {
                points: POINTS_HW,
                channels: [n_in, channels],
                taps,
                shift: slabs.span / 4,
                quads: [slabs.in_stride() / 4, slab.out_total() / 4],
            };
            lowered.push(product.dispatch(caps, transformed, packed, products));
            let mut launch =
                slab.output(pass.kernel(WINOGRAD_HW_OUTPUT), slab.out_total(), channels, ("m", products));
            launch.params = launch.params.f32("negative_slope", pass.negative_slope);
            transform(lowered, &pass.with_bias(launch), ("y", y_slot, y), (n, 0), caps);
        }
    }
}

/// Adds the launches of the gradient by the weights of the input channels from `first_channel` on, `dweight [c_out,
/// row_channels, kd, 3, 3]`, of a dense convolution of `x` whose output has the gradient `dy`.
///
/// Where `y = A'((G w) (B' x))` along an axis, the gradient is `G'(sum over windows of (A dy) (B' x))`: as many
/// multiplications as the forward pass.
pub(super) fn lower_grad_weight(
    lowered: &mut Lowered,
    (x_slot, x): (Slot, &TensorDesc),
    (dy_slot, dy): (Slot, &TensorDesc),
    (dweight, row_channels, first_channel): (Slot, usize, usize),
    (taps, pad): (usize, [i32; 3]),
    caps: &Caps,
) {
    let [c_in, c_out] = [x, dy].map(|tensor| tensor.shape[1].next_multiple_of(TILE));
    // The sums stay in memory from slab to slab, and the windows of one point are read at a time: larger slabs pay.
    let slab_bytes = (4 * slab_bytes(caps)).min(caps.max_binding as usize);
    let slabs = Slabs::new(spatial(&dy.shape), taps, c_in.max(c_out), slab_bytes);
    let bytes = |channels: usize, stride: usize| (POINTS_HW * channels * stride * 4) as u64;
    let transformed = lowered.pass_scratch(TRANSFORMED, bytes(c_in, slabs.in_stride()));
    let expanded = lowered.pass_scratch(EXPANDED, bytes(c_out, slabs.out_stride()));
    let sums = lowered.pass_scratch(PRODUCTS, (taps * POINTS_HW * c_in * c_out * 4) as u64);
    // Lanes take the side of more channels.
    let swap = c_in > c_out;
    let from_x = (transformed, c_in, slabs.in_stride(), slabs.span);
    let from_dy = (expanded, c_out, slabs.out_stride(), 0);
    let (left, right) = if swap { (from_dy, from_x) } else { (from_x, from_dy) };
    // Two channels a lane where four would leave lanes of a processor's vectors empty.
    let pairs = caps.class == DeviceClass::Software && caps.lanes().is_some_and(|n| right.1 / 4 < n as usize);
    let right_items = right.1 / if pairs { 2 } else { 4 };
    let mut accumulate = false;
    for n in 0..x.shape[0] {
        for slab in slabs.iter() {
            let key = KernelKey::new(WINOGRAD_HW_INPUT).define("F16", 0).define("TILED", 1);
            let launch = slab.input(key, spatial(&x.shape), pad, c_in, transformed);
            transform(lowered, &launch, ("x", x_slot, x), (n, 0), caps);
            let key = KernelKey::new(WINOGRAD_HW_EXPAND).define("TILED", 1);
            let launch = slab.output(key, slabs.out_stride(), c_out, ("v", expanded));
            transform(lowered, &launch, ("dy", dy_slot, dy), (n, 0), caps);
            let key = KernelKey::new(WINOGRAD_HW_CORRELATE)
                .define("ACCUMULATE", accumulate.into())
                .define("PAIRS", pairs.into())
                .define("WIDE", caps.wide.into());
            let dispatch = Dispatch::new(key)
                .bind("left", left.0)
                .bind("right", right.0)
                .bind("m", sums)
                .params(
                    Params::new()
                        .u32("count", slab.out_total())
                        .u32("taps", taps)
                        .u32("left_stride", left.2)
                        .u32("left_shift", left.3)
                        .u32("left_tiles", left.1 / TILE)
                        .u32("right_stride", right.2)
                        .u32("right_shift", right.3)
                        .u32("right_items", right_items),
                )
                .flat(right_items, FLAT);
            lowered.push(dispatch.layers(taps * POINTS_HW * left.1 / TILE));
            accumulate = true;
        }
    }
    let (ci_step, co_step) = if swap { (1, c_in) } else { (c_out, 1) };
    lowered.push(
        Dispatch::new(KernelKey::new(WINOGRAD_HW_WEIGHT))
            .bind("m", sums)
            .bind("dweight", dweight)
            .params(
                Params::new()
                    .u32("c_in", x.shape[1])
                    .u32("c_out", dy.shape[1])
                    .u32("taps", taps)
                    .u32("ci_step", ci_step)
                    .u32("co_step", co_step)
                    .u32("point_step", c_in * c_out)
                    .u32("row_channels", row_channels)
                    .u32("first_channel", first_channel),
            )
            .flat(x.shape[1] * dy.shape[1] * taps, FLAT),
    );
}
