// space_to_depth: y = folded, x = fine; depth_to_space with UNFOLD: y = fine, x = folded, as lib/blocks.wgsl pairs their
// elements.
// Input: x, output: y, one of them [N, C, D * block_d, H * block_h, W * block_w], the other
// [N, C * block_d * block_h * block_w, D, H, W], Element.
// One invocation an element, in the order of the fine tensor. Cost: no flops; each element once.
// Defines: UNFOLD.
#import "lib/blocks.wgsl"
#import "lib/element.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let fine = flat_index(global, groups, 64u);
    if fine < params.n {
        let fine_w = params.w * params.block_w;
        let at_w = fine % fine_w;
        let row = folded_row(fine / fine_w) + at_w % params.block_w * params.d * params.h;
        let folded = row * params.w + at_w / params.block_w;
#ifdef UNFOLD
        y[fine] = x[folded];
#else
        y[folded] = x[fine];
#endif
    }
}
