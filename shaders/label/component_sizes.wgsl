// Sizes of connected components: sizes[label - 1] += voxels with that label.
// Input: labels [D, H, W] u32 (component_labels.wgsl). Output: sizes [D, H, W] u32, cleared before.
// One invocation a row, one atomic a run: a brain is a few hundred thousand additions instead of millions.
// Sums of integers do not depend on order. Cost: 4 bytes a voxel.
#import "lib/index.wgsl"

struct Params {
    rows: u32,
    n_w: u32,
}

@group(0) @binding(0) var<storage, read> labels: array<u32>;
@group(0) @binding(1) var<storage, read_write> sizes: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(global, groups, 64u);
    if row < params.rows {
        var label = 0u;
        var count = 0u;
        for (var w = 0u; w < params.n_w; w++) {
            let now = labels[row * params.n_w + w];
            if now != label {
                if label != 0u {
                    atomicAdd(&sizes[label - 1u], count);
                }
                label = now;
                count = 0u;
            }
            count += 1u;
        }
        if label != 0u {
            atomicAdd(&sizes[label - 1u], count);
        }
    }
}
