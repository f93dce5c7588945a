// conv3d for a single output channel, a network's last layer: each invocation computes 4 voxels along w.
//   y[n,co,d,h,w] = act(bias[co] + sum_{ci,kd,kh,kw} x[n,ci,d+kd-pd,h+kh-ph,w+kw-pw] * weight[co,ci,kd,kh,kw])
// Stride 1, dilation 1, any KD, KH, KW; padding before each axis is free.
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co][c_in][KD][KH][KW] f32 (pack.wgsl with tiles of 1).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: global x (folded on to y) = tile of 4 voxels; workgroup z = n * c_out + co. No workgroup memory.
// Why: the other kernels compute channels by 4 or more, three quarters of them for nothing here; and 3 + KW loads serve
// 4 KW taps. Cost: 2 c_in KD KH KW flops a voxel; bound by memory where the kernel is small.
#import "lib/conv_dense.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<f32>;

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
    let n = group.z / params.c_out;
    let co = group.z % params.c_out;

    let in_volume = params.in_d * params.in_h * params.in_w;
    var channel_base = i32(n * params.c_in) * in_volume;
    var at = co * params.c_in * (KD * KH * KW);
    var sums = vec4<f32>(0.0);
    for (var ci = 0u; ci < params.c_in; ci++) {
        for (var kd = 0; kd < i32(KD); kd++) {
            let id = first.x + kd - params.pad_d;
            let plane = clamp(id, 0, params.in_d - 1) * params.in_h;
            for (var kh = 0; kh < i32(KH); kh++) {
                let ih = first.y + kh - params.pad_h;
                let in_row = id >= 0 && id < params.in_d && ih >= 0 && ih < params.in_h;
                let row = channel_base + (plane + clamp(ih, 0, params.in_h - 1)) * params.in_w;
                // Loads are clamped, so that every one is in bounds, and zeroed outside.
                var window: array<f32, 3u + KW>;
                for (var j = 0; j < i32(3u + KW); j++) {
                    let iw = first.z + j - params.pad_w;
                    let value = f32(x[row + clamp(iw, 0, params.in_w - 1)]);
                    window[j] = select(0.0, value, in_row && iw >= 0 && iw < params.in_w);
                }
                for (var kw = 0u; kw < KW; kw++) {
                    let taps = vec4<f32>(window[kw], window[kw + 1u], window[kw + 2u], window[kw + 3u]);
                    sums = fma(taps, vec4<f32>(weight[at + kw]), sums);
                }
                at += KW;
            }
        }
        channel_base += in_volume;
    }

    store_row(co, row_base(n, first), params.out_w - first.z, sums);
}
