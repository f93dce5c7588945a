// First step of connected components: every member points to the first voxel of its run along w.
// Members are those of lib/component_mask.wgsl; with HOLES a run that touches the border of the volume points to
// node 0, the outside.
// Input: mask [D, H, W] u32. Output: parent [D, H, W] u32 (lib/union_find.wgsl); others point to themselves.
// One invocation a row. Cost: 8 bytes a voxel.
#import "lib/component_mask.wgsl"
#import "lib/index.wgsl"

struct Params {
    rows: u32,
    n_d: u32,
    n_h: u32,
    n_w: u32,
}

@group(0) @binding(1) var<storage, read_write> parent: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(global, groups, 64u);
    if row < params.rows {
        let first = row * params.n_w;
        var run = 0u;
        var before = false;
#ifdef HOLES
        let d = row / params.n_h;
        let h = row % params.n_h;
        let border_row = d == 0u || d == params.n_d - 1u || h == 0u || h == params.n_h - 1u;
#endif
        for (var w = 0u; w < params.n_w; w++) {
            let i = first + w;
            let now = member(i);
            if !now || !before {
                run = i + 1u;
#ifdef HOLES
                if now && (border_row || w == 0u) {
                    run = 0u;
                }
#endif
            }
            parent[i] = run;
            before = now;
        }
#ifdef HOLES
        // A run that ends at the border: its first voxel becomes a child of the outside.
        if before && run != 0u {
            parent[run - 1u] = 0u;
        }
#endif
    }
}
