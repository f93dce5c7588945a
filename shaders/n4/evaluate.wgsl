// n4_evaluate: evaluates one axis of control points on n voxels with B-spline weights.
//   y[i] = sum of basis[i][k] * x[s + k], k = 0..3, for the voxels i of span s.
// The spline's domain may be wider than the output: `before` and `after` count its further voxels.
// Inputs: x [outer, spans + 3, inner] f32, basis [n, 4] f32. Output: y [outer, n, inner] f32.
// One invocation a line along the axis. Cost: 4 bytes and 7 flops an element of y.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    lines: u32,
    n: u32,
    inner: u32,
    spans: u32,
    before: u32,
    after: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> basis: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let line = flat_index(global, groups, 64u);
    if line < params.lines {
        let outer_ix = line / params.inner;
        let inner_ix = line % params.inner;
        let from_ix = outer_ix * (params.spans + 3u) * params.inner + inner_ix;
        var to_ix = outer_ix * params.n * params.inner + inner_ix;
        var i = 0u;
        for (var s = 0u; s < params.spans; s++) {
            let points = vec4<f32>(
                x[from_ix + s * params.inner],
                x[from_ix + (s + 1u) * params.inner],
                x[from_ix + (s + 2u) * params.inner],
                x[from_ix + (s + 3u) * params.inner],
            );
            let end_of_span = span_end(s, params.spans, params.before + params.n + params.after);
            let end = min(max(end_of_span, params.before) - params.before, params.n);
            for (; i < end; i++) {
                y[to_ix] = dot(basis[i], points);
                to_ix += params.inner;
            }
        }
    }
}
