// First stage of overlap_counts: partial sums over CHUNK voxels of one sample, with p = sigmoid(z),
// hard p = z >= cutoff and hard y = y >= 0.5:
//   (hard p and hard y, hard p, hard y, sum p y, sum p, sum y)
// over the voxels that are judged, those with y >= 0.
// Inputs: z, y [samples, voxels] f32 (a piece of the batch). Output: partials [all samples, groups, 6] f32.
// Grid: [groups, samples]; 64 invocations stride over the chunk. 1 KiB of workgroup memory.
// Cost: about 15 flops and 8 bytes a voxel.
#import "lib/reduce.wgsl"
#import "lib/sigmoid.wgsl"

struct Params {
    voxels: u32,
    groups: u32,
    // Position of the piece in the batch.
    first_sample: u32,
    // Logit of the threshold on p.
    cutoff: f32,
}

@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let begin = group.x * CHUNK;
    let end = min(begin + CHUNK, params.voxels);
    let base = group.y * params.voxels;
    var hard = vec4<f32>(0.0);
    var soft = vec4<f32>(0.0);
    for (var v = begin + local; v < end; v += 64u) {
        let target_y = y[base + v];
        if target_y < 0.0 {
            continue;
        }
        let logit = z[base + v];
        let p = sigmoid(logit);
        let hard_p = select(0.0, 1.0, logit >= params.cutoff);
        let hard_y = select(0.0, 1.0, target_y >= 0.5);
        hard += vec4<f32>(hard_p * hard_y, hard_p, hard_y, 0.0);
        soft += vec4<f32>(p * target_y, p, target_y, 0.0);
    }
    let hard_total = workgroup_sum(hard, local);
    workgroupBarrier();
    let soft_total = workgroup_sum(soft, local);
    if local == 0u {
        let at = ((params.first_sample + group.y) * params.groups + group.x) * 6u;
        partials[at] = hard_total.x;
        partials[at + 1u] = hard_total.y;
        partials[at + 2u] = hard_total.z;
        partials[at + 3u] = soft_total.x;
        partials[at + 4u] = soft_total.y;
        partials[at + 5u] = soft_total.z;
    }
}
