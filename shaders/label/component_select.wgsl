// Mask of one component: y = 1 where labels = winner[0] and that is not 0, else 0.
// Inputs: labels [n] u32, winner [1] u32. Output: y [n] u32. One invocation a voxel. Cost: 8 bytes a voxel.
#import "lib/index.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> labels: array<u32>;
@group(0) @binding(1) var<storage, read> winner: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = select(0u, 1u, labels[i] != 0u && labels[i] == winner[0]);
    }
}
