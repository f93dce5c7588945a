// First stage of the losses: partial sums over CHUNK voxels of one sample, with p = sigmoid(z):
//   (sum p y, sum p, sum y, sum of the pointwise loss)
// over the voxels that are judged, those with y >= 0. DICE fills the first three. The pointwise loss is, where y may be soft,
//   BCE:   -y log p - (1-y) log(1-p)
//   FOCAL: -alpha y (1-p)^gamma log p - (1-alpha) (1-y) p^gamma log(1-p)
// WEIGHTED multiplies every term by the voxel's weight.
// Inputs: z, y [samples, voxels] f32 (a piece of the batch), weight likewise. Output: partials [all samples, groups] vec4 f32.
// Grid: [groups, samples]; 64 invocations stride over the chunk. 1 KiB of workgroup memory.
// Cost: about 30 flops and 8 bytes a voxel.
#import "lib/reduce.wgsl"
#import "lib/sigmoid.wgsl"

struct Params {
    voxels: u32,
    groups: u32,
    // Position of the piece in the batch.
    first_sample: u32,
    gamma: f32,
    alpha: f32,
}

@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;
#ifdef WEIGHTED
@group(0) @binding(4) var<storage, read> weight: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let begin = group.x * CHUNK;
    let end = min(begin + CHUNK, params.voxels);
    let base = group.y * params.voxels;
    var sums = vec4<f32>(0.0);
    for (var v = begin + local; v < end; v += 64u) {
        let target_y = y[base + v];
        if target_y < 0.0 {
            continue;
        }
        let at = logistic(z[base + v]);
        var terms = vec4<f32>(0.0);
#ifdef DICE
        terms += vec4<f32>(at.p * target_y, at.p, target_y, 0.0);
#endif
#ifdef BCE
        terms.w += target_y * at.nlog_p + (1.0 - target_y) * at.nlog_q;
#endif
#ifdef FOCAL
        // x^gamma = exp(-gamma * -log x): the logarithms are at hand, and exact where pow is not.
        let miss = exp(-params.gamma * at.nlog_q) * at.nlog_p;
        let alarm = exp(-params.gamma * at.nlog_p) * at.nlog_q;
        terms.w += params.alpha * target_y * miss + (1.0 - params.alpha) * (1.0 - target_y) * alarm;
#endif
#ifdef WEIGHTED
        terms *= weight[base + v];
#endif
        sums += terms;
    }
    let total = workgroup_sum(sums, local);
    if local == 0u {
        partials[(params.first_sample + group.y) * params.groups + group.x] = total;
    }
}
