// First stage of distance_loss: partials[group] = sum of h(e) / voxels over CHUNK voxels, with the wanted logit t = -d and
//   e = z - t where |t| < clip;  beyond, what z lacks to clip on the side of t, 0 where it lies further
//   h(e) = e^2 / 2 up to |e| = 1, |e| - 1/2 beyond, WEIGHTED times the voxel's weight
// over the voxels that are judged, those with y >= 0.
// Inputs: z, d, in mm, y and weight [n] f32 (a piece of the batch). Output: partials [all groups] f32.
// Grid: [groups]; 64 invocations stride over the chunk. 1 KiB of workgroup memory. Cost: about 10 flops and 12 bytes a voxel.
#import "lib/distance_error.wgsl"
#import "lib/reduce.wgsl"

struct Params {
    n: u32,
    // Position of the piece's first chunk.
    first_group: u32,
    clip_mm: f32,
    // 1 / voxels of the whole batch
    factor: f32,
}

@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> d: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> partials: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;
#ifdef WEIGHTED
@group(0) @binding(5) var<storage, read> weight: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let begin = group.x * CHUNK;
    let end = min(begin + CHUNK, params.n);
    var sum = 0.0;
    for (var i = begin + local; i < end; i += 64u) {
        let e = abs(distance_error(z[i], d[i], y[i], params.clip_mm));
        var term = select(e - 0.5, 0.5 * e * e, e <= 1.0);
#ifdef WEIGHTED
        term *= weight[i];
#endif
        sum += term;
    }
    let total = workgroup_sum(vec4<f32>(sum, 0.0, 0.0, 0.0), local).x;
    if local == 0u {
        partials[params.first_group + group.x] = params.factor * total;
    }
}
