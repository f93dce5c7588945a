// Last step of percentiles: y_k = a + (b - a) f with the order statistics a, b of targets 2k, 2k + 1.
// Inputs: state [2 targets] u32 (keys and ranks); first [...] u32, the state after level 0, which ends with
// the fractions f. Output: y [K] f32. One invocation a percentile.
#import "lib/order_key.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> state: array<u32>;
@group(0) @binding(1) var<storage, read> first: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let k = global.x;
    if k < params.n {
        let a = bitcast<f32>(bits_of(state[4u * k]));
        let b = bitcast<f32>(bits_of(state[4u * k + 2u]));
        // Not `mix`, which rounds where a = b: a constant image would get a range that is not empty.
        y[k] = a + (b - a) * bitcast<f32>(first[4u * params.n + k]);
    }
}
