// Backward of normalisation, stage 3, from the sums of each row (one channel c of one sample n):
// dbeta[c] = sum over n of dz, dgamma[c] = sum over n of dz * xhat, and for each group g of rows
// sums[g] = sum over its rows of gamma[c] * (dz, dz * xhat).
// Inputs: rows [n_batch * channels] (dz, dz * xhat) f32, gamma [channels] f32.
// Outputs: dgamma, dbeta [channels] f32, sums [n_groups] pairs f32.
// One invocation a channel and a group. Cost: negligible.
#import "lib/index.wgsl"

struct Params {
    n_batch: u32,
    channels: u32,
    n_groups: u32,
    rows_per_group: u32,
    first_row: u32,
    row_step: u32,
}

@group(0) @binding(0) var<storage, read> rows: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(3) var<storage, read_write> dbeta: array<f32>;
@group(0) @binding(4) var<storage, read_write> sums: array<vec2<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.channels {
        var total = vec2<f32>(0.0);
        for (var n = 0u; n < params.n_batch; n += 1u) {
            total += rows[n * params.channels + i];
        }
        dbeta[i] = total.x;
        dgamma[i] = total.y;
    }
    if i < params.n_groups {
        var total = vec2<f32>(0.0);
        for (var k = 0u; k < params.rows_per_group; k += 1u) {
            let row = i * params.first_row + k * params.row_step;
            total += gamma[row % params.channels] * rows[row];
        }
        sums[i] = total;
    }
}
