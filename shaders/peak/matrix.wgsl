// Peak rate of cooperative matrices, f16 into f32: four independent sums of products in registers.
//   y[w, k] = rounds * (left[k] * right), k = 0..3, TILE x TILE
// Inputs: left [4, TILE, TILE] f16, right [TILE, TILE] f16, row-major. Output: y [workgroups, 4, TILE, TILE] f32.
// Threads: one subgroup of SUBGROUP invocations a workgroup; workgroup x (folded on to y) = w. No workgroup memory.
// Defines: TILE8 or TILE16, SUBGROUP. Cost: 8 TILE^3 flops a round and workgroup.
#import "lib/coop.wgsl"

struct Params {
    n: u32,
    rounds: u32,
}

@group(0) @binding(0) var<storage, read> left: array<f16>;
@group(0) @binding(1) var<storage, read> right: array<f16>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let w = id.y * groups.x + id.x;
    // The same for the whole workgroup: cooperative operations need every invocation.
    if w < params.n {
        let area = TILE * TILE;
        let to = w * 4u * area;
        let b = coopLoadT<right_tile>(&right[0], TILE);
        let a0 = coopLoadT<left_tile>(&left[0], TILE);
        let a1 = coopLoadT<left_tile>(&left[area], TILE);
        let a2 = coopLoadT<left_tile>(&left[2u * area], TILE);
        let a3 = coopLoadT<left_tile>(&left[3u * area], TILE);
        // The output holds zeros.
        var c0 = coopLoadT<sum_tile>(&y[to], TILE);
        var c1 = coopLoadT<sum_tile>(&y[to + area], TILE);
        var c2 = coopLoadT<sum_tile>(&y[to + 2u * area], TILE);
        var c3 = coopLoadT<sum_tile>(&y[to + 3u * area], TILE);
        for (var round = 0u; round < params.rounds; round++) {
            c0 = coopMultiplyAdd(a0, b, c0);
            c1 = coopMultiplyAdd(a1, b, c1);
            c2 = coopMultiplyAdd(a2, b, c2);
            c3 = coopMultiplyAdd(a3, b, c3);
        }
        coopStoreT(c0, &y[to], TILE);
        coopStoreT(c1, &y[to + area], TILE);
        coopStoreT(c2, &y[to + 2u * area], TILE);
        coopStoreT(c3, &y[to + 3u * area], TILE);
    }
}
