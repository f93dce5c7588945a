// Gradient of the losses by the logits, p = sigmoid(z), q = 1 - p, U = P + Y of the voxel's row:
//   DICE:  dice_factor * ((2 I + s) / (U + s)^2 - 2 y / (U + s)) p q
//   BCE:   pointwise_factor * (p - y)
//   FOCAL: pointwise_factor * ((1-alpha) (1-y) p^gamma (p - gamma q log q) - alpha y q^gamma (q - gamma p log p))
// all times the upstream scalar, and WEIGHTED the voxel's weight; 0 for voxels that are not judged, those with y < 0.
// Inputs: z, y, weight [n] f32 (a piece of the batch), sums [rows] vec4 f32 (I, P, Y, -), dloss [1] f32.
// Output: dz [n] f32. One invocation a voxel. Cost: about 30 flops, 12 bytes a voxel.
#import "lib/index.wgsl"
#import "lib/sigmoid.wgsl"

struct Params {
    n: u32,
    // Voxels that share a row of sums.
    row_len: u32,
    // Row of the piece's first voxel.
    first_row: u32,
    smooth_term: f32,
    dice_factor: f32,
    pointwise_factor: f32,
    gamma: f32,
    alpha: f32,
}

@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> dloss: array<f32>;
@group(0) @binding(4) var<storage, read_write> dz: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;
#ifdef WEIGHTED
@group(0) @binding(6) var<storage, read> weight: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let target_y = y[i];
        let at = logistic(z[i]);
        var grad = 0.0;
#ifdef DICE
        let s = sums[params.first_row + i / params.row_len];
        let scale = 1.0 / (s.y + s.z + params.smooth_term);
        let dice = ((2.0 * s.x + params.smooth_term) * scale - 2.0 * target_y) * scale;
        grad += params.dice_factor * dice * at.p * at.q;
#endif
#ifdef BCE
        // p - y without cancellation.
        grad += params.pointwise_factor * ((1.0 - target_y) * at.p - target_y * at.q);
#endif
#ifdef FOCAL
        let miss = exp(-params.gamma * at.nlog_q) * (at.q + params.gamma * at.p * at.nlog_p);
        let alarm = exp(-params.gamma * at.nlog_p) * (at.p + params.gamma * at.q * at.nlog_q);
        grad += params.pointwise_factor
            * ((1.0 - params.alpha) * (1.0 - target_y) * alarm - params.alpha * target_y * miss);
#endif
#ifdef WEIGHTED
        grad *= weight[i];
#endif
        dz[i] = select(0.0, dloss[0] * grad, target_y >= 0.0);
    }
}
