// n4_apply: x' = x / exp(field).
// Input: field [n] f32. In place: x [n] f32. One invocation an element. Cost: 2 flops and 12 bytes each.
#import "lib/index.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> field: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        x[i] = x[i] * exp(-field[i]);
    }
}
