// conv3d_grad_weight by Winograd's F(4x4, 3x3) along h and w, third of four kernels: at each of the 36 points, and for each
// tap along d, the products of two sets of channels summed over the samples.
//   m[kd][p][i][j] = sum_t left[p][i][t + kd left_shift] right[p][j][t + kd right_shift]
// Inputs: left [36][channels/16][left_stride][16] f32, right the same with its stride (winograd_hw_input.wgsl, TILED, and
// winograd_hw_expand.wgsl), of which `count` samples. Output: m [taps][36][16 left_tiles][4 right_quads] f32; ACCUMULATE
// adds to it.
// Threads: global x (folded on to y) = 4 channels of `right`; workgroup z = (p * left_tiles + tile of 16 channels of
// `left`) * taps + kd, so that their address is the same for the whole workgroup, and the taps read what a cache still
// holds. No workgroup memory, no atomics: reruns are bit-equal.
// Cost: 2 flops a sample and pair of channels; each invocation keeps 4 x 16 sums in registers.
#import "lib/index.wgsl"

struct Params {
    count: u32,
    taps: u32,
    left_stride: u32,
    left_shift: u32,
    left_tiles: u32,
    right_stride: u32,
    right_shift: u32,
    right_quads: u32,
}

@group(0) @binding(0) var<storage, read> left: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> right: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

fn store(at: u32, sums: mat4x4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        let to = at + i * params.right_quads;
#ifdef ACCUMULATE
        m[to] = m[to] + sums[i];
#else
        m[to] = sums[i];
#endif
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let quad = flat_index(global, groups, 64u);
    if quad >= params.right_quads {
        return;
    }
    let tile = group.z / params.taps;
    let kd = group.z % params.taps;
    let p = tile / params.left_tiles;
    // Column i of a matrix is channel i of its four of `left`, rows are channels of `right`.
    var sums0 = mat4x4<f32>();
    var sums1 = mat4x4<f32>();
    var sums2 = mat4x4<f32>();
    var sums3 = mat4x4<f32>();
    let right_tile = p * (params.right_quads / 4u) + quad / 4u;
    var source = (right_tile * params.right_stride + kd * params.right_shift) * 4u + quad % 4u;
    var at = (tile * params.left_stride + kd * params.left_shift) * 4u;
    for (var t = 0u; t < params.count; t++) {
        let value = right[source];
        let w0 = left[at];
        let w1 = left[at + 1u];
        let w2 = left[at + 2u];
        let w3 = left[at + 3u];
        for (var i = 0u; i < 4u; i++) {
            sums0[i] = fma(value, vec4<f32>(w0[i]), sums0[i]);
            sums1[i] = fma(value, vec4<f32>(w1[i]), sums1[i]);
            sums2[i] = fma(value, vec4<f32>(w2[i]), sums2[i]);
            sums3[i] = fma(value, vec4<f32>(w3[i]), sums3[i]);
        }
        source += 4u;
        at += 4u;
    }
    let first = (kd * 36u * params.left_tiles + tile) * 16u * params.right_quads + quad;
    store(first, sums0);
    store(first + 4u * params.right_quads, sums1);
    store(first + 8u * params.right_quads, sums2);
    store(first + 12u * params.right_quads, sums3);
}
