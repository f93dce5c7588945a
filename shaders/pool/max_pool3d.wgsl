// Maximum pooling: y = max of x over each window; voxels outside the input do not take part.
// Input: x [rows, in_d, in_h, in_w] Element. Output: y [rows, out_d, out_h, out_w] Element.
// One invocation an output element; the window is clipped to the input once, so that the loop has no
// branch. Cost: kd * kh * kw comparisons an output; x is read once where windows do not overlap.
#import "lib/element.wgsl"
#import "lib/grid.wgsl"
#import "lib/index.wgsl"

struct Params {
    // Extents (d, h, w, rows).
    in_shape: vec4<u32>,
    // Extents (d, h, w, number of elements).
    out_shape: vec4<u32>,
    // (d, h, w, unused) of the next three.
    window: vec4<u32>,
    stride: vec4<u32>,
    padding: vec4<u32>,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.out_shape.w {
        return;
    }
    let n_in = params.in_shape.xyz;
    let n_out = params.out_shape.xyz;
    let place = place_of(i, n_out);
    let first = place.xyz * params.stride.xyz;
    let begin = max(first, params.padding.xyz) - params.padding.xyz;
    let end = min(first + params.window.xyz - params.padding.xyz, n_in);
    var best = x[element_at(place.w, begin, n_in)];
    for (var d = begin.x; d < end.x; d += 1u) {
        for (var h = begin.y; h < end.y; h += 1u) {
            let line = element_at(place.w, vec3<u32>(d, h, 0u), n_in);
            for (var w = begin.z; w < end.z; w += 1u) {
                best = max(best, x[line + w]);
            }
        }
    }
    y[i] = best;
}
