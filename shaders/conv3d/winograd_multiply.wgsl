// Second of the three kernels of conv3d by Winograd's minimal filtering: at each point of the transformed domain, a product
// over the input channels and the taps along d that are not transformed.
//   m[p][co][q] = sum_{kd,ci} u[p][co][kd][ci] v[p][ci][q + kd shift]
// Inputs: v [points][c_in][in_quads] vec4<f32>; weight u packed [points][co/16][taps][c_in][16] f32
// (pack_winograd_3d.wgsl, pack_winograd_hw.wgsl). Output: m [points][16 ceil(c_out/16)][quads] vec4<f32>.
// Threads: global x (folded on to y) = q, 4 windows; workgroup z = p * channel tiles + channel tile, so that the address
// of the weights is the same for the whole workgroup. No workgroup memory.
// Cost: 2 taps c_in flops an output; each invocation keeps 4 windows x 16 channels in registers.
#import "lib/index.wgsl"

struct Params {
    c_in: u32,
    taps: u32,
    shift: u32,
    in_quads: u32,
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
    var at = group.z * params.taps * params.c_in * 4u;
    for (var tap = 0u; tap < params.taps; tap++) {
        var source = p * params.c_in * params.in_quads + quad + tap * params.shift;
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
            source += params.in_quads;
            at += 4u;
        }
    }
    let first = group.z * 16u * params.quads + quad;
    for (var j = 0u; j < 4u; j++) {
        m[first + j * params.quads] = sums0[j];
        m[first + (4u + j) * params.quads] = sums1[j];
        m[first + (8u + j) * params.quads] = sums2[j];
        m[first + (12u + j) * params.quads] = sums3[j];
    }
}
