// fill: y[i] = bits, as a bit pattern, so that it serves floats and integers.
// Output: y [n], 32-bit words. One invocation an element. Cost: 4 n bytes.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    bits: u32,
}

@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = params.bits;
    }
}
