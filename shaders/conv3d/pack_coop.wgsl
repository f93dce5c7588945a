// pack_coop: lays a convolution's weights out for coop.wgsl as f16, zero beyond the last channel on either side.
//   packed[o/T][i/16][tap][i%16][o%T] = weight[o, first + i, tap]
// Input: weight [rows, row_channels, taps] f32. Output: packed [ceil(n_out/T)][ceil(n_in/16)][taps][16][T] f16.
// One invocation a packed element. Cost: 6 bytes an element.
#import "lib/element.wgsl"
#import "lib/index.wgsl"

struct Params {
    n_out: u32,
    n_in: u32,
    taps: u32,
    tile: u32,
    row_channels: u32,
    first: u32,
    total: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read_write> packed: array<Element>;
@group(0) @binding(2) var<uniform> params: Params;

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
        value = weight[(o * params.row_channels + params.first + i) * params.taps + tap];
    }
    packed[index] = Element(value);
}
