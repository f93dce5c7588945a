// A step of percentiles: radix selection. Counts digit LEVEL (11, 11 and 10 bits) of the sort keys of the
// finite values whose higher digits are those found for a target so far.
// Inputs: x [n] f32, read as bits; state [2 targets] u32: prefix and remaining rank of each target (unused at
// level 0). Output: counts [targets][2048] u32, cleared before; level 0 has one row for all targets, and a
// target with its neighbour's prefix uses the neighbour's row.
// Invocation t of `threads` takes x[t], x[t + threads], ... Level 0, where most values share few digits,
// gathers in 8 KiB of workgroup memory. Cost: 4 n bytes.
#import "lib/order_key.wgsl"

struct Params {
    n: u32,
    threads: u32,
    targets: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

fn is_finite_bits(bits: u32) -> bool {
    return (bits & 0x7F800000u) != 0x7F800000u;
}

#ifdef LEVEL
@group(0) @binding(3) var<storage, read> state: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    for (var i = global.x; i < params.n; i += params.threads) {
        let key = key_of(x[i]);
        let prefix = select(key >> 10u, key >> 21u, LEVEL == 1u);
        let digit = select(key & 1023u, (key >> 10u) & 2047u, LEVEL == 1u);
        if is_finite_bits(x[i]) {
            var before = 0xFFFFFFFFu;
            for (var target_ix = 0u; target_ix < params.targets; target_ix++) {
                let wanted = state[2u * target_ix];
                if wanted == prefix && wanted != before {
                    atomicAdd(&counts[target_ix * 2048u + digit], 1u);
                }
                before = wanted;
            }
        }
    }
}
#else
var<workgroup> wg_counts: array<atomic<u32>, 2048>;

@compute @workgroup_size(256)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var digit = local; digit < 2048u; digit += 256u) {
        atomicStore(&wg_counts[digit], 0u);
    }
    workgroupBarrier();
    for (var i = global.x; i < params.n; i += params.threads) {
        let bits = x[i];
        if is_finite_bits(bits) {
            atomicAdd(&wg_counts[key_of(bits) >> 21u], 1u);
        }
    }
    workgroupBarrier();
    for (var digit = local; digit < 2048u; digit += 256u) {
        let count = atomicLoad(&wg_counts[digit]);
        if count > 0u {
            atomicAdd(&counts[digit], count);
        }
    }
}
#endif
