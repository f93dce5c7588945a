// First of the three kernels of conv3d by Winograd's F(2x2x2, 3x3x3): transforms 4x4x4 windows of the input.
//   v[p][ci][t] = sum_{i,j,k} B[a][i] B[b][j] B[c][k] x[ci, 2 td + i - pd, 2 th + j - ph, 2 tw + k - pw], p = (a 4 + b) 4 + c
// B has the rows (1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1): Lavin and Gray 2016.
// Input: x [..., D, H, W] Element, of which the channels from first_plane on.
// Output: v [64][channels][stride] f32, its channels from first_channel on, for the windows first .. first + count, which
// may be fewer than `stride`; the rest is set to zero.
// Threads: global x (folded on to y) = window; workgroup z = channel. No workgroup memory.
// Cost: 144 additions and 64 loads a window and channel; writes 8 values for each voxel of the input.
#import "lib/element.wgsl"
#import "lib/index.wgsl"
#import "lib/quad.wgsl"

struct Params {
    in_d: i32,
    in_h: i32,
    in_w: i32,
    pad_d: i32,
    pad_h: i32,
    pad_w: i32,
    tiles_h: u32,
    tiles_w: u32,
    first: u32,
    count: u32,
    stride: u32,
    channels: u32,
    first_channel: u32,
    first_plane: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> v: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

// B along the axis that the four vectors lie on.
fn transform(q: Quad) -> Quad {
    return Quad(q.a - q.c, q.b + q.c, q.c - q.b, q.b - q.d);
}

// Four voxels of a row, zero outside the volume, transformed along w.
fn row(channel: i32, id: i32, ih: i32, iw: i32) -> vec4<f32> {
    let inside = id >= 0 && id < params.in_d && ih >= 0 && ih < params.in_h;
    let d = clamp(id, 0, params.in_d - 1);
    let h = clamp(ih, 0, params.in_h - 1);
    let base = ((channel * params.in_d + d) * params.in_h + h) * params.in_w;
    var r = vec4<f32>(0.0);
    for (var k = 0; k < 4; k++) {
        let value = f32(x[base + clamp(iw + k, 0, params.in_w - 1)]);
        r[k] = select(0.0, value, inside && iw + k >= 0 && iw + k < params.in_w);
    }
    return vec4<f32>(r.x - r.z, r.y + r.z, r.z - r.y, r.y - r.w);
}

fn plane(channel: i32, id: i32, ih: i32, iw: i32) -> Quad {
    return transform(Quad(
        row(channel, id, ih, iw),
        row(channel, id, ih + 1, iw),
        row(channel, id, ih + 2, iw),
        row(channel, id, ih + 3, iw),
    ));
}

fn write(at: u32, step: u32, value: vec4<f32>) {
    v[at] = value.x;
    v[at + step] = value.y;
    v[at + 2u * step] = value.z;
    v[at + 3u * step] = value.w;
}

// Writes one value along h and w of the transformed planes: all four along d.
fn column(at: u32, step: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    let q = transform(Quad(a, b, c, d));
    write(at, step, q.a);
    write(at + 16u * step, step, q.b);
    write(at + 32u * step, step, q.c);
    write(at + 48u * step, step, q.d);
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let local = flat_index(global, groups, 64u);
    if local >= params.stride {
        return;
    }
    let step = params.channels * params.stride;
    let at = (params.first_channel + group.z) * params.stride + local;
    if local >= params.count {
        for (var p = 0u; p < 64u; p++) {
            v[at + p * step] = 0.0;
        }
        return;
    }
    let tile = params.first + local;
    let id = i32(tile / (params.tiles_h * params.tiles_w)) * 2 - params.pad_d;
    let ih = i32(tile / params.tiles_w % params.tiles_h) * 2 - params.pad_h;
    let iw = i32(tile % params.tiles_w) * 2 - params.pad_w;
    let channel = i32(params.first_plane + group.z);
    let p0 = plane(channel, id, ih, iw);
    let p1 = plane(channel, id + 1, ih, iw);
    let p2 = plane(channel, id + 2, ih, iw);
    let p3 = plane(channel, id + 3, ih, iw);
    column(at, step, p0.a, p1.a, p2.a, p3.a);
    column(at + 4u * step, step, p0.b, p1.b, p2.b, p3.b);
    column(at + 8u * step, step, p0.c, p1.c, p2.c, p3.c);
    column(at + 12u * step, step, p0.d, p1.d, p2.d, p3.d);
}
