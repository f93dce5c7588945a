// sum_channels: partial sums of each channel; reduce.wgsl adds the rows.
//   sums[first_row + n * parts + part][c] = sum of x[n, c, v] over the voxels v = part (mod parts)
// Input: x [N, C, V] f32. Output: sums [rows][C] f32.
// Threads: global x (folded on to y) = (n, channel, part), part fastest, so that neighbours read neighbours.
// Cost: 4 N C V bytes.
#import "lib/index.wgsl"

struct Params {
    channels: u32,
    volume: u32,
    parts: u32,
    rows: u32,
    first_row: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    if index >= params.rows * params.channels {
        return;
    }
    let part = index % params.parts;
    let channel = index / params.parts % params.channels;
    let n = index / (params.parts * params.channels);
    let base = (n * params.channels + channel) * params.volume;
    var sum = 0.0;
    for (var v = part; v < params.volume; v += params.parts) {
        sum += x[base + v];
    }
    sums[(params.first_row + n * params.parts + part) * params.channels + channel] = sum;
}
