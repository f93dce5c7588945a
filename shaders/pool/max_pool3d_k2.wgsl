// Maximum pooling with windows of 2 x 2 x 2 side by side (stride 2, no padding): unrolled.
// Input: x [rows, in_d, in_h, in_w] Element. Output: y [rows, out_d, out_h, out_w] Element.
// One invocation an output element. Cost: 7 comparisons and 9 elements moved an output.
#import "lib/element.wgsl"
#import "lib/grid.wgsl"
#import "lib/index.wgsl"

struct Params {
    // Extents (d, h, w, rows).
    in_shape: vec4<u32>,
    // Extents (d, h, w, number of elements).
    out_shape: vec4<u32>,
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
    let a = element_at(place.w, 2u * place.xyz, n_in);
    let b = a + n_in.z;
    let c = a + n_in.y * n_in.z;
    let d = c + n_in.z;
    let even = max(max(x[a], x[b]), max(x[c], x[d]));
    let odd = max(max(x[a + 1u], x[b + 1u]), max(x[c + 1u], x[d + 1u]));
    y[i] = max(even, odd);
}
