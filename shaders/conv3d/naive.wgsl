// conv3d, naive: one invocation an output element; the plainest kernel, always legal.
//   y[n,co,o] = act(bias[co] + sum_{ci,k} x[n,ci,o*stride+k*dilation-pad] * weight[co,ci,k])
// Inputs: x [N, c_in, D, H, W] Element; weight packed [c_out][c_in][kd][kh][kw] f32 (pack.wgsl with T = 1).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: global x (folded on to y) = element of one sample's output; workgroup z = n.
// Cost: 2 c_in kd kh kw flops an element.
#import "lib/conv_window.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<f32>;

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
    var sum = 0.0;
    var at = co * params.c_in * u32(params.kd * params.kh * params.kw);
    for (var ci = 0u; ci < params.c_in; ci++) {
        let channel_base = (group.z * params.c_in + ci) * in_volume;
        for (var kd = 0; kd < params.kd; kd++) {
            let id = place.x * params.stride_d + kd * params.dilation_d - params.pad_d;
            for (var kh = 0; kh < params.kh; kh++) {
                let ih = place.y * params.stride_h + kh * params.dilation_h - params.pad_h;
                for (var kw = 0; kw < params.kw; kw++) {
                    let iw = place.z * params.stride_w + kw * params.dilation_w - params.pad_w;
                    if id >= 0 && id < params.in_d && ih >= 0 && ih < params.in_h && iw >= 0 && iw < params.in_w {
                        let offset = u32((id * params.in_h + ih) * params.in_w + iw);
                        sum = fma(f32(x[channel_base + offset]), weight[at], sum);
                    }
                    at++;
                }
            }
        }
    }
    store_voxel(co, group.z * params.c_out * out_volume + element, sum);
}
