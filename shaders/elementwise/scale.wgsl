// scale: y = factor * x.
// Input: x [n] Stored. Output: y [n] Stored. One invocation each. Cost: 1 flop and 8 bytes an element.
#import "lib/index.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n: u32,
    factor: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = stored_of(params.factor * value_of(x[i]));
    }
}
