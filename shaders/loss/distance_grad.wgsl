// Gradient of distance_loss by the logits: dz = dloss / n * clamp(e, -1, 1), with e as in distance_partials.wgsl,
// WEIGHTED times the voxel's weight.
// Inputs: z, d, in mm, y and weight [n] f32 (a piece of the batch), dloss [1] f32. Output: dz [n] f32. One invocation a voxel.
// Cost: about 6 flops and 16 bytes a voxel.
#import "lib/distance_error.wgsl"
#import "lib/index.wgsl"

struct Params {
    n: u32,
    clip_mm: f32,
    // 1 / voxels of the whole batch
    factor: f32,
}

@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> d: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read> dloss: array<f32>;
@group(0) @binding(4) var<storage, read_write> dz: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;
#ifdef WEIGHTED
@group(0) @binding(6) var<storage, read> weight: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let e = distance_error(z[i], d[i], y[i], params.clip_mm);
        var grad = dloss[0] * params.factor * clamp(e, -1.0, 1.0);
#ifdef WEIGHTED
        grad *= weight[i];
#endif
        dz[i] = grad;
    }
}
