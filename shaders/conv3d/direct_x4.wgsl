// conv3d, register-tiled direct: each invocation computes 4 voxels along w x 4 GROUPS output channels.
//   y[n,co,d,h,w] = act(bias[co] + sum_{ci,kd,kh,kw} x[n,ci,d+kd-pd,h+kh-ph,w+kw-pw] * weight[co,ci,kd,kh,kw])
// Stride 1, dilation 1, kernel width 1 or 3 (KW), any KD, KH; padding before each axis is free.
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co/T][c_in][KD][KH][KW][T] f32, T = 4 GROUPS (pack.wgsl).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: global x (folded on to y) = tile of 4 voxels; workgroup z = n * (c_out / T) + channel tile, so that the
// weight address is the same for the whole workgroup. No workgroup memory.
// Cost: 2 c_in KD KH KW flops a voxel and channel; registers hold 16 GROUPS sums.
#import "lib/conv_dense.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;

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

    var a00 = vec4<f32>(0.0);
    var a10 = vec4<f32>(0.0);
    var a20 = vec4<f32>(0.0);
    var a30 = vec4<f32>(0.0);
#ifdef WIDE2
    var a01 = vec4<f32>(0.0);
    var a11 = vec4<f32>(0.0);
    var a21 = vec4<f32>(0.0);
    var a31 = vec4<f32>(0.0);
#endif
#ifdef WIDE4
    var a02 = vec4<f32>(0.0);
    var a12 = vec4<f32>(0.0);
    var a22 = vec4<f32>(0.0);
    var a32 = vec4<f32>(0.0);
    var a03 = vec4<f32>(0.0);
    var a13 = vec4<f32>(0.0);
    var a23 = vec4<f32>(0.0);
    var a33 = vec4<f32>(0.0);
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
#ifdef TAPS3
    let i4 = u32(clamp(iw + 4, 0, last));
    let in4 = iw + 4 >= 0 && iw + 4 <= last;
    let i5 = u32(clamp(iw + 5, 0, last));
    let in5 = iw + 5 >= 0 && iw + 5 <= last;
#endif

    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    var channel_base = n * params.c_in * in_volume;
    var at = channel_tile * params.c_in * (KD * KH * KW * GROUPS);
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
#ifdef TAPS3
                let x4 = select(0.0, f32(x[row + i4]), in_row && in4);
                let x5 = select(0.0, f32(x[row + i5]), in_row && in5);
#endif
                let w00 = weight[at + 0u];
                a00 = fma(vec4<f32>(x0), w00, a00);
                a10 = fma(vec4<f32>(x1), w00, a10);
                a20 = fma(vec4<f32>(x2), w00, a20);
                a30 = fma(vec4<f32>(x3), w00, a30);
#ifdef WIDE2
                let w01 = weight[at + 1u];
                a01 = fma(vec4<f32>(x0), w01, a01);
                a11 = fma(vec4<f32>(x1), w01, a11);
                a21 = fma(vec4<f32>(x2), w01, a21);
                a31 = fma(vec4<f32>(x3), w01, a31);
#endif
#ifdef WIDE4
                let w02 = weight[at + 2u];
                a02 = fma(vec4<f32>(x0), w02, a02);
                a12 = fma(vec4<f32>(x1), w02, a12);
                a22 = fma(vec4<f32>(x2), w02, a22);
                a32 = fma(vec4<f32>(x3), w02, a32);
                let w03 = weight[at + 3u];
                a03 = fma(vec4<f32>(x0), w03, a03);
                a13 = fma(vec4<f32>(x1), w03, a13);
                a23 = fma(vec4<f32>(x2), w03, a23);
                a33 = fma(vec4<f32>(x3), w03, a33);
#endif
#ifdef TAPS3
                let w10 = weight[at + 1u * GROUPS + 0u];
                a00 = fma(vec4<f32>(x1), w10, a00);
                a10 = fma(vec4<f32>(x2), w10, a10);
                a20 = fma(vec4<f32>(x3), w10, a20);
                a30 = fma(vec4<f32>(x4), w10, a30);
#ifdef WIDE2
                let w11 = weight[at + 1u * GROUPS + 1u];
                a01 = fma(vec4<f32>(x1), w11, a01);
                a11 = fma(vec4<f32>(x2), w11, a11);
                a21 = fma(vec4<f32>(x3), w11, a21);
                a31 = fma(vec4<f32>(x4), w11, a31);
