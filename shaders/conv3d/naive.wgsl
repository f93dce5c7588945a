// conv3d, naive: one invocation an output element; the plainest kernel, always legal.
//   y[n,co,o] = act(bias[co] + sum_{ci,k} x[n,ci,o*stride+k*dilation-pad] * weight[co,ci,k])
// Inputs: x [N, c_in, D, H, W] Element; weight packed [c_out][c_in][kd][kh][kw] f32 (pack.wgsl with T = 1).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: global x (folded on to y) = element of one sample's output; workgroup z = n.
// Cost: 2 c_in kd kh kw flops an element.
#import "lib/element.wgsl"
#import "lib/index.wgsl"

struct Params {
    c_in: u32,
    c_out: u32,
    in_d: i32,
    in_h: i32,
    in_w: i32,
    out_d: i32,
    out_h: i32,
    out_w: i32,
    pad_d: i32,
    pad_h: i32,
    pad_w: i32,
    stride_d: i32,
    stride_h: i32,
    stride_w: i32,
    dilation_d: i32,
    dilation_h: i32,
    dilation_w: i32,
    kd: i32,
    kh: i32,
    kw: i32,
    negative_slope: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
#ifdef BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
@group(0) @binding(4) var<uniform> params: Params;

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
    let voxel = i32(element % out_volume);
    let co = element / out_volume;
    let ow = voxel % params.out_w;
    let oh = voxel / params.out_w % params.out_h;
    let od = voxel / (params.out_w * params.out_h);
    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    var sum = 0.0;
    var at = co * params.c_in * u32(params.kd * params.kh * params.kw);
    for (var ci = 0u; ci < params.c_in; ci++) {
        let channel_base = (group.z * params.c_in + ci) * in_volume;
        for (var kd = 0; kd < params.kd; kd++) {
            let id = od * params.stride_d + kd * params.dilation_d - params.pad_d;
            for (var kh = 0; kh < params.kh; kh++) {
                let ih = oh * params.stride_h + kh * params.dilation_h - params.pad_h;
                for (var kw = 0; kw < params.kw; kw++) {
                    let iw = ow * params.stride_w + kw * params.dilation_w - params.pad_w;
                    if id >= 0 && id < params.in_d && ih >= 0 && ih < params.in_h && iw >= 0 && iw < params.in_w {
                        let offset = u32((id * params.in_h + ih) * params.in_w + iw);
                        sum = fma(f32(x[channel_base + offset]), weight[at], sum);
                    }
                    at++;
                }
            }
        }
    }
    let index = group.z * params.c_out * out_volume + element;
#ifdef BIAS
    sum += bias[co];
#endif
#ifdef ACCUMULATE
    sum += f32(y[index]);
#endif
    y[index] = Element(max(sum, 0.0) + params.negative_slope * min(sum, 0.0));
}
