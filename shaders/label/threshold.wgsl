// threshold: y = 1 where x > level (ABOVE), x <= level (AT_MOST) or x < level, else 0. NaN gives 0.
// Input: x [n] f32. Output: y [n] u32. One invocation an element. Cost: 8 bytes an element.
#import "lib/index.wgsl"

struct Params {
    n: u32,
    level: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7FFFFFFFu) > 0x7F800000u;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        let value = x[i];
#ifdef ABOVE
        let holds = value > params.level;
#else
#ifdef AT_MOST
        let holds = value <= params.level;
#else
        let holds = value < params.level;
#endif
#endif
        y[i] = select(0u, 1u, holds && !is_nan(value));
    }
}
