// moments: mean and standard deviation of the finite values (with ABOVE: of those > `above`), in four
// launches: sums -> mean, then sums of (x - mean)^2 -> std. Two passes, as a single one over x and x^2
// cancels when the mean is large.
// PARTIAL launches: x [n] f32 (and, with SQUARES, y) -> partials [2 threads] f32: invocation t takes x[t],
// x[t + threads], ... and writes its sum at t, its count at threads + t.
// Other launches, one workgroup: partials -> y[0] = mean, with SQUARES y[1] = std (divided by n; 0 when no
// value counts). Workgroup memory: 2 KiB there. Cost: 2 n flops and 4 n bytes a pass.
#import "lib/finite.wgsl"

struct Params {
    n: u32,
    threads: u32,
    above: f32,
}

#ifdef PARTIAL
@group(0) @binding(0) var<storage, read> x: array<f32>;
#endif
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

#ifdef PARTIAL
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let thread = global.x;
#ifdef SQUARES
    let mean = y[0];
#endif
    var sum = 0.0;
    var count = 0.0;
    for (var i = thread; i < params.n; i += params.threads) {
        let value = x[i];
#ifdef ABOVE
        let counts = is_finite(value) && value > params.above;
#else
        let counts = is_finite(value);
#endif
        if counts {
#ifdef SQUARES
            sum += (value - mean) * (value - mean);
#else
            sum += value;
#endif
            count += 1.0;
        }
    }
    partials[thread] = sum;
    partials[params.threads + thread] = count;
}
#else
var<workgroup> wg_sum: array<f32, 256>;
var<workgroup> wg_count: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    var count = 0.0;
    for (var i = local; i < params.threads; i += 256u) {
        sum += partials[i];
        count += partials[params.threads + i];
    }
    wg_sum[local] = sum;
    wg_count[local] = count;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            wg_sum[local] += wg_sum[local + half];
            wg_count[local] += wg_count[local + half];
        }
    }
    if local == 0u {
        let mean = wg_sum[0] / max(wg_count[0], 1.0);
#ifdef SQUARES
        y[1] = sqrt(mean);
#else
        y[0] = mean;
#endif
    }
}
#endif
