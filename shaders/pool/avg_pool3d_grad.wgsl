// Backward of average pooling: dx = sum of dy over the windows that the element lies in, over the voxels of a window.
// Input: dy [rows, out_d, out_h, out_w] f32. Output: dx [rows, in_d, in_h, in_w] f32.
// A gather, one invocation an input element. Cost: up to (k / stride)^3 additions an element.
#import "lib/grid.wgsl"
#import "lib/index.wgsl"

struct Params {
    // Extents (d, h, w, number of elements).
    in_shape: vec4<u32>,
    // Extents (d, h, w, unused).
    out_shape: vec4<u32>,
    // (d, h, w, number of voxels).
    window: vec4<u32>,
    // (d, h, w, unused).
    stride: vec4<u32>,
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
    let place = place_of(i, params.in_shape.xyz);
    let n_out = params.out_shape.xyz;
    let stride = params.stride.xyz;
    // Outputs o with o * stride <= place < o * stride + window.
    let begin = (max(place.xyz + stride, params.window.xyz) - params.window.xyz) / stride;
    let end = min(place.xyz / stride + 1u, n_out);
    var total = 0.0;
    for (var d = begin.x; d < end.x; d += 1u) {
        for (var h = begin.y; h < end.y; h += 1u) {
            for (var w = begin.z; w < end.z; w += 1u) {
                total += dy[element_at(place.w, vec3<u32>(d, h, w), n_out)];
            }
        }
    }
    dx[i] = total / f32(params.window.w);
}
