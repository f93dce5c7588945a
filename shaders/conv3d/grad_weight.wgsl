// conv3d_grad_weight: partial sums of the gradient by the weights over one chunk of output rows.
//   dweight[co,ci,k] = sum_{n,o} dy[n,co,o] * x[n,ci,o*stride+k*dilation-pad]
// Inputs: x [N][in voxels][CI4] vec4<f32>, dy [N][out voxels][tiles of output channels][GROUPS] vec4<f32>, an array a tile
// since constant indices cost no instruction (channels_last.wgsl).
// Output: sums [chunk][rows * row_channels * taps] f32 in the layout of the weights; reduce.wgsl adds the chunks.
// Threads: workgroup x = 64 of the c_in * kd * kh pairs (channel fastest, so that lanes read neighbours);
// workgroup y = tile of 4 GROUPS output channels; workgroup z = chunk of rows (n, od, oh). The address of dy is the
// same for the whole workgroup. KW taps (1 to 7 by loop, 3 unrolled with a sliding window when SLIDE, over STEP voxels of a
// row at a time: rows are a multiple of them).
// Cost: 2 flops per weight and output voxel; sums stay in registers, no atomics, so that reruns are bit-equal.
#import "lib/conv_grad_weight.wgsl"

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<array<vec4<f32>, GROUPS>>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

