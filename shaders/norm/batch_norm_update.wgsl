// Running statistics of batch normalisation, updated in place:
// running = (1 - momentum) * running + momentum * new, with the batch's biased variance recovered as
// 1 / inv_std^2 - eps (not below 0). A channel whose new statistics are not finite keeps its old ones: the
// step that made them is skipped by the optimiser as well.
// Inputs: mean, inv_std [n] f32. In place: running_mean, running_var [n] f32.
// One invocation a channel. Cost: negligible.
#import "lib/finite.wgsl"
#import "lib/index.wgsl"

struct Params {
    n: u32,
    momentum: f32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> mean: array<f32>;
@group(0) @binding(1) var<storage, read> inv_std: array<f32>;
@group(0) @binding(2) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(3) var<storage, read_write> running_var: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let variance = max(1.0 / (inv_std[i] * inv_std[i]) - params.eps, 0.0);
        if is_finite(mean[i]) && is_finite(inv_std[i]) && is_finite(variance) {
            running_mean[i] = mix(running_mean[i], mean[i], params.momentum);
            running_var[i] = mix(running_var[i], variance, params.momentum);
        }
    }
}
