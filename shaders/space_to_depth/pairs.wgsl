// space_to_depth and, with UNFOLD, depth_to_space as scalar.wgsl, for blocks of 2 voxels along w and folded rows of a
// multiple of 4 elements: 8 elements of a fine row are 4 in each of two folded rows.
// Input: x, output: y, one of them [N, C, D * block_d, H * block_h, 2 W], the other [N, 2 C * block_d * block_h, D, H, W],
// Element, bound as vectors of 4.
// One invocation 8 elements, in the order of the fine tensor. Cost: no flops; each element once.
// Defines: UNFOLD.
#import "lib/blocks.wgsl"
#import "lib/element.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(0) var<storage, read> x: array<vec4<Element>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<Element>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let quads = params.w / 4u;
        let even_at = folded_row(i / quads) * quads + i % quads;
        let odd_at = even_at + params.d * params.h * quads;
#ifdef UNFOLD
        let even = x[even_at];
        let odd = x[odd_at];
        y[2u * i] = vec4<Element>(even.x, odd.x, even.y, odd.y);
        y[2u * i + 1u] = vec4<Element>(even.z, odd.z, even.w, odd.w);
#else
        let low = x[2u * i];
        let high = x[2u * i + 1u];
        y[even_at] = vec4<Element>(low.x, low.z, high.x, high.z);
        y[odd_at] = vec4<Element>(low.y, low.w, high.y, high.w);
#endif
    }
}
