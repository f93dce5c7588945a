// conv3d with the output channels on the lanes of a subgroup: each subgroup computes 12 voxels along w x L GROUPS
// output channels, L the subgroup's size.
//   y[n,co,d,h,w] = act(bias[co] + sum_{ci,kd,kh,kw} x[n,ci,d+kd-pd,h+kh-ph,w+kw-pw] * weight[co,ci,kd,kh,kw])
// Stride 1, dilation 1, kernel width 1 or 3 (TAPS3), any KD, KH; padding before each axis is free.
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co/T][c_in][KD][KH][KW][T] f32, T = L GROUPS (pack.wgsl).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: subgroup = tile of 12 voxels, folded over workgroups; workgroup z = n * (c_out / T) + channel tile. No
// workgroup memory.
// Why: where a load by lane is dear (software Vulkan without a gather instruction checks and branches lane by lane),
// one load brings L neighbours of a row, and each of them is broadcast to all lanes, which the compiler does with a
// shuffle. Weights are the only other loads, one by lane a tap and channel group.
// Cost: 2 c_in KD KH KW flops a voxel and channel; registers hold 12 GROUPS sums.
#import "lib/conv_dense.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<f32>;

// Voxels 8 to 13 of a row's window lie in the second load of a subgroup of 8, in the first of a larger one.
const SECOND: u32 = select(0u, 8u, L == 8u);

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = (group.y * groups.x + group.x) * (64u / L) + subgroup;
    let first = tile_start(tile, 12u);
    if first.x >= params.out_d {
        return;
    }
    let channel_tiles = (params.c_out + L * GROUPS - 1u) / (L * GROUPS);
    let n = group.z / channel_tiles;
    let channel_tile = group.z % channel_tiles;

    // Sums of 12 voxels: for channel `lane`, and for channel `L + lane` with two groups.
    var a0 = vec4<f32>(0.0);
    var a1 = vec4<f32>(0.0);
    var a2 = vec4<f32>(0.0);
#ifdef WIDE2
    var b0 = vec4<f32>(0.0);
    var b1 = vec4<f32>(0.0);
    var b2 = vec4<f32>(0.0);
#endif

    // Columns of the window that this lane loads: clamped, so that every load is in bounds, with a flag for the real ones.
    let iw = first.z - params.pad_w + i32(lane);
    let last = params.in_w - 1;
    let i0 = u32(clamp(iw, 0, last));
    let in0 = iw >= 0 && iw <= last;
    let i1 = u32(clamp(iw + i32(SECOND), 0, last));
    let in1 = iw + i32(SECOND) >= 0 && iw + i32(SECOND) <= last;

    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    var channel_base = n * params.c_in * in_volume;
    var at = channel_tile * params.c_in * (KD * KH * KW * L * GROUPS) + lane;
    for (var ci = 0u; ci < params.c_in; ci++) {
        for (var kd = 0; kd < i32(KD); kd++) {
            let id = first.x + kd - params.pad_d;
            let in_d = id >= 0 && id < params.in_d;
            let plane = clamp(id, 0, params.in_d - 1) * params.in_h;
            for (var kh = 0; kh < i32(KH); kh++) {
                let ih = first.y + kh - params.pad_h;
                let in_row = in_d && ih >= 0 && ih < params.in_h;
                let row = channel_base + u32((plane + clamp(ih, 0, params.in_h - 1)) * params.in_w);
                let low = select(0.0, f32(x[row + i0]), in_row && in0);
                let high = select(0.0, f32(x[row + i1]), in_row && in1);
                let x0 = vec4<f32>(
                    subgroupBroadcast(low, 0u), subgroupBroadcast(low, 1u),
                    subgroupBroadcast(low, 2u), subgroupBroadcast(low, 3u));
                let x1 = vec4<f32>(
                    subgroupBroadcast(low, 4u), subgroupBroadcast(low, 5u),
                    subgroupBroadcast(low, 6u), subgroupBroadcast(low, 7u));
                let x2 = vec4<f32>(
                    subgroupBroadcast(high, 8u - SECOND), subgroupBroadcast(high, 9u - SECOND),
                    subgroupBroadcast(high, 10u - SECOND), subgroupBroadcast(high, 11u - SECOND));
                let w0 = vec4<f32>(weight[at]);
                a0 = fma(x0, w0, a0);
                a1 = fma(x1, w0, a1);
                a2 = fma(x2, w0, a2);
#ifdef WIDE2
                let v0 = vec4<f32>(weight[at + L]);
                b0 = fma(x0, v0, b0);
                b1 = fma(x1, v0, b1);
                b2 = fma(x2, v0, b2);
#endif
#ifdef TAPS3
                let x3 = vec2<f32>(subgroupBroadcast(high, 12u - SECOND), subgroupBroadcast(high, 13u - SECOND));
                let w1 = vec4<f32>(weight[at + L * GROUPS]);
                a0 = fma(vec4<f32>(x0.yzw, x1.x), w1, a0);
                a1 = fma(vec4<f32>(x1.yzw, x2.x), w1, a1);
                a2 = fma(vec4<f32>(x2.yzw, x3.x), w1, a2);
                let w2 = vec4<f32>(weight[at + 2u * L * GROUPS]);
                a0 = fma(vec4<f32>(x0.zw, x1.xy), w2, a0);
                a1 = fma(vec4<f32>(x1.zw, x2.xy), w2, a1);
                a2 = fma(vec4<f32>(x2.zw, x3), w2, a2);
#ifdef WIDE2
                let v1 = vec4<f32>(weight[at + L * GROUPS + L]);
                b0 = fma(vec4<f32>(x0.yzw, x1.x), v1, b0);
                b1 = fma(vec4<f32>(x1.yzw, x2.x), v1, b1);
                b2 = fma(vec4<f32>(x2.yzw, x3.x), v1, b2);
                let v2 = vec4<f32>(weight[at + 2u * L * GROUPS + L]);
                b0 = fma(vec4<f32>(x0.zw, x1.xy), v2, b0);
                b1 = fma(vec4<f32>(x1.zw, x2.xy), v2, b1);
                b2 = fma(vec4<f32>(x2.zw, x3), v2, b2);
#endif
#endif
                at += KW * L * GROUPS;
            }
        }
        channel_base += in_volume;
    }

    let count = params.out_w - first.z;
    let base = row_base(n, first);
    let channel = channel_tile * L * GROUPS + lane;
    store_row(channel, base, count, a0);
    store_row(channel, base + 4u, count - 4, a1);
    store_row(channel, base + 8u, count - 8, a2);
#ifdef WIDE2
    store_row(channel + L, base, count, b0);
    store_row(channel + L, base + 4u, count - 4, b1);
    store_row(channel + L, base + 8u, count - 8, b2);
#endif
}
