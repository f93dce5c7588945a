// Count, mean and sum of squared deviations of a set of numbers, and their exact union (Chan, Golub and
// LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979). Unlike
// sums of squares, it stays accurate when the mean is much larger than the spread.

struct Moments {
    n: f32,
    mean: f32,
    // Sum of (x - mean)^2.
    m2: f32,
}

fn merge_moments(a: Moments, b: Moments) -> Moments {
    let n = a.n + b.n;
    let delta = b.mean - a.mean;
    let share = b.n / max(n, 1.0);
    return Moments(n, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.n * share);
}

// 3 KiB.
var<workgroup> wg_moments: array<Moments, 256>;

// Union over the 256 invocations of a workgroup, in a fixed order; invocation 0 gets it. Two barriers:
// 16 invocations merge 16 sets each, then the first merges their results.
fn reduce_moments(own: Moments, lane: u32) -> Moments {
    var total = own;
    wg_moments[lane] = own;
    workgroupBarrier();
    if lane < 16u {
        for (var k = lane + 16u; k < 256u; k += 16u) {
            total = merge_moments(total, wg_moments[k]);
        }
        // Nobody reads the first 16 places before the barrier.
        wg_moments[lane] = total;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 16u; k += 1u) {
            total = merge_moments(total, wg_moments[k]);
        }
    }
    return total;
}
