// conv3d_grad_weight by Winograd's F(4x4, 3x3) along h and w, third of four kernels: at each of the 36 points, and for each
// tap along d, the products of two sets of channels summed over the samples.
//   m[kd][p][i][j] = sum_t left[p][i][t + kd left_shift] right[p][j][t + kd right_shift]
// Inputs: left [36][channels/16][left_stride][16] f32, right the same with its stride (winograd_hw_input.wgsl, TILED, and
// winograd_hw_expand.wgsl), of which `count` samples. Output: m [taps][36][16 left_tiles][right channels] f32;
// ACCUMULATE adds to it.
// Threads: global x (folded on to y) = 4 channels of `right`, or with PAIRS 2; workgroup z = (p * left_tiles + tile of 16 channels of
// `left`) * taps + kd, so that their address is the same for the whole workgroup, and the taps read what a cache still
// holds. No workgroup memory, no atomics: reruns are bit-equal.
// Cost: 2 flops a sample and pair of channels; each invocation keeps 4 x 16 sums (2 x 16) in registers, and adds the products
// of two samples at a time, of which `count` is a multiple.
#import "lib/four.wgsl"
#import "lib/index.wgsl"

struct Params {
    count: u32,
    taps: u32,
    left_stride: u32,
    left_shift: u32,
    left_tiles: u32,
    right_stride: u32,
    right_shift: u32,
    // Channels of `right`, in fours or pairs.
    right_items: u32,
}

#ifdef PAIRS
const ITEM: u32 = 2u;
alias Item = Two;
alias Value = vec2<f32>;

fn value_of(item: Item) -> Value {
    return two(item);
}

fn to_item(value: Value) -> Item {
    return to_two(value);
}
#else
const ITEM: u32 = 4u;
alias Item = Four;
alias Value = vec4<f32>;

fn value_of(item: Item) -> Value {
    return four(item);
}

fn to_item(value: Value) -> Item {
    return to_four(value);
}
#endif

@group(0) @binding(0) var<storage, read> left: array<Four>;
@group(0) @binding(1) var<storage, read> right: array<Item>;
@group(0) @binding(2) var<storage, read_write> m: array<Item>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let item = flat_index(global, groups, 64u);
    if item >= params.right_items {
        return;
    }
    let tile = group.z / params.taps;
    let kd = group.z % params.taps;
    let p = tile / params.left_tiles;
    // Items of a tile of 16 channels.
    let tile_items = 16u / ITEM;
    // By channel of `left`.
    var sums: array<Value, 16>;
    let right_tile = (p * params.right_items + item) / tile_items;
    var source = (right_tile * params.right_stride + kd * params.right_shift) * tile_items + item % tile_items;
    var at = (tile * params.left_stride + kd * params.left_shift) * 4u;
    for (var t = 0u; t < params.count; t += 2u) {
        let value0 = value_of(right[source]);
        let value1 = value_of(right[source + tile_items]);
        var w: array<vec4<f32>, 8>;
        for (var i = 0u; i < 8u; i++) {
            w[i] = four(left[at + i]);
        }
        for (var i = 0u; i < 16u; i++) {
            sums[i] = fma(value0, Value(w[i / 4u][i % 4u]), sums[i]);
            sums[i] = fma(value1, Value(w[4u + i / 4u][i % 4u]), sums[i]);
        }
        source += 2u * tile_items;
        at += 8u;
    }
    let first = (kd * 36u * params.left_tiles + tile) * 16u * params.right_items + item;
    for (var i = 0u; i < 16u; i++) {
        let to = first + i * params.right_items;
#ifdef ACCUMULATE
        m[to] = to_item(value_of(m[to]) + sums[i]);
#else
        m[to] = to_item(sums[i]);
#endif
    }
}
