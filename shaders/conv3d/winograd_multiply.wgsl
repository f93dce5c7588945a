// Second of the three kernels of conv3d by Winograd's minimal filtering: at each point of the transformed domain, a product
// over the input channels and the taps along d that are not transformed.
//   m[p][co][q] = sum_{kd,ci} u[p][co][kd][ci] v[p][ci][q + kd shift]
// Inputs: v [points][c_in][in_quads] vec4<f32>; weight u packed [points][co/16][taps][c_in][16] f32
// (pack_winograd_3d.wgsl, pack_winograd_hw.wgsl). Output: m [points][16 ceil(c_out/16)][quads] vec4<f32>.
// Threads: global x (folded on to y) = q, 4 windows; workgroup z = p * channel tiles + channel tile, so that the address
// of the weights is the same for the whole workgroup. No workgroup memory.
// Cost: 2 taps c_in flops an output; each invocation keeps 4 windows x 16 channels in registers, and adds the products of STEP
// input channels at a time, of which c_in is a multiple.
#import "lib/four.wgsl"
#import "lib/index.wgsl"

struct Params {
    c_in: u32,
    taps: u32,
    shift: u32,
    in_quads: u32,
    quads: u32,
    channel_tiles: u32,
}

@group(0) @binding(0) var<storage, read> v: array<Four>;
@group(0) @binding(1) var<storage, read> weight: array<Four>;
@group(0) @binding(2) var<storage, read_write> m: array<Four>;
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
    var at = group.z * params.taps * params.c_in * 4u;
    for (var tap = 0u; tap < params.taps; tap++) {
        var source = p * params.c_in * params.in_quads + quad + tap * params.shift;
        for (var ci = 0u; ci < params.c_in; ci += STEP) {
            var values: array<vec4<f32>, STEP>;
            var w: array<mat4x4<f32>, STEP>;
            for (var i = 0u; i < STEP; i++) {
                values[i] = four(v[source + i * params.in_quads]);
                for (var k = 0u; k < 4u; k++) {
                    w[i][k] = four(weight[at + 4u * i + k]);
                }
            }
            for (var j = 0u; j < 4u; j++) {
                for (var i = 0u; i < STEP; i++) {
                    sums0[j] = fma(values[i], vec4<f32>(w[i][0][j]), sums0[j]);
                    sums1[j] = fma(values[i], vec4<f32>(w[i][1][j]), sums1[j]);
                    sums2[j] = fma(values[i], vec4<f32>(w[i][2][j]), sums2[j]);
                    sums3[j] = fma(values[i], vec4<f32>(w[i][3][j]), sums3[j]);
                }
            }
            source += STEP * params.in_quads;
            at += STEP * 4u;
        }
    }
    let first = group.z * 16u * params.quads + quad;
    for (var j = 0u; j < 4u; j++) {
        m[first + j * params.quads] = to_four(sums0[j]);
        m[first + (4u + j) * params.quads] = to_four(sums1[j]);
        m[first + (8u + j) * params.quads] = to_four(sums2[j]);
        m[first + (12u + j) * params.quads] = to_four(sums3[j]);
    }
}
