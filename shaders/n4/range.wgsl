// n4_range, first stage: least and greatest masked value and the number of voxels of each column along z.
// Inputs: v, weight [d, columns] f32. Output: partial [5, columns] f32: least, greatest, voxels, and two
// zeros (status.wgsl reads five planes).
// One invocation a column: neighbours read neighbouring addresses. Cost: 8 bytes and 3 flops a voxel.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    d: u32,
    columns: u32,
}

@group(0) @binding(0) var<storage, read> v: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let column = flat_index(global, groups, 64u);
    if column < params.columns {
        var least = LARGEST;
        var greatest = -LARGEST;
        var n_voxels = 0.0;
        for (var z = 0u; z < params.d; z++) {
            let i = z * params.columns + column;
            if weight[i] > 0.0 {
                least = min(least, v[i]);
                greatest = max(greatest, v[i]);
                n_voxels += 1.0;
            }
        }
        partials[column] = least;
        partials[params.columns + column] = greatest;
        partials[2u * params.columns + column] = n_voxels;
        partials[3u * params.columns + column] = 0.0;
        partials[4u * params.columns + column] = 0.0;
    }
}
