// resample: y(o) = x interpolated at the input coordinate M (o, 1) + u(o).
// Inputs: x [D, H, W] f32; with DEFORMED also rows [3, D', H', points] f32, the displacement lattice already
// contracted along d and h (augment/lattice_rows.wgsl): u(d, h, w) = sum_k B_k(w) rows[., d, h, k].
// Output: y [D', H', W'] f32. M stands in fixed point (lib/fixed_point.wgsl): row a of the matrix is
// whole_a + part_a * 2^-32.
// NEAREST: floor(coordinate + 0.5). CUBIC: Keys 1981, a = -0.5, 64 taps. Else linear, 8 taps.
// ZERO: samples outside [0, n - 1] are `outside` (scipy, mode constant). Else samples outside
// [-0.5, n - 0.5) are `outside` (ITK), with MIRROR but for those at most mirror_low or mirror_high voxels further out,
// which are made where they lie mirrored at that face. Taps beyond the grid repeat the edge.
// One invocation an output voxel. Cost: about 30, 60 or 300 flops and, from cache, 8 bytes a voxel.
#import "lib/index.wgsl"
#import "lib/fixed_point.wgsl"
#ifdef DEFORMED
#import "lib/bspline.wgsl"
#endif

struct Params {
    in_shape: vec4<u32>,
    out_shape: vec4<u32>,
    whole_d: vec4<u32>,
    whole_h: vec4<u32>,
    whole_w: vec4<u32>,
    part_d: vec4<u32>,
    part_h: vec4<u32>,
    part_w: vec4<u32>,
#ifdef MIRROR
    mirror_low: vec4<u32>,
    mirror_high: vec4<u32>,
#endif
    n: u32,
    outside: f32,
    points: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;
#ifdef DEFORMED
@group(0) @binding(3) var<storage, read> rows: array<f32>;

fn displaced(at: Coordinate, axis: u32, index: vec3<u32>, spline: Spline) -> Coordinate {
    let row = (axis * params.out_shape.x + index.x) * params.out_shape.y + index.y;
    let first = row * params.points + spline.first;
    let taps = vec4<f32>(rows[first], rows[first + 1u], rows[first + 2u], rows[first + 3u]);
    let moved = at.part + dot(taps, spline.weights);
    let whole = floor(moved);
    return Coordinate(at.whole + i32(whole), moved - whole);
}
#endif

// Whether a coordinate lies beyond the lower face of voxel 0, or before the upper face of voxel `last`.
fn after_low_face(whole: i32, part: f32) -> bool {
    return whole >= 0 || (whole == -1 && part >= 0.5);
}

fn before_high_face(whole: i32, part: f32, last: i32) -> bool {
    return whole < last || (whole == last && part < 0.5);
}

fn inside(at: Coordinate, n: u32) -> bool {
    let last = i32(n) - 1;
#ifdef ZERO
    return at.whole >= 0 && (at.whole < last || (at.whole == last && at.part == 0.0));
#else
    return after_low_face(at.whole, at.part) && before_high_face(at.whole, at.part, last);
#endif
}

#ifdef MIRROR
fn mirrored(at: Coordinate, axis: u32) -> Coordinate {
    let last = i32(params.in_shape[axis]) - 1;
    let low = i32(params.mirror_low[axis]);
    let high = i32(params.mirror_high[axis]);
    // -at
    let whole = select(-1 - at.whole, -at.whole, at.part == 0.0);
    let part = select(1.0 - at.part, 0.0, at.part == 0.0);
    if !after_low_face(at.whole, at.part) && after_low_face(at.whole + low, at.part) {
        return Coordinate(whole - 1, part);
    }
    if !before_high_face(at.whole, at.part, last) && before_high_face(at.whole - high, at.part, last) {
        // The face itself belongs to the voxel within it.
        return Coordinate(whole + 2 * last + 1, select(part, 0.0, at.whole == last && part == 0.5));
    }
    return at;
}
#endif

fn tap(whole: i32, n: u32) -> u32 {
    return u32(clamp(whole, 0, i32(n) - 1));
}

fn voxel(d: u32, h: u32, w: u32) -> f32 {
    return x[(d * params.in_shape.y + h) * params.in_shape.z + w];
}

#ifdef CUBIC
fn keys(t: f32) -> vec4<f32> {
    return vec4<f32>(
        t * (t * (1.0 - 0.5 * t) - 0.5),
        1.0 + t * t * (1.5 * t - 2.5),
        t * (0.5 + t * (2.0 - 1.5 * t)),
        t * t * (0.5 * t - 0.5),
    );
}
#endif

// Not `mix`, which rounds where a = b: a constant stays exactly itself.
fn between(a: f32, b: f32, t: f32) -> f32 {
    return a + (b - a) * t;
}

fn interpolate(d: Coordinate, h: Coordinate, w: Coordinate) -> f32 {
    let shape = params.in_shape;
#ifdef NEAREST
    return voxel(
        tap(d.whole + select(0, 1, d.part >= 0.5), shape.x),
        tap(h.whole + select(0, 1, h.part >= 0.5), shape.y),
        tap(w.whole + select(0, 1, w.part >= 0.5), shape.z),
    );
#else
#ifdef CUBIC
    var weights_d = keys(d.part);
    var weights_h = keys(h.part);
    let weights_w = keys(w.part);
    let w0 = tap(w.whole - 1, shape.z);
    let w1 = tap(w.whole, shape.z);
    let w2 = tap(w.whole + 1, shape.z);
    let w3 = tap(w.whole + 2, shape.z);
    var sum = 0.0;
    for (var kd = 0; kd < 4; kd++) {
        let td = tap(d.whole + kd - 1, shape.x);
        for (var kh = 0; kh < 4; kh++) {
            let th = tap(h.whole + kh - 1, shape.y);
            let taps = vec4<f32>(voxel(td, th, w0), voxel(td, th, w1), voxel(td, th, w2), voxel(td, th, w3));
            sum += weights_d[kd] * weights_h[kh] * dot(taps, weights_w);
        }
    }
    return sum;
#else
    let d0 = tap(d.whole, shape.x);
    let d1 = tap(d.whole + 1, shape.x);
    let h0 = tap(h.whole, shape.y);
    let h1 = tap(h.whole + 1, shape.y);
    let w0 = tap(w.whole, shape.z);
    let w1 = tap(w.whole + 1, shape.z);
    let row00 = between(voxel(d0, h0, w0), voxel(d0, h0, w1), w.part);
    let row01 = between(voxel(d0, h1, w0), voxel(d0, h1, w1), w.part);
    let row10 = between(voxel(d1, h0, w0), voxel(d1, h0, w1), w.part);
    let row11 = between(voxel(d1, h1, w0), voxel(d1, h1, w1), w.part);
    return between(between(row00, row01, h.part), between(row10, row11, h.part), d.part);
#endif
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        // Remainders from the quotients: a processor divides lane by lane.
        let row = i / params.out_shape.z;
        let plane = row / params.out_shape.y;
        let index = vec3<u32>(plane, row - plane * params.out_shape.y, i - row * params.out_shape.z);
        var d = affine_coordinate(params.whole_d, params.part_d, index);
        var h = affine_coordinate(params.whole_h, params.part_h, index);
        var w = affine_coordinate(params.whole_w, params.part_w, index);
#ifdef DEFORMED
        let spline = spline_at(index.z, params.out_shape.z, params.points);
        d = displaced(d, 0u, index, spline);
        h = displaced(h, 1u, index, spline);
        w = displaced(w, 2u, index, spline);
#endif
#ifdef MIRROR
        d = mirrored(d, 0u);
        h = mirrored(h, 1u);
        w = mirrored(w, 2u);
#endif
        var value = params.outside;
        if inside(d, params.in_shape.x) && inside(h, params.in_shape.y) && inside(w, params.in_shape.z) {
            value = interpolate(d, h, w);
        }
        y[i] = value;
    }
}
