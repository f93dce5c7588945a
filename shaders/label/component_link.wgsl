// Second step of connected components: unites runs that touch along h or d (6-connectivity). Only the first
// voxel of each overlap of two runs does so.
// Input: mask [D, H, W] u32; members as lib/component_mask.wgsl says. In place: parent [D, H, W] u32.
// One invocation a voxel. Cost: 4 bytes a voxel and a few atomics a run.
#import "lib/component_mask.wgsl"
#import "lib/index.wgsl"
#import "lib/union_find.wgsl"

struct Params {
    n: u32,
    n_h: u32,
    n_w: u32,
}

@group(0) @binding(1) var<storage, read_write> parent: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n && member(i) {
        let row = i / params.n_w;
        let w = i - row * params.n_w;
        let h = row % params.n_h;
        let plane = params.n_w * params.n_h;
        // Whether the overlap with a neighbouring row may have begun one voxel earlier.
        let inner = w > 0u && member(i - min(i, 1u));
        if h > 0u {
            let j = i - params.n_w;
            if member(j) && !(inner && member(j - min(j, 1u))) {
                unite(i + 1u, j + 1u);
            }
        }
        if i >= plane {
            let j = i - plane;
            if member(j) && !(inner && member(j - min(j, 1u))) {
                unite(i + 1u, j + 1u);
            }
        }
    }
}
