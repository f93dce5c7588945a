// pack: lays a convolution's weights out in tiles of T output channels, zero beyond the last channel.
//   packed[o/T][i][tap][o%T] = weight[o, first + i, tap]             (forward)
//   packed[o/T][i][tap][o%T] = weight[i, first + o, taps-1-tap]      (SWAP: gradient by the input, kernel flipped)
// Input: weight [rows, row_channels, taps] f32. Output: packed [ceil(n_out/T)][n_in][taps][T] f32.
// One invocation a packed element. Cost: 8 bytes an element.
#import "lib/pack.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    if index >= params.total {
        return;
    }
    // Remainders from the quotients: a processor divides lane by lane.
    let row = index / params.tile;
    let pair = row / params.taps;
    let tap = row - pair * params.taps;
    let tile = pair / params.n_in;
    let i = pair - tile * params.n_in;
    let o = tile * params.tile + (index - row * params.tile);
    var value = 0.0;
    if o < params.n_out {
        value = weight[first_tap(o, i) + source_tap(tap, params.taps)];
    }
    packed[index] = value;
}
