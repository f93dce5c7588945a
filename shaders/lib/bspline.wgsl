// Uniform cubic B-splines.

// The control points that a sample lies between: the first of four, and their weights.
struct Spline {
    first: u32,
    weights: vec4<f32>,
}

// Sample `index` of `n` on a lattice of `points` >= 4 control points whose spans cover the n samples.
fn spline_at(index: u32, n: u32, points: u32) -> Spline {
    let spans = points - 3u;
    let at = f32(index) * f32(spans) / f32(max(n, 2u) - 1u);
    // The last sample belongs to the end of the last span.
    let first = min(u32(at), spans - 1u);
    let t = at - f32(first);
    let s = 1.0 - t;
    return Spline(first, vec4<f32>(
        s * s * s,
        4.0 + t * t * (3.0 * t - 6.0),
        4.0 + s * s * (3.0 * s - 6.0),
        t * t * t,
    ) / 6.0);
}
