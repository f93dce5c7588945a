// n4_field_update, first stage: evaluates the lattice along z, takes the field off the image, and gathers
// what the next iteration needs.
//   field = sum of basis[z][k] * points[s + k];  v' = v0 - field;  e = exp(v' - v) - 1;
//   per column: least and greatest v', voxels, sum of e, sum of e^2 over the mask.
// Inputs: v0, weight [d, columns] f32, points [spans + 3, columns] f32 (the lattice evaluated along x and
// y), basis [d, 4] f32. In place: v [d, columns] f32. Output: partials [5, columns] f32.
// One invocation a column along z: neighbours read neighbouring addresses. Cost: 16 bytes and 24 flops a
// voxel.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    d: u32,
    columns: u32,
    spans: u32,
}

@group(0) @binding(0) var<storage, read> v0: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> points: array<f32>;
@group(0) @binding(3) var<storage, read> basis: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

// exp(d) - 1: the series where the difference would cancel; its first term left out is d^7 / 5040.
fn exp_minus_1(d: f32) -> f32 {
    let series = d * (1.0 + d / 2.0 * (1.0 + d / 3.0 * (1.0 + d / 4.0 * (1.0 + d / 5.0 * (1.0 + d / 6.0)))));
    return select(exp(d) - 1.0, series, abs(d) < 0.25);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let column = flat_index(global, groups, 64u);
    if column < params.columns {
        var least = LARGEST;
        var greatest = -LARGEST;
        var n_voxels = 0.0;
        var sum = 0.0;
        var squares = 0.0;
        var z = 0u;
        for (var s = 0u; s < params.spans; s++) {
            let around = vec4<f32>(
                points[s * params.columns + column],
                points[(s + 1u) * params.columns + column],
                points[(s + 2u) * params.columns + column],
                points[(s + 3u) * params.columns + column],
            );
            let end = span_end(s, params.spans, params.d);
            for (; z < end; z++) {
                let i = z * params.columns + column;
                let value = v0[i] - dot(basis[z], around);
                let inside = weight[i] > 0.0;
                let e = select(0.0, exp_minus_1(value - v[i]), inside);
                least = min(least, select(LARGEST, value, inside));
                greatest = max(greatest, select(-LARGEST, value, inside));
                n_voxels += select(0.0, 1.0, inside);
                sum += e;
                squares += e * e;
                v[i] = value;
            }
        }
        partials[column] = least;
        partials[params.columns + column] = greatest;
        partials[2u * params.columns + column] = n_voxels;
        partials[3u * params.columns + column] = sum;
        partials[4u * params.columns + column] = squares;
    }
}
