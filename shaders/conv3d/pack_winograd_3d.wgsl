// pack_winograd_3d: transforms a convolution's 3x3x3 weights for F(2x2x2, 3x3x3), U = G g along each axis, and lays
// them out in tiles of T output channels, zero beyond the last channel.
//   packed[p][o/T][i][o%T] = sum_{kd,kh,kw} G[a][kd] G[b][kh] G[c][kw] weight[o, first + i, kd, kh, kw], p = (a 4 + b) 4 + c
//   the same of weight[i, first + o, taps reversed]                              (SWAP: gradient by the input)
// G has the rows (1, 0, 0), (1, 1, 1)/2, (1, -1, 1)/2, (0, 0, 1): Lavin and Gray 2016.
// Input: weight [rows, row_channels, 27] f32. Output: packed [64][ceil(n_out/T)][n_in][T] f32.
// One invocation a packed element. Cost: 112 bytes read, 4 written an element; the 64 elements of a pair of channels
// share what they read.
#import "lib/pack.wgsl"

// Row u of G.
fn g_row(u: u32) -> vec3<f32> {
    switch u {
        case 0u: { return vec3<f32>(1.0, 0.0, 0.0); }
        case 1u: { return vec3<f32>(0.5, 0.5, 0.5); }
        case 2u: { return vec3<f32>(0.5, -0.5, 0.5); }
        default: { return vec3<f32>(0.0, 0.0, 1.0); }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    if index >= params.total {
        return;
    }
    let lane = index % params.tile;
    let i = index / params.tile % params.n_in;
    let channel_tiles = (params.n_out + params.tile - 1u) / params.tile;
    let o = index / (params.tile * params.n_in) % channel_tiles * params.tile + lane;
    let p = index / (params.tile * params.n_in * channel_tiles);
    var value = 0.0;
    if o < params.n_out {
        let at = first_tap(o, i);
        let along_d = g_row(p / 16u);
        let along_h = g_row(p / 4u % 4u);
        let along_w = g_row(p % 4u);
        for (var row = 0u; row < 9u; row++) {
            var sum = 0.0;
            for (var kw = 0u; kw < 3u; kw++) {
                let tap = row * 3u + kw;
                sum += along_w[kw] * weight[at + source_tap(tap, 27u)];
            }
            value += along_d[row / 3u] * along_h[row % 3u] * sum;
        }
    }
    packed[index] = value;
}
