// Backward of maximum pooling: dx = sum of dy over the windows of which the element is the first maximum
// in the order d, h, w, as in PyTorch. A gather: no atomics, so the result is deterministic.
// Inputs: x [rows, in_d, in_h, in_w] f32, dy [rows, out_d, out_h, out_w] f32. Output: dx as x.
// One invocation an input element: for each window that covers it, scan the window until an element beats
// it. Cost: up to (k / stride)^3 * k^3 comparisons an element for windows of extent k.
#import "lib/grid.wgsl"
#import "lib/index.wgsl"

struct Params {
    // Extents (d, h, w, number of elements).
    in_shape: vec4<u32>,
    // Extents (d, h, w, rows).
    out_shape: vec4<u32>,
    // (d, h, w, unused) of the next three.
    window: vec4<u32>,
    stride: vec4<u32>,
    padding: vec4<u32>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

// Whether element `at` is the first maximum of the window of output `out` of its row.
fn is_first_maximum(at: u32, out: vec3<u32>, row: u32) -> bool {
    let n_in = params.in_shape.xyz;
    let first = out * params.stride.xyz;
    let begin = max(first, params.padding.xyz) - params.padding.xyz;
    let end = min(first + params.window.xyz - params.padding.xyz, n_in);
    let value = x[at];
    for (var d = begin.x; d < end.x; d += 1u) {
        for (var h = begin.y; h < end.y; h += 1u) {
            let line = element_at(row, vec3<u32>(d, h, 0u), n_in);
            for (var w = begin.z; w < end.z; w += 1u) {
                let other = x[line + w];
                if other > value || (other == value && line + w < at) {
                    return false;
                }
            }
        }
    }
    return true;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.in_shape.w {
        return;
    }
    let n_in = params.in_shape.xyz;
    let n_out = params.out_shape.xyz;
    let place = place_of(i, n_in);
    // Position in the padded input, whose windows start at multiples of the stride.
    let at = place.xyz + params.padding.xyz;
    // Outputs o with o * stride <= at < o * stride + window.
    let stride = params.stride.xyz;
    let begin = (max(at + stride, params.window.xyz) - params.window.xyz) / stride;
    let end = min(at / stride + 1u, n_out);
    var total = 0.0;
    for (var d = begin.x; d < end.x; d += 1u) {
        for (var h = begin.y; h < end.y; h += 1u) {
            for (var w = begin.z; w < end.z; w += 1u) {
                let out = vec3<u32>(d, h, w);
                if is_first_maximum(i, out, place.w) {
                    total += dy[element_at(place.w, out, n_out)];
                }
            }
        }
    }
    dx[i] = total;
}
