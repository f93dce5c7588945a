// First pass of distance: along w. Signed squares: for a voxel outside the mask +(distance to the nearest
// voxel inside in its row)^2, for one inside -(distance to the nearest outside)^2; FAR^2 = 1e18 if the row
// has none.
// Input: mask [D, H, W] u32. Output: y [D, H, W] f32 in mm^2. One invocation a row, a sweep each way.
// Cost: 6 flops and 16 bytes a voxel.
#import "lib/index.wgsl"

struct Params {
    rows: u32,
    n_w: u32,
    // Voxel size along w in mm.
    size: f32,
}

@group(0) @binding(0) var<storage, read> mask: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

const FAR_SQUARED = 1e18;
const NONE = 0xFFFFFFFFu;

fn squared(steps: u32) -> f32 {
    let distance = f32(steps) * params.size;
    return distance * distance;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(global, groups, 64u);
    if row < params.rows {
        let first = row * params.n_w;
        // Last positions seen outside and inside.
        var last = vec2<u32>(NONE, NONE);
        for (var w = 0u; w < params.n_w; w++) {
            let inside = mask[first + w] != 0u;
            let other = select(last.y, last.x, inside);
            y[first + w] = select(squared(w - other), FAR_SQUARED, other == NONE);
            last = select(vec2<u32>(w, last.y), vec2<u32>(last.x, w), inside);
        }
        last = vec2<u32>(NONE, NONE);
        for (var w = params.n_w; w > 0u; w--) {
            let at = w - 1u;
            let inside = mask[first + at] != 0u;
            let other = select(last.y, last.x, inside);
            let best = min(y[first + at], select(squared(other - at), FAR_SQUARED, other == NONE));
            y[first + at] = select(best, -best, inside);
            last = select(vec2<u32>(at, last.y), vec2<u32>(last.x, at), inside);
        }
    }
}
