// Last stage of the losses, from the sums (I, P, Y, pointwise) of each row (a sample, or the whole batch):
//   loss = dice_weight * mean over rows of (P + Y - 2 I) / (P + Y + smooth) + pointwise_weight * pointwise / n
// where (P + Y - 2 I) / (P + Y + s) = 1 - (2 I + s) / (P + Y + s).
// Input: sums [rows] vec4 f32. Output: loss [1] f32. One invocation in all.
struct Params {
    rows: u32,
    smooth_term: f32,
    // dice_weight / rows
    dice_factor: f32,
    // pointwise_weight / n
    pointwise_factor: f32,
}

@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> loss: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(1)
fn main() {
    var total = 0.0;
    for (var row = 0u; row < params.rows; row++) {
        let s = sums[row];
        let both = s.y + s.z;
        total += params.dice_factor * (both - 2.0 * s.x) / (both + params.smooth_term);
        total += params.pointwise_factor * s.w;
    }
    loss[0] = total;
}
