// n4_histogram, first stage: Parzen histogram with a triangular kernel, in fixed point 2^8.
//   c = (v - least) / extent * (bins - 1), j = floor c: bin j gets 1 - (c - j), bin j + 1 the rest.
// One atomic a voxel: a batch of at most 4,095 voxels counts in the upper 12 bits of a bin's word and sums
// the fractions (0..255) in the lower 20; between batches invocation t moves bin t into its registers.
// Integers, so the result does not depend on the order.
// Inputs: v [n] f32, status [8] f32. Output: partials [workgroups, bins] u32, in units of 2^-8.
// Workgroups take batches in turn. Workgroup memory: 1 KiB. Cost: 4 bytes and 8 flops a voxel.
#import "lib/n4.wgsl"

struct Params {
    n: u32,
    bins: u32,
}

@group(0) @binding(0) var<storage, read> v: array<f32>;
@group(0) @binding(1) var<storage, read> status: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

const SIZE: u32 = 256u;
// 15 * 256 voxels a batch: the most below 4,096.
const STEPS: u32 = 15u;
const COUNT_SHIFT: u32 = 20u;

var<workgroup> wg_bins: array<atomic<u32>, SIZE>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) t: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let least = status[LEAST];
    let top = f32(params.bins - 1u);
    let per_unit = top / max(status[EXTENT], 1e-30);
    var n_voxels = 0u;
    var fractions = 0u;
    for (var start = group.x * SIZE * STEPS; start < params.n; start += groups.x * SIZE * STEPS) {
        atomicStore(&wg_bins[t], 0u);
        workgroupBarrier();
        for (var step = 0u; step < STEPS; step++) {
            let i = start + step * SIZE + t;
            if i < params.n && v[i] >= LEAST_COUNTED {
                let c = clamp((v[i] - least) * per_unit, 0.0, top);
                let q = whole(c * 256.0);
                // `clamp` may let NaN through, which an infinite range makes.
                atomicAdd(&wg_bins[min(q >> 8u, params.bins - 1u)], (1u << COUNT_SHIFT) + (q & 255u));
            }
        }
        workgroupBarrier();
        let word = atomicLoad(&wg_bins[t]);
        n_voxels += word >> COUNT_SHIFT;
        fractions += word & ((1u << COUNT_SHIFT) - 1u);
    }
    atomicStore(&wg_bins[t], fractions);
    workgroupBarrier();
    if t < params.bins {
        var from_below = 0u;
        if t > 0u {
            from_below = atomicLoad(&wg_bins[t - 1u]);
        }
        partials[group.x * params.bins + t] = n_voxels * 256u - fractions + from_below;
    }
}
