// pack_winograd_w4: transforms the three taps along w of a convolution's weights for F(4, 3), U = G g, and lays them out
// in tiles of T output channels, zero beyond the last channel.
//   packed[o/T][i][kd kh][u][o%T] = sum_kw G[u][kw] weight[o, first + i, kd kh, kw]       (forward)
//   the same of weight[i, first + o, taps reversed]                                       (SWAP: gradient by the input)
// G has the rows (1/4, 0, 0), -(1, 1, 1)/6, -(1, -1, 1)/6, (1, 2, 4)/24, (1, -2, 4)/24, (0, 0, 1): Lavin and Gray 2016.
// Input: weight [rows, row_channels, taps] f32, taps = 3 KD KH. Output: packed [ceil(n_out/T)][n_in][KD KH][6][T] f32.
// One invocation a packed element. Cost: 16 bytes an element.
#import "lib/pack.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    if index >= params.total {
        return;
    }
    let rows = params.taps / 3u;
    let lane = index % params.tile;
    let u = index / params.tile % 6u;
    let row = index / (params.tile * 6u) % rows;
    let i = index / (params.tile * 6u * rows) % params.n_in;
    let o = index / (params.tile * 6u * rows * params.n_in) * params.tile + lane;
    var value = 0.0;
    if o < params.n_out {
        let at = first_tap(o, i);
        let source_row = source_tap(row, rows);
        let left = weight[at + source_row * 3u];
        let middle = weight[at + source_row * 3u + 1u];
        let right = weight[at + source_row * 3u + 2u];
        let g0 = select(left, right, params.flip == 1u);
        let g2 = select(right, left, params.flip == 1u);
        switch u {
            case 0u: { value = g0 / 4.0; }
            case 1u: { value = -(g0 + middle + g2) / 6.0; }
            case 2u: { value = -(g0 - middle + g2) / 6.0; }
            case 3u: { value = (g0 + 2.0 * middle + 4.0 * g2) / 24.0; }
            case 4u: { value = (g0 - 2.0 * middle + 4.0 * g2) / 24.0; }
            default: { value = g2; }
        }
    }
    packed[index] = value;
}
