// ema: average = decay * average + (1 - decay) * param, in place.
// In place: average [n] Stored. Input: param [n] Stored. One invocation each. Cost: 3 flops and 12 bytes an element.
#import "lib/index.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n: u32,
    decay: f32,
    one_minus_decay: f32,
}

@group(0) @binding(0) var<storage, read_write> average: array<Stored>;
@group(0) @binding(1) var<storage, read> param: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        average[i] = stored_of(params.decay * value_of(average[i]) + params.one_minus_decay * value_of(param[i]));
    }
}
