// add: y = a + b.
// Inputs: a, b [n] Stored. Output: y [n] Stored. One invocation each. Cost: 1 flop and 3 elements moved an element.
#import "lib/index.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> a: array<Stored>;
@group(0) @binding(1) var<storage, read> b: array<Stored>;
@group(0) @binding(2) var<storage, read_write> y: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = stored_of(value_of(a[i]) + value_of(b[i]));
    }
}
