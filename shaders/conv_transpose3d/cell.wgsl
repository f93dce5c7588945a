// conv_transpose3d, cell: stride 2, kernel 2 or 3 (K3): each invocation computes the 2x2x2 outputs of each of CELLS cells
// along w x 4 output channels, so that a weight that is loaded serves all cells.
//   y[n,co,2i+k-pad] += x[n,ci,i] * weight[ci,co,k]; before `pad` is cropped, output 2j of an axis takes taps 0 of x[j] and 2
//   of x[j-1], output 2j+1 takes tap 1 of x[j].
// Inputs: x [N, c_in, D, H, W] Element; weight packed [co/4][c_in][kd][kh][kw][4] f32 (conv3d/pack.wgsl, SWAP).
// Output: y [N, c_out, OD, OH, OW] Element, OD + pad_d <= 2 D + 1 and so on.
// Threads: global x (folded on to y) = CELLS cells along w; workgroup z = n * (c_out / 4) + channel quad. No workgroup memory.
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
    pad_d: i32,
    pad_h: i32,
    pad_w: i32,
    negative_slope: f32,
}

#ifdef K3
const TAPS: u32 = 27u;
#else
const TAPS: u32 = 8u;
#endif

@group(0) @binding(0) var<storage, read> x: array<Element>;
// An array an input channel, since constant indices cost no instruction.
@group(0) @binding(1) var<storage, read> weight: array<array<vec4<f32>, TAPS>>;

// Writes an output, at its place before cropping, of 4 channels.
fn store(channel: u32, base: u32, uncropped: vec3<i32>, value: vec4<f32>) {
    let place = uncropped - vec3<i32>(params.pad_d, params.pad_h, params.pad_w);
    let extents = vec3<i32>(params.out_d, params.out_h, params.out_w);
    if any(place < vec3<i32>(0)) || any(place >= extents) {
        return;
    }
    let volume = u32(params.out_d * params.out_h * params.out_w);
    let voxel = u32((place.x * params.out_h + place.y) * params.out_w + place.z);
    for (var c = 0u; c < 4u; c++) {
        if channel + c < params.c_out {
            store_voxel(channel + c, base + (channel + c) * volume + voxel, value[c]);
        }
    }
}

// A row of the input, and whether the tensor has it.
struct Row {
    at: u32,
    inside: bool,
}

fn row_of(d: i32, h: i32) -> Row {
    let inside = d >= 0 && d < params.in_d && h >= 0 && h < params.in_h;
    let row = clamp(d, 0, params.in_d - 1) * params.in_h + clamp(h, 0, params.in_h - 1);
    return Row(u32(row * params.in_w), inside);
}

// What the cells read of a row: columns w to w + CELLS - 1 from index 1 on, and column w - 1 before them; zero outside.
fn columns(row: Row, base: u32, w: i32) -> array<f32, CELLS + 1u> {
    var values: array<f32, CELLS + 1u>;
    for (var i = 0u; i <= CELLS; i++) {
        let column = w + i32(i) - 1;
        let voxel = f32(x[base + row.at + u32(clamp(column, 0, params.in_w - 1))]);
        values[i] = select(0.0, voxel, row.inside && column >= 0 && column < params.in_w);
    }
    return values;
}

