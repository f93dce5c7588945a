// pack_winograd_hw: transforms a convolution's weights along h and w for F(4x4, 3x3), U = G g along each axis, and lays them
// out in tiles of T output channels, zero beyond the last channel.
//   packed[p][o/T][kd][i][o%T] = sum_{kh,kw} G[a][kh] G[b][kw] weight[o, first + i, kd, kh, kw], p = 6 a + b
//   the same of weight[i, first + o, taps reversed]                              (SWAP: gradient by the input)
// G has the rows (6, 0, 0)/24, (-4, -4, -4)/24, (-4, 4, -4)/24, (1, 2, 4)/24, (1, -2, 4)/24, (0, 0, 1): Lavin and Gray 2016.
// Input: weight [rows, row_channels, taps] f32, taps = 9 KD. Output: packed [36][ceil(n_out/T)][KD][n_in][T] f32.
// One invocation the 36 points of a pair of channels and a tap along d. Cost: 9 loads, 36 stores and about 110 flops each.
#import "lib/pack.wgsl"

// G along an axis, from the taps along it: three points of a column each.
fn points(g: mat3x3<f32>) -> array<vec3<f32>, 6> {
    let near = (g[0] + g[2]) / -6.0;
    let far = g[0] / 24.0 + g[2] / 6.0;
    let sixth = g[1] / 6.0;
    let twelfth = g[1] / 12.0;
    return array<vec3<f32>, 6>(0.25 * g[0], near - sixth, near + sixth, far + twelfth, far - twelfth, g[2]);
}

fn store(at: u32, step: u32, values: vec3<f32>) {
    packed[at] = values.x;
    packed[at + step] = values.y;
    packed[at + 2u * step] = values.z;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    if index >= params.total {
        return;
    }
    let planes = params.taps / 9u;
    let pair = index / params.tile;
    let plane = pair / params.n_in;
    let i = pair - plane * params.n_in;
    let kd = plane % planes;
    let o = plane / planes * params.tile + index % params.tile;
    // Column kw, row kh.
    var taps = mat3x3<f32>();
    if o < params.n_out {
        let at = first_tap(o, i);
        for (var kw = 0u; kw < 3u; kw++) {
            for (var kh = 0u; kh < 3u; kh++) {
                taps[kw][kh] = weight[at + source_tap((kd * 3u + kh) * 3u + kw, params.taps)];
            }
        }
    }
    let w = points(taps);
    // Columns are taps along h, rows three points along w.
    let low = points(transpose(mat3x3<f32>(w[0], w[1], w[2])));
    let high = points(transpose(mat3x3<f32>(w[3], w[4], w[5])));
    for (var a = 0u; a < 6u; a++) {
        store(index + 6u * a * params.total, params.total, low[a]);
        store(index + (6u * a + 3u) * params.total, params.total, high[a]);
    }
}
