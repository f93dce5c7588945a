// Last step of connected components: y = root of the voxel's component (the index of its first voxel, plus
// 1), 0 outside the mask; with HOLES y = 1 in the mask and in components that do not reach node 0, else 0.
// Inputs: mask [D, H, W] u32, parent [D, H, W] u32 as component_compress.wgsl leaves it. Output: y [D, H, W] u32.
// One invocation a voxel. Cost: 12 bytes a voxel and the walk to the root.
#import "lib/index.wgsl"
#import "lib/union_find.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> mask: array<u32>;
@group(0) @binding(1) var<storage, read_write> parent: array<atomic<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        var label = 0u;
#ifdef HOLES
        if mask[i] != 0u || find_root(i + 1u) != 0u {
            label = 1u;
        }
#else
        if mask[i] != 0u {
            label = find_root(i + 1u);
        }
#endif
        y[i] = label;
    }
}
