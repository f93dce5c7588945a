// pack_coop: lays a convolution's weights out for coop.wgsl as f16, zero beyond the last channel on either side.
//   packed[o/T][i/16][tap][i%16][o%T] = weight[o, first + i, tap]
// Input: weight [rows, row_channels, taps] f32. Output: packed [ceil(n_out/T)][ceil(n_in/16)][taps][16][T] f16.
// One invocation a packed element. Cost: 6 bytes an element.
#import "lib/pack.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    if index >= params.total {
        return;
    }
    let rounds = (params.n_in + 15u) / 16u;
    let column = index % params.tile;
    let row = index / params.tile % 16u;
    let tap = index / (params.tile * 16u) % params.taps;
    let round = index / (params.tile * 16u * params.taps) % rounds;
    let i = round * 16u + row;
    let o = index / (params.tile * 16u * params.taps * rounds) * params.tile + column;
    var value = 0.0;
    if o < params.n_out && i < params.n_in {
        value = weight[first_tap(o, i) + source_tap(tap, params.taps)];
    }
    packed[index] = Element(value);
}
