// n4_contract: contracts one axis of voxels to control points with B-spline weights.
//   y[s + k] = sum over the voxels i of span s of basis[i][k] * x[i], k = 0..3.
// Inputs: x [outer, n, inner] f32, basis [n, 4] f32. Output: y [outer, spans + 3, inner] f32.
// One invocation a line along the axis: four running sums, of which one is finished with each span.
// Cost: 4 bytes and 8 flops an element of x.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    lines: u32,
    n: u32,
    inner: u32,
    spans: u32,
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
        var from_ix = outer_ix * params.n * params.inner + inner_ix;
        var to_ix = outer_ix * (params.spans + 3u) * params.inner + inner_ix;
        var sums = vec4<f32>(0.0);
        var i = 0u;
        for (var s = 0u; s < params.spans; s++) {
            let end = span_end(s, params.spans, params.n);
            for (; i < end; i++) {
                sums += basis[i] * x[from_ix];
                from_ix += params.inner;
            }
            y[to_ix] = sums.x;
            to_ix += params.inner;
            sums = vec4<f32>(sums.yzw, 0.0);
        }
        y[to_ix] = sums.x;
        y[to_ix + params.inner] = sums.y;
        y[to_ix + 2u * params.inner] = sums.z;
    }
}
