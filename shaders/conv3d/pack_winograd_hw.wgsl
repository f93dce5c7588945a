// pack_winograd_hw: transforms a convolution's weights along h and w for F(4x4, 3x3), U = G g along each axis, and lays them
// out in tiles of T output channels, zero beyond the last channel.
//   packed[p][o/T][kd][i][o%T] = sum_{kh,kw} G[a][kh] G[b][kw] weight[o, first + i, kd, kh, kw], p = 6 a + b
//   the same of weight[i, first + o, taps reversed]                              (SWAP: gradient by the input)
// G has the rows (6, 0, 0)/24, (-4, -4, -4)/24, (-4, 4, -4)/24, (1, 2, 4)/24, (1, -2, 4)/24, (0, 0, 1): Lavin and Gray 2016.
// Input: weight [rows, row_channels, taps] f32, taps = 9 KD. Output: packed [36][ceil(n_out/T)][KD][n_in][T] f32.
// One invocation a packed element. Cost: 36 bytes read, 4 written an element; the 36 elements of a pair of channels
// share what they read.
#import "lib/pack.wgsl"

// Row u of G.
fn g_row(u: u32) -> vec3<f32> {
    switch u {
        case 0u: { return vec3<f32>(0.25, 0.0, 0.0); }
        case 1u: { return vec3<f32>(-1.0, -1.0, -1.0) / 6.0; }
        case 2u: { return vec3<f32>(-1.0, 1.0, -1.0) / 6.0; }
        case 3u: { return vec3<f32>(1.0, 2.0, 4.0) / 24.0; }
        case 4u: { return vec3<f32>(1.0, -2.0, 4.0) / 24.0; }
        default: { return vec3<f32>(0.0, 0.0, 1.0); }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    if index >= params.total {
        return;
    }
    let planes = params.taps / 9u;
    let lane = index % params.tile;
    let i = index / params.tile % params.n_in;
    let kd = index / (params.tile * params.n_in) % planes;
    let channel_tiles = (params.n_out + params.tile - 1u) / params.tile;
    let o = index / (params.tile * params.n_in * planes) % channel_tiles * params.tile + lane;
    let p = index / (params.tile * params.n_in * planes * channel_tiles);
    var value = 0.0;
    if o < params.n_out {
        let at = first_tap(o, i);
        let along_h = g_row(p / 6u);
        let along_w = g_row(p % 6u);
        for (var kh = 0u; kh < 3u; kh++) {
            var sum = 0.0;
            for (var kw = 0u; kw < 3u; kw++) {
                let tap = (kd * 3u + kh) * 3u + kw;
                sum += along_w[kw] * weight[at + source_tap(tap, params.taps)];
            }
            value += along_h[kh] * sum;
        }
    }
    packed[index] = value;
}
