// Gradient of softmax over the channels: dx[n, c, v] = y[n, c, v] (dy[n, c, v] - sum over k of dy y).
// Inputs: y, dy [N, C, voxels] f32 (a piece of the batch). Output: dx, same shape. One invocation a voxel.
// Cost: 4 flops, 12 bytes an element (20 when C channels do not stay in the cache).
#import "lib/index.wgsl"

struct Params {
    // N * voxels
    n: u32,
    voxels: u32,
    channels: u32,
}

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let first = i / params.voxels * params.voxels * params.channels + i % params.voxels;
        var dot = 0.0;
        for (var c = 0u; c < params.channels; c++) {
            let at = first + c * params.voxels;
            dot += dy[at] * y[at];
        }
        for (var c = 0u; c < params.channels; c++) {
            let at = first + c * params.voxels;
            dx[at] = y[at] * (dy[at] - dot);
        }
    }
}
