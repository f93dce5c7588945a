// rescale: y = out_low + (out_high - out_low) clamp((x - low) / (high - low), 0, 1); out_low where x is not
// finite and everywhere when high <= low.
// Inputs: x [n] f32, range [2] f32 = (low, high). Output: y [n] f32. One invocation an element. 8 n bytes.
#import "lib/index.wgsl"
#import "lib/finite.wgsl"

struct Params {
    n: u32,
    out_low: f32,
    out_high: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> range: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let low = range[0];
        let high = range[1];
        let value = x[i];
        var t = 0.0;
        if is_finite(value) && high > low {
            t = clamp((value - low) / (high - low), 0.0, 1.0);
        }
        y[i] = params.out_low + (params.out_high - params.out_low) * t;
    }
}
