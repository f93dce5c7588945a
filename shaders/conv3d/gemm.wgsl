// conv3d as an implicit matrix product: Y[voxel, co] = sum_k X[voxel, k] W[k, co], k = (ci, kd, kh, kw), the matrix X
// gathered from x tile by tile and never stored.
//   y[n,co,d,h,w] = act(bias[co] + sum_k x[n,ci,d*stride+kd*dilation-pd,...] * weight[co,ci,kd,kh,kw])
// Any kernel, stride, dilation and padding before each axis.
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co/64][c_in][KD KH KW][64] f32 (pack.wgsl).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: workgroup x (folded on to y) = 128 voxels, workgroup z = n * (c_out / 64) + channel tile; 128 invocations,
// each 8 voxels (two runs of 4, 64 apart) x 8 channels (two quads, 32 apart).
// Workgroup memory: 8 x 128 of X and 8 x 64 of W, 6,144 bytes.
// Why: for GPUs and many channels: 64 multiply-adds follow 4 reads of quads from workgroup memory. Software Vulkan is
// slow at this.
// Cost: 2 c_in KD KH KW flops a voxel and channel; registers hold 64 sums.
#import "lib/conv_window.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;

// Terms of the sum a round.
const STEP: u32 = 8u;

// [k][voxel], scalars since each is written by another invocation, and [k][channel / 4].
var<workgroup> wg_x: array<f32, STEP * 128u>;
var<workgroup> wg_weight: array<vec4<f32>, STEP * 16u>;

// x at the voxel that output voxel `place` (d, h, w) reads for term k; 0 outside and past the last term.
fn gather(sample: u32, k: u32, place: vec3<i32>) -> f32 {
    let taps = u32(params.kd * params.kh * params.kw);
    let ci = k / taps;
    let tap = i32(k % taps);
    let id = place.x * params.stride_d + tap / (params.kh * params.kw) * params.dilation_d - params.pad_d;
    let ih = place.y * params.stride_h + tap / params.kw % params.kh * params.dilation_h - params.pad_h;
    let iw = place.z * params.stride_w + tap % params.kw * params.dilation_w - params.pad_w;
    if ci >= params.c_in || id < 0 || id >= params.in_d || ih < 0 || ih >= params.in_h || iw < 0
        || iw >= params.in_w {
        return 0.0;
    }
    let volume = u32(params.in_d * params.in_h * params.in_w);
    return f32(x[(sample * params.c_in + ci) * volume + u32((id * params.in_h + ih) * params.in_w + iw)]);
}

fn voxels(at: u32) -> vec4<f32> {
    return vec4<f32>(wg_x[at], wg_x[at + 1u], wg_x[at + 2u], wg_x[at + 3u]);
}

// Writes 4 consecutive voxels of one channel.
fn store(channel: u32, sample: u32, voxel: u32, value: vec4<f32>) {
    if channel < params.c_out {
        let volume = u32(params.out_d * params.out_h * params.out_w);
        let at = (sample * params.c_out + channel) * volume + voxel;
        store_voxels(channel, at, i32(volume) - i32(voxel), value);
    }
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = (group.y * groups.x + group.x) * 128u;
    let channel_tiles = (params.c_out + 63u) / 64u;
    let sample = group.z / channel_tiles;
    let channel_tile = group.z % channel_tiles;
    let terms = params.c_in * u32(params.kd * params.kh * params.kw);

    // The voxel this invocation gathers, and those it computes: quads `m` and `m + 16` of voxels, `c` and `c + 8` of
    // channels.
    let voxel = min(first + local, u32(params.out_d * params.out_h * params.out_w) - 1u);
    let place = place_of(voxel);
    let m = local % 16u;
    let c = local / 16u;

    // s<voxel quad><channel quad>: a column is a channel, its rows 4 voxels.
    var s00 = mat4x4<f32>();
    var s01 = mat4x4<f32>();
    var s10 = mat4x4<f32>();
    var s11 = mat4x4<f32>();

    for (var k0 = 0u; k0 < terms; k0 += STEP) {
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            wg_x[k * 128u + local] = gather(sample, k0 + k, place);
        }
        // The packed weights of a channel tile are [k][64]; past the last term X is 0 and any finite weight does.
        let k = min(k0 + local / 16u, terms - 1u);
        wg_weight[local] = weight[(channel_tile * terms + k) * 16u + local % 16u];
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            let x0 = voxels(k * 128u + m * 4u);
            let x1 = voxels(k * 128u + m * 4u + 64u);
            let w0 = wg_weight[k * 16u + c];
            let w1 = wg_weight[k * 16u + c + 8u];
            s00[0] = fma(x0, vec4<f32>(w0[0]), s00[0]);
            s10[0] = fma(x1, vec4<f32>(w0[0]), s10[0]);
            s01[0] = fma(x0, vec4<f32>(w1[0]), s01[0]);
            s11[0] = fma(x1, vec4<f32>(w1[0]), s11[0]);
            s00[1] = fma(x0, vec4<f32>(w0[1]), s00[1]);
            s10[1] = fma(x1, vec4<f32>(w0[1]), s10[1]);
            s01[1] = fma(x0, vec4<f32>(w1[1]), s01[1]);
            s11[1] = fma(x1, vec4<f32>(w1[1]), s11[1]);
            s00[2] = fma(x0, vec4<f32>(w0[2]), s00[2]);
            s10[2] = fma(x1, vec4<f32>(w0[2]), s10[2]);
            s01[2] = fma(x0, vec4<f32>(w1[2]), s01[2]);
            s11[2] = fma(x1, vec4<f32>(w1[2]), s11[2]);
            s00[3] = fma(x0, vec4<f32>(w0[3]), s00[3]);
            s10[3] = fma(x1, vec4<f32>(w0[3]), s10[3]);
            s01[3] = fma(x0, vec4<f32>(w1[3]), s01[3]);
            s11[3] = fma(x1, vec4<f32>(w1[3]), s11[3]);
        }
    }

    let channel = channel_tile * 64u + c * 4u;
    for (var j = 0u; j < 4u; j++) {
        store(channel + j, sample, first + m * 4u, s00[j]);
        store(channel + j, sample, first + m * 4u + 64u, s10[j]);
        store(channel + 32u + j, sample, first + m * 4u, s01[j]);
        store(channel + 32u + j, sample, first + m * 4u + 64u, s11[j]);
    }
}
