// First of the three kernels of conv3d by Winograd's F(4x4, 3x3) along h and w, and of the four of its gradient by the
// weights: transforms 6x6 windows of planes of the input.
//   v[p][ci][t] = sum_{j,k} B[a][j] B[b][k] x[ci, d - pd, 4 th + j - ph, 4 tw + k - pw], p = 6 a + b
// B has the rows (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
// (0, 4, 0, -5, 0, 1): Lavin and Gray 2016, points 0, 1, -1, 2, -2 and infinity.
// Input: x [..., D, H, W] Element, of which the channels from first_plane on.
// Output: v [36][channels][stride] f32, its channels from first_channel on; TILED: [36][channels/16][stride][16]. Sample t
// is window first + t % span of plane first_d + t / span; windows from `count` on are set to zero.
// Threads: global x (folded on to y) = t < total; workgroup z = channel. No workgroup memory.
// Cost: 36 loads, 36 stores and about 200 flops for 16 voxels.
#import "lib/element.wgsl"
#import "lib/index.wgsl"
#import "lib/winograd_hw.wgsl"
#import "lib/winograd_points.wgsl"

struct Params {
    in_d: i32,
    in_h: i32,
    in_w: i32,
    pad_d: i32,
    pad_h: i32,
    pad_w: i32,
    tiles_w: u32,
    first: u32,
    count: u32,
    span: u32,
    first_d: u32,
    total: u32,
    stride: u32,
    channels: u32,
    first_channel: u32,
    first_plane: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> v: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

// B along the axis that the six vectors lie on.
fn transform(a: vec3<f32>, b: vec3<f32>, c: vec3<f32>, d: vec3<f32>, e: vec3<f32>, f: vec3<f32>) -> Six {
    let even = e - 4.0 * c;
    let odd = d - 4.0 * b;
    let near = e - c;
    let far = 2.0 * (d - b);
    return Six(4.0 * a - 5.0 * c + e, even + odd, even - odd, near + far, near - far, 4.0 * b - 5.0 * d + f);
}

// Column iw of three rows from ih on, zero outside the plane.
fn column(plane: i32, inside: bool, ih: i32, iw: i32) -> vec3<f32> {
    let in_w = inside && iw >= 0 && iw < params.in_w;
    let at = clamp(iw, 0, params.in_w - 1);
    var value = vec3<f32>(0.0);
    for (var j = 0; j < 3; j++) {
        let h = ih + j;
        let voxel = f32(x[plane + clamp(h, 0, params.in_h - 1) * params.in_w + at]);
        value[j] = select(0.0, voxel, in_w && h >= 0 && h < params.in_h);
    }
    return value;
}

// Three rows from ih on, transformed along w.
fn rows(plane: i32, inside: bool, ih: i32, iw: i32) -> Six {
    return transform(
        column(plane, inside, ih, iw),
        column(plane, inside, ih, iw + 1),
        column(plane, inside, ih, iw + 2),
        column(plane, inside, ih, iw + 3),
        column(plane, inside, ih, iw + 4),
        column(plane, inside, ih, iw + 5),
    );
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let t = flat_index(global, groups, 64u);
    if t >= params.total {
        return;
    }
    let step = params.channels * params.stride;
    let at = place(params.first_channel + group.z, t, params.stride);
    if !is_window(t) {
        write_zeros(at, step);
        return;
    }
    let start = vec3<i32>(window_start(t));
    let id = start.x - params.pad_d;
    let ih = start.y - params.pad_h;
    let iw = start.z - params.pad_w;
    let inside = id >= 0 && id < params.in_d;
    let channel = i32(params.first_plane + group.z);
    let plane = (channel * params.in_d + clamp(id, 0, params.in_d - 1)) * params.in_h * params.in_w;
    let upper = rows(plane, inside, ih, iw);
    let lower = rows(plane, inside, ih + 3, iw);
    // From columns by point along w to rows by point along w.
    let u0 = transpose(mat3x3<f32>(upper.a, upper.b, upper.c));
    let l0 = transpose(mat3x3<f32>(lower.a, lower.b, lower.c));
    write_points(at, step, transform(u0[0], u0[1], u0[2], l0[0], l0[1], l0[2]));
    let u1 = transpose(mat3x3<f32>(upper.d, upper.e, upper.f));
    let l1 = transpose(mat3x3<f32>(lower.d, lower.e, lower.f));
    write_points(at + 3u * step, step, transform(u1[0], u1[1], u1[2], l1[0], l1[1], l1[2]));
}
