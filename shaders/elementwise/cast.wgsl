// cast: y = x in another element type, rounded where it is the narrower one.
// Input: x [n] f32, or f16 with FROM_F16. Output: y [n] f32, or f16 with TO_F16. F16 where either is.
// One invocation an element. Cost: no flops, 4 to 8 n bytes.
#import "lib/index.wgsl"

#ifdef F16
enable f16;
#endif
#ifdef FROM_F16
alias Source = f16;
#else
alias Source = f32;
#endif
#ifdef TO_F16
alias Target = f16;
#else
alias Target = f32;
#endif

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Source>;
@group(0) @binding(1) var<storage, read_write> y: array<Target>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        y[i] = Target(x[i]);
    }
}
