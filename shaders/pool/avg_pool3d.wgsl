// Average pooling: y = mean of x over each window.
// Input: x [rows, in_d, in_h, in_w] Element. Output: y [rows, out_d, out_h, out_w] Element.
// One invocation an output element; no window reaches beyond the input. Cost: kd * kh * kw additions an output; x is read
// once where windows do not overlap.
#import "lib/element.wgsl"
#import "lib/grid.wgsl"
#import "lib/index.wgsl"

struct Params {
    // Extents (d, h, w, unused).
    in_shape: vec4<u32>,
    // Extents (d, h, w, number of elements).
    out_shape: vec4<u32>,
    // (d, h, w, number of voxels).
    window: vec4<u32>,
    // (d, h, w, unused).
    stride: vec4<u32>,
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
    let place = place_of(i, params.out_shape.xyz);
    let begin = place.xyz * params.stride.xyz;
    let end = begin + params.window.xyz;
    var total = 0.0;
    for (var d = begin.x; d < end.x; d += 1u) {
        for (var h = begin.y; h < end.y; h += 1u) {
            let line = element_at(place.w, vec3<u32>(d, h, 0u), params.in_shape.xyz);
            for (var w = begin.z; w < end.z; w += 1u) {
                total += f32(x[line + w]);
            }
        }
    }
    y[i] = Element(total / f32(params.window.w));
}
