// The logistic function and its logarithms, without overflow and without `log`, whose accuracy WGSL
// leaves open close to 1.

// log(1 + e) for e in [0, 1]: 2 atanh(s) with s = e / (2 + e) <= 1/3, as a series whose first omitted term
// is below 2e-9 of the sum.
fn log1p_unit(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let t = s * s;
    let tail = t * (1.0 / 9.0 + t * (1.0 / 11.0 + t * (1.0 / 13.0 + t / 15.0)));
    return 2.0 * s * (1.0 + t * (1.0 / 3.0 + t * (1.0 / 5.0 + t * (1.0 / 7.0 + tail))));
}

struct Logistic {
    // sigmoid(z)
    p: f32,
    // 1 - sigmoid(z), without cancellation
    q: f32,
    // -log(p)
    nlog_p: f32,
    // -log(q)
    nlog_q: f32,
}

fn logistic(z: f32) -> Logistic {
    let e = exp(-abs(z));
    let large = 1.0 / (1.0 + e);
    let small = e * large;
    let l = log1p_unit(e);
    let positive = z >= 0.0;
    return Logistic(
        select(small, large, positive),
        select(large, small, positive),
        l + max(-z, 0.0),
        l + max(z, 0.0),
    );
}

fn sigmoid(z: f32) -> f32 {
    let e = exp(-abs(z));
    return select(e, 1.0, z >= 0.0) / (1.0 + e);
}