// Sums of an output of each cell with what a tap gives it, which reads the cell's own column or, with `first` 0, the one before.
fn plus(sums: array<vec4<f32>, CELLS>, row: array<f32, CELLS + 1u>, first: u32, tap: vec4<f32>) -> array<vec4<f32>, CELLS> {
    var result = sums;
    var values = row;
    for (var i = 0u; i < CELLS; i++) {
        result[i] = fma(vec4<f32>(values[first + i]), tap, result[i]);
    }
    return result;
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let block = i32(flat_index(global, groups, 64u));
    let cells_h = (params.out_h + params.pad_h + 1) / 2;
    let blocks_w = ((params.out_w + params.pad_w + 1) / 2 + i32(CELLS) - 1) / i32(CELLS);
    let d = block / (blocks_w * cells_h);
    if d >= (params.out_d + params.pad_d + 1) / 2 {
        return;
    }
    let h = block / blocks_w % cells_h;
    let w = block % blocks_w * i32(CELLS);
    let quads = (params.c_out + 3u) / 4u;
    let n = group.z / quads;
    let quad = group.z % quads;

    let row11 = row_of(d, h);
#ifdef K3
    let row01 = row_of(d - 1, h);
    let row10 = row_of(d, h - 1);
    let row00 = row_of(d - 1, h - 1);
#endif
    // Output 4 i + 2 j + k of a cell lies i, j and k voxels behind its first one.
    var sums: array<array<vec4<f32>, CELLS>, 8>;
    let volume = u32(params.in_d * params.in_h * params.in_w);
    var base = n * params.c_in * volume;
    var at = quad * params.c_in;
    for (var ci = 0u; ci < params.c_in; ci++) {
        let c11 = columns(row11, base, w);
#ifdef K3
        let c10 = columns(row10, base, w);
        let c01 = columns(row01, base, w);
        let c00 = columns(row00, base, w);
        sums[0] = plus(sums[0], c11, 1u, weight[at][0]);
        sums[1] = plus(sums[1], c11, 1u, weight[at][1]);
        sums[0] = plus(sums[0], c11, 0u, weight[at][2]);
        sums[2] = plus(sums[2], c11, 1u, weight[at][3]);
        sums[3] = plus(sums[3], c11, 1u, weight[at][4]);
        sums[2] = plus(sums[2], c11, 0u, weight[at][5]);
        sums[0] = plus(sums[0], c10, 1u, weight[at][6]);
        sums[1] = plus(sums[1], c10, 1u, weight[at][7]);
        sums[0] = plus(sums[0], c10, 0u, weight[at][8]);
        sums[4] = plus(sums[4], c11, 1u, weight[at][9]);
        sums[5] = plus(sums[5], c11, 1u, weight[at][10]);
        sums[4] = plus(sums[4], c11, 0u, weight[at][11]);
        sums[6] = plus(sums[6], c11, 1u, weight[at][12]);
        sums[7] = plus(sums[7], c11, 1u, weight[at][13]);
        sums[6] = plus(sums[6], c11, 0u, weight[at][14]);
        sums[4] = plus(sums[4], c10, 1u, weight[at][15]);
        sums[5] = plus(sums[5], c10, 1u, weight[at][16]);
        sums[4] = plus(sums[4], c10, 0u, weight[at][17]);
        sums[0] = plus(sums[0], c01, 1u, weight[at][18]);
        sums[1] = plus(sums[1], c01, 1u, weight[at][19]);
        sums[0] = plus(sums[0], c01, 0u, weight[at][20]);
        sums[2] = plus(sums[2], c01, 1u, weight[at][21]);
        sums[3] = plus(sums[3], c01, 1u, weight[at][22]);
        sums[2] = plus(sums[2], c01, 0u, weight[at][23]);
        sums[0] = plus(sums[0], c00, 1u, weight[at][24]);
        sums[1] = plus(sums[1], c00, 1u, weight[at][25]);
        sums[0] = plus(sums[0], c00, 0u, weight[at][26]);
#else
        sums[0] = plus(sums[0], c11, 1u, weight[at][0]);
        sums[1] = plus(sums[1], c11, 1u, weight[at][1]);
        sums[2] = plus(sums[2], c11, 1u, weight[at][2]);
        sums[3] = plus(sums[3], c11, 1u, weight[at][3]);
        sums[4] = plus(sums[4], c11, 1u, weight[at][4]);
        sums[5] = plus(sums[5], c11, 1u, weight[at][5]);
        sums[6] = plus(sums[6], c11, 1u, weight[at][6]);
        sums[7] = plus(sums[7], c11, 1u, weight[at][7]);
#endif
        at++;
        base += volume;
    }

    let out_base = n * params.c_out * u32(params.out_d * params.out_h * params.out_w);
    for (var i = 0u; i < CELLS; i++) {
        for (var k = 0u; k < 8u; k++) {
            let offset = vec3<i32>(vec3<u32>(k / 4u, k / 2u % 2u, k % 2u));
            store(quad * 4u, out_base, 2 * vec3<i32>(d, h, w + i32(i)) + offset, sums[k][i]);
        }
    }
}
