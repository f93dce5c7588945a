// Last of the three kernels of conv3d by Winograd's F(4x4, 3x3) along h and w: transforms the 36 points back to 4x4 voxels.
//   y[co, d, 4 th + j, 4 tw + k] = act(bias[co] + sum_{a,b} A[j][a] A[k][b] m[6 a + b][co][t])
// A has the rows (1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1): Lavin and Gray 2016.
// Input: m [36][channels][stride] f32, its channels from first_channel on; sample t is window first + t % span of plane
// first_d + t / span, and windows from `count` on are none. Output: y [..., OD, OH, OW] Element, of which the channels from
// first_plane on.
// Threads: global x (folded on to y) = t < total; workgroup z = output channel. No workgroup memory.
// Cost: 36 loads and about 140 flops for 16 voxels.
#import "lib/conv_output.wgsl"
#import "lib/index.wgsl"
#import "lib/winograd_hw.wgsl"

struct Params {
    out_d: u32,
    out_h: u32,
    out_w: u32,
    tiles_w: u32,
    first: u32,
    count: u32,
    span: u32,
    first_d: u32,
    total: u32,
    stride: u32,
    channels: u32,
    negative_slope: f32,
    first_channel: u32,
    first_plane: u32,
}

@group(0) @binding(0) var<storage, read> m: array<f32>;
// Four rows of three points along w.
struct Rows {
    a: vec3<f32>,
    b: vec3<f32>,
    c: vec3<f32>,
    d: vec3<f32>,
}

fn points(at: u32, step: u32) -> vec3<f32> {
    return vec3<f32>(m[at], m[at + step], m[at + 2u * step]);
}

// Three points along w, transformed along h.
fn rows(at: u32, step: u32) -> Rows {
    let m0 = points(at, step);
    let m1 = points(at + 6u * step, step);
    let m2 = points(at + 12u * step, step);
    let m3 = points(at + 18u * step, step);
    let m4 = points(at + 24u * step, step);
    let m5 = points(at + 30u * step, step);
    let near = m1 + m2;
    let near_odd = m1 - m2;
    let far = m3 + m4;
    let far_odd = m3 - m4;
    return Rows(m0 + near + far, near_odd + 2.0 * far_odd, near + 4.0 * far, near_odd + 8.0 * far_odd + m5);
}

// Writes four voxels of a row, from (d, h, w) on, from its six points.
fn store(channel: u32, start: vec3<u32>, low: vec3<f32>, high: vec3<f32>) {
    if start.y >= params.out_h {
        return;
    }
    let near = low.y + low.z;
    let near_odd = low.y - low.z;
    let far = high.x + high.y;
    let far_odd = high.x - high.y;
    let voxels = vec4<f32>(
        low.x + near + far,
        near_odd + 2.0 * far_odd,
        near + 4.0 * far,
        near_odd + 8.0 * far_odd + high.z,
    );
    let at = (((params.first_plane + channel) * params.out_d + start.x) * params.out_h + start.y) * params.out_w + start.z;
    store_voxels(params.first_channel + channel, at, i32(params.out_w - start.z), voxels);
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let t = flat_index(global, groups, 64u);
    if t >= params.total || !is_window(t) {
        return;
    }
    let step = params.channels * params.stride;
    let at = (params.first_channel + group.z) * params.stride + t;
    let low = rows(at, step);
    let high = rows(at + 3u * step, step);
    let start = window_start(t);
    store(group.z, start, low.a, high.a);
    store(group.z, start + vec3<u32>(0u, 1u, 0u), low.b, high.b);
    store(group.z, start + vec3<u32>(0u, 2u, 0u), low.c, high.c);
    store(group.z, start + vec3<u32>(0u, 3u, 0u), low.d, high.d);
}
