// conv3d_grad_weight by Winograd's F(4x4, 3x3) along h and w, second of four kernels: takes 4x4 tiles of the gradient by the
// output to the 36 points, by the transpose of what takes the products of the forward pass back.
//   v[p][co][t] = sum_{j,k} A[j][a] A[k][b] dy[co, d, 4 th + j, 4 tw + k], p = 6 a + b
// A has the rows (1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1): Lavin and Gray 2016.
// Input: dy [..., OD, OH, OW] f32, of which the channels from first_plane on; zero beyond a plane.
// Output: v [36][channels/16][stride][16] f32, its channels from first_channel on. Sample t is tile first + t % span of
// plane first_d + t / span; tiles from `count` on are set to zero.
// Threads: global x (folded on to y) = t < total; workgroup z = channel. No workgroup memory.
// Cost: 16 loads, 36 stores and about 110 flops for 16 voxels.
#import "lib/index.wgsl"
#import "lib/winograd_hw.wgsl"
#import "lib/winograd_points.wgsl"

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
    first_channel: u32,
    first_plane: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> v: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

// A along w: the six points of four voxels of a row.
fn row(plane: u32, h: u32, w: u32) -> mat2x3<f32> {
    let base = plane + min(h, params.out_h - 1u) * params.out_w;
    var q = vec4<f32>(0.0);
    for (var k = 0u; k < 4u; k++) {
        let inside = h < params.out_h && w + k < params.out_w;
        q[k] = select(0.0, dy[base + min(w + k, params.out_w - 1u)], inside);
    }
    let even = q.x + q.z;
    let odd = q.y + q.w;
    let far_even = q.x + 4.0 * q.z;
    let far_odd = 2.0 * q.y + 8.0 * q.w;
    return mat2x3<f32>(
        vec3<f32>(q.x, even + odd, even - odd),
        vec3<f32>(far_even + far_odd, far_even - far_odd, q.w),
    );
}

// A along h, for three points along w.
fn transform(a: vec3<f32>, b: vec3<f32>, c: vec3<f32>, d: vec3<f32>) -> Six {
    let even = a + c;
    let odd = b + d;
    let far_even = a + 4.0 * c;
    let far_odd = 2.0 * b + 8.0 * d;
    return Six(a, even + odd, even - odd, far_even + far_odd, far_even - far_odd, d);
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
    let start = window_start(t);
    let plane = ((params.first_plane + group.z) * params.out_d + start.x) * params.out_h * params.out_w;
    let r0 = row(plane, start.y, start.z);
    let r1 = row(plane, start.y + 1u, start.z);
    let r2 = row(plane, start.y + 2u, start.z);
    let r3 = row(plane, start.y + 3u, start.z);
    write_points(at, step, transform(r0[0], r1[0], r2[0], r3[0]));
    write_points(at + 3u * step, step, transform(r0[1], r1[1], r2[1], r3[1]));
}
