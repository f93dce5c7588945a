// Trilinear resampling: y[o] = sum over the 8 neighbours of the source coordinate of weight * x; the
// coordinates are those of lib/resample_axis.wgsl.
// Input: x [rows, in_d, in_h, in_w] Element. Output: y [rows, out_d, out_h, out_w] Stored; extents count Stored.
// One invocation a Stored. With X4 the sources of its four outputs lie within four columns: 3 a <= 2 q along w.
// Cost: 14 flops an output and 8 reads, which caches serve; with X4 4 reads and less than 14 flops.
#import "lib/grid.wgsl"
#import "lib/index.wgsl"
#import "lib/resample_axis.wgsl"
#import "lib/stored.wgsl"

struct Params {
    // Extents (d, h, w, rows).
    in_shape: vec4<u32>,
    // Extents (d, h, w, number of all), which count Stored.
    out_shape: vec4<u32>,
    // (n_in, a, b, q) of each axis; bit patterns of signed numbers.
    axis_d: vec4<u32>,
    axis_h: vec4<u32>,
    axis_w: vec4<u32>,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

// The two neighbours along an axis, and the weights of both.
struct Neighbours {
    low: u32,
    high: u32,
    weight_low: f32,
    weight_high: f32,
}

fn neighbours(bits: vec4<u32>, o: u32) -> Neighbours {
    let axis = bitcast<vec4<i32>>(bits);
    let source = source_times_q(axis, o);
    let low = source / axis.w;
    let rest = source - low * axis.w;
    let high = min(low + 1, axis.x - 1);
    return Neighbours(u32(low), u32(high), f32(axis.w - rest) / f32(axis.w), f32(rest) / f32(axis.w));
}

// Values at column `at` of the lines (low d, low h), (low d, high h), (high d, low h), (high d, high h).
fn column(lines: vec4<u32>, at: u32) -> vec4<f32> {
    let ix = lines + at;
    return vec4<f32>(vec4<Element>(x[ix.x], x[ix.y], x[ix.z], x[ix.w]));
}

// Interpolates along h and d.
fn across(values: vec4<f32>, d: Neighbours, h: Neighbours) -> f32 {
    let along_h = h.weight_low * values.xz + h.weight_high * values.yw;
    return d.weight_low * along_h.x + d.weight_high * along_h.y;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.out_shape.w {
        return;
    }
    let n_in = params.in_shape.xyz;
    let place = place_of(i, params.out_shape.xyz);
    let d = neighbours(params.axis_d, place.x);
    let h = neighbours(params.axis_h, place.y);
    let plane_low = (place.w * n_in.x + d.low) * n_in.y;
    let plane_high = (place.w * n_in.x + d.high) * n_in.y;
    let lines = vec4<u32>(plane_low + h.low, plane_low + h.high, plane_high + h.low, plane_high + h.high)
        * n_in.z;
#ifdef X4
    let axis = bitcast<vec4<i32>>(params.axis_w);
    let o = 4u * place.z;
    let first = source_times_q(axis, o) / axis.w;
    var columns: vec4<f32>;
    for (var c = 0; c < 4; c++) {
        columns[c] = across(column(lines, u32(min(first + c, axis.x - 1))), d, h);
    }
    var value: vec4<f32>;
    for (var j = 0u; j < 4u; j++) {
        let beyond = source_times_q(axis, o + j) - first * axis.w;
        let second = beyond >= axis.w;
        let third = beyond >= 2 * axis.w;
        let low = select(select(columns.x, columns.y, second), columns.z, third);
        let high = select(select(columns.y, columns.z, second), columns.w, third);
        let rest = beyond - (i32(second) + i32(third)) * axis.w;
        value[j] = (f32(axis.w - rest) * low + f32(rest) * high) / f32(axis.w);
    }
    y[i] = stored_of(value);
#else
    let w = neighbours(params.axis_w, place.z);
    y[i] = stored_of(w.weight_low * across(column(lines, w.low), d, h) + w.weight_high * across(column(lines, w.high), d, h));
#endif
}
