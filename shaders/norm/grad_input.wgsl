// Backward of normalisation by its input:
// dx = inv_std * (gamma * dz - sums.x / m - xhat * sums.y / m), where m is the number of elements of a
// group, xhat = (x - mean) * inv_std, z = xhat * gamma + beta and dz = dy * activation'(z).
// Inputs: x, dy [n_rows, voxels] Stored (a row is one channel of one sample), mean, inv_std [n_groups] f32,
// gamma, beta [channels] f32, sums [n_groups] pairs (gamma * dz, gamma * dz * xhat) f32.
// Output: dx [n_rows, voxels] Stored.
// One workgroup a chunk of a row, so that the coefficients are uniform; neighbours take neighbours.
// Cost: about 10 flops and 12 bytes an element.
#import "lib/norm_grad.wgsl"

struct Params {
    n_rows: u32,
    row0: u32,
    voxels: u32,
    chunk: u32,
    n_chunks: u32,
    channels: u32,
    row_div: u32,
    n_groups: u32,
    inv_m: f32,
    slope: f32,
}

@group(0) @binding(6) var<storage, read> sums: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> dx: array<Stored>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let piece = piece_of(group, groups);
    let row = row_of(piece.row);
    // dx = scale * dz - offset - deviation * tilt
    let offset = row.inv_std * sums[row.group].x * params.inv_m;
    let tilt = row.inv_std * row.inv_std * sums[row.group].y * params.inv_m;
    for (var i = piece.first + lane; i < piece.end; i += 256u) {
        let deviation = value_of(x[i]) - row.center;
        dx[i] = stored_of(row.scale * dz_of(row, i, deviation) - offset - deviation * tilt);
    }
}
