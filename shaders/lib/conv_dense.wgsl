// What the kernels of conv3d for stride 1 and dilation 1 share: their parameters, the input, and the way to a row of the
// output. The kernel's extents are constants.
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
    negative_slope: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;

// First voxel (d, h, w) of a tile of `width` voxels along w; d >= out_d past the last tile.
fn tile_start(tile: u32, width: u32) -> vec3<i32> {
    let tiles_w = (u32(params.out_w) + width - 1u) / width;
    let out_h = u32(params.out_h);
    return vec3<i32>(vec3<u32>(tile / (tiles_w * out_h), tile / tiles_w % out_h, tile % tiles_w * width));
}

// Index in y of the voxel `at` (d, h, w) of sample n and channel 0.
fn row_base(n: u32, at: vec3<i32>) -> u32 {
    let volume = u32(params.out_d * params.out_h * params.out_w);
    return n * params.c_out * volume + u32((at.x * params.out_h + at.y) * params.out_w + at.z);
}

// Writes up to 4 voxels along w of a channel, of the `count` that are left from row_base `base` on; nothing of a channel
// past the last.
fn store_row(channel: u32, base: u32, count: i32, value: vec4<f32>) {
    if channel < params.c_out {
        let volume = u32(params.out_d * params.out_h * params.out_w);
        store_voxels(channel, base + channel * volume, count, value);
    }
}
