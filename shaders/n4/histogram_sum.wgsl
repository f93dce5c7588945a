// n4_histogram, last stage: sums the workgroups' histograms.
// Input: partials [n_partials, bins] u32 in units of 2^-8. Output: histogram [bins] f32.
// One invocation a bin. Whole voxels and fractions are summed apart: no overflow below 2^32 voxels.
struct Params {
    n_partials: u32,
    bins: u32,
}

@group(0) @binding(0) var<storage, read> partials: array<u32>;
@group(0) @binding(1) var<storage, read_write> histogram: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let bin = global.x;
    if bin < params.bins {
        var whole = 0u;
        var parts = 0u;
        for (var p = 0u; p < params.n_partials; p++) {
            let value = partials[p * params.bins + bin];
            whole += value >> 8u;
            parts += value & 255u;
        }
        histogram[bin] = f32(whole + (parts >> 8u)) + f32(parts & 255u) / 256.0;
    }
}
