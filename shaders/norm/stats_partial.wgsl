// Normalisation statistics, stage 1: mean and sum of squared deviations of each piece of a row.
// A row is one channel of one sample: `voxels` contiguous elements, cut into `n_chunks` of `chunk`.
// Input: x [n_rows, voxels] Element. Output: parts [.., n_chunks] (mean, m2) f32, rows from `row0` on.
// One workgroup a chunk; each invocation takes blocks of 8 elements (256 apart, so that neighbours read
// neighbours), finds their mean and deviations in two passes over registers, and merges blocks exactly.
// Workgroup memory: 3 KiB. Cost: about 5 flops an element, which is read once.
#import "lib/element.wgsl"
#import "lib/moments.wgsl"
#import "lib/norm_piece.wgsl"

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
    let piece = piece_of(group, groups);
    var total = Moments(0.0, 0.0, 0.0);
    var i = piece.first + lane;
    for (; i + 1792u < piece.end; i += 2048u) {
        let a = vec4<f32>(f32(x[i]), f32(x[i + 256u]), f32(x[i + 512u]), f32(x[i + 768u]));
        let b = vec4<f32>(f32(x[i + 1024u]), f32(x[i + 1280u]), f32(x[i + 1536u]), f32(x[i + 1792u]));
        let mean = dot(a + b, vec4<f32>(0.125));
        let da = a - mean;
        let db = b - mean;
        total = merge_moments(total, Moments(8.0, mean, dot(da, da) + dot(db, db)));
    }
    for (; i < piece.end; i += 256u) {
        total = merge_moments(total, Moments(1.0, f32(x[i]), 0.0));
    }
    total = reduce_moments(total, lane);
    if lane == 0u && piece.row < params.n_rows {
        parts[(params.row0 + piece.row) * params.n_chunks + piece.chunk] = vec2<f32>(total.mean, total.m2);
    }
}
