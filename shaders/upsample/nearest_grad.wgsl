// Transpose of nearest-neighbour resampling: dx[i] = sum of dy[o] over the outputs o with
// floor(o * n_in / n_out) = i along each axis. A gather: no atomics.
// Input: dy [rows, out_d, out_h, out_w] f32. Output: dx [rows, in_d, in_h, in_w] f32.
// One invocation an input element. Cost: one addition an output; each element once.
#import "lib/grid.wgsl"
#import "lib/index.wgsl"

struct Params {
    // Extents (d, h, w, number of elements).
    in_shape: vec4<u32>,
    // Extents (d, h, w, rows).
    out_shape: vec4<u32>,
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
    // floor(o * n_in / n_out) = i for o from ceil(i * n_out / n_in) to below ceil((i + 1) * n_out / n_in).
    let begin = (at * n_out + n_in - 1u) / n_in;
    let end = ((at + 1u) * n_out + n_in - 1u) / n_in;
    var total = 0.0;
    for (var d = begin.x; d < end.x; d += 1u) {
        for (var h = begin.y; h < end.y; h += 1u) {
            let line = element_at(place.w, vec3<u32>(d, h, 0u), n_out);
            for (var w = begin.z; w < end.z; w += 1u) {
                total += dy[line + w];
            }
        }
    }
    dx[i] = total;
}
