// Second of the three kernels of conv3d by Winograd's F(2x2x2, 3x3x3): a product over the input channels at each of the
// 64 points.
//   m[p][co][t] = sum_ci u[p][co][ci] v[p][ci][t]
// Inputs: v [64][c_in][stride] f32, stride a multiple of 4; weight u packed [64][co/16][c_in][16] f32
// (pack_winograd_3d.wgsl). Output: m [64][16 ceil(c_out/16)][stride] f32.
// Threads: global x (folded on to y) = 4 windows; workgroup z = p * channel tiles + channel tile, so that the address
// of the weights is the same for the whole workgroup. No workgroup memory.
// Cost: 2 c_in flops an output; each invocation keeps 4 windows x 16 channels in registers.
#import "lib/index.wgsl"

struct Params {
    c_in: u32,
    quads: u32,
    channel_tiles: u32,
}

@group(0) @binding(0) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let quad = flat_index(global, groups, 64u);
    if quad >= params.quads {
        return;
    }
    let p = group.z / params.channel_tiles;
    // Sums of 4 windows: column j of a matrix is channel j of its four.
    var sums0 = mat4x4<f32>();
    var sums1 = mat4x4<f32>();
    var sums2 = mat4x4<f32>();
    var sums3 = mat4x4<f32>();
    var source = p * params.c_in * params.quads + quad;
    var at = group.z * params.c_in * 4u;
    for (var ci = 0u; ci < params.c_in; ci++) {
        let value = v[source];
        let w0 = weight[at];
        let w1 = weight[at + 1u];
        let w2 = weight[at + 2u];
        let w3 = weight[at + 3u];
        for (var j = 0u; j < 4u; j++) {
            sums0[j] = fma(value, vec4<f32>(w0[j]), sums0[j]);
            sums1[j] = fma(value, vec4<f32>(w1[j]), sums1[j]);
            sums2[j] = fma(value, vec4<f32>(w2[j]), sums2[j]);
            sums3[j] = fma(value, vec4<f32>(w3[j]), sums3[j]);
        }
        source += params.quads;
        at += 4u;
    }
    let first = group.z * 16u * params.quads + quad;
    for (var j = 0u; j < 4u; j++) {
        m[first + j * params.quads] = sums0[j];
        m[first + (4u + j) * params.quads] = sums1[j];
        m[first + (8u + j) * params.quads] = sums2[j];
        m[first + (12u + j) * params.quads] = sums3[j];
    }
}
