// convolve_axis as in convolve_axis.wgsl, for processors: an invocation makes OUTPUTS neighbours along the axis, and
// loads each input once for all of them.
// Inputs: x [D, H, W] f32, weights [TAPS] f32, TAPS odd. Output: y [D, H, W] f32.
// One invocation a block of a line. Cost: 2 TAPS flops and 8 bytes a voxel.
#import "lib/index.wgsl"

struct Params {
    // Invocations, blocks of a line, extent of the axis, and the distance in memory between neighbours along it.
    n: u32,
    blocks: u32,
    extent: u32,
    stride: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

const RADIUS: u32 = TAPS / 2u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.n {
        return;
    }
    let inner = i % params.stride;
    let start = i / params.stride % params.blocks * OUTPUTS;
    let line = i / params.stride / params.blocks * params.extent * params.stride + inner;
    // Positions count from RADIUS before the line on.
    let end = params.extent + RADIUS;
    var window: array<f32, TAPS + OUTPUTS - 1u>;
    for (var j = 0u; j < TAPS + OUTPUTS - 1u; j++) {
        let at = clamp(start + j, RADIUS, end - 1u);
        let value = x[line + (at - RADIUS) * params.stride];
        window[j] = select(0.0, value, at == start + j);
    }
    var whole = 0.0;
    for (var k = 0u; k < TAPS; k++) {
        whole += weights[k];
    }
    for (var o = 0u; o < OUTPUTS; o++) {
        let at = start + o;
        if at < params.extent {
            var sum = 0.0;
            for (var k = 0u; k < TAPS; k++) {
                sum += weights[k] * window[o + k];
            }
            var total = whole;
            if at < RADIUS || at + RADIUS >= params.extent {
                total = 0.0;
                for (var k = 0u; k < TAPS; k++) {
                    total += select(0.0, weights[k], at + k >= RADIUS && at + k < end);
                }
            }
            y[line + at * params.stride] = sum / total;
        }
    }
}
