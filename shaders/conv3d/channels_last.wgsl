// channels_last: y[n][v][c] = x[n][c][v], channels padded with zeros to a multiple of 4.
// Input: x [N, C, V] f32. Output: y [N][V][C4] vec4<f32>, C4 = ceil(C / 4).
// Threads: global x (folded on to y) = (channel quad, voxel), voxel fastest; workgroup z = n.
// Cost: 4 C V bytes read, 16 C4 V written.
#import "lib/index.wgsl"

struct Params {
    channels: u32,
    volume: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let index = flat_index(global, groups, 64u);
    let quads = (params.channels + 3u) / 4u;
    if index >= quads * params.volume {
        return;
    }
    let voxel = index % params.volume;
    let quad = index / params.volume;
    let base = (group.z * params.channels + quad * 4u) * params.volume + voxel;
    var value = vec4<f32>(0.0);
    for (var c = 0u; c < 4u; c++) {
        if quad * 4u + c < params.channels {
            value[c] = x[base + c * params.volume];
        }
    }
    y[(group.z * params.volume + voxel) * quads + quad] = value;
}
