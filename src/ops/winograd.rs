//! A variant of `conv3d`: Winograd's minimal filtering F(2x2x2, 3x3x3), 64 multiplications for 8 voxels instead of 216.
//! Windows of the input are transformed, multiplied at 64 points, and transformed back (Lavin and Gray, *Fast
//! Algorithms for Convolutional Neural Networks*, 2016).

use super::conv3d::{PRODUCTS, Pass, TRANSFORMED, pack_with, spatial};
use super::{FLAT, batch_pieces, element_kernel, sample_range};
use crate::gpu::{Caps, DeviceClass, Dispatch, KernelKey, Lowered, Params};

pub(super) const PACK: &str = "conv3d/pack_winograd_3d.wgsl";
pub(super) const INPUT: &str = "conv3d/winograd_3d_input.wgsl";
pub(super) const MULTIPLY: &str = "conv3d/winograd_3d_multiply.wgsl";
pub(super) const OUTPUT: &str = "conv3d/winograd_3d_output.wgsl";

/// Points of the transformed domain.
const POINTS: usize = 64;

/// Output channels that an invocation of the product computes.
const TILE: usize = 16;

/// Largest size in bytes of the transformed input, and of the products. For a whole volume they would take eight times
/// the tensor, and what fits a cache need not travel to memory; a GPU needs more windows at a time to be busy.
fn slab_bytes(caps: &Caps) -> usize {
    let wanted = if caps.class == DeviceClass::Software { 2 << 20 } else { 32 << 20 };
    wanted.min(caps.max_binding as usize)
}

/// Windows of a volume of these extents.
pub(super) fn windows(output: [usize; 3]) -> usize {
    output.map(|n| n.div_ceil(2)).iter().product()
}

/// Adds the launches of one pass with a dense 3x3x3 window: for each sample, slabs of windows that bound the
/// temporaries.
pub(super) fn lower(lowered: &mut Lowered, pass: &Pass<'_>, caps: &Caps) {
    let (x_slot, x) = pass.x;
    let (y_slot, y) = pass.y;
    let (weight, packing) = &pass.weight;
    let (input, output) = (spatial(&x.shape), spatial(&y.shape));
    let channels = packing.n_out.next_multiple_of(TILE);
    let packed = pack_with(lowered, PACK, *weight, packing, TILE, &packing.packed(TILE, POINTS));
    let tiles = output.map(|n| n.div_ceil(2));
    let total = windows(output);
    let bytes_per_window = POINTS * packing.n_in.max(channels) * 4;
    let stride = (slab_bytes(caps) / bytes_per_window / 4 * 4).clamp(4, total.next_multiple_of(4));
    let transformed = lowered.pass_scratch(TRANSFORMED, (POINTS * packing.n_in * stride * 4) as u64);
    let products = lowered.pass_scratch(PRODUCTS, (POINTS * channels * stride * 4) as u64);
    let pieces = batch_pieces(&[x, y], caps);
    let samples = pieces.iter().flat_map(|piece| (0..piece.len()).map(move |n| (piece, n)));
    for (piece, n) in samples {
        for first in (0..total).step_by(stride) {
            let slab = |params: Params| {
                params
                    .u32("tiles_h", tiles[1])
                    .u32("tiles_w", tiles[2])
                    .u32("first", first)
                    .u32("count", stride.min(total - first))
                    .u32("stride", stride)
            };
            let mut dispatch = Dispatch::new(element_kernel(INPUT, x))
                .bind_range("x", x_slot, sample_range(x, piece))
                .bind("v", transformed)
                .params(
                    slab(Params::new())
                        .i32("in_d", input[0] as i32)
                        .i32("in_h", input[1] as i32)
                        .i32("in_w", input[2] as i32)
                        .i32("pad_d", pass.pad[0])
                        .i32("pad_h", pass.pad[1])
                        .i32("pad_w", pass.pad[2])
                        .u32("c_in", packing.n_in)
                        .u32("first_channel", n * packing.n_in),
                )
                .flat(stride, FLAT);
            dispatch.workgroups[2] = packing.n_in as u32;
            lowered.push(dispatch);
            let mut dispatch = Dispatch::new(KernelKey::new(MULTIPLY))
                .bind("v", transformed)
                .bind("weight", packed)
                .bind("m", products)
                .params(
                    Params::new()
                        .u32("c_in", packing.n_in)
                        .u32("quads", stride / 4)
                        .u32("channel_tiles", channels / TILE),
                )
                .flat(stride / 4, FLAT);
            dispatch.workgroups[2] = (POINTS * channels / TILE) as u32;
            lowered.push(dispatch);
            let mut dispatch = Dispatch::new(pass.kernel(OUTPUT))
                .bind("m", products)
                .bind_range("y", y_slot, sample_range(y, piece))
                .params(
                    slab(Params::new())
                        .u32("out_d", output[0])
                        .u32("out_h", output[1])
                        .u32("out_w", output[2])
                        .u32("channels", channels)
                        .u32("first_channel", n * packing.n_out)
                        .f32("negative_slope", pass.negative_slope),
                )
                .flat(stride, FLAT);
            if let Some(bias) = pass.bias {
                dispatch = dispatch.bind("bias", bias);
            }
            dispatch.workgroups[2] = packing.n_out as u32;
            lowered.push(dispatch);
        }
    }
}