#endif
#ifdef WIDE4
                let w12 = weight[at + 1u * GROUPS + 2u];
                a02 = fma(vec4<f32>(x1), w12, a02);
                a12 = fma(vec4<f32>(x2), w12, a12);
                a22 = fma(vec4<f32>(x3), w12, a22);
                a32 = fma(vec4<f32>(x4), w12, a32);
                let w13 = weight[at + 1u * GROUPS + 3u];
                a03 = fma(vec4<f32>(x1), w13, a03);
                a13 = fma(vec4<f32>(x2), w13, a13);
                a23 = fma(vec4<f32>(x3), w13, a23);
                a33 = fma(vec4<f32>(x4), w13, a33);
#endif
                let w20 = weight[at + 2u * GROUPS + 0u];
                a00 = fma(vec4<f32>(x2), w20, a00);
                a10 = fma(vec4<f32>(x3), w20, a10);
                a20 = fma(vec4<f32>(x4), w20, a20);
                a30 = fma(vec4<f32>(x5), w20, a30);
#ifdef WIDE2
                let w21 = weight[at + 2u * GROUPS + 1u];
                a01 = fma(vec4<f32>(x2), w21, a01);
                a11 = fma(vec4<f32>(x3), w21, a11);
                a21 = fma(vec4<f32>(x4), w21, a21);
                a31 = fma(vec4<f32>(x5), w21, a31);
#endif
#ifdef WIDE4
                let w22 = weight[at + 2u * GROUPS + 2u];
                a02 = fma(vec4<f32>(x2), w22, a02);
                a12 = fma(vec4<f32>(x3), w22, a12);
                a22 = fma(vec4<f32>(x4), w22, a22);
                a32 = fma(vec4<f32>(x5), w22, a32);
                let w23 = weight[at + 2u * GROUPS + 3u];
                a03 = fma(vec4<f32>(x2), w23, a03);
                a13 = fma(vec4<f32>(x3), w23, a13);
                a23 = fma(vec4<f32>(x4), w23, a23);
                a33 = fma(vec4<f32>(x5), w23, a33);
#endif
#endif
                at += KW * GROUPS;
            }
        }
        channel_base += in_volume;
    }

    let count = params.out_w - first.z;
    let base = row_base(n, first);
    let channel = channel_tile * 4u * GROUPS;
    store_row(channel + 0u, base, count, vec4<f32>(a00.x, a10.x, a20.x, a30.x));
    store_row(channel + 1u, base, count, vec4<f32>(a00.y, a10.y, a20.y, a30.y));
    store_row(channel + 2u, base, count, vec4<f32>(a00.z, a10.z, a20.z, a30.z));
    store_row(channel + 3u, base, count, vec4<f32>(a00.w, a10.w, a20.w, a30.w));
#ifdef WIDE2
    store_row(channel + 4u, base, count, vec4<f32>(a01.x, a11.x, a21.x, a31.x));
    store_row(channel + 5u, base, count, vec4<f32>(a01.y, a11.y, a21.y, a31.y));
    store_row(channel + 6u, base, count, vec4<f32>(a01.z, a11.z, a21.z, a31.z));
    store_row(channel + 7u, base, count, vec4<f32>(a01.w, a11.w, a21.w, a31.w));
#endif
#ifdef WIDE4
    store_row(channel + 8u, base, count, vec4<f32>(a02.x, a12.x, a22.x, a32.x));
    store_row(channel + 9u, base, count, vec4<f32>(a02.y, a12.y, a22.y, a32.y));
    store_row(channel + 10u, base, count, vec4<f32>(a02.z, a12.z, a22.z, a32.z));
    store_row(channel + 11u, base, count, vec4<f32>(a02.w, a12.w, a22.w, a32.w));
    store_row(channel + 12u, base, count, vec4<f32>(a03.x, a13.x, a23.x, a33.x));
    store_row(channel + 13u, base, count, vec4<f32>(a03.y, a13.y, a23.y, a33.y));
    store_row(channel + 14u, base, count, vec4<f32>(a03.z, a13.z, a23.z, a33.z));
    store_row(channel + 15u, base, count, vec4<f32>(a03.w, a13.w, a23.w, a33.w));
#endif
}
