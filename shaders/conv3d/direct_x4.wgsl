// conv3d, register-tiled direct: each invocation computes 4 voxels along w x 4 GROUPS output channels.
//   y[n,co,o] = act(bias[co] + sum_{ci,k} x[n,ci,o*stride+k*dilation-pad] * weight[co,ci,k])
// Kernel KD, KH, KW, strides STRIDE_* and dilations DILATION_* are constants; padding before each axis is free.
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co/T][c_in][KD][KH][KW][T] f32, T = 4 GROUPS (pack.wgsl).
// Output: y [N, c_out, OD, OH, OW] Element. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: global x (folded on to y) = tile of 4 voxels; workgroup z = n * (c_out / T) + channel tile, so that the
// weight address is the same for the whole workgroup. No workgroup memory.
// Cost: 2 c_in KD KH KW flops a voxel and channel; registers hold 16 GROUPS sums and a row of COLUMNS voxels.
#import "lib/conv_dense.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;

// Voxel j reads column STRIDE_W j + TAP_STEP k at tap k: neighbouring taps share columns where their voxels coincide.
const SPAN: u32 = 3u * STRIDE_W + 1u;
const TAP_STEP: u32 = min(DILATION_W, SPAN);
const COLUMNS: u32 = SPAN + TAP_STEP * (KW - 1u);

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = tile_start(flat_index(global, groups, 64u), 4u);
    if first.x >= params.out_d {
        return;
    }
    let channel_tiles = (params.c_out + 4u * GROUPS - 1u) / (4u * GROUPS);
    let n = group.z / channel_tiles;
    let channel_tile = group.z % channel_tiles;
    let start = first * vec3<i32>(vec3<u32>(STRIDE_D, STRIDE_H, STRIDE_W))
        - vec3<i32>(params.pad_d, params.pad_h, params.pad_w);

    // Columns of the input window: clamped, so that every load is in bounds, with a flag for the real ones.
    var columns: array<u32, COLUMNS>;
    var inside: array<bool, COLUMNS>;
    for (var c = 0u; c < COLUMNS; c++) {
        let iw = start.z + i32(c / TAP_STEP * (DILATION_W - TAP_STEP) + c);
        columns[c] = u32(clamp(iw, 0, params.in_w - 1));
        inside[c] = iw >= 0 && iw < params.in_w;
    }

    // By voxel and group of four channels.
    var sums: array<array<vec4<f32>, GROUPS>, 4>;
    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    var channel_base = n * params.c_in * in_volume;
    var at = channel_tile * params.c_in * (KD * KH * KW * GROUPS);
    for (var ci = 0u; ci < params.c_in; ci++) {
        for (var kd = 0; kd < i32(KD); kd++) {
            let id = start.x + kd * i32(DILATION_D);
            let in_d = id >= 0 && id < params.in_d;
            let plane = clamp(id, 0, params.in_d - 1) * params.in_h;
            for (var kh = 0; kh < i32(KH); kh++) {
                let ih = start.y + kh * i32(DILATION_H);
                let in_row = in_d && ih >= 0 && ih < params.in_h;
                let row = channel_base + u32((plane + clamp(ih, 0, params.in_h - 1)) * params.in_w);
                var voxels: array<f32, COLUMNS>;
                for (var c = 0u; c < COLUMNS; c++) {
                    voxels[c] = select(0.0, f32(x[row + columns[c]]), in_row && inside[c]);
                }
                for (var k = 0u; k < KW; k++) {
                    for (var g = 0u; g < GROUPS; g++) {
                        let w = weight[at + GROUPS * k + g];
                        for (var j = 0u; j < 4u; j++) {
                            sums[j][g] = fma(vec4<f32>(voxels[STRIDE_W * j + TAP_STEP * k]), w, sums[j][g]);
                        }
                    }
                }
                at += KW * GROUPS;
            }
        }
        channel_base += in_volume;
    }

    let count = params.out_w - first.z;
    let base = row_base(n, first);
    let channel = channel_tile * 4u * GROUPS;
    for (var g = 0u; g < GROUPS; g++) {
        let voxels = transpose(mat4x4<f32>(sums[0][g], sums[1][g], sums[2][g], sums[3][g]));
        for (var c = 0u; c < 4u; c++) {
            store_row(channel + 4u * g + c, base, count, voxels[c]);
        }
    }
}
