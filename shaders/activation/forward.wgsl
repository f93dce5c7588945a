// Activations, y = f(x), one of them per pipeline:
//   RELU:      max(x, 0), and slope * x below 0 (slope 0 for the plain form)
//   SIGMOID:   1 / (1 + exp(-x))
//   GELU_ERF:  x Phi(x)
//   GELU_TANH: x / 2 (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3)
// Input: x [n] Stored; IN_PLACE: what y holds. Output: y [n] Stored. One invocation each. Cost: 1 to 30 flops and 2 elements moved an element.
#import "lib/index.wgsl"
#import "lib/normal_tail.wgsl"
#import "lib/sigmoid.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n: u32,
    slope: f32,
}

#ifdef IN_PLACE
#else
@group(0) @binding(0) var<storage, read> x: array<Stored>;
#endif
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

fn activate(x: f32) -> f32 {
#ifdef RELU
    return select(params.slope * x, x, x > 0.0);
#endif
#ifdef SIGMOID
    return sigmoid(x);
#endif
#ifdef GELU_ERF
    return x * normal_cdf(x);
#endif
#ifdef GELU_TANH
    return x * sigmoid(1.5957691216 * (x + 0.044715 * x * x * x));
#endif
}

fn activate_all(x: Value) -> Value {
#ifdef X4
    return vec4<f32>(activate(x.x), activate(x.y), activate(x.z), activate(x.w));
#else
    return activate(x);
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
#ifdef IN_PLACE
        let stored = y[i];
#else
        let stored = x[i];
#endif
        y[i] = stored_of(activate_all(value_of(stored)));
    }
}
