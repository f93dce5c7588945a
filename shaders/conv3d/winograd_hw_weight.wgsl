// conv3d_grad_weight by Winograd's F(4x4, 3x3) along h and w, last of four kernels: takes the sums at the 36 points to the 9
// taps of each kd, by the transpose of what takes the taps there.
//   dweight[co, first + ci, kd, kh, kw] = sum_{a,b} G[a][kh] G[b][kw] m[kd][6 a + b][ci, co]
// G has the rows (6, 0, 0)/24, (-4, -4, -4)/24, (-4, 4, -4)/24, (1, 2, 4)/24, (1, -2, 4)/24, (0, 0, 1): Lavin and Gray 2016.
// Input: m [taps][36][...] f32, a pair of channels at ci ci_step + co co_step. Output: dweight [c_out, row_channels, taps, 9]
// f32, of which the channels from first_channel on.
// Threads: global x (folded on to y) = (co * c_in + ci) * taps + kd. Cost: 36 loads, 9 stores and about 120 flops each.
#import "lib/index.wgsl"

struct Params {
    c_in: u32,
    c_out: u32,
    taps: u32,
    ci_step: u32,
    co_step: u32,
    point_step: u32,
    row_channels: u32,
    first_channel: u32,
}

@group(0) @binding(0) var<storage, read> m: array<f32>;
@group(0) @binding(1) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

// Three taps along w from the six points of a row.
fn row(at: u32) -> vec3<f32> {
    let step = params.point_step;
    let m1 = m[at + step];
    let m2 = m[at + 2u * step];
    let m3 = m[at + 3u * step];
    let m4 = m[at + 4u * step];
    let near = (m1 + m2) / 6.0;
    let far = (m3 + m4) / 24.0;
    return vec3<f32>(
        0.25 * m[at] - near + far,
        (m2 - m1) / 6.0 + (m3 - m4) / 12.0,
        4.0 * far - near + m[at + 5u * step],
    );
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    let kd = index % params.taps;
    let ci = index / params.taps % params.c_in;
    let co = index / (params.taps * params.c_in);
    if co >= params.c_out {
        return;
    }
    let at = kd * 36u * params.point_step + ci * params.ci_step + co * params.co_step;
    let step = 6u * params.point_step;
    let m0 = row(at);
    let m1 = row(at + step);
    let m2 = row(at + 2u * step);
    let m3 = row(at + 3u * step);
    let m4 = row(at + 4u * step);
    let m5 = row(at + 5u * step);
    let near = (m1 + m2) / 6.0;
    let far = (m3 + m4) / 24.0;
    let taps = mat3x3<f32>(
        0.25 * m0 - near + far,
        (m2 - m1) / 6.0 + (m3 - m4) / 12.0,
        4.0 * far - near + m5,
    );
    let to = ((co * params.row_channels + params.first_channel + ci) * params.taps + kd) * 9u;
    for (var kh = 0u; kh < 3u; kh++) {
        for (var kw = 0u; kw < 3u; kw++) {
            dweight[to + kh * 3u + kw] = taps[kh][kw];
        }
    }
}
