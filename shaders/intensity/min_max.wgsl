// min_max: smallest and largest finite value, in two launches.
// First launch (PARTIAL): x [n] f32 -> partials [2 threads] f32: invocation t takes x[t], x[t + threads], ...
// and writes its minimum at t, its maximum at threads + t.
// Second launch, one workgroup: partials -> y [2] f32 = (min, max); (0, 0) when no value is finite.
// Workgroup memory: 2 KiB in the second launch. Cost: 4 n bytes.
#import "lib/finite.wgsl"

struct Params {
    n: u32,
    threads: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

const LARGEST = 3.4028234e38;

#ifdef PARTIAL
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let thread = global.x;
    var low = LARGEST;
    var high = -LARGEST;
    for (var i = thread; i < params.n; i += params.threads) {
        let value = x[i];
        if is_finite(value) {
            low = min(low, value);
            high = max(high, value);
        }
    }
    y[thread] = low;
    y[params.threads + thread] = high;
}
#else
var<workgroup> wg_low: array<f32, 256>;
var<workgroup> wg_high: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
    var low = LARGEST;
    var high = -LARGEST;
    for (var i = local; i < params.threads; i += 256u) {
        low = min(low, x[i]);
        high = max(high, x[params.threads + i]);
    }
    wg_low[local] = low;
    wg_high[local] = high;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            wg_low[local] = min(wg_low[local], wg_low[local + half]);
            wg_high[local] = max(wg_high[local], wg_high[local + half]);
        }
    }
    if local == 0u {
        let any = wg_low[0] <= wg_high[0];
        y[0] = select(0.0, wg_low[0], any);
        y[1] = select(0.0, wg_high[0], any);
    }
}
#endif
