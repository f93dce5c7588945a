// Normalisation statistics, stage 1: mean and sum of squared deviations of each piece of a row.
// A row is one channel of one sample: `voxels` contiguous Stored, cut into `n_chunks` of `chunk`.
// Input: x [n_rows, voxels] Stored. Output: parts [.., n_chunks] (mean, m2) f32, rows from `row0` on.
// One workgroup a chunk; each invocation takes blocks of 8 elements (8 or 2 Stored, 256 apart, so that neighbours
// read neighbours), finds their mean and deviations in two passes over registers, and merges blocks exactly.
// Workgroup memory: 3 KiB. Cost: about 5 flops an element, which is read once.
#import "lib/moments.wgsl"
#import "lib/norm_piece.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n_rows: u32,
    row0: u32,
    voxels: u32,
    chunk: u32,
    n_chunks: u32,
}

// Stored that an invocation's block of 8 elements spans.
#ifdef X4
const BLOCK: u32 = 512u;
#else
const BLOCK: u32 = 2048u;
#endif

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> parts: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let piece = piece_of(group, groups);
    var all = Moments(0.0, 0.0, 0.0);
    var i = piece.first + lane;
    for (; i + BLOCK - 256u < piece.end; i += BLOCK) {
#ifdef X4
        let a = value_of(x[i]);
        let b = value_of(x[i + 256u]);
#else
        let a = vec4<f32>(value_of(x[i]), value_of(x[i + 256u]), value_of(x[i + 512u]), value_of(x[i + 768u]));
        let b = vec4<f32>(
            value_of(x[i + 1024u]), value_of(x[i + 1280u]), value_of(x[i + 1536u]), value_of(x[i + 1792u])
        );
#endif
        let mean = dot(a + b, vec4<f32>(0.125));
        let da = a - mean;
        let db = b - mean;
        all = merge_moments(all, Moments(8.0, mean, dot(da, da) + dot(db, db)));
    }
    for (; i < piece.end; i += 256u) {
        let value = value_of(x[i]);
#ifdef X4
        let mean = total(value) * 0.25;
        all = merge_moments(all, Moments(4.0, mean, dot(value - mean, value - mean)));
#else
        all = merge_moments(all, Moments(1.0, value, 0.0));
#endif
    }
    all = reduce_moments(all, lane);
    if lane == 0u && piece.row < params.n_rows {
        parts[(params.row0 + piece.row) * params.n_chunks + piece.chunk] = vec2<f32>(all.mean, all.m2);
    }
}
