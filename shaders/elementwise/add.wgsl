// add: y = a + b.
// Inputs: a, b [n] Element. Output: y [n] Element. One invocation an element. Cost: n flops, 3 n elements moved.
#import "lib/element.wgsl"
#import "lib/index.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> a: array<Element>;
@group(0) @binding(1) var<storage, read> b: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = Element(f32(a[i]) + f32(b[i]));
    }
}
