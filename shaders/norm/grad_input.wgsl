// Backward of normalisation by its input:
// dx = inv_std * (gamma * dz - sums.x / m - xhat * sums.y / m), where m is the number of elements of a
// group, xhat = (x - mean) * inv_std, z = xhat * gamma + beta and dz = dy * activation'(z).
// Inputs: x, dy [n_rows, voxels] f32 (a row is one channel of one sample), mean, inv_std [n_groups] f32,
// gamma, beta [channels] f32, sums [n_groups] pairs (gamma * dz, gamma * dz * xhat) f32.
// Output: dx [n_rows, voxels] f32.
// One workgroup a chunk of a row, so that the coefficients are uniform; neighbours take neighbours.
// Cost: about 10 flops and 12 bytes an element.
#import "lib/activation.wgsl"

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
    activation: u32,
    slope: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read> mean: array<f32>;
@group(0) @binding(5) var<storage, read> inv_std: array<f32>;
@group(0) @binding(6) var<storage, read> sums: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let job = group.x + group.y * groups.x;
    let row = job / params.n_chunks;
    if row >= params.n_rows {
        return;
    }
    let first = (job % params.n_chunks) * params.chunk;
    let end = min(first + params.chunk, params.voxels);
    let base = row * params.voxels;
    let c = (params.row0 + row) % params.channels;
    let g = ((params.row0 + row) / params.row_div) % params.n_groups;
    let center = mean[g];
    let spread = inv_std[g];
    let scale = spread * gamma[c];
    let shift = beta[c];
    // dx = scale * dz - offset - deviation * tilt
    let offset = spread * sums[g].x * params.inv_m;
    let tilt = spread * spread * sums[g].y * params.inv_m;
    for (var i = base + first + lane; i < base + end; i += 256u) {
        let deviation = x[i] - center;
        // The very expression of the forward kernel, so that the sign at the kink agrees.
        let z = deviation * scale + shift;
        let dz = dy[i] * activate_grad_from_output(z, params.activation, params.slope);
        dx[i] = scale * dz - offset - deviation * tilt;
    }
}
