// n4_log_shrink: every factor-th voxel from an offset, in the log domain, with the mask it is valid in.
//   x = volume[offset + factor * i];  v = ln x and weight = 1 where the voxel counts, else both 0.
// A voxel counts if it is finite, positive and (HAS_MASK) has a non-zero label. With KEEP_NONPOSITIVE also
// values <= 0 count and stay as they are, as in ITK.
// Inputs: volume [in_d, in_h, in_w] f32, mask the same (HAS_MASK). Outputs: v, weight [d, h, w] f32.
// One invocation an output voxel, x fastest. Cost: 12 to 16 bytes and about 20 flops a voxel.
#import "lib/index.wgsl"
#import "lib/ln.wgsl"

struct Params {
    n: u32,
    h: u32,
    w: u32,
    in_h: u32,
    in_w: u32,
    factor: u32,
    offset_z: u32,
    offset_y: u32,
    offset_x: u32,
}

@group(0) @binding(0) var<storage, read> volume: array<f32>;
#ifdef HAS_MASK
@group(0) @binding(1) var<storage, read> mask: array<f32>;
#endif
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> weight: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// By the bits: compilers may assume that no NaN exists.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let row = i / params.w;
        let ix = params.offset_x + params.factor * (i % params.w);
        let iy = params.offset_y + params.factor * (row % params.h);
        let iz = params.offset_z + params.factor * (row / params.h);
        let from_ix = (iz * params.in_h + iy) * params.in_w + ix;
        let x = volume[from_ix];
        var counts = is_finite(x);
#ifdef HAS_MASK
        counts = counts && mask[from_ix] != 0.0;
#endif
        // Subnormal numbers count as 0: some adapters flush them.
        let positive = x >= 1.17549435e-38;
        var value = 0.0;
        if counts && positive {
            value = ln(x);
        }
#ifdef KEEP_NONPOSITIVE
        if counts && !positive {
            value = x;
        }
#else
        counts = counts && positive;
#endif
        v[i] = value;
        weight[i] = select(0.0, 1.0, counts);
    }
}
