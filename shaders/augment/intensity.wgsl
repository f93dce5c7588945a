// intensity_augment: tone curve, bias field and Rician noise on a volume with intensities round [0, 1].
//   t = curve(clamp(x, 0, 1)); b = t * exp(lattice(d, h, w)); y = sqrt((b + s n1)^2 + (s n2)^2)
// curve: piecewise linear through K knots at equal distances; lattice: trilinear through 4^3 knots of the log field
// that span the volume; n1, n2: standard normal numbers from (seed, voxel); s: standard deviation of the noise.
// Inputs: x [D, H, W] f32, curve [K] f32, lattice [4, 4, 4] f32, seed [2] u32. Output: y [D, H, W] f32.
// One invocation a voxel. Cost: about 80 flops and 8 bytes a voxel.
#import "lib/index.wgsl"
#import "lib/random.wgsl"

struct Params {
    d: u32,
    h: u32,
    w: u32,
    knots: u32,
    noise: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> curve: array<f32>;
@group(0) @binding(2) var<storage, read> lattice: array<f32>;
@group(0) @binding(3) var<storage, read> seed: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

// Knot below a voxel and the distance from it, for 4 knots over `extent` voxels.
fn knot(index: u32, extent: u32) -> vec2<f32> {
    let position = 3.0 * f32(index) / f32(max(extent, 2u) - 1u);
    let below = min(floor(position), 2.0);
    return vec2<f32>(below, position - below);
}

fn log_bias(d: u32, h: u32, w: u32) -> f32 {
    let kd = knot(d, params.d);
    let kh = knot(h, params.h);
    let kw = knot(w, params.w);
    var sum = 0.0;
    for (var corner = 0u; corner < 8u; corner++) {
        let od = corner >> 2u;
        let oh = (corner >> 1u) & 1u;
        let ow = corner & 1u;
        let at = ((u32(kd.x) + od) * 4u + u32(kh.x) + oh) * 4u + u32(kw.x) + ow;
        let weight = select(1.0 - kd.y, kd.y, od == 1u) * select(1.0 - kh.y, kh.y, oh == 1u)
            * select(1.0 - kw.y, kw.y, ow == 1u);
        sum += weight * lattice[at];
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.d * params.h * params.w {
        return;
    }
    let position = clamp(x[i], 0.0, 1.0) * f32(params.knots - 1u);
    let below = min(u32(position), params.knots - 2u);
    let tone = mix(curve[below], curve[below + 1u], position - f32(below));
    let clean = tone * exp(log_bias(i / (params.w * params.h), i / params.w % params.h, i % params.w));
    // One call gives the pairs of two voxels.
    let numbers = normal(vec2<u32>(seed[0], seed[1]), 0u, i / 2u);
    let pair = select(numbers.xy, numbers.zw, i % 2u == 1u) * params.noise;
    y[i] = sqrt((clean + pair.x) * (clean + pair.x) + pair.y * pair.y);
}
