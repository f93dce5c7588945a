// Backward of normalisation, stage 1: for each piece of a row, the sums of dz and dz * xhat, where
// xhat = (x - mean) * inv_std, z = xhat * gamma + beta and dz = dy * activation'(z).
// Inputs: x, dy [n_rows, voxels] Stored (a row is one channel of one sample), mean, inv_std [n_groups] f32,
// gamma, beta [channels] f32. Output: parts [.., n_chunks] (dz, dz * xhat) f32, rows from `row0` on.
// One workgroup a chunk: strided sums, then a tree. Workgroup memory: 2 KiB.
// Cost: about 8 flops and 8 bytes an element; z is recomputed, which costs less than reading y.
#import "lib/norm_grad.wgsl"
#import "lib/sum_pair.wgsl"

struct Params {
    n_rows: u32,
    row0: u32,
    voxels: u32,
    chunk: u32,
    n_chunks: u32,
    channels: u32,
    row_div: u32,
    n_groups: u32,
    slope: f32,
}

@group(0) @binding(6) var<storage, read_write> parts: array<vec2<f32>>;
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let piece = piece_of(group, groups);
    let row = row_of(piece.row);
    var plain = Value(0.0);
    var weighted = Value(0.0);
    for (var i = piece.first + lane; i < piece.end; i += 256u) {
        let deviation = value_of(x[i]) - row.center;
        let dz = dz_of(row, i, deviation);
        plain += dz;
        weighted += dz * (deviation * row.inv_std);
    }
    let sums = reduce_pair(vec2<f32>(total(plain), total(weighted)), lane);
    if lane == 0u && piece.row < params.n_rows {
        parts[(params.row0 + piece.row) * params.n_chunks + piece.chunk] = sums;
    }
}
