// Normalisation: y = activation((x - mean) * inv_std * gamma + beta).
// With FROM_VARIANCE, `spread` is a variance and inv_std = 1 / sqrt(spread + eps); else it is inv_std.
// Inputs: x [n_rows, voxels] Stored (a row is one channel of one sample; IN_PLACE: what y holds), mean, spread [n_groups] f32,
// gamma, beta [channels] f32. Output: y [n_rows, voxels] Stored.
// One workgroup a chunk of a row, so that the coefficients are uniform; neighbours take neighbours.
// Cost: 4 flops and 2 elements moved an element.
#import "lib/norm_piece.wgsl"
#import "lib/stored.wgsl"

struct Params {
    n_rows: u32,
    row0: u32,
    voxels: u32,
    chunk: u32,
    n_chunks: u32,
    channels: u32,
    row_div: u32,
    n_groups: u32,
    eps: f32,
    // What multiplies values below 0.
    slope: f32,
}

#ifdef IN_PLACE
#else
@group(0) @binding(0) var<storage, read> x: array<Stored>;
#endif
@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> spread: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<Stored>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let piece = piece_of(group, groups);
    let row = params.row0 + piece.row;
    let c = row % params.channels;
    let g = row / params.row_div % params.n_groups;
#ifdef FROM_VARIANCE
    let inv_std = 1.0 / sqrt(spread[g] + params.eps);
#else
    let inv_std = spread[g];
#endif
    let center = mean[g];
    let scale = inv_std * gamma[c];
    let shift = beta[c];
    for (var i = piece.first + lane; i < piece.end; i += 256u) {
#ifdef IN_PLACE
        let stored = y[i];
#else
        let stored = x[i];
#endif
        let z = (value_of(stored) - center) * scale + shift;
        y[i] = stored_of(select(params.slope * z, z, z > Value(0.0)));
    }
}
