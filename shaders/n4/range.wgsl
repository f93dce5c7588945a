// n4_range, first stage: least and greatest masked value and the number of voxels of each column along z.
// Input: v [d, columns] f32. Output: partial [5, columns] f32: least, greatest, voxels, and two
// zeros (status.wgsl reads five planes).
// One invocation a column: neighbours read neighbouring addresses. Cost: 4 bytes and 3 flops a voxel.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    d: u32,
    columns: u32,
}

@group(0) @binding(0) var<storage, read> v: array<f32>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let column = flat_index(global, groups, 64u);
    if column < params.columns {
        var least = LARGEST;
        var greatest = -LARGEST;
        var n_voxels = 0.0;
        for (var z = 0u; z < params.d; z++) {
            let i = z * params.columns + column;
            let value = v[i];
            let counts = value >= LEAST_COUNTED;
            least = min(least, select(LARGEST, value, counts));
            greatest = max(greatest, value);
            n_voxels += select(0.0, 1.0, counts);
        }
        partials[column] = least;
        partials[params.columns + column] = greatest;
        partials[2u * params.columns + column] = n_voxels;
        partials[3u * params.columns + column] = 0.0;
        partials[4u * params.columns + column] = 0.0;
    }
}
