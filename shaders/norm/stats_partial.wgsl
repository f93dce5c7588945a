// Normalisation statistics, stage 1: mean and sum of squared deviations of each piece of a row.
// A row is one channel of one sample: `voxels` contiguous elements, cut into `n_chunks` of `chunk`.
// Input: x [n_rows, voxels] Element. Output: parts [.., n_chunks] (mean, m2) f32, rows from `row0` on.
// One workgroup a chunk; each invocation takes blocks of 8 elements (256 apart, so that neighbours read
// neighbours), finds their mean and deviations in two passes over registers, and merges blocks exactly.
// Workgroup memory: 3 KiB. Cost: about 5 flops an element, which is read once.
#import "lib/element.wgsl"
#import "lib/moments.wgsl"

struct Params {
    n_rows: u32,
    row0: u32,
    voxels: u32,
    chunk: u32,
    n_chunks: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> parts: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let job = group.x + group.y * groups.x;
    let row = job / params.n_chunks;
    let chunk_ix = job % params.n_chunks;
    let first = chunk_ix * params.chunk;
    // Workgroups beyond the last row, which a folded launch has, see an empty chunk.
    let end = select(first, min(first + params.chunk, params.voxels), row < params.n_rows);
    let base = row * params.voxels;
    var total = Moments(0.0, 0.0, 0.0);
    var i = first + lane;
    for (; i + 1792u < end; i += 2048u) {
        let at = base + i;
        let a = vec4<f32>(f32(x[at]), f32(x[at + 256u]), f32(x[at + 512u]), f32(x[at + 768u]));
        let b = vec4<f32>(f32(x[at + 1024u]), f32(x[at + 1280u]), f32(x[at + 1536u]), f32(x[at + 1792u]));
        let mean = dot(a + b, vec4<f32>(0.125));
        let da = a - mean;
        let db = b - mean;
        total = merge_moments(total, Moments(8.0, mean, dot(da, da) + dot(db, db)));
    }
    for (; i < end; i += 256u) {
        total = merge_moments(total, Moments(1.0, f32(x[base + i]), 0.0));
    }
    total = reduce_moments(total, lane);
    if lane == 0u && row < params.n_rows {
        parts[(params.row0 + row) * params.n_chunks + chunk_ix] = vec2<f32>(total.mean, total.m2);
    }
}
