// Peak rate of multiply-adds: independent chains c <- c * a + b in registers, no memory in the loop.
//   y[i] = sum over chains k of the value that c_k reaches from x[i] + k / 16 after 4 `rounds` steps,
//   a = -0.75 - x[i] / 8, b = 0.25 + x[i] / 8
// Inputs: x [n] vec4<f32> in [0, 1). Output: y [n] vec4<f32>.
// Threads: global x (folded on to y) = i. No workgroup memory. WIDE: 16 chains instead of 8; FUSED: `fma` instead of
// a product and a sum; F16: the chains in f16.
// Cost: 2 * 4 lanes * chains * 4 rounds flops an invocation.
#import "lib/index.wgsl"
#ifdef F16
enable f16;
alias lanes = vec4<f16>;
#else
alias lanes = vec4<f32>;
#endif

struct Params {
    n: u32,
    rounds: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

fn step(c: lanes, a: lanes, b: lanes) -> lanes {
#ifdef FUSED
    return fma(c, a, b);
#else
    return c * a + b;
#endif
}

fn four(c: lanes, a: lanes, b: lanes) -> lanes {
    return step(step(step(step(c, a, b), a, b), a, b), a, b);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, 64u);
    if i >= params.n {
        return;
    }
    let start = lanes(x[i]);
    let a = lanes(-0.75) - start * lanes(0.125);
    let b = lanes(0.25) + start * lanes(0.125);
    var c0 = start;
    var c1 = start + lanes(0.0625);
    var c2 = start + lanes(0.125);
    var c3 = start + lanes(0.1875);
    var c4 = start + lanes(0.25);
    var c5 = start + lanes(0.3125);
    var c6 = start + lanes(0.375);
    var c7 = start + lanes(0.4375);
#ifdef WIDE
    var c8 = start + lanes(0.5);
    var c9 = start + lanes(0.5625);
    var c10 = start + lanes(0.625);
    var c11 = start + lanes(0.6875);
    var c12 = start + lanes(0.75);
    var c13 = start + lanes(0.8125);
    var c14 = start + lanes(0.875);
    var c15 = start + lanes(0.9375);
#endif
    for (var round = 0u; round < params.rounds; round++) {
        c0 = four(c0, a, b);
        c1 = four(c1, a, b);
        c2 = four(c2, a, b);
        c3 = four(c3, a, b);
        c4 = four(c4, a, b);
        c5 = four(c5, a, b);
        c6 = four(c6, a, b);
        c7 = four(c7, a, b);
#ifdef WIDE
        c8 = four(c8, a, b);
        c9 = four(c9, a, b);
        c10 = four(c10, a, b);
        c11 = four(c11, a, b);
        c12 = four(c12, a, b);
        c13 = four(c13, a, b);
        c14 = four(c14, a, b);
        c15 = four(c15, a, b);
#endif
    }
    var sum = vec4<f32>(c0) + vec4<f32>(c1) + vec4<f32>(c2) + vec4<f32>(c3)
        + vec4<f32>(c4) + vec4<f32>(c5) + vec4<f32>(c6) + vec4<f32>(c7);
#ifdef WIDE
    sum += vec4<f32>(c8) + vec4<f32>(c9) + vec4<f32>(c10) + vec4<f32>(c11)
        + vec4<f32>(c12) + vec4<f32>(c13) + vec4<f32>(c14) + vec4<f32>(c15);
#endif
    y[i] = sum;
}
