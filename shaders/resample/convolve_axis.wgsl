// convolve_axis: y(i) = sum_k w_k x(i + k - r) / sum_k w_k along one axis, r = (K - 1) / 2, both sums over
// the taps inside the volume.
// Inputs: x [D, H, W] f32, weights [K] f32, K odd. Output: y [D, H, W] f32.
// One invocation a voxel. Cost: 4 K flops; 8 bytes a voxel as neighbours come from cache.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    // Extent of the axis, and the distance in memory between neighbours along it.
    extent: u32,
    stride: u32,
    taps: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let at = (i / params.stride) % params.extent;
        let radius = params.taps / 2u;
        let first = radius - min(radius, at);
        let end = min(params.taps, params.extent + radius - at);
        var sum = 0.0;
        var total = 0.0;
        for (var k = first; k < end; k++) {
            sum += weights[k] * x[i + k * params.stride - radius * params.stride];
            total += weights[k];
        }
        y[i] = sum / total;
    }
}
