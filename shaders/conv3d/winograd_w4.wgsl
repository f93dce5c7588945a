// conv3d by Winograd's minimal filtering F(4, 3) along w: each invocation computes 4 voxels along w x 4 GROUPS output
// channels with 6 multiplications a channel, input channel, kd and kh instead of 12.
//   y[n,co,d,h,w] = act(bias[co] + sum_{ci,kd,kh,kw} x[n,ci,d+kd-pd,h+kh-ph,w+kw-pw] * weight[co,ci,kd,kh,kw])
//   y = A' sum_{ci,kd,kh} (G g) * (B' x), with the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray 2016)
// Stride 1, dilation 1, kernel width 3, any KD, KH; padding before each axis is free.
// Inputs: x [N, c_in, D, H, W] Element; weight transformed and packed [co/T][c_in][KD][KH][6][T] f32, T = 4 GROUPS
// (pack_winograd_w4.wgsl).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: global x (folded on to y) = tile of 4 voxels; workgroup z = n * (c_out / T) + channel tile, so that the
// weight address is the same for the whole workgroup. No workgroup memory.
// Cost: the sums stay in the transformed domain, 24 GROUPS registers, and are transformed back once.
#import "lib/conv_dense.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;

// Writes 4 voxels of 4 channels from their sums in the transformed domain.
fn store(
    channel: u32, base: u32, count: i32,
    m0: vec4<f32>, m1: vec4<f32>, m2: vec4<f32>, m3: vec4<f32>, m4: vec4<f32>, m5: vec4<f32>,
) {
    let sum12 = m1 + m2;
    let dif12 = m1 - m2;
    let sum34 = m3 + m4;
    let dif34 = m3 - m4;
    // Columns are voxels, rows channels.
    let out = transpose(mat4x4<f32>(
        m0 + sum12 + sum34,
        fma(vec4<f32>(2.0), dif34, dif12),
        fma(vec4<f32>(4.0), sum34, sum12),
        fma(vec4<f32>(8.0), dif34, dif12) + m5,
    ));
    for (var c = 0u; c < 4u; c++) {
        store_row(channel + c, base, count, out[c]);
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = tile_start(flat_index(global, groups, 64u), 4u);
    if first.x >= params.out_d {
        return;
    }
    let channel_tiles = (params.c_out + 4u * GROUPS - 1u) / (4u * GROUPS);
    let n = group.z / channel_tiles;
    let channel_tile = group.z % channel_tiles;

    var a0 = vec4<f32>(0.0);
    var a1 = vec4<f32>(0.0);
    var a2 = vec4<f32>(0.0);
    var a3 = vec4<f32>(0.0);
    var a4 = vec4<f32>(0.0);
    var a5 = vec4<f32>(0.0);
#ifdef WIDE2
    var b0 = vec4<f32>(0.0);
    var b1 = vec4<f32>(0.0);
    var b2 = vec4<f32>(0.0);
    var b3 = vec4<f32>(0.0);
    var b4 = vec4<f32>(0.0);
    var b5 = vec4<f32>(0.0);
#endif

    // Columns of the input window: clamped, so that every load is in bounds, with a flag for the real ones.
    let iw = first.z - params.pad_w;
    let last = params.in_w - 1;
    let i0 = u32(clamp(iw + 0, 0, last));
    let in0 = iw + 0 >= 0 && iw + 0 <= last;
    let i1 = u32(clamp(iw + 1, 0, last));
    let in1 = iw + 1 >= 0 && iw + 1 <= last;
    let i2 = u32(clamp(iw + 2, 0, last));
    let in2 = iw + 2 >= 0 && iw + 2 <= last;
    let i3 = u32(clamp(iw + 3, 0, last));
    let in3 = iw + 3 >= 0 && iw + 3 <= last;
    let i4 = u32(clamp(iw + 4, 0, last));
    let in4 = iw + 4 >= 0 && iw + 4 <= last;
    let i5 = u32(clamp(iw + 5, 0, last));
    let in5 = iw + 5 >= 0 && iw + 5 <= last;

    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    var channel_base = n * params.c_in * in_volume;
    var at = channel_tile * params.c_in * (KD * KH * 6u * GROUPS);
    for (var ci = 0u; ci < params.c_in; ci++) {
        for (var kd = 0; kd < i32(KD); kd++) {
            let id = first.x + kd - params.pad_d;
            let in_d = id >= 0 && id < params.in_d;
            let plane = clamp(id, 0, params.in_d - 1) * params.in_h;
            for (var kh = 0; kh < i32(KH); kh++) {
                let ih = first.y + kh - params.pad_h;
                let in_row = in_d && ih >= 0 && ih < params.in_h;
                let row = channel_base + u32((plane + clamp(ih, 0, params.in_h - 1)) * params.in_w);
                let x0 = select(0.0, f32(x[row + i0]), in_row && in0);
                let x1 = select(0.0, f32(x[row + i1]), in_row && in1);
                let x2 = select(0.0, f32(x[row + i2]), in_row && in2);
                let x3 = select(0.0, f32(x[row + i3]), in_row && in3);
                let x4 = select(0.0, f32(x[row + i4]), in_row && in4);
                let x5 = select(0.0, f32(x[row + i5]), in_row && in5);
                // t = B' x
                let even = x4 - 4.0 * x2;
                let odd = x3 - 4.0 * x1;
                let dif42 = x4 - x2;
                let dif31 = 2.0 * (x3 - x1);
                let t0 = vec4<f32>(4.0 * x0 - 5.0 * x2 + x4);
                let t1 = vec4<f32>(even + odd);
                let t2 = vec4<f32>(even - odd);
                let t3 = vec4<f32>(dif42 + dif31);
                let t4 = vec4<f32>(dif42 - dif31);
                let t5 = vec4<f32>(4.0 * x1 - 5.0 * x3 + x5);
                a0 = fma(t0, weight[at], a0);
                a1 = fma(t1, weight[at + GROUPS], a1);
                a2 = fma(t2, weight[at + 2u * GROUPS], a2);
                a3 = fma(t3, weight[at + 3u * GROUPS], a3);
                a4 = fma(t4, weight[at + 4u * GROUPS], a4);
                a5 = fma(t5, weight[at + 5u * GROUPS], a5);
#ifdef WIDE2
                b0 = fma(t0, weight[at + 1u], b0);
                b1 = fma(t1, weight[at + GROUPS + 1u], b1);
                b2 = fma(t2, weight[at + 2u * GROUPS + 1u], b2);
                b3 = fma(t3, weight[at + 3u * GROUPS + 1u], b3);
                b4 = fma(t4, weight[at + 4u * GROUPS + 1u], b4);
                b5 = fma(t5, weight[at + 5u * GROUPS + 1u], b5);
#endif
                at += 6u * GROUPS;
            }
        }
        channel_base += in_volume;
    }

    let count = params.out_w - first.z;
    let base = row_base(n, first);
    let channel = channel_tile * 4u * GROUPS;
    store(channel, base, count, a0, a1, a2, a3, a4, a5);
#ifdef WIDE2
    store(channel + 4u, base, count, b0, b1, b2, b3, b4, b5);
#endif
}
