// Transpose of trilinear resampling: dx[i] = sum over the outputs o whose source lies within 1 of input i
// along each axis of weight(i, o) * dy[o]. A gather with the forward's own weights: no atomics, exact.
// Input: dy [rows, out_d, out_h, out_w] f32. Output: dx [rows, in_d, in_h, in_w] f32.
// One invocation an input element. Cost: about 8 multiply-adds an output, in cached reads.
#import "lib/grid.wgsl"
#import "lib/index.wgsl"
#import "lib/resample_axis.wgsl"

struct Params {
    // Extents (d, h, w, number of elements).
    in_shape: vec4<u32>,
    // Extents (d, h, w, rows).
    out_shape: vec4<u32>,
    // (n_in, a, b, q) of each axis; bit patterns of signed numbers.
    axis_d: vec4<u32>,
    axis_h: vec4<u32>,
    axis_w: vec4<u32>,
}

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> dx: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.in_shape.w {
        return;
    }
    let n_in = params.in_shape.xyz;
    let n_out = params.out_shape.xyz;
    let place = place_of(i, n_in);
    let at = place.xyz;
    let axis_d = bitcast<vec4<i32>>(params.axis_d);
    let axis_h = bitcast<vec4<i32>>(params.axis_h);
    let axis_w = bitcast<vec4<i32>>(params.axis_w);
    let range_d = covering_outputs(axis_d, at.x, n_out.x);
    let range_h = covering_outputs(axis_h, at.y, n_out.y);
    let range_w = covering_outputs(axis_w, at.z, n_out.z);
    var total = 0.0;
    for (var d = range_d.x; d < range_d.y; d += 1u) {
        let weight_d = hat_weight(axis_d, at.x, d);
        for (var h = range_h.x; h < range_h.y; h += 1u) {
            let line = element_at(place.w, vec3<u32>(d, h, 0u), n_out);
            var along_w = 0.0;
            for (var w = range_w.x; w < range_w.y; w += 1u) {
                along_w += hat_weight(axis_w, at.z, w) * dy[line + w];
            }
            total += weight_d * hat_weight(axis_h, at.y, h) * along_w;
        }
    }
    dx[i] = total;
}
