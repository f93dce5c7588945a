// window: y = clamp((x - low) / (high - low), 0, 1).
// Input: x [n] f32. Output: y [n] f32. One invocation an element.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    low: f32,
    high: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = saturate((x[i] - params.low) / (params.high - params.low));
    }
}
