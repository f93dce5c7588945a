// histogram: counts of the finite values in BINS equal bins of [range0, range1]; the last bin is closed, values
// outside do not count, a range without width counts nothing.
// Inputs: x [n] f32, range [2] f32. Output: y [BINS] u32, cleared before.
// Invocation t of `threads` takes x[t], x[t + threads], ... Counts gather in workgroup memory (4 BINS bytes)
// before one global atomic a bin and workgroup; sums of integers do not depend on order.
// Cost: 4 n flops, 4 n bytes.
#import "lib/finite.wgsl"

struct Params {
    n: u32,
    threads: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> range: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<atomic<u32>>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> wg_bins: array<atomic<u32>, BINS>;

@compute @workgroup_size(256)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var bin = local; bin < BINS; bin += 256u) {
        atomicStore(&wg_bins[bin], 0u);
    }
    workgroupBarrier();
    let low = range[0];
    let high = range[1];
    let scale = f32(BINS) / (high - low);
    for (var i = global.x; i < params.n; i += params.threads) {
        let value = x[i];
        if is_finite(value) && low < high && value >= low && value <= high {
            atomicAdd(&wg_bins[min(u32((value - low) * scale), BINS - 1u)], 1u);
        }
    }
    workgroupBarrier();
    for (var bin = local; bin < BINS; bin += 256u) {
        let count = atomicLoad(&wg_bins[bin]);
        if count > 0u {
            atomicAdd(&y[bin], count);
        }
    }
}
