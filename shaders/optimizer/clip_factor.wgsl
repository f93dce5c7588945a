// clip_factor: factor = min(1, max_norm / (sqrt(sum_of_squares) + 1e-6)), as torch's clip_grad_norm_;
// 0 when the sum is infinite or NaN, so that the optimiser skips the step.
// Input: sum_of_squares [1] f32. Output: factor [1] f32. One invocation in all.
struct Params {
    max_norm: f32,
}

@group(0) @binding(0) var<storage, read> sum_of_squares: array<f32>;
@group(0) @binding(1) var<storage, read_write> factor: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(1)
fn main() {
    let sum = sum_of_squares[0];
    // By its bits: compilers may assume that floats are finite and drop a comparison with itself.
    let finite = (bitcast<u32>(sum) & 0x7f800000u) != 0x7f800000u;
    factor[0] = select(0.0, min(1.0, params.max_norm / (sqrt(max(sum, 0.0)) + 1e-6)), finite);
}
