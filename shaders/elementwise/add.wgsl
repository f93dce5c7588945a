// add: y = a + b; IN_PLACE: y += b.
// Inputs: a, b [n] Stored. Output: y [n] Stored. One invocation each. Cost: 1 flop and 3 elements moved an element.
#import "lib/index.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n: u32,
}

#ifdef IN_PLACE
#else
@group(0) @binding(0) var<storage, read> a: array<Stored>;
#endif
@group(0) @binding(1) var<storage, read> b: array<Stored>;
@group(0) @binding(2) var<storage, read_write> y: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
#ifdef IN_PLACE
        let first = y[i];
#else
        let first = a[i];
#endif
        y[i] = stored_of(value_of(first) + value_of(b[i]));
    }
}
