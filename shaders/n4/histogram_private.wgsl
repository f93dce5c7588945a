// n4_histogram, first stage without atomics, for processors: software Vulkan runs an atomic lane by lane.
// Definition, inputs and output as in histogram.wgsl, with equal results to the bit.
// Every invocation has a histogram of its own, [bins, 16] in workgroup memory, and takes at most 4,092
// voxels: counts in the upper 12 bits of a word, fractions (0..255) in the lower 20.
// Workgroup memory: 16 KiB. Cost: 4 bytes and 8 flops a voxel.
#import "lib/n4.wgsl"

struct Params {
    n: u32,
    bins: u32,
}

@group(0) @binding(0) var<storage, read> v: array<f32>;
@group(0) @binding(1) var<storage, read> status: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

const SIZE: u32 = 16u;
const COUNT_SHIFT: u32 = 20u;
// Voxels of a step: their loads overlap.
const UNROLLED: u32 = 4u;

var<workgroup> wg_bins: array<u32, 4096>;

@compute @workgroup_size(16)
fn main(
    @builtin(local_invocation_index) t: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let least = status[LEAST];
    let top = f32(params.bins - 1u);
    let per_unit = top / max(status[EXTENT], 1e-30);
    for (var bin = 0u; bin < params.bins; bin++) {
        wg_bins[bin * SIZE + t] = 0u;
    }
    let total = groups.x * SIZE;
    let steps = (params.n + total * UNROLLED - 1u) / (total * UNROLLED);
    for (var step = 0u; step < steps; step++) {
        let first = (group.x * steps + step) * SIZE * UNROLLED + t;
        var words: array<u32, UNROLLED>;
        var bins: array<u32, UNROLLED>;
        for (var k = 0u; k < UNROLLED; k++) {
            let at = first + k * SIZE;
            let value = v[min(at, params.n - 1u)];
            let c = clamp((value - least) * per_unit, 0.0, top);
            let q = whole(c * 256.0);
            // `clamp` may let NaN through, which a voxel may be and an infinite range makes.
            bins[k] = min(q >> 8u, params.bins - 1u) * SIZE + t;
            words[k] = select(0u, (1u << COUNT_SHIFT) + (q & 255u), value >= LEAST_COUNTED && at < params.n);
        }
        for (var k = 0u; k < UNROLLED; k++) {
            wg_bins[bins[k]] += words[k];
        }
    }
    workgroupBarrier();
    for (var bin = t; bin < params.bins; bin += SIZE) {
        var n_voxels = 0u;
        var fractions = 0u;
        var from_below = 0u;
        for (var lane = 0u; lane < SIZE; lane++) {
            let word = wg_bins[bin * SIZE + lane];
            n_voxels += word >> COUNT_SHIFT;
            fractions += word & ((1u << COUNT_SHIFT) - 1u);
            if bin > 0u {
                from_below += wg_bins[(bin - 1u) * SIZE + lane] & ((1u << COUNT_SHIFT) - 1u);
            }
        }
        partials[group.x * params.bins + bin] = n_voxels * 256u - fractions + from_below;
    }
}
