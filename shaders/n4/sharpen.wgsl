// n4_sharpen: how far each intensity moves when the histogram is deconvolved by a Gaussian field.
//   H = histogram padded to P at offset O = (P - bins) / 2; slope = extent / (bins - 1); s = fwhm / slope;
//   F[n] = 2 sqrt(ln 2 / pi) / s * exp(-4 ln 2 n^2 / s^2), n wrapped; ^ = discrete Fourier transform;
//   U = max(0, inverse of (H^ F^ / (F^^2 + noise)));
//   E = (F (*) (x U)) / (F (*) U), x_n = least + (n - O) slope; 0 where the denominator is 0;
//   shift = E - x on the histogram's own bins.
// The shift is summed directly as slope * sum F U (m - n): no cancellation between E and x.
// F is even and H real, so the spectra are needed for k <= P / 2 only. Transforms are direct sums over a
// table of cosines, sin(a) = cos(a - quarter turn); P is a power of two up to 512.
// Inputs: histogram [bins], status [8] f32. Output: shift [bins] f32.
// One workgroup. Workgroup memory: 2.5 tables of P and four of P / 2, 10.3 KiB. Cost: 0.65 M multiply-adds
// at 200 bins, half of them with a Gaussian of a few bins, whose sums end where it underflows.
#import "lib/n4.wgsl"

struct Params {
    bins: u32,
    padded: u32,
    fwhm: f32,
    noise: f32,
}

@group(0) @binding(0) var<storage, read> histogram: array<f32>;
@group(0) @binding(1) var<storage, read> status: array<f32>;
@group(0) @binding(2) var<storage, read_write> shift: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

const SIZE: u32 = 256u;
const LN2: f32 = 0.69314718;
const PI: f32 = 3.14159265;

var<workgroup> wg_cos: array<f32, 512>;
var<workgroup> wg_sharp: array<f32, 512>;
var<workgroup> wg_histogram: array<f32, 256>;
var<workgroup> wg_gauss: array<f32, 257>;
var<workgroup> wg_re: array<f32, 257>;
var<workgroup> wg_im: array<f32, 257>;

// cos(2 pi k / p) to 1 ulp, k < p: the built-in `cos` may be off by 2^-11. Folded to an eighth of a turn.
fn cos_of_turn(k: u32, p: u32) -> f32 {
    var folded = min(k, p - k);
    var sign = 1.0;
    if folded > p / 4u {
        folded = p / 2u - folded;
        sign = -1.0;
    }
    if folded <= p / 8u {
        let a = 2.0 * PI * f32(folded) / f32(p);
        let b = a * a;
        return sign * (1.0 - b / 2.0 * (1.0 - b / 12.0 * (1.0 - b / 30.0 * (1.0 - b / 56.0 * (1.0 - b / 90.0)))));
    }
    let a = 2.0 * PI * f32(p / 4u - folded) / f32(p);
    let b = a * a;
    return sign * a * (1.0 - b / 6.0 * (1.0 - b / 20.0 * (1.0 - b / 42.0 * (1.0 - b / 72.0))));
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) t: u32) {
    let p = params.padded;
    let wrap = p - 1u;
    let half = p / 2u;
    let offset = (p - params.bins) / 2u;
    let slope = max(status[EXTENT], 1e-30) / f32(params.bins - 1u);
    let s = params.fwhm / slope;
    // Where the Gaussian underflows to 0; wrapped round, it would reach a bin of the histogram from `offset` on.
    let reach = u32(min(5.8 * s, f32(p))) + 1u;
    let wraps = reach >= offset;

    for (var n = t; n < p; n += SIZE) {
        wg_cos[n] = cos_of_turn(n, p);
    }
    for (var n = t; n < params.bins; n += SIZE) {
        wg_histogram[n] = histogram[n];
    }
    for (var n = t; n <= half; n += SIZE) {
        let at = f32(n) / s;
        wg_gauss[n] = 2.0 * sqrt(LN2 / PI) / s * exp(-4.0 * LN2 * at * at);
    }
    workgroupBarrier();

    for (var k = t; k <= half; k += SIZE) {
        // F^ is real: its terms n and P - n are equal.
        var gauss = 0.0;
        for (var n = 1u; n < min(half, reach); n++) {
            gauss += wg_gauss[n] * wg_cos[(k * n) & wrap];
        }
        gauss = wg_gauss[0] + 2.0 * gauss + wg_gauss[half] * wg_cos[(k * half) & wrap];
        var re = 0.0;
        var im = 0.0;
        for (var j = 0u; j < params.bins; j++) {
            let angle = k * (offset + j);
            re += wg_histogram[j] * wg_cos[angle & wrap];
            im -= wg_histogram[j] * wg_cos[(angle + 3u * p / 4u) & wrap];
        }
        // Every frequency but 0 and P / 2 stands for its mirror image too.
        let both = select(2.0, 1.0, k == 0u || k == half);
        let gain = both * gauss / (gauss * gauss + params.noise) / f32(p);
        wg_re[k] = re * gain;
        wg_im[k] = im * gain;
    }
    workgroupBarrier();

    for (var n = t; n < p; n += SIZE) {
        var sharp = 0.0;
        for (var k = 0u; k <= half; k++) {
            let angle = k * n;
            sharp += wg_re[k] * wg_cos[angle & wrap] - wg_im[k] * wg_cos[(angle + 3u * p / 4u) & wrap];
        }
        wg_sharp[n] = max(0.0, sharp);
    }
    workgroupBarrier();

    for (var bin = t; bin < params.bins; bin += SIZE) {
        let n = offset + bin;
        var moment = 0.0;
        var mass = 0.0;
        let first = select(n - min(n, reach), 0u, wraps);
        let end = select(min(p, n + reach + 1u), p, wraps);
        for (var m = first; m < end; m++) {
            let away = i32(m) - i32(n);
            let distance = u32(abs(away));
            let term = wg_gauss[min(distance, p - distance)] * wg_sharp[m];
            mass += term;
            moment += term * f32(away);
        }
        var moved = -(status[LEAST] + f32(bin) * slope);
        if mass > 0.0 {
            moved = slope * moment / mass;
        }
        shift[bin] = moved;
    }
}
