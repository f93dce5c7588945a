// n4_lattice_update: lattice += change, change = delta / omega, or 0 where omega is 0 or the level is done.
// Inputs: delta, omega [n] f32, status [8] f32. In place: lattice [n] f32. Output: change [n]
// f32. One invocation a control point.
#import "lib/index.wgsl"
#import "lib/n4.wgsl"

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> delta: array<f32>;
@group(0) @binding(1) var<storage, read> omega: array<f32>;
@group(0) @binding(2) var<storage, read> status: array<f32>;
@group(0) @binding(3) var<storage, read_write> lattice: array<f32>;
@group(0) @binding(4) var<storage, read_write> change: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

// Below it a control point touches the mask by rounding alone, and the quotient means nothing.
const NOTHING: f32 = 1e-20;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i < params.n {
        var quotient = 0.0;
        if status[DONE] < 0.5 && omega[i] > NOTHING {
            quotient = delta[i] / omega[i];
        }
        change[i] = quotient;
        lattice[i] += quotient;
    }
}