// Writes the sums of 4 output channels for one tap.
fn store(chunk: u32, channel: u32, ci: u32, tap: u32, value: vec4<f32>) {
    for (var c = 0u; c < 4u; c++) {
        if channel + c < params.c_out {
            sums[chunk * params.weights + weight_at(channel + c, ci, tap)] = value[c];
        }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let pair = global.x;
    let ci = pair % params.c_in;
    let kh = i32(pair / params.c_in % params.kh);
    let kd = i32(pair / (params.c_in * params.kh));
    if kd >= i32(params.kd) {
        return;
    }
    let x_stride = (params.c_in + 3u) / 4u * 4u;
    let dy_stride = (params.c_out + 4u * GROUPS - 1u) / (4u * GROUPS);
    let channel = group.y * 4u * GROUPS;
    let rows = params.batch * u32(params.out_d * params.out_h);
    let first_row = group.z * params.rows_per_chunk;
    let end_row = min(first_row + params.rows_per_chunk, rows);
    let chunk = params.first_chunk + group.z;
#ifdef SLIDE
    var a00 = vec4<f32>(0.0);
#ifdef WIDE2
    var a01 = vec4<f32>(0.0);
#endif
#ifdef WIDE4
    var a02 = vec4<f32>(0.0);
    var a03 = vec4<f32>(0.0);
#endif
    var a10 = vec4<f32>(0.0);
#ifdef WIDE2
    var a11 = vec4<f32>(0.0);
#endif
#ifdef WIDE4
    var a12 = vec4<f32>(0.0);
    var a13 = vec4<f32>(0.0);
#endif
    var a20 = vec4<f32>(0.0);
#ifdef WIDE2
    var a21 = vec4<f32>(0.0);
#endif
#ifdef WIDE4
    var a22 = vec4<f32>(0.0);
    var a23 = vec4<f32>(0.0);
#endif
    for (var row = first_row; row < end_row; row++) {
        let oh = i32(row % u32(params.out_h));
        let od = i32(row / u32(params.out_h) % u32(params.out_d));
        let n = row / u32(params.out_h * params.out_d);
        let ih = oh + kh * params.dilation_h - params.pad_h;
        let id = od + kd * params.dilation_d - params.pad_d;
        let inside = id >= 0 && id < params.in_d && ih >= 0 && ih < params.in_h;
        let in_row = (i32(n) * params.in_d + clamp(id, 0, params.in_d - 1)) * params.in_h + clamp(ih, 0, params.in_h - 1);
        let x_row = u32(in_row * params.in_w) * x_stride + ci;
        var dy_at = row * u32(params.out_w) * dy_stride + group.y;
        let last_column = u32(params.in_w) - 1u;
        // Window x0 x1 x2 slides along the row; a column outside the input is 0.
        let first = -params.pad_w;
        var x0 = select(0.0, x[x_row + u32(max(first, 0)) * x_stride], inside && first >= 0);
        var x1 = select(0.0, x[x_row + u32(clamp(first + 1, 0, params.in_w - 1)) * x_stride],
            inside && first + 1 >= 0 && first + 1 < params.in_w);
        for (var ow = 0; ow < params.out_w; ow += i32(STEP)) {
            for (var step = 0; step < i32(STEP); step++) {
                // A column before the row is beyond its end as well, as an unsigned number.
                let iw = u32(ow + step + 2 - params.pad_w);
                let x2 = select(0.0, x[x_row + min(iw, last_column) * x_stride], inside && iw <= last_column);
                let d0 = dy[dy_at][0];
                a00 = fma(vec4<f32>(x0), d0, a00);
                a10 = fma(vec4<f32>(x1), d0, a10);
                a20 = fma(vec4<f32>(x2), d0, a20);
#ifdef WIDE2
                let d1 = dy[dy_at][1];
                a01 = fma(vec4<f32>(x0), d1, a01);
                a11 = fma(vec4<f32>(x1), d1, a11);
                a21 = fma(vec4<f32>(x2), d1, a21);
#endif
#ifdef WIDE4
                let d2 = dy[dy_at][2];
                a02 = fma(vec4<f32>(x0), d2, a02);
                a12 = fma(vec4<f32>(x1), d2, a12);
                a22 = fma(vec4<f32>(x2), d2, a22);
                let d3 = dy[dy_at][3];
                a03 = fma(vec4<f32>(x0), d3, a03);
                a13 = fma(vec4<f32>(x1), d3, a13);
                a23 = fma(vec4<f32>(x2), d3, a23);
#endif
                x0 = x1;
                x1 = x2;
                dy_at += dy_stride;
            }
        }
    }
    let tap = (u32(kd) * params.kh + u32(kh)) * 3u;
    store(chunk, channel + 0u, ci, tap + 0u, a00);
#ifdef WIDE2
    store(chunk, channel + 4u, ci, tap + 0u, a01);
#endif
#ifdef WIDE4
    store(chunk, channel + 8u, ci, tap + 0u, a02);
    store(chunk, channel + 12u, ci, tap + 0u, a03);
#endif
    store(chunk, channel + 0u, ci, tap + 1u, a10);
#ifdef WIDE2
    store(chunk, channel + 4u, ci, tap + 1u, a11);
#endif
#ifdef WIDE4
    store(chunk, channel + 8u, ci, tap + 1u, a12);
    store(chunk, channel + 12u, ci, tap + 1u, a13);
#endif
    store(chunk, channel + 0u, ci, tap + 2u, a20);
#ifdef WIDE2
    store(chunk, channel + 4u, ci, tap + 2u, a21);
#endif
#ifdef WIDE4
    store(chunk, channel + 8u, ci, tap + 2u, a22);
    store(chunk, channel + 12u, ci, tap + 2u, a23);
#endif
#else
    for (var kw = 0; kw < i32(params.kw); kw++) {
        var a0 = vec4<f32>(0.0);
#ifdef WIDE2
        var a1 = vec4<f32>(0.0);
#endif
#ifdef WIDE4
        var a2 = vec4<f32>(0.0);
        var a3 = vec4<f32>(0.0);
#endif
        for (var row = first_row; row < end_row; row++) {
            let oh = i32(row % u32(params.out_h));
            let od = i32(row / u32(params.out_h) % u32(params.out_d));
            let n = row / u32(params.out_h * params.out_d);
            let ih = oh * params.stride_h + kh * params.dilation_h - params.pad_h;
            let id = od * params.stride_d + kd * params.dilation_d - params.pad_d;
            let inside = id >= 0 && id < params.in_d && ih >= 0 && ih < params.in_h;
            let in_row = (i32(n) * params.in_d + clamp(id, 0, params.in_d - 1)) * params.in_h + clamp(ih, 0, params.in_h - 1);
            let x_row = u32(in_row * params.in_w) * x_stride + ci;
            var dy_at = row * u32(params.out_w) * dy_stride + group.y;
            for (var ow = 0; ow < params.out_w; ow++) {
                let iw = ow * params.stride_w + kw * params.dilation_w - params.pad_w;
                let value = vec4<f32>(select(0.0, x[x_row + u32(clamp(iw, 0, params.in_w - 1)) * x_stride],
                    inside && iw >= 0 && iw < params.in_w));
                a0 = fma(value, dy[dy_at][0], a0);
#ifdef WIDE2
                a1 = fma(value, dy[dy_at][1], a1);
#endif
#ifdef WIDE4
                a2 = fma(value, dy[dy_at][2], a2);
                a3 = fma(value, dy[dy_at][3], a3);
#endif
                dy_at += dy_stride;
            }
        }
        let tap = (u32(kd) * params.kh + u32(kh)) * params.kw + u32(kw);
        store(chunk, channel + 0u, ci, tap, a0);
#ifdef WIDE2
        store(chunk, channel + 4u, ci, tap, a1);
#endif
#ifdef WIDE4
        store(chunk, channel + 8u, ci, tap, a2);
        store(chunk, channel + 12u, ci, tap, a3);
#endif
    }
#endif
}
