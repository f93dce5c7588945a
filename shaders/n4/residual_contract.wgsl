// n4_residual_contract: the residual of the sharpened image, contracted along z with B-spline weights.
//   r = weight * (v - E(v)) = -weight * lerp(shift, c), c = (v - least) / extent * (bins - 1);
//   y[s + k] = sum over the voxels z of span s of basis[z][k] * r[z], k = 0..3.
// Inputs: v, weight [d, columns] f32, status [8] f32, shift [bins] f32, basis [d, 4] f32.
// Output: y [spans + 3, columns] f32.
// One invocation a column along z: four running sums, of which one is finished with each span; neighbours
// read and write neighbouring addresses. Cost: 8 bytes and 16 flops a voxel.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    d: u32,
    columns: u32,
    spans: u32,
    bins: u32,
}

@group(0) @binding(0) var<storage, read> v: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> status: array<f32>;
@group(0) @binding(3) var<storage, read> shift: array<f32>;
@group(0) @binding(4) var<storage, read> basis: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let column = flat_index(global, groups, 64u);
    if column < params.columns {
        let least = status[LEAST];
        let top = f32(params.bins - 1u);
        let per_unit = top / max(status[EXTENT], 1e-30);
        var sums = vec4<f32>(0.0);
        var z = 0u;
        for (var s = 0u; s < params.spans; s++) {
            let end = span_end(s, params.spans, params.d);
            for (; z < end; z++) {
                let i = z * params.columns + column;
                let c = clamp((v[i] - least) * per_unit, 0.0, top);
                let j = min(u32(c), params.bins - 2u);
                let low = shift[j];
                let moved = low + (c - f32(j)) * (shift[j + 1u] - low);
                sums -= basis[z] * (weight[i] * moved);
            }
            y[s * params.columns + column] = sums.x;
            sums = vec4<f32>(sums.yzw, 0.0);
        }
        y[params.spans * params.columns + column] = sums.x;
        y[(params.spans + 1u) * params.columns + column] = sums.y;
        y[(params.spans + 2u) * params.columns + column] = sums.z;
    }
}
