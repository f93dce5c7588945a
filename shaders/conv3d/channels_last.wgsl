// channels_last: y[n][v][c] = x[n][c][v], channels padded with zeros to `quads` fours.
// Input: x [N, C, V] f32. Output: y [N][V][quads] vec4<f32>, 4 quads >= C.
// Threads: global x (folded on to y) = voxel; workgroup z = (n, group of 4 quads), the group fastest.
// Cost: 4 C V bytes read, 16 quads V written.
#import "lib/index.wgsl"

struct Params {
    channels: u32,
    volume: u32,
    quads: u32,
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
    let voxel = flat_index(global, groups, 64u);
    if voxel >= params.volume {
        return;
    }
    let quads = params.quads;
    let quad_groups = (quads + 3u) / 4u;
    let n = group.z / quad_groups;
    let first = group.z % quad_groups * 4u;
    let to = (n * params.volume + voxel) * quads;
    var from_ix = (n * params.channels + first * 4u) * params.volume + voxel;
    for (var quad = first; quad < min(first + 4u, quads); quad++) {
        var value = vec4<f32>(0.0);
        if quad * 4u + 4u <= params.channels {
            value = vec4<f32>(
                x[from_ix],
                x[from_ix + params.volume],
                x[from_ix + 2u * params.volume],
                x[from_ix + 3u * params.volume],
            );
        } else {
            for (var c = 0u; quad * 4u + c < params.channels; c++) {
                value[c] = x[from_ix + c * params.volume];
            }
        }
        y[to + quad] = value;
        from_ix += 4u * params.volume;
    }
}
