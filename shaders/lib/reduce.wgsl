// Sum over a workgroup of 64 invocations, in an order that is always the same. 1 KiB of workgroup memory.
// A radix-8 tree: two levels and three barriers, where a binary tree takes six.

var<workgroup> wg_terms: array<vec4<f32>, 64>;

// Call from uniform control flow; the sum is valid in invocation 0 only. A second call in the same kernel
// needs a workgroupBarrier() before it.
fn workgroup_sum(term: vec4<f32>, local: u32) -> vec4<f32> {
    wg_terms[local] = term;
    workgroupBarrier();
    var sum = vec4<f32>(0.0);
    if local < 8u {
        for (var k = 0u; k < 8u; k++) {
            sum += wg_terms[local * 8u + k];
        }
    }
    workgroupBarrier();
    if local < 8u {
        wg_terms[local] = sum;
    }
    workgroupBarrier();
    sum = vec4<f32>(0.0);
    if local == 0u {
        for (var k = 0u; k < 8u; k++) {
            sum += wg_terms[k];
        }
    }
    return sum;
}
