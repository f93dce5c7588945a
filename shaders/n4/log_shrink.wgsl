// n4_log_shrink: every factor-th voxel from an offset, in the log domain, with the weight it counts with.
//   x = volume[offset + factor * i - before];  v = ln x and weight = 1 where the voxel counts, else OUTSIDE and 0.
// A voxel counts if it lies in the volume, is finite, positive and (HAS_MASK) has a non-zero label. With
// HAS_CONFIDENCE the weight is the confidence, where that is finite and positive. With KEEP_NONPOSITIVE also
// values <= 0 count and stay as they are, as in ITK.
// Inputs: volume [in_z, in_y, in_x] f32, mask u32 and confidence f32 the same. Outputs: v, weight [d, h, w] f32.
// One invocation an output voxel, x fastest. Cost: 12 to 20 bytes and about 20 flops a voxel.
#import "lib/finite.wgsl"
#import "lib/index.wgsl"
#import "lib/ln.wgsl"
#import "lib/n4.wgsl"

struct Params {
    n: u32,
    h: u32,
    w: u32,
    in_z: u32,
    factor_z: u32,
    offset_z: u32,
    before_z: u32,
    in_y: u32,
    factor_y: u32,
    offset_y: u32,
    before_y: u32,
    in_x: u32,
    factor_x: u32,
    offset_x: u32,
    before_x: u32,
}

@group(0) @binding(0) var<storage, read> volume: array<f32>;
#ifdef HAS_MASK
@group(0) @binding(1) var<storage, read> mask: array<u32>;
#endif
#ifdef HAS_CONFIDENCE
@group(0) @binding(2) var<storage, read> confidence: array<f32>;
#endif
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> weight: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let row = i / params.w;
        // In the padding before the volume these wrap, and are beyond its end as well.
        let ix = params.offset_x + params.factor_x * (i % params.w) - params.before_x;
        let iy = params.offset_y + params.factor_y * (row % params.h) - params.before_y;
        let iz = params.offset_z + params.factor_z * (row / params.h) - params.before_z;
        var value = OUTSIDE;
        var counts_with = 0.0;
        if ix < params.in_x && iy < params.in_y && iz < params.in_z {
            let from_ix = (iz * params.in_y + iy) * params.in_x + ix;
            let x = volume[from_ix];
            var trust = 1.0;
#ifdef HAS_CONFIDENCE
            trust = confidence[from_ix];
#endif
            var counts = is_finite(x) && x >= LEAST_COUNTED && is_finite(trust) && trust > 0.0;
#ifdef HAS_MASK
            counts = counts && mask[from_ix] != 0u;
#endif
            // Subnormal numbers count as 0: some adapters flush them.
            let positive = x >= 1.17549435e-38;
#ifdef KEEP_NONPOSITIVE
#else
            counts = counts && positive;
#endif
            if counts {
                counts_with = trust;
                value = x;
                if positive {
                    value = ln(x);
                }
            }
        }
        v[i] = value;
        weight[i] = counts_with;
    }
}
