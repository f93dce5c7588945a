// What the backward kernels of normalisation that read x and dy share: both tensors, the forward's coefficients, and
// dz = dy * activation'(z), z = (x - mean) * inv_std * gamma + beta. The importing kernel declares params with row0,
// channels, row_div, n_groups, activation and slope.
#import "lib/activation.wgsl"
#import "lib/norm_piece.wgsl"

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read> mean: array<f32>;
@group(0) @binding(5) var<storage, read> inv_std: array<f32>;

// What is the same for all elements of a row: z = (x - center) * scale + shift.
struct Row {
    group: u32,
    center: f32,
    inv_std: f32,
    scale: f32,
    shift: f32,
}

fn row_of(row: u32) -> Row {
    let c = (params.row0 + row) % params.channels;
    let g = ((params.row0 + row) / params.row_div) % params.n_groups;
    return Row(g, mean[g], inv_std[g], inv_std[g] * gamma[c], beta[c]);
}

// dz of element i, `deviation` x - mean there.
fn dz_of(row: Row, i: u32, deviation: f32) -> f32 {
    // The very expression of the forward kernel, so that the sign at the kink agrees.
    let z = deviation * row.scale + row.shift;
    return dy[i] * activate_grad_from_output(z, params.activation, params.slope);
}
