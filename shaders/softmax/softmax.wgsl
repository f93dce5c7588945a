// softmax over the channels: y[n, c, v] = exp(x[n, c, v] - m) / sum over k of exp(x[n, k, v] - m), m the
// largest x[n, k, v]; maximum and sum in one sweep (Milakov & Gimelshein 2018), then a second to write.
// Input: x [N, C, voxels] f32 (a piece of the batch). Output: y, same shape. One invocation a voxel.
// Cost: about 15 flops, 8 bytes an element (12 when C channels do not stay in the cache).
#import "lib/index.wgsl"

struct Params {
    // N * voxels
    n: u32,
    voxels: u32,
    channels: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let first = i / params.voxels * params.voxels * params.channels + i % params.voxels;
        var largest = x[first];
        var sum = 1.0;
        for (var c = 1u; c < params.channels; c++) {
            let value = x[first + c * params.voxels];
            let bound = max(largest, value);
            sum = sum * exp(largest - bound) + exp(value - bound);
            largest = bound;
        }
        for (var c = 0u; c < params.channels; c++) {
            let at = first + c * params.voxels;
            y[at] = exp(x[at] - largest) / sum;
        }
    }
}
