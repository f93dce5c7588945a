// Normalisation statistics, stage 2: mean and 1 / sqrt(variance + eps) of each group, with the biased
// variance. Group g consists of the rows g * first_row + k * row_step, k < rows_per_group.
// Input: parts [n_rows, n_chunks] (mean, m2) f32 of stage 1.
// Outputs: mean [n_groups] f32, inv_std [n_groups] f32.
// One workgroup a group: strided merges, then a tree. Workgroup memory: 3 KiB. Cost: negligible.
#import "lib/moments.wgsl"

struct Params {
    n_groups: u32,
    rows_per_group: u32,
    first_row: u32,
    row_step: u32,
    voxels: u32,
    chunk: u32,
    n_chunks: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> parts: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> mean: array<f32>;
@group(0) @binding(2) var<storage, read_write> inv_std: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = group.x + group.y * groups.x;
    let n_parts = select(0u, params.rows_per_group * params.n_chunks, g < params.n_groups);
    var total = Moments(0.0, 0.0, 0.0);
    for (var part = lane; part < n_parts; part += 256u) {
        let chunk_ix = part % params.n_chunks;
        let row = g * params.first_row + (part / params.n_chunks) * params.row_step;
        let n = min(params.chunk, params.voxels - chunk_ix * params.chunk);
        let moments = parts[row * params.n_chunks + chunk_ix];
        total = merge_moments(total, Moments(f32(n), moments.x, moments.y));
    }
    total = reduce_moments(total, lane);
    if lane == 0u && g < params.n_groups {
        mean[g] = total.mean;
        inv_std[g] = 1.0 / sqrt(total.m2 / total.n + params.eps);
    }
}
