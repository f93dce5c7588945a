// What the backward kernels of normalisation that read x and dy share: both tensors, the forward's coefficients, and
// dz = dy * activation'(z), z = (x - mean) * inv_std * gamma + beta. The importing kernel declares params with row0,
// channels, row_div, n_groups and slope, which multiplies values below 0.
#import "lib/norm_piece.wgsl"
#import "lib/stored.wgsl"

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
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

// dz at i, `deviation` x - mean there. At the kink it is the derivative from below, as in PyTorch.
fn dz_of(row: Row, i: u32, deviation: Value) -> Value {
    // The very expression of the forward kernel, so that the sign at the kink agrees.
    let z = deviation * row.scale + row.shift;
    return value_of(dy[i]) * select(Value(params.slope), Value(1.0), z > Value(0.0));
}
