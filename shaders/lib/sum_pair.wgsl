// Sum of a pair over the 256 invocations of a workgroup, in a fixed order; invocation 0 gets it. Two
// barriers: 16 invocations add 16 pairs each, then the first adds their results.

// 2 KiB.
var<workgroup> wg_pairs: array<vec2<f32>, 256>;

fn reduce_pair(own: vec2<f32>, lane: u32) -> vec2<f32> {
    var total = own;
    wg_pairs[lane] = own;
    workgroupBarrier();
    if lane < 16u {
        for (var k = lane + 16u; k < 256u; k += 16u) {
            total += wg_pairs[k];
        }
        // Nobody reads the first 16 places before the barrier.
        wg_pairs[lane] = total;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 16u; k += 1u) {
            total += wg_pairs[k];
        }
    }
    return total;
}
