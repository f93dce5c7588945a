// First stage of accumulate_sum_of_squares: partials[group] = sum of x[i]^2 over CHUNK elements.
// Input: x [n] f32. Output: partials [groups] f32. Grid: [groups]; 64 invocations stride over the chunk.
// 1 KiB of workgroup memory. Cost: 2 flops and 4 bytes an element.
#import "lib/reduce.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let begin = group.x * CHUNK;
    let end = min(begin + CHUNK, params.n);
    var sum = 0.0;
    for (var i = begin + local; i < end; i += 64u) {
        sum += x[i] * x[i];
    }
    let total = workgroup_sum(vec4<f32>(sum, 0.0, 0.0, 0.0), local).x;
    if local == 0u {
        partials[group.x] = total;
    }
}
