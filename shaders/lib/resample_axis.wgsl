// Source coordinates of linear resampling along one axis, exact in integers. Output index o lies at
// (a * o + b) / q on the input's grid of n_in points:
//   align_corners:  a = n_in - 1, b = 0,            q = max(n_out - 1, 1)
//   else:           a = 2 * n_in, b = n_in - n_out, q = 2 * n_out
// (half-voxel centres with scale n_in / n_out, as in PyTorch), clamped to 0 .. n_in - 1.

// (n_in, a, b, q) of an axis.
alias Axis = vec4<i32>;

// q times the clamped source coordinate of output index `o`.
fn source_times_q(axis: Axis, o: u32) -> i32 {
    return clamp(axis.y * i32(o) + axis.z, 0, (axis.x - 1) * axis.w);
}

// Weight of input `i` in output `o`: the hat function round the input.
fn hat_weight(axis: Axis, i: u32, o: u32) -> f32 {
    let distance = abs(source_times_q(axis, o) - i32(i) * axis.w);
    return f32(max(axis.w - distance, 0)) / f32(axis.w);
}

// First and one past the last of the outputs, `n_out` in all, whose source lies within 1 of input `i`.
fn covering_outputs(axis: Axis, i: u32, n_out: u32) -> vec2<u32> {
    let a = max(axis.y, 1);
    // Strictly above (i - 1) * q and strictly below (i + 1) * q; clamping lets the border points take all
    // that lies beyond them. Numerators are made positive before dividing, which rounds towards 0.
    let above = max((i32(i) - 1) * axis.w - axis.z + a, 0) / a;
    let below = max((i32(i) + 1) * axis.w - axis.z + a - 1, 0) / a;
    let begin = select(u32(above), 0u, i == 0u);
    let end = select(min(u32(below), n_out), n_out, i32(i) == axis.x - 1);
    return vec2<u32>(begin, end);
}
