// conv3d, direct: each invocation computes 1 voxel x 4 GROUPS output channels, any kernel, stride, dilation.
//   y[n,co,o] = act(bias[co] + sum_{ci,k} x[n,ci,o*stride+k*dilation-pad] * weight[co,ci,k])
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co/T][c_in][kd][kh][kw][T] f32, T = 4 GROUPS (pack.wgsl).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: global x (folded on to y) = voxel; workgroup z = n * (c_out / T) + channel tile. No workgroup memory.
// Cost: 2 c_in kd kh kw flops a voxel and channel.
#import "lib/conv_window.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;

// Writes one voxel of 4 consecutive channels.
fn store(channel: u32, base: u32, volume: u32, value: vec4<f32>) {
    for (var c = 0u; c < 4u; c++) {
        if channel + c < params.c_out {
            store_voxel(channel + c, base + (channel + c) * volume, value[c]);
        }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let voxel = flat_index(global, groups, 64u);
    let out_volume = u32(params.out_d * params.out_h * params.out_w);
    if voxel >= out_volume {
        return;
    }
    let place = place_of(voxel);
    let channel_tiles = (params.c_out + 4u * GROUPS - 1u) / (4u * GROUPS);
    let n = group.z / channel_tiles;
    let channel_tile = group.z % channel_tiles;

    var a0 = vec4<f32>(0.0);
#ifdef WIDE4
    var a1 = vec4<f32>(0.0);
    var a2 = vec4<f32>(0.0);
    var a3 = vec4<f32>(0.0);
#endif
    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    var channel_base = n * params.c_in * in_volume;
    var at = channel_tile * params.c_in * u32(params.kd * params.kh * params.kw) * GROUPS;
    for (var ci = 0u; ci < params.c_in; ci++) {
        for (var kd = 0; kd < params.kd; kd++) {
            let id = place.x * params.stride_d + kd * params.dilation_d - params.pad_d;
            let in_d = id >= 0 && id < params.in_d;
            for (var kh = 0; kh < params.kh; kh++) {
                let ih = place.y * params.stride_h + kh * params.dilation_h - params.pad_h;
                let in_h = in_d && ih >= 0 && ih < params.in_h;
                for (var kw = 0; kw < params.kw; kw++) {
                    let iw = place.z * params.stride_w + kw * params.dilation_w - params.pad_w;
                    let inside = in_h && iw >= 0 && iw < params.in_w;
                    let offset = u32(select(0, (id * params.in_h + ih) * params.in_w + iw, inside));
                    let value = vec4<f32>(select(0.0, f32(x[channel_base + offset]), inside));
                    a0 = fma(value, weight[at], a0);
#ifdef WIDE4
                    a1 = fma(value, weight[at + 1u], a1);
                    a2 = fma(value, weight[at + 2u], a2);
                    a3 = fma(value, weight[at + 3u], a3);
#endif
                    at += GROUPS;
                }
            }
        }
        channel_base += in_volume;
    }

    let base = n * params.c_out * out_volume + voxel;
    let channel = channel_tile * 4u * GROUPS;
    store(channel, base, out_volume, a0);
#ifdef WIDE4
    store(channel + 4u, base, out_volume, a1);
    store(channel + 8u, base, out_volume, a2);
    store(channel + 12u, base, out_volume, a3);
#endif
}
