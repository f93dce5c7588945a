// apply_mask: y = x where mask != 0, else `outside`.
// Inputs: x [n] f32 (copied as bits, so exactly), mask [n] u32. Output: y [n] f32.
// One invocation a voxel. Cost: 12 bytes a voxel.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    outside: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> mask: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = select(params.outside, x[i], mask[i] != 0u);
    }
}
