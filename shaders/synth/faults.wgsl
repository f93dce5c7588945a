// scan_faults: what goes wrong between a head and its file.
//   y = gain (x + ghost x(moved) + noise exp(slope . place) n) + offset, hot voxels gain hot u + offset; then a voxel
//   beyond a plane, a d + b h + c w > e, takes the plane's value.
// moved: the same voxel a number of voxels further along one axis, coming in again at the other end (motion and echo
// ghosts along the phase-encoding axis). place: -1 to 1 along each axis. n standard normal, u uniform, both by voxel.
// Inputs: x [D, H, W] f32, planes [P, 8] f32 (a, b, c, e, value, three spares; a = b = c = 0, e = 0 cuts nothing),
// seed [2] u32. Output: y [D, H, W] f32.
// One invocation a voxel. Cost: about 100 flops and 12 bytes a voxel.
#import "lib/index.wgsl"
#import "lib/random.wgsl"

struct Params {
    shape: vec4<u32>,
    slope: vec4<f32>,
    n: u32,
    planes: u32,
    ghost: f32,
    ghost_axis: u32,
    ghost_shift: u32,
    noise: f32,
    hot_below: u32,
    hot: f32,
    gain: f32,
    offset: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> planes: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> seed: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.n {
        return;
    }
    let row = i / params.shape.z;
    let plane = row / params.shape.y;
    let index = vec3<u32>(plane, row - plane * params.shape.y, i - row * params.shape.z);
    let key = vec2<u32>(seed[0], seed[1]);
    var value = x[i];
    if params.ghost != 0.0 {
        var moved = index;
        moved[params.ghost_axis] = (index[params.ghost_axis] + params.ghost_shift) % params.shape[params.ghost_axis];
        value += params.ghost * x[(moved.x * params.shape.y + moved.y) * params.shape.z + moved.z];
    }
    if params.noise != 0.0 {
        let last = vec3<f32>(max(params.shape.xyz, vec3<u32>(2u)) - 1u);
        let place = 2.0 * vec3<f32>(index) / last - 1.0;
        value += params.noise * exp(dot(params.slope.xyz, place)) * normal(key, 1u, i).x;
    }
    let words = random_words(key, 2u, i);
    if words.x < params.hot_below {
        value = params.hot * f32(words.y >> 8u) * 5.9604644775390625e-8;
    }
    value = params.gain * value + params.offset;
    for (var k = 0u; k < params.planes; k++) {
        let side = planes[2u * k];
        value = select(value, planes[2u * k + 1u].x, dot(side.xyz, vec3<f32>(index)) > side.w);
    }
    y[i] = value;
}
