// conv3d as an implicit matrix product on cooperative matrices: Y[voxel, co] = sum_k X[voxel, k] W[k, co] with f16
// factors and f32 sums, k = (16 input channels, kd, kh, kw, channel of the 16).
//   y[n,co,d,h,w] = act(bias[co] + sum_{ci,kd,kh,kw} x[n,ci,d+kd-pd,h+kh-ph,w+kw-pw] * weight[co,ci,kd,kh,kw])
// Stride 1, dilation 1, any kernel whose halo fits; padding before each axis is free.
// Inputs: x [N, c_in, D, H, W] f16; weight packed [co/T][ci/16][KD KH KW][16][T] f16, T = TILE GROUPS (pack_coop.wgsl).
// Output: y [N, c_out, OD, OH, OW] f16. ACCUMULATE adds to y (second input of a two-input convolution).
// Threads: workgroup x (folded on to y) = 2 x 4 x 16 voxels (d, h, w), workgroup z = n * (c_out / T) + channel tile.
// SUBGROUPS subgroups of SUBGROUP invocations, each 4 runs of TILE voxels along w x GROUPS tiles of channels; where an
// adapter makes them smaller than that, two compute the same.
// Workgroup memory: 16 channels of the input tile with its halo, channels innermost, so that a tap is another row of the
// same matrix (13,824 bytes for 3 x 3 x 3), and a tile of sums a subgroup (2,048 bytes at most).
// Why: matrix units multiply several times as fast as the others; a load of 4 + GROUPS matrices feeds 4 GROUPS products.
// Defines: TILE8 or TILE16, GROUPS 1 or 2 (WIDE2), SUBGROUP.
// Cost: 2 ceil16(c_in) KD KH KW flops a voxel and channel; registers hold 4 TILE GROUPS TILE sums a subgroup.
#import "lib/conv_dense.wgsl"
#import "lib/coop.wgsl"

@group(0) @binding(1) var<storage, read> weight: array<f16>;

const TILE_D: u32 = 2u;
const TILE_H: u32 = 4u;
const TILE_W: u32 = 16u;
// Input channels a round.
const DEPTH: u32 = 16u;
const HALO_H: u32 = TILE_H + KH - 1u;
const HALO_W: u32 = TILE_W + KW - 1u;
const HALO: u32 = (TILE_D + KD - 1u) * HALO_H * HALO_W;
// Runs of TILE voxels along w, side by side.
const RUNS_W: u32 = TILE_W / TILE;
// Each takes 4 runs.
const SUBGROUPS: u32 = TILE_D * TILE_H * RUNS_W / 4u;
const WORKGROUP: u32 = SUBGROUPS * SUBGROUP;
const AREA: u32 = TILE * TILE;
// Columns of the packed weights.
const COLUMNS: u32 = TILE * GROUPS;

var<workgroup> wg_x: array<f16, HALO * DEPTH>;
var<workgroup> wg_y: array<f32, SUBGROUPS * AREA>;

// First voxel (d, h, w) of a run within the tile.
fn run_start(run: u32) -> vec3<u32> {
    return vec3<u32>(run / (RUNS_W * TILE_H), run / RUNS_W % TILE_H, run % RUNS_W * TILE);
}

// Offset in wg_x of the first channel of a run's first voxel, seen through the first tap.
fn run_offset(run: u32) -> u32 {
    let start = run_start(run);
    return ((start.x * HALO_H + start.y) * HALO_W + start.z) * DEPTH;
}

// Where a workgroup's outputs go: sample, first channel, first voxel.
struct Place {
    n: u32,
    channel: u32,
    first: vec3<i32>,
}

