// copy_channels: y[n, y_begin + r] = x[n, x_begin + r] for r < block: a run of channels of every sample,
// which is contiguous in both tensors.
// Input: x [N, x_stride] Stored (a piece of the batch). Output: y [N, y_stride] Stored, the rest untouched.
// One invocation each. Cost: 8 bytes an element.
#import "lib/index.wgsl"
#import "lib/stored.wgsl"

struct Params {
    // N * block
    n: u32,
    // Stored to copy in each sample.
    block: u32,
    x_begin: u32,
    x_stride: u32,
    y_begin: u32,
    y_stride: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let sample = i / params.block;
        let r = i % params.block;
        y[sample * params.y_stride + params.y_begin + r] = x[sample * params.x_stride + params.x_begin + r];
    }
}
