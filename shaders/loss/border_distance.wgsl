// A pass of border_distance along one axis. Squares of distances in mm, of the voxels on the same line:
//   CROSSING: to the nearest place between two neighbours where their fractions pass a half, linear between them
//   else:     y(p) = min over q of x(q) + (size (q - p))^2, x being what passes along other axes gave
// KEEP takes the least of that and what y held. FINAL makes distances of it, at most `most`, negative where the fraction is a
// half or more.
// Inputs: x [n] f32, fractions (CROSSING) or squares; fraction [n] f32 (FINAL). Output: y [n] f32. One invocation a voxel, which
// looks `reach` voxels either way. Cost: about 10 flops and 8 bytes a voxel looked at.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    // Neighbours along the line are `inner` apart, lines `extent` long.
    inner: u32,
    extent: u32,
    reach: u32,
    // Voxel size along the line in mm.
    size: f32,
    most: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;
#ifdef FINAL
@group(0) @binding(3) var<storage, read> fraction: array<f32>;
#endif

#ifdef CROSSING
const FAR = 1e9;

// Voxels from voxel `i` to the nearest crossing among the `count` neighbours on one side.
fn crossing(i: u32, count: u32, upward: bool) -> f32 {
    var near = x[i];
    for (var k = 1u; k <= count; k++) {
        let step = k * params.inner;
        let far = x[select(i - step, i + step, upward)];
        // Below 0 nothing is known.
        if min(near, far) >= 0.0 && (near >= 0.5) != (far >= 0.5) {
            return f32(k - 1u) + (0.5 - near) / (far - near);
        }
        near = far;
    }
    return FAR;
}
#endif

fn least_square(i: u32) -> f32 {
    let at = (i / params.inner) % params.extent;
    let before = min(params.reach, at);
    let behind = min(params.reach, params.extent - 1u - at);
#ifdef CROSSING
    let distance = params.size * min(crossing(i, before, false), crossing(i, behind, true));
    return distance * distance;
#else
    var best = x[i];
    for (var k = 1u; k <= max(before, behind); k++) {
        let distance = params.size * f32(k);
        let square = distance * distance;
        if square >= best {
            break;
        }
        let step = k * params.inner;
        if k <= before {
            best = min(best, x[i - step] + square);
        }
        if k <= behind {
            best = min(best, x[i + step] + square);
        }
    }
    return best;
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        var least = least_square(i);
#ifdef KEEP
        least = min(least, y[i]);
#endif
#ifdef FINAL
        let distance = min(sqrt(least), params.most);
        y[i] = select(distance, -distance, fraction[i] >= 0.5);
#else
        y[i] = least;
#endif
    }
}
