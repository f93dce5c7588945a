// n4_apply: y = x / exp(field).
// Inputs: x, field [n] f32. Output: y [n] f32. One invocation an element. Cost: 2 flops and 12 bytes each.
#import "lib/index.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> field: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = x[i] * exp(-field[i]);
    }
}
