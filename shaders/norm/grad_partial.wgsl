// Backward of normalisation, stage 1: for each piece of a row, the sums of dz and dz * xhat, where
// xhat = (x - mean) * inv_std, z = xhat * gamma + beta and dz = dy * activation'(z).
// Inputs: x, dy [n_rows, voxels] f32 (a row is one channel of one sample), mean, inv_std [n_groups] f32,
// gamma, beta [channels] f32. Output: parts [.., n_chunks] (dz, dz * xhat) f32, rows from `row0` on.
// One workgroup a chunk: strided sums, then a tree. Workgroup memory: 2 KiB.
// Cost: about 8 flops and 8 bytes an element; z is recomputed, which costs less than reading y.
#import "lib/activation.wgsl"
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
    activation: u32,
    slope: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read> mean: array<f32>;
@group(0) @binding(5) var<storage, read> inv_std: array<f32>;
@group(0) @binding(6) var<storage, read_write> parts: array<vec2<f32>>;
@group(0) @binding(7) var<uniform> params: Params;

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
    let c = (params.row0 + row) % params.channels;
    let g = ((params.row0 + row) / params.row_div) % params.n_groups;
    let center = mean[g];
    let spread = inv_std[g];
    let scale = spread * gamma[c];
    let shift = beta[c];
    var sums = vec2<f32>(0.0);
    for (var i = base + first + lane; i < base + end; i += 256u) {
        let deviation = x[i] - center;
        // The very expression of the forward kernel, so that the sign at the kink agrees.
        let z = deviation * scale + shift;
        let dz = dy[i] * activate_grad_from_output(z, params.activation, params.slope);
        sums += dz * vec2<f32>(1.0, deviation * spread);
    }
    sums = reduce_pair(sums, lane);
    if lane == 0u && row < params.n_rows {
        parts[(params.row0 + row) * params.n_chunks + chunk_ix] = sums;
    }
}
