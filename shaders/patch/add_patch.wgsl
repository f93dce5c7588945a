// add_patch: y' = y + w_d[i] w_h[j] w_w[k] x at the patch's place in a volume, y elsewhere.
// Inputs: x [d, h, w] f32, weights [d + h + w] f32 along each axis, one after the other. In place: y [D, H, W] f32.
// One invocation a voxel of the patch. Cost: 4 flops and 12 bytes each.
#import "lib/grid.wgsl"
#import "lib/index.wgsl"

struct Params {
    // Extents of the patch (d, h, w, number of voxels).
    patch_shape: vec4<u32>,
    // Extents of the volume (d, h, w, unused).
    shape: vec4<u32>,
    // The patch's first voxel in the volume (d, h, w, unused).
    at: vec4<u32>,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.patch_shape.w {
        return;
    }
    let n = params.patch_shape.xyz;
    let place = place_of(i, n).xyz;
    let weight = weights[place.x] * weights[n.x + place.y] * weights[n.x + n.y + place.z];
    let to = element_at(0u, place + params.at.xyz, params.shape.xyz);
    y[to] = y[to] + weight * x[i];
}
