// n4_residual_contract: the residual of the sharpened image, contracted along z with B-spline weights.
//   r = weight * (v - E(v)) = -weight * lerp(shift, c) where v counts, c = (v - least) / extent * (bins - 1);
//   y[s + k] = sum over the voxels z of span s of basis[z][k] * r[z], k = 0..3.
// Inputs: v [d, columns] f32, status [8] f32, shift [bins] f32, basis [d, 4] f32; weight as v (HAS_WEIGHT,
// else 1).
// Output: y [spans + 3, columns] f32.
// One invocation COLUMNS neighbouring columns along z (see field_update.wgsl), each with four running sums, of
// which one is finished with each span. Cost: 4 bytes and 16 flops a voxel.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    d: u32,
    columns: u32,
    spans: u32,
    bins: u32,
}

@group(0) @binding(0) var<storage, read> v: array<f32>;
#ifdef HAS_WEIGHT
@group(0) @binding(1) var<storage, read> weight: array<f32>;
#endif
@group(0) @binding(2) var<storage, read> status: array<f32>;
@group(0) @binding(3) var<storage, read> shift: array<f32>;
@group(0) @binding(4) var<storage, read> basis: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let first = flat_index(global, groups, 64u) * COLUMNS;
    if first < params.columns {
        let least = status[LEAST];
        let top = f32(params.bins - 1u);
        let per_unit = top / max(status[EXTENT], 1e-30);
        var sums: array<vec4<f32>, COLUMNS>;
        var z = 0u;
        for (var s = 0u; s < params.spans; s++) {
            let end = span_end(s, params.spans, params.d);
            for (; z < end; z++) {
                let weights = basis[z];
                for (var k = 0u; k < COLUMNS; k++) {
                    let i = z * params.columns + min(first + k, params.columns - 1u);
                    let value = v[i];
                    let c = clamp((value - least) * per_unit, 0.0, top);
                    let below = min(floor(c), top - 1.0);
                    // `clamp` may let NaN through, which a voxel may be and an infinite range makes.
                    let j = min(whole(below), params.bins - 2u);
                    let low = shift[j];
                    let moved = low + (c - below) * (shift[j + 1u] - low);
                    var counted = select(0.0, moved, value >= LEAST_COUNTED);
#ifdef HAS_WEIGHT
                    counted *= weight[i];
#endif
                    sums[k] -= weights * counted;
                }
            }
            for (var k = 0u; k < COLUMNS; k++) {
                if first + k < params.columns {
                    y[s * params.columns + first + k] = sums[k].x;
                }
                sums[k] = vec4<f32>(sums[k].yzw, 0.0);
            }
        }
        for (var k = 0u; k < COLUMNS; k++) {
            if first + k < params.columns {
                y[params.spans * params.columns + first + k] = sums[k].x;
                y[(params.spans + 1u) * params.columns + first + k] = sums[k].y;
                y[(params.spans + 2u) * params.columns + first + k] = sums[k].z;
            }
        }
    }
}
