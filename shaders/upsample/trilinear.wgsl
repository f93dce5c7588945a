// Trilinear resampling: y[o] = sum over the 8 neighbours of the source coordinate of weight * x; the
// coordinates are those of lib/resample_axis.wgsl.
// Input: x [rows, in_d, in_h, in_w] Element. Output: y [rows, out_d, out_h, out_w] Element.
// One invocation an output element. Cost: 14 flops an output and 8 reads, which caches serve.
#import "lib/element.wgsl"
#import "lib/grid.wgsl"
#import "lib/index.wgsl"
#import "lib/resample_axis.wgsl"

struct Params {
    // Extents (d, h, w, rows).
    in_shape: vec4<u32>,
    // Extents (d, h, w, number of elements).
    out_shape: vec4<u32>,
    // (n_in, a, b, q) of each axis; bit patterns of signed numbers.
    axis_d: vec4<u32>,
    axis_h: vec4<u32>,
    axis_w: vec4<u32>,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
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

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.out_shape.w {
        return;
    }
    let n_in = params.in_shape.xyz;
    let n_out = params.out_shape.xyz;
    let place = place_of(i, n_out);
    let d = neighbours(params.axis_d, place.x);
    let h = neighbours(params.axis_h, place.y);
    let w = neighbours(params.axis_w, place.z);
    let plane_low = (place.w * n_in.x + d.low) * n_in.y;
    let plane_high = (place.w * n_in.x + d.high) * n_in.y;
    let lines = vec4<u32>(plane_low + h.low, plane_low + h.high, plane_high + h.low, plane_high + h.high)
        * n_in.z;
    let at_low = lines + w.low;
    let at_high = lines + w.high;
    let low = vec4<f32>(vec4<Element>(x[at_low.x], x[at_low.y], x[at_low.z], x[at_low.w]));
    let high = vec4<f32>(vec4<Element>(x[at_high.x], x[at_high.y], x[at_high.z], x[at_high.w]));
    let along_w = w.weight_low * low + w.weight_high * high;
    let along_h = h.weight_low * along_w.xz + h.weight_high * along_w.yw;
    y[i] = Element(d.weight_low * along_h.x + d.weight_high * along_h.y);
}
