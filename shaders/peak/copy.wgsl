// Peak rate of memory: y[i] = x[i].
// Input: x [n] vec4<f32>. Output: y [n] vec4<f32>.
// Threads: global x (folded on to y) = i, or with FOUR = i, i + stride, i + 2 stride, i + 3 stride, stride = n / 4.
// No workgroup memory. Cost: 32 bytes an element.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    stride: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups, 64u);
#ifdef FOUR
    if i < params.stride {
        let s = params.stride;
        let v0 = x[i];
        let v1 = x[i + s];
        let v2 = x[i + 2u * s];
        let v3 = x[i + 3u * s];
        y[i] = v0;
        y[i + s] = v1;
        y[i + 2u * s] = v2;
        y[i + 3u * s] = v3;
    }
#else
    if i < params.n {
        y[i] = x[i];
    }
#endif
}
