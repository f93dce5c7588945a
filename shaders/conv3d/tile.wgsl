// conv3d from an input tile with its halo in workgroup memory: each workgroup computes 4 x 4 x 32 voxels (d, h, w) x 16
// output channels, each invocation 4 voxels along w x 8 channels of them.
//   y[n,co,d,h,w] = act(bias[co] + sum_{ci,kd,kh,kw} x[n,ci,d+kd-pd,h+kh-ph,w+kw-pw] * weight[co,ci,kd,kh,kw])
// Stride 1, dilation 1, kernel width 3, KD and KH 1 to 3; padding before each axis is free.
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co/16][c_in][KD][KH][3][16] f32 (pack.wgsl).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: workgroup x (folded on to y) = voxel tile, workgroup z = n * (c_out / 16) + channel tile; 256 invocations =
// 2 channel halves x 4 d x 4 h x 8 quads of w.
// Workgroup memory: 2 channels of 6 x 6 x 34 voxels and their weights, 13,248 bytes.
// Why: for GPUs, where workgroup memory is fast: a voxel is fetched once for 27 taps x 16 channels, and 96 multiply-adds
// follow 12 reads. Software Vulkan is slow at this.
// Cost: 2 c_in KD KH 3 flops a voxel and channel; registers hold 32 sums.
#import "lib/conv_dense.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;

const TILE_D: u32 = 4u;
const TILE_H: u32 = 4u;
const TILE_W: u32 = 32u;
// Input channels a round.
const DEPTH: u32 = 2u;
const HALO_D: u32 = TILE_D + KD - 1u;
const HALO_H: u32 = TILE_H + KH - 1u;
const HALO_W: u32 = TILE_W + 2u;
const HALO: u32 = HALO_D * HALO_H * HALO_W;
// Weights of a channel, in quads of output channels.
const QUADS: u32 = KD * KH * 3u * 4u;

