// n4_field_update, first stage: evaluates the change of the lattice along z, takes it off the image, and
// gathers what the next iteration needs.
//   change = sum of basis[z][k] * points[s + k];  v' = v - change where v counts;  e = exp(-change) - 1;
//   per invocation: least and greatest v', voxels, sum of e, sum of e^2 over the voxels that count.
// Inputs: points [spans + 3, columns] f32 (the lattice's change evaluated along x and y), basis [d, 4] f32.
// In place: v [d, columns] f32. Output: partials [5, columns / COLUMNS] f32.
// One invocation COLUMNS neighbouring columns along z: 1 for GPUs, whose neighbouring invocations then touch
// neighbouring addresses; several for processors, which run few invocations at a time and fetch whole cache lines.
// Cost: 8 bytes and 30 flops a voxel.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    d: u32,
    columns: u32,
    spans: u32,
}

@group(0) @binding(0) var<storage, read> points: array<f32>;
@group(0) @binding(1) var<storage, read> basis: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> partials: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// exp(x) - 1 without cancellation: the series for x / 4, whose first term left out is below 3e-8 of the sum for
// |x| < 1, then twice exp(2y) - 1 = (exp(y) - 1) (exp(y) + 1). A field changes by less in any iteration.
fn exp_minus_1(x: f32) -> f32 {
    let y = 0.25 * x;
    let e = y * (1.0 + y / 2.0 * (1.0 + y / 3.0 * (1.0 + y / 4.0 * (1.0 + y / 5.0 * (1.0 + y / 6.0)))));
    let twice = e * (e + 2.0);
    return twice * (twice + 2.0);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let line = flat_index(global, groups, 64u);
    let first = line * COLUMNS;
    if first < params.columns {
        var least = LARGEST;
        var greatest = -LARGEST;
        var n_voxels = 0.0;
        var sum = 0.0;
        var squares = 0.0;
        var z = 0u;
        for (var s = 0u; s < params.spans; s++) {
            var around: array<vec4<f32>, COLUMNS>;
            for (var k = 0u; k < COLUMNS; k++) {
                let column = min(first + k, params.columns - 1u);
                around[k] = vec4<f32>(
                    points[s * params.columns + column],
                    points[(s + 1u) * params.columns + column],
                    points[(s + 2u) * params.columns + column],
                    points[(s + 3u) * params.columns + column],
                );
            }
            let end = span_end(s, params.spans, params.d);
            for (; z < end; z++) {
                let weights = basis[z];
                for (var k = 0u; k < COLUMNS; k++) {
                    if first + k < params.columns {
                        let i = z * params.columns + first + k;
                        let old = v[i];
                        let counts = old >= LEAST_COUNTED;
                        let change = dot(weights, around[k]);
                        let new_value = select(OUTSIDE, old - change, counts);
                        let e = select(0.0, exp_minus_1(-change), counts);
                        least = min(least, select(LARGEST, new_value, counts));
                        greatest = max(greatest, new_value);
                        n_voxels += select(0.0, 1.0, counts);
                        sum += e;
                        squares += e * e;
                        v[i] = new_value;
                    }
                }
            }
        }
        let lines = (params.columns + COLUMNS - 1u) / COLUMNS;
        partials[line] = least;
        partials[lines + line] = greatest;
        partials[2u * lines + line] = n_voxels;
        partials[3u * lines + line] = sum;
        partials[4u * lines + line] = squares;
    }
}
