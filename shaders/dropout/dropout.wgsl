// dropout: y[i] = factor * x[i] where the random word of element i is at least `threshold`, else 0.
// Word i is component i % 4 of random_words(step_seed, stream, i / 4), i counting over the whole batch.
// Inputs: x [n] f32 (a piece of the batch), step_seed [2] u32 (seed, step). Output: y [n] f32.
// One invocation four consecutive elements. Cost: 10 operations, 8 bytes an element.
#import "lib/index.wgsl"
#import "lib/random.wgsl"

struct Params {
    n: u32,
    // Counter of the piece's first group of four.
    first: u32,
    stream: u32,
    // An element is dropped when its word is below rate * 2^32.
    threshold: u32,
    // 1 / (1 - rate)
    factor: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> step_seed: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let quad = flat_index(global, groups, 64u);
    let seed = vec2<u32>(step_seed[0], step_seed[1]);
    let words = random_words(seed, params.stream, params.first + quad);
    let factors = select(vec4<f32>(0.0), vec4<f32>(params.factor), words >= vec4<u32>(params.threshold));
    for (var k = 0u; k < 4u; k++) {
        let i = quad * 4u + k;
        if i < params.n {
            y[i] = factors[k] * x[i];
        }
    }
}
