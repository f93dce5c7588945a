// Nearest-neighbour resampling: y[o] = x[floor(o * n_in / n_out)] along each axis.
// Input: x [rows, in_d, in_h, in_w] Element. Output: y [rows, out_d, out_h, out_w] Stored; extents count Stored.
// One invocation a Stored; with X4 the output is at least as wide as the input. Cost: no flops; each input and output once.
#import "lib/grid.wgsl"
#import "lib/index.wgsl"
#import "lib/stored.wgsl"

struct Params {
    // Extents (d, h, w, rows).
    in_shape: vec4<u32>,
    // Extents (d, h, w, number of all), which count Stored.
    out_shape: vec4<u32>,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;
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
#ifdef X4
    let wide = 4u * n_out.z;
    let source = place.xyz * vec3<u32>(n_in.xy, 4u * n_in.z) / vec3<u32>(n_out.xy, wide);
    let first = element_at(place.w, source, n_in);
    // What the source's place lies beyond its column, times the output's width: the next one is at most a column further.
    var rest = 4u * place.z * n_in.z - source.z * wide;
    var at = first;
    var value: vec4<f32>;
    for (var j = 0u; j < 4u; j++) {
        value[j] = f32(x[at]);
        rest += n_in.z;
        let next = rest >= wide;
        at += u32(next);
        rest -= select(0u, wide, next);
    }
    y[i] = stored_of(value);
#else
    y[i] = x[element_at(place.w, place.xyz * n_in / n_out, n_in)];
#endif
}
