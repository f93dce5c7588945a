// A step of percentiles: from the counts of digit LEVEL to that digit of every target's order statistic.
// Inputs: counts [targets][2048] u32 (select_histogram.wgsl); before [2 targets] u32: prefix and remaining
// rank, absent at level 0. Output: after [2 targets] u32, at level 0 followed by fractions [targets / 2] f32.
// Params: quantiles in units of 2^-31.
// Level 0 also turns quantile q into ranks: of the m finite values, target 2k wants floor(q (m - 1)), target
// 2k + 1 the next; the fraction is what remains of q (m - 1). Without finite values the result is the key
// of 0. One invocation a target scans its row: 2,048 sums.
#import "lib/fixed_point.wgsl"

struct Params {
    targets: u32,
    quantiles_low: vec4<u32>,
    quantiles_high: vec4<u32>,
}

@group(0) @binding(0) var<storage, read> counts: array<u32>;
#ifdef LEVEL
@group(0) @binding(1) var<storage, read> before: array<u32>;
#endif
@group(0) @binding(2) var<storage, read_write> after: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let at = global.x;
    if at < params.targets {
#ifdef LEVEL
        let prefix = before[2u * at];
        var rank = before[2u * at + 1u];
        var row = at;
        while row > 0u && before[2u * (row - 1u)] == prefix {
            row -= 1u;
        }
        let bits = select(10u, 11u, LEVEL == 1u);
#else
        let prefix = 0u;
        let row = 0u;
        let bits = 11u;
        var total = 0u;
        for (var digit = 0u; digit < 2048u; digit++) {
            total += counts[digit];
        }
        let k = at / 2u;
        let quantile = select(params.quantiles_high[k % 4u], params.quantiles_low[k % 4u], k < 4u);
        let position = wide_product(quantile, max(total, 1u) - 1u);
        var rank = (position.x << 1u) | (position.y >> 31u);
        after[2u * params.targets + k] = bitcast<u32>(f32(position.y & 0x7FFFFFFFu) / 2147483648.0);
        rank = min(rank + at % 2u, max(total, 1u) - 1u);
#endif
        var digit = 0u;
        var below = 0u;
        while digit < (1u << bits) && below + counts[row * 2048u + digit] <= rank {
            below += counts[row * 2048u + digit];
            digit += 1u;
        }
        // A row without counts (no finite value at all) leaves the digit of the key of 0.
        if digit == (1u << bits) {
            digit = select(0u, 0x400u, LEVEL == 0u);
            below = rank;
        }
        after[2u * at] = (prefix << bits) | digit;
        after[2u * at + 1u] = rank - below;
    }
}
