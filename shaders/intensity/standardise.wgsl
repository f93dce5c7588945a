// standardise: y = out_mean + out_std (x - mean) / max(std, 1e-6 |mean|, 1e-30); out_mean where x is not finite. The bound
// keeps the rounding error of the mean of a constant image from being blown up.
// Inputs: x [n] f32, moments [2] f32 = (mean, std). Output: y [n] f32. One invocation an element. 8 n bytes.
#import "lib/index.wgsl"
#import "lib/finite.wgsl"

struct Params {
    n: u32,
    out_mean: f32,
    out_std: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> moments: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let mean = moments[0];
        let spread = max(moments[1], max(1e-6 * abs(mean), 1e-30));
        let value = x[i];
        y[i] = params.out_mean + params.out_std * select(0.0, (value - mean) / spread, is_finite(value));
    }
}
