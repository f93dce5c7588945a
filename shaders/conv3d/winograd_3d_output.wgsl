// Last of the three kernels of conv3d by Winograd's F(2x2x2, 3x3x3): transforms the 64 points back to 2x2x2 voxels.
//   y[co, 2 td + i, 2 th + j, 2 tw + k] = act(bias[co] + sum_{a,b,c} A[i][a] A[j][b] A[k][c] m[(a 4 + b) 4 + c][co][t])
// A has the rows (1, 1, 1, 0), (0, 1, -1, -1): Lavin and Gray 2016.
// Input: m [64][channels][stride] f32, its channels from first_channel on, for the windows first .. first + count.
// Output: y [..., OD, OH, OW] Element, of which the channels from first_plane on.
// Threads: global x (folded on to y) = window; workgroup z = output channel. No workgroup memory.
// Cost: 84 additions and 64 loads for 8 voxels.
#import "lib/conv_output.wgsl"
#import "lib/index.wgsl"
#import "lib/quad.wgsl"

struct Params {
    out_d: u32,
    out_h: u32,
    out_w: u32,
    tiles_h: u32,
    tiles_w: u32,
    first: u32,
    count: u32,
    stride: u32,
    channels: u32,
    first_channel: u32,
    first_plane: u32,
    negative_slope: f32,
}

@group(0) @binding(0) var<storage, read> m: array<f32>;

// A along the axis that the four vectors lie on: both outputs.
struct Pair {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn transform(q: Quad) -> Pair {
    return Pair(q.a + q.b + q.c, q.b - q.c - q.d);
}

fn row(at: u32, step: u32) -> vec4<f32> {
    return vec4<f32>(m[at], m[at + step], m[at + 2u * step], m[at + 3u * step]);
}

// The points of one index along d, transformed along h.
fn plane(at: u32, step: u32) -> Pair {
    return transform(Quad(
        row(at, step),
        row(at + 4u * step, step),
        row(at + 8u * step, step),
        row(at + 12u * step, step),
    ));
}

// Writes two voxels along w from the four points of their row.
fn store(channel: u32, d: u32, h: u32, w: u32, points: vec4<f32>) {
    if d >= params.out_d || h >= params.out_h {
        return;
    }
    let at = (((params.first_plane + channel) * params.out_d + d) * params.out_h + h) * params.out_w + w;
    store_voxel(params.first_channel + channel, at, points.x + points.y + points.z);
    if w + 1u < params.out_w {
        store_voxel(params.first_channel + channel, at + 1u, points.y - points.z - points.w);
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let local = flat_index(global, groups, 64u);
    if local >= params.count {
        return;
    }
    let step = params.channels * params.stride;
    let at = (params.first_channel + group.z) * params.stride + local;
    let p0 = plane(at, step);
    let p1 = plane(at + 16u * step, step);
    let p2 = plane(at + 32u * step, step);
    let p3 = plane(at + 48u * step, step);
    let low = transform(Quad(p0.low, p1.low, p2.low, p3.low));
    let high = transform(Quad(p0.high, p1.high, p2.high, p3.high));
    let tile = params.first + local;
    let d = tile / (params.tiles_h * params.tiles_w) * 2u;
    let h = tile / params.tiles_w % params.tiles_h * 2u;
    let w = tile % params.tiles_w * 2u;
    store(group.z, d, h, w, low.low);
    store(group.z, d, h + 1u, w, high.low);
    store(group.z, d + 1u, h, w, low.high);
    store(group.z, d + 1u, h + 1u, w, high.high);
}
