// Distribution function of the standard normal, absolute error below 5e-7.

// erfc(a) for a >= 0 as t exp(-a^2 + P(t)), t = 1 / (1 + a/2). P, of degree 8, is a least-squares fit to
// log(erfc(a) / t) + a^2 over a in [0, 6.5], weighted by erfc(a)^0.15: relative error at most 3.5e-6, and that
// in the tail; absolute error in f32 3e-7. Beyond 6.5 the result is below 1e-18.
fn erfc_positive(a: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * a);
    let upper = -2.8986504 + t * (2.39633598 + t * (-0.978285522 + t * 0.161622767));
    let p = -1.26415274 + t * (0.976966219 + t * (0.543660696 + t * (-0.612711649 + t * (1.67521466 + t * upper))));
    return t * exp(p - a * a);
}

fn normal_cdf(x: f32) -> f32 {
    // Beyond 40 the exponent would leave the range of f32.
    let tail = 0.5 * erfc_positive(min(abs(x), 40.0) * 0.70710678);
    return select(tail, 1.0 - tail, x >= 0.0);
}

fn normal_density(x: f32) -> f32 {
    let a = min(abs(x), 40.0);
    return 0.39894228 * exp(-0.5 * a * a);
}
