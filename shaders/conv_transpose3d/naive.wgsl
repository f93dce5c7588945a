// conv_transpose3d, naive: one invocation an output element, any kernel, stride, dilation; always legal.
//   y[n,co,o] = act(bias[co] + sum_{ci,k : i*stride + k*dilation - pad = o} x[n,ci,i] * weight[ci,co,k])
// Inputs: x [N, c_in, D, H, W] Element; weight packed [c_out][c_in][kd][kh][kw] f32 (conv3d/pack.wgsl, SWAP, T = 1).
// Output: y [N, c_out, OD, OH, OW] Element.
// Threads: global x (folded on to y) = element of one sample's output; workgroup z = n.
// Cost: 2 c_in kd kh kw / (stride_d stride_h stride_w) flops an element.
#import "lib/conv_window.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<f32>;

// Input index that reaches output `o` through tap `k`, or -1.
fn source(o: i32, k: i32, pad: i32, stride: i32, dilation: i32, extent: i32) -> i32 {
    let reach = o + pad - k * dilation;
    let inside = reach >= 0 && reach % stride == 0 && reach / stride < extent;
    return select(-1, reach / stride, inside);
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let element = flat_index(global, groups, 64u);
    let out_volume = u32(params.out_d * params.out_h * params.out_w);
    if element >= out_volume * params.c_out {
        return;
    }
    let place = place_of(element % out_volume);
    let co = element / out_volume;
    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    let taps = u32(params.kd * params.kh * params.kw);
    var sum = 0.0;
    for (var kd = 0; kd < params.kd; kd++) {
        let id = source(place.x, kd, params.pad_d, params.stride_d, params.dilation_d, params.in_d);
        for (var kh = 0; kh < params.kh; kh++) {
            let ih = source(place.y, kh, params.pad_h, params.stride_h, params.dilation_h, params.in_h);
            for (var kw = 0; kw < params.kw; kw++) {
                let iw = source(place.z, kw, params.pad_w, params.stride_w, params.dilation_w, params.in_w);
                if id < 0 || ih < 0 || iw < 0 {
                    continue;
                }
                let tap = u32((kd * params.kh + kh) * params.kw + kw);
                var at = group.z * params.c_in * in_volume + u32((id * params.in_h + ih) * params.in_w + iw);
                for (var ci = 0u; ci < params.c_in; ci++) {
                    sum = fma(f32(x[at]), weight[(co * params.c_in + ci) * taps + tap], sum);
                    at += in_volume;
                }
            }
        }
    }
    store_voxel(co, group.z * params.c_out * out_volume + element, sum);
}
