// Third step of connected components: the first voxel of every run points straight to its root, so that
// every voxel is at most two steps away from it (a chain of runs may be hundreds long).
// Input: mask [D, H, W] u32; members as lib/component_mask.wgsl says. In place: parent [D, H, W] u32.
// One invocation a voxel. Cost: 4 bytes a voxel and one walk a run.
#import "lib/component_mask.wgsl"
#import "lib/index.wgsl"
#import "lib/union_find.wgsl"

struct Params {
    n: u32,
    n_w: u32,
}

@group(0) @binding(1) var<storage, read_write> parent: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n && member(i) && (i % params.n_w == 0u || !member(i - min(i, 1u))) {
        let root = find_root(i + 1u);
        atomicMin(&parent[i], root);
    }
}
