// sum_chunks: y[i] = sum_chunk sums[chunk][i], in the order of the chunks, so that reruns are bit-equal.
// Input: sums [chunks][n] f32. Output: y [n] f32. One invocation an element. Cost: 4 n (chunks + 1) bytes.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    chunks: u32,
}

@group(0) @binding(0) var<storage, read> sums: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        var sum = 0.0;
        for (var chunk = 0u; chunk < params.chunks; chunk++) {
            sum += sums[chunk * params.n + i];
        }
        y[i] = sum;
    }
}
