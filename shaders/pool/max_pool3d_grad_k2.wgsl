// Backward of maximum pooling with windows of 2 x 2 x 2 side by side (stride 2, no padding): dy goes to
// the first maximum of its window in the order d, h, w, and 0 to the others.
// Inputs: x [rows, in_d, in_h, in_w] f32, dy [rows, out_d, out_h, out_w] f32. Output: dx as x.
// One invocation a cell of 2 x 2 x 2 input elements, which only it writes; cells cut off by an odd extent
// belong to no window and get 0. Cost: 8 comparisons and 68 bytes a cell.
#import "lib/grid.wgsl"
#import "lib/index.wgsl"

struct Params {
    // Extents (d, h, w, rows).
    in_shape: vec4<u32>,
    // Extents (d, h, w, rows).
    out_shape: vec4<u32>,
    // Extents (d, h, w, total number) of the cells: those of the input, halved and rounded up.
    cells: vec4<u32>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.cells.w {
        return;
    }
    let n_in = params.in_shape.xyz;
    let n_out = params.out_shape.xyz;
    let place = place_of(i, params.cells.xyz);
    let cell = place.xyz;
    let base = element_at(place.w, 2u * cell, n_in);
    if all(cell < n_out) {
        var first = 0u;
        var best = x[base];
        for (var k = 1u; k < 8u; k += 1u) {
            let value = x[base + ((k >> 2u) * n_in.y + ((k >> 1u) & 1u)) * n_in.z + (k & 1u)];
            if value > best {
                best = value;
                first = k;
            }
        }
        let grad = dy[element_at(place.w, cell, n_out)];
        for (var k = 0u; k < 8u; k += 1u) {
            let at = base + ((k >> 2u) * n_in.y + ((k >> 1u) & 1u)) * n_in.z + (k & 1u);
            dx[at] = select(0.0, grad, k == first);
        }
    } else {
        let extent = min(n_in - 2u * cell, vec3<u32>(2u));
        for (var d = 0u; d < extent.x; d += 1u) {
            for (var h = 0u; h < extent.y; h += 1u) {
                for (var w = 0u; w < extent.z; w += 1u) {
                    dx[base + (d * n_in.y + h) * n_in.z + w] = 0.0;
                }
            }
        }
    }
}
