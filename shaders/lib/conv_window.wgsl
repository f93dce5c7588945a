// What the convolution kernels for any kernel, stride, dilation and padding share: their parameters and the input.
// Defines: those of conv_output.wgsl and element.wgsl.
#import "lib/conv_output.wgsl"

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

// Place (d, h, w) of an output voxel.
fn place_of(voxel: u32) -> vec3<i32> {
    let at = i32(voxel);
    return vec3<i32>(at / (params.out_w * params.out_h), at / params.out_w % params.out_h, at % params.out_w);
}