var<workgroup> wg_x: array<f32, DEPTH * HALO>;
var<workgroup> wg_weight: array<vec4<f32>, DEPTH * QUADS>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let tiles_w = (u32(params.out_w) + TILE_W - 1u) / TILE_W;
    let tiles_h = (u32(params.out_h) + TILE_H - 1u) / TILE_H;
    // Tiles beyond the last, which folding on to y may add, compute nothing that is stored.
    let tile = group.y * groups.x + group.x;
    let first_d = i32(tile / (tiles_w * tiles_h) * TILE_D);
    let first_h = i32(tile / tiles_w % tiles_h * TILE_H);
    let first_w = i32(tile % tiles_w * TILE_W);
    let channel_tiles = (params.c_out + 15u) / 16u;
    let n = group.z / channel_tiles;
    let channel_tile = group.z % channel_tiles;

    let half = local / 128u;
    let quad_w = local % 8u;
    let h = local / 8u % 4u;
    let d = local / 32u % 4u;

    // Sums of 4 voxels by two quads of channels.
    var a00 = vec4<f32>(0.0);
    var a10 = vec4<f32>(0.0);
    var a20 = vec4<f32>(0.0);
    var a30 = vec4<f32>(0.0);
    var a01 = vec4<f32>(0.0);
    var a11 = vec4<f32>(0.0);
    var a21 = vec4<f32>(0.0);
    var a31 = vec4<f32>(0.0);

    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    for (var c0 = 0u; c0 < params.c_in; c0 += DEPTH) {
        workgroupBarrier();
        for (var i = local; i < DEPTH * HALO; i += 256u) {
            let ci = c0 + i / HALO;
            let id = first_d - params.pad_d + i32(i / (HALO_H * HALO_W) % HALO_D);
            let ih = first_h - params.pad_h + i32(i / HALO_W % HALO_H);
            let iw = first_w - params.pad_w + i32(i % HALO_W);
            var value = 0.0;
            if ci < params.c_in && id >= 0 && id < params.in_d && ih >= 0 && ih < params.in_h && iw >= 0
                && iw < params.in_w {
                value = f32(x[(n * params.c_in + ci) * in_volume + u32((id * params.in_h + ih) * params.in_w + iw)]);
            }
            wg_x[i] = value;
        }
        for (var i = local; i < DEPTH * QUADS; i += 256u) {
            // Past the last channel the voxels are 0; any finite weight does.
            let ci = min(c0 + i / QUADS, params.c_in - 1u);
            wg_weight[i] = weight[(channel_tile * params.c_in + ci) * QUADS + i % QUADS];
        }
        workgroupBarrier();
        for (var c = 0u; c < DEPTH; c++) {
            for (var kd = 0u; kd < KD; kd++) {
                for (var kh = 0u; kh < KH; kh++) {
                    let row = ((c * HALO_D + d + kd) * HALO_H + h + kh) * HALO_W + quad_w * 4u;
                    let x0 = wg_x[row];
                    let x1 = wg_x[row + 1u];
                    let x2 = wg_x[row + 2u];
                    let x3 = wg_x[row + 3u];
                    let x4 = wg_x[row + 4u];
                    let x5 = wg_x[row + 5u];
                    let at = c * QUADS + (kd * KH + kh) * 12u + half * 2u;
                    let w00 = wg_weight[at];
                    let w01 = wg_weight[at + 1u];
                    a00 = fma(vec4<f32>(x0), w00, a00);
                    a10 = fma(vec4<f32>(x1), w00, a10);
                    a20 = fma(vec4<f32>(x2), w00, a20);
                    a30 = fma(vec4<f32>(x3), w00, a30);
                    a01 = fma(vec4<f32>(x0), w01, a01);
                    a11 = fma(vec4<f32>(x1), w01, a11);
                    a21 = fma(vec4<f32>(x2), w01, a21);
                    a31 = fma(vec4<f32>(x3), w01, a31);
                    let w10 = wg_weight[at + 4u];
                    let w11 = wg_weight[at + 5u];
                    a00 = fma(vec4<f32>(x1), w10, a00);
                    a10 = fma(vec4<f32>(x2), w10, a10);
                    a20 = fma(vec4<f32>(x3), w10, a20);
                    a30 = fma(vec4<f32>(x4), w10, a30);
                    a01 = fma(vec4<f32>(x1), w11, a01);
                    a11 = fma(vec4<f32>(x2), w11, a11);
                    a21 = fma(vec4<f32>(x3), w11, a21);
                    a31 = fma(vec4<f32>(x4), w11, a31);
                    let w20 = wg_weight[at + 8u];
                    let w21 = wg_weight[at + 9u];
                    a00 = fma(vec4<f32>(x2), w20, a00);
                    a10 = fma(vec4<f32>(x3), w20, a10);
                    a20 = fma(vec4<f32>(x4), w20, a20);
                    a30 = fma(vec4<f32>(x5), w20, a30);
                    a01 = fma(vec4<f32>(x2), w21, a01);
                    a11 = fma(vec4<f32>(x3), w21, a11);
                    a21 = fma(vec4<f32>(x4), w21, a21);
                    a31 = fma(vec4<f32>(x5), w21, a31);
                }
            }
        }
    }

    let first = vec3<i32>(first_d, first_h, first_w) + vec3<i32>(vec3<u32>(d, h, quad_w * 4u));
    if first.x < params.out_d && first.y < params.out_h && first.z < params.out_w {
        let count = params.out_w - first.z;
        let base = row_base(n, first);
        let channel = channel_tile * 16u + half * 8u;
        store_row(channel + 0u, base, count, vec4<f32>(a00.x, a10.x, a20.x, a30.x));
        store_row(channel + 1u, base, count, vec4<f32>(a00.y, a10.y, a20.y, a30.y));
        store_row(channel + 2u, base, count, vec4<f32>(a00.z, a10.z, a20.z, a30.z));
        store_row(channel + 3u, base, count, vec4<f32>(a00.w, a10.w, a20.w, a30.w));
        store_row(channel + 4u, base, count, vec4<f32>(a01.x, a11.x, a21.x, a31.x));
        store_row(channel + 5u, base, count, vec4<f32>(a01.y, a11.y, a21.y, a31.y));
        store_row(channel + 6u, base, count, vec4<f32>(a01.z, a11.z, a21.z, a31.z));
        store_row(channel + 7u, base, count, vec4<f32>(a01.w, a11.w, a21.w, a31.w));
    }
}
