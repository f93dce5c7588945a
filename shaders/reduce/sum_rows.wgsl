// sum_rows: y[row, lane] = sum over terms t of x[row, t, lane]; with ACCUMULATE y[row, lane] += that sum.
// Input: x [rows, terms, lanes] f32, the partial sums of a first stage. Output: y [rows, lanes] f32.
// One workgroup of 64 an output: strided sums, then a tree. 1 KiB of workgroup memory.
// Grid: [lanes, rows]. Cost: rows * terms * lanes additions, 4 bytes each.
#import "lib/reduce.wgsl"

struct Params {
    terms: u32,
    lanes: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var t = local; t < params.terms; t += 64u) {
        sum += x[(group.y * params.terms + t) * params.lanes + group.x];
    }
    let total = workgroup_sum(vec4<f32>(sum, 0.0, 0.0, 0.0), local).x;
    if local == 0u {
        let y_ix = group.y * params.lanes + group.x;
#ifdef ACCUMULATE
        y[y_ix] += total;
#else
        y[y_ix] = total;
#endif
    }
}
