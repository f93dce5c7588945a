// pack: lays a convolution's weights out in tiles of T output channels, zero beyond the last channel.
//   packed[o/T][i][tap][o%T] = weight[o, first + i, tap]             (forward)
//   packed[o/T][i][tap][o%T] = weight[i, first + o, taps-1-tap]      (SWAP: gradient by the input, kernel flipped)
// Input: weight [rows, row_channels, taps] f32. Output: packed [ceil(n_out/T)][n_in][taps][T] f32.
// One invocation a packed element. Cost: 8 bytes an element.
#import "lib/index.wgsl"

struct Params {
    n_out: u32,
    n_in: u32,
    taps: u32,
    tile: u32,
    row_channels: u32,
    first: u32,
    flip: u32,
    total: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read_write> packed: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    if index >= params.total {
        return;
    }
    let lane = index % params.tile;
    let tap = index / params.tile % params.taps;
    let i = index / (params.tile * params.taps) % params.n_in;
    let o = index / (params.tile * params.taps * params.n_in) * params.tile + lane;
    var value = 0.0;
    if o < params.n_out {
        let source_tap = select(tap, params.taps - 1u - tap, params.flip == 1u);
#ifdef SWAP
        value = weight[(i * params.row_channels + params.first + o) * params.taps + source_tap];
#else
        value = weight[(o * params.row_channels + params.first + i) * params.taps + source_tap];
#endif
    }
    packed[index] = value;
}
