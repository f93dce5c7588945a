// ema: average = decay * average + (1 - decay) * param, in place.
// In place: average [n] f32. Input: param [n] f32. One invocation an element. Cost: 3 flops, 12 bytes.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    decay: f32,
    one_minus_decay: f32,
}

@group(0) @binding(0) var<storage, read_write> average: array<f32>;
@group(0) @binding(1) var<storage, read> param: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        average[i] = params.decay * average[i] + params.one_minus_decay * param[i];
    }
}
