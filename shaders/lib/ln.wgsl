// Natural logarithm to about 2 ulp. The built-in `log` may be off by 9e-5 (lavapipe 26), which is as much
// as a whole bias field may be.

fn ln(x: f32) -> f32 {
    // x = m 2^k with m in [sqrt(1/2), sqrt 2); 0x3f3504f3 is sqrt(1/2).
    let bits = bitcast<i32>(x);
    let k = (bits - 0x3f3504f3) >> 23u;
    let m = bitcast<f32>(bits - (k << 23u));
    // ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172: the first term left out is below 1e-9.
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let tail = s2 * (0.33333333 + s2 * (0.2 + s2 * (0.14285715 + s2 * 0.11111111)));
    // ln 2 in two parts, so that k times the first is exact.
    let e = f32(k);
    return e * 0.693359375 + (e * -2.12194440e-4 + 2.0 * s * tail + 2.0 * s);
}
