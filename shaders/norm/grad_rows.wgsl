// Backward of normalisation, stage 2: sums of the pieces of each row.
// Input: parts [n_rows, n_chunks] (dz, dz * xhat) f32. Output: rows [n_rows] (dz, dz * xhat) f32.
// One workgroup a row: strided sums, then a tree. Workgroup memory: 2 KiB. Cost: negligible.
#import "lib/sum_pair.wgsl"

struct Params {
    n_rows: u32,
    n_chunks: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> rows: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    let n_parts = select(0u, params.n_chunks, row < params.n_rows);
    var sums = vec2<f32>(0.0);
    for (var part = lane; part < n_parts; part += 256u) {
        sums += parts[row * params.n_chunks + part];
    }
    sums = reduce_pair(sums, lane);
    if lane == 0u && row < params.n_rows {
        rows[row] = sums;
    }
}
