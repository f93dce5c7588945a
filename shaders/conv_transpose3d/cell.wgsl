// conv_transpose3d, cell: stride 2, kernel 2 or 3 (K3), nothing cropped before: each invocation computes the 2x2x2
// outputs of one cell x 4 output channels.
//   y[n,co,2i+k] += x[n,ci,i] * weight[ci,co,k]; output 2j of an axis takes taps 0 of x[j] and 2 of x[j-1], output
//   2j+1 takes tap 1 of x[j].
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co/4][c_in][kd][kh][kw][4] f32 (conv3d/pack.wgsl, SWAP).
// Output: y [N, c_out, OD, OH, OW] Element, OD <= 2 D + 1 and so on.
// Threads: global x (folded on to y) = cell; workgroup z = n * (c_out / 4) + channel quad. No workgroup memory.
// Cost: 2 c_in K^3 / 8 flops an output element.
#import "lib/conv_output.wgsl"
#import "lib/index.wgsl"

struct Params {
    c_in: u32,
    c_out: u32,
    in_d: i32,
    in_h: i32,
    in_w: i32,
    out_d: i32,
    out_h: i32,
    out_w: i32,
    negative_slope: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;

fn store(channel: u32, base: u32, d: i32, h: i32, w: i32, value: vec4<f32>) {
    if d >= params.out_d || h >= params.out_h || w >= params.out_w {
        return;
    }
    let volume = u32(params.out_d * params.out_h * params.out_w);
    let voxel = u32((d * params.out_h + h) * params.out_w + w);
    for (var c = 0u; c < 4u; c++) {
        if channel + c < params.c_out {
            store_voxel(channel + c, base + (channel + c) * volume + voxel, value[c]);
        }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let cell = i32(flat_index(global, groups, 64u));
    let cells_h = (params.out_h + 1) / 2;
    let cells_w = (params.out_w + 1) / 2;
    let d = cell / (cells_w * cells_h);
    if d >= (params.out_d + 1) / 2 {
        return;
    }
    let h = cell / cells_w % cells_h;
    let w = cell % cells_w;
    let quads = (params.c_out + 3u) / 4u;
    let n = group.z / quads;
    let quad = group.z % quads;

    // Neighbours at j and j-1 along each axis: clamped, so that every load is in bounds, with a flag for the real ones.
    let d1 = d < params.in_d;
    let h1 = h < params.in_h;
    let w1 = w < params.in_w;
    let row11 = (min(d, params.in_d - 1) * params.in_h + min(h, params.in_h - 1)) * params.in_w;
    let at1 = min(w, params.in_w - 1);
#ifdef K3
    let d0 = d > 0;
    let h0 = h > 0;
    let w0 = w > 0;
    let row01 = (max(d - 1, 0) * params.in_h + min(h, params.in_h - 1)) * params.in_w;
    let row10 = (min(d, params.in_d - 1) * params.in_h + max(h - 1, 0)) * params.in_w;
    let row00 = (max(d - 1, 0) * params.in_h + max(h - 1, 0)) * params.in_w;
    let at0 = max(w - 1, 0);
#endif
    var a000 = vec4<f32>(0.0);
    var a001 = vec4<f32>(0.0);
    var a010 = vec4<f32>(0.0);
    var a011 = vec4<f32>(0.0);
    var a100 = vec4<f32>(0.0);
    var a101 = vec4<f32>(0.0);
    var a110 = vec4<f32>(0.0);
    var a111 = vec4<f32>(0.0);
    let volume = u32(params.in_d * params.in_h * params.in_w);
    var base = n * params.c_in * volume;
#ifdef K3
    var at = quad * params.c_in * 27u;
#else
    var at = quad * params.c_in * 8u;
#endif
    for (var ci = 0u; ci < params.c_in; ci++) {
        let x111 = vec4<f32>(select(0.0, f32(x[base + u32(row11 + at1)]), d1 && h1 && w1));
#ifdef K3
        let x000 = vec4<f32>(select(0.0, f32(x[base + u32(row00 + at0)]), d0 && h0 && w0));
        let x001 = vec4<f32>(select(0.0, f32(x[base + u32(row00 + at1)]), d0 && h0 && w1));
        let x010 = vec4<f32>(select(0.0, f32(x[base + u32(row01 + at0)]), d0 && h1 && w0));
        let x011 = vec4<f32>(select(0.0, f32(x[base + u32(row01 + at1)]), d0 && h1 && w1));
        let x100 = vec4<f32>(select(0.0, f32(x[base + u32(row10 + at0)]), d1 && h0 && w0));
        let x101 = vec4<f32>(select(0.0, f32(x[base + u32(row10 + at1)]), d1 && h0 && w1));
        let x110 = vec4<f32>(select(0.0, f32(x[base + u32(row11 + at0)]), d1 && h1 && w0));
        a000 = fma(x111, weight[at + 0u], a000);
        a001 = fma(x111, weight[at + 1u], a001);
        a000 = fma(x110, weight[at + 2u], a000);
        a010 = fma(x111, weight[at + 3u], a010);
        a011 = fma(x111, weight[at + 4u], a011);
        a010 = fma(x110, weight[at + 5u], a010);
        a000 = fma(x101, weight[at + 6u], a000);
        a001 = fma(x101, weight[at + 7u], a001);
        a000 = fma(x100, weight[at + 8u], a000);
        a100 = fma(x111, weight[at + 9u], a100);
        a101 = fma(x111, weight[at + 10u], a101);
        a100 = fma(x110, weight[at + 11u], a100);
        a110 = fma(x111, weight[at + 12u], a110);
        a111 = fma(x111, weight[at + 13u], a111);
        a110 = fma(x110, weight[at + 14u], a110);
        a100 = fma(x101, weight[at + 15u], a100);
        a101 = fma(x101, weight[at + 16u], a101);
        a100 = fma(x100, weight[at + 17u], a100);
        a000 = fma(x011, weight[at + 18u], a000);
        a001 = fma(x011, weight[at + 19u], a001);
        a000 = fma(x010, weight[at + 20u], a000);
        a010 = fma(x011, weight[at + 21u], a010);
        a011 = fma(x011, weight[at + 22u], a011);
        a010 = fma(x010, weight[at + 23u], a010);
        a000 = fma(x001, weight[at + 24u], a000);
        a001 = fma(x001, weight[at + 25u], a001);
        a000 = fma(x000, weight[at + 26u], a000);
        at += 27u;
#else
        a000 = fma(x111, weight[at + 0u], a000);
        a001 = fma(x111, weight[at + 1u], a001);
        a010 = fma(x111, weight[at + 2u], a010);
        a011 = fma(x111, weight[at + 3u], a011);
        a100 = fma(x111, weight[at + 4u], a100);
        a101 = fma(x111, weight[at + 5u], a101);
        a110 = fma(x111, weight[at + 6u], a110);
        a111 = fma(x111, weight[at + 7u], a111);
        at += 8u;
#endif
        base += volume;
    }

    let out_base = n * params.c_out * u32(params.out_d * params.out_h * params.out_w);
    store(quad * 4u, out_base, 2 * d, 2 * h, 2 * w, a000);
    store(quad * 4u, out_base, 2 * d, 2 * h, 2 * w + 1, a001);
    store(quad * 4u, out_base, 2 * d, 2 * h + 1, 2 * w, a010);
    store(quad * 4u, out_base, 2 * d, 2 * h + 1, 2 * w + 1, a011);
    store(quad * 4u, out_base, 2 * d + 1, 2 * h, 2 * w, a100);
    store(quad * 4u, out_base, 2 * d + 1, 2 * h, 2 * w + 1, a101);
    store(quad * 4u, out_base, 2 * d + 1, 2 * h + 1, 2 * w, a110);
    store(quad * 4u, out_base, 2 * d + 1, 2 * h + 1, 2 * w + 1, a111);
}