// Writes the m-th run of every part, for the channels from `column` of the workgroup's on: `sums` is that of this
// subgroup's part, and each of its columns (a channel) becomes a row of voxels in memory.
fn store(sums: sum_tile, part: u32, local: u32, m: u32, column: u32, place: Place) {
    coopStore(sums, &wg_y[part * AREA], TILE);
    workgroupBarrier();
    let volume = u32(params.out_d * params.out_h * params.out_w);
    for (var i = local; i < SUBGROUPS * AREA; i += WORKGROUP) {
        let at = place.first + vec3<i32>(run_start(i / AREA * 4u + m)) + vec3<i32>(0, 0, i32(i % TILE));
        let channel = place.channel + column + i / TILE % TILE;
        if channel < params.c_out && at.x < params.out_d && at.y < params.out_h && at.z < params.out_w {
            store_voxel(channel, row_base(place.n, at) + channel * volume, wg_y[i]);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let tiles_w = (u32(params.out_w) + TILE_W - 1u) / TILE_W;
    let tiles_h = (u32(params.out_h) + TILE_H - 1u) / TILE_H;
    // Tiles beyond the last, which folding on to y may add, compute nothing that is stored.
    let tile = group.y * groups.x + group.x;
    let channel_tiles = (params.c_out + COLUMNS - 1u) / COLUMNS;
    let channel_tile = group.z % channel_tiles;
    var place: Place;
    place.n = group.z / channel_tiles;
    place.channel = channel_tile * COLUMNS;
    place.first = vec3<i32>(vec3<u32>(
        tile / (tiles_w * tiles_h) * TILE_D,
        tile / tiles_w % tiles_h * TILE_H,
        tile % tiles_w * TILE_W,
    ));
    let part = subgroup % SUBGROUPS;

    for (var i = local; i < SUBGROUPS * AREA; i += WORKGROUP) {
        wg_y[i] = 0.0;
    }
    workgroupBarrier();
    // Sums of a run of voxels by a tile of channels: s<run><tile>.
    var s00 = coopLoadT<sum_tile>(&wg_y[0], TILE);
    var s10 = s00;
    var s20 = s00;
    var s30 = s00;
#ifdef WIDE2
    var s01 = s00;
    var s11 = s00;
    var s21 = s00;
    var s31 = s00;
#endif
    let run0 = run_offset(part * 4u);
    let run1 = run_offset(part * 4u + 1u);
    let run2 = run_offset(part * 4u + 2u);
    let run3 = run_offset(part * 4u + 3u);

    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    let rounds = (params.c_in + DEPTH - 1u) / DEPTH;
    var at = channel_tile * rounds * (KD * KH * KW * DEPTH * COLUMNS);
    for (var round = 0u; round < rounds; round++) {
        let first_channel = round * DEPTH;
        workgroupBarrier();
        for (var v = local; v < HALO; v += WORKGROUP) {
            let id = place.first.x - params.pad_d + i32(v / (HALO_H * HALO_W));
            let ih = place.first.y - params.pad_h + i32(v / HALO_W % HALO_H);
            let iw = place.first.z - params.pad_w + i32(v % HALO_W);
            let inside = id >= 0 && id < params.in_d && ih >= 0 && ih < params.in_h && iw >= 0 && iw < params.in_w;
            let voxel = u32(select(0, (id * params.in_h + ih) * params.in_w + iw, inside));
            let base = (place.n * params.c_in + first_channel) * in_volume + voxel;
            for (var c = 0u; c < DEPTH; c++) {
                var value = f16(0.0);
                if inside && first_channel + c < params.c_in {
                    value = x[base + c * in_volume];
                }
                wg_x[v * DEPTH + c] = value;
            }
        }
        workgroupBarrier();
        for (var kd = 0u; kd < KD; kd++) {
            for (var kh = 0u; kh < KH; kh++) {
                for (var kw = 0u; kw < KW; kw++) {
                    for (var k = 0u; k < DEPTH; k += TILE) {
                        let tap = ((kd * HALO_H + kh) * HALO_W + kw) * DEPTH + k;
                        let x0 = coopLoadT<left_tile>(&wg_x[run0 + tap], DEPTH);
                        let x1 = coopLoadT<left_tile>(&wg_x[run1 + tap], DEPTH);
                        let x2 = coopLoadT<left_tile>(&wg_x[run2 + tap], DEPTH);
                        let x3 = coopLoadT<left_tile>(&wg_x[run3 + tap], DEPTH);
                        let w0 = coopLoadT<right_tile>(&weight[at], COLUMNS);
                        s00 = coopMultiplyAdd(x0, w0, s00);
                        s10 = coopMultiplyAdd(x1, w0, s10);
                        s20 = coopMultiplyAdd(x2, w0, s20);
                        s30 = coopMultiplyAdd(x3, w0, s30);
#ifdef WIDE2
                        let w1 = coopLoadT<right_tile>(&weight[at + TILE], COLUMNS);
                        s01 = coopMultiplyAdd(x0, w1, s01);
                        s11 = coopMultiplyAdd(x1, w1, s11);
                        s21 = coopMultiplyAdd(x2, w1, s21);
                        s31 = coopMultiplyAdd(x3, w1, s31);
#endif
                        at += TILE * COLUMNS;
                    }
                }
            }
        }
    }

    store(s00, part, local, 0u, 0u, place);
    store(s10, part, local, 1u, 0u, place);
    store(s20, part, local, 2u, 0u, place);
    store(s30, part, local, 3u, 0u, place);
#ifdef WIDE2
    store(s01, part, local, 0u, TILE, place);
    store(s11, part, local, 1u, TILE, place);
    store(s21, part, local, 2u, TILE, place);
    store(s31, part, local, 3u, TILE, place);
#endif
}
