// Gradients of the activations, dx = dy f'(x), from what the forward pass saved:
//   RELU, from y:      1 above 0, slope elsewhere
//   SIGMOID, from y:   y (1 - y)
//   GELU_ERF, from x:  Phi(x) + x phi(x)
//   GELU_TANH, from x: s + 2 x s (1 - s) du/dx, s = sigmoid(2 u), du/dx = sqrt(2/pi) (1 + 0.134145 x^2)
// Inputs: saved [n] Stored (x or y), dy [n] Stored. Output: dx [n] Stored. One invocation each.
// Cost: 1 to 40 flops, 12 bytes an element.
#import "lib/index.wgsl"
#import "lib/normal_tail.wgsl"
#import "lib/sigmoid.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n: u32,
    slope: f32,
}

@group(0) @binding(0) var<storage, read> saved: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read_write> dx: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

fn derivative(saved: f32) -> f32 {
#ifdef RELU
    return select(params.slope, 1.0, saved > 0.0);
#endif
#ifdef SIGMOID
    return saved * (1.0 - saved);
#endif
#ifdef GELU_ERF
    return normal_cdf(saved) + saved * normal_density(saved);
#endif
#ifdef GELU_TANH
    let square = saved * saved;
    let at = logistic(1.5957691216 * (saved + 0.044715 * square * saved));
    return at.p + saved * at.p * at.q * 1.5957691216 * (1.0 + 0.134145 * square);
#endif
}

fn derivative_all(saved: Value) -> Value {
#ifdef X4
    return vec4<f32>(derivative(saved.x), derivative(saved.y), derivative(saved.z), derivative(saved.w));
#else
    return derivative(saved);
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        dx[i] = stored_of(value_of(dy[i]) * derivative_all(value_of(saved[i])));
    }
}
