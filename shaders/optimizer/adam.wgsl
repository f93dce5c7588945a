// adam: one step of Adam (Kingma & Ba 2015), in place, for g = grad * grad_scale * clip:
//   m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2        c_k = 1 - beta_k^t
//   Keras:   param = param (1 - lr decay) - lr sqrt(c2) / c1 * m / (sqrt(v) + epsilon)
//   PYTORCH: param = param (1 - lr decay) - lr / c1 * m / (sqrt(v / c2) + epsilon)
// with lr the step's learning rate times `rate`.
// clip = 0 says that a gradient was not finite: then nothing is written.
// In place: param, m, v [n] Stored. Inputs: grad [n] Stored, step_state [8] f32 (lr, c1, c2, grad_scale, ...),
// clip [1] f32. One invocation each. Cost: about 20 flops, 28 bytes an element.
#import "lib/index.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n: u32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    epsilon: f32,
    decay: f32,
    rate: f32,
}

@group(0) @binding(0) var<storage, read_write> param: array<Stored>;
@group(0) @binding(1) var<storage, read_write> m: array<Stored>;
@group(0) @binding(2) var<storage, read_write> v: array<Stored>;
@group(0) @binding(3) var<storage, read> grad: array<Stored>;
@group(0) @binding(4) var<storage, read> step_state: array<f32>;
@group(0) @binding(5) var<storage, read> clip: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n && clip[0] > 0.0 {
        let lr = step_state[0] * params.rate;
        let c1 = step_state[1];
        let c2 = step_state[2];
        let g = value_of(grad[i]) * (step_state[3] * clip[0]);
        let new_m = params.beta1 * value_of(m[i]) + params.one_minus_beta1 * g;
        let new_v = params.beta2 * value_of(v[i]) + params.one_minus_beta2 * g * g;
#ifdef PYTORCH
        let step = lr / c1 * new_m / (sqrt(new_v / c2) + params.epsilon);
#else
        let step = lr * sqrt(c2) / c1 * new_m / (sqrt(new_v) + params.epsilon);
#endif
        m[i] = stored_of(new_m);
        v[i] = stored_of(new_v);
        param[i] = stored_of(value_of(param[i]) * (1.0 - lr * params.decay) - step);
    }
}
