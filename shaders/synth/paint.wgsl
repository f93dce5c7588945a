// label_paint: a head seen by a scanner, out of a map of labels and distances.
//   p = M o + u(o), pulled along the envelope's gradient outside the brain; every quantity of the map is interpolated
//   linearly at p, so that a voxel across a border holds its parts of both sides (partial volume).
//   image = mean + spread (n + coarse t(o)), brain = inside * [envelope <= film], softened over soft_mm
//   no_csf = brain, and tissue or ventricle: what is left of the brain without the fluid round it
// map [D, H, W] u32: bits 0-7 the class, 8-19 the signed distance to the envelope in steps of step_mm from -2048, 20-25
// and 26-31 the depth below the outer fluid and the distance from the ventricles in quarters of a mm.
// rows [3, D', H', points] and texture_rows [1, D', H', texture_points]: lattices contracted along d and h
// (augment/lattice_rows.wgsl), of the displacement in voxels of the map and of the texture t. table [classes, 4]: mean,
// spread, 1 for tissue, 1 for what may be brain; class 0 is what lies beyond the map. lesions [L, 8]: centre d, h, w in
// voxels of the map, 0, half axes in voxels, mean; half axes of 0 make none. n standard normal by voxel, from the seed.
// Outputs: image, brain, no_csf [D', H', W'] f32.
// One invocation an output voxel. Cost: about 400 flops and, from cache, 80 bytes a voxel.
#import "lib/index.wgsl"
#import "lib/bspline.wgsl"
#import "lib/random.wgsl"

struct Params {
    in_shape: vec4<u32>,
    out_shape: vec4<u32>,
    matrix_d: vec4<f32>,
    matrix_h: vec4<f32>,
    matrix_w: vec4<f32>,
    voxel_mm: vec4<f32>,
    n: u32,
    points: u32,
    texture_points: u32,
    lesions: u32,
    step_mm: f32,
    film_mm: f32,
    soft_mm: f32,
    pull: f32,
    pull_from_mm: f32,
    farthest_mm: f32,
    erosion_mm: f32,
    growth_mm: f32,
    fluid: f32,
    coarse: f32,
    seed_low: u32,
    seed_high: u32,
}

@group(0) @binding(0) var<storage, read> map: array<u32>;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read> texture_rows: array<f32>;
@group(0) @binding(3) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> lesions: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> image: array<f32>;
@group(0) @binding(6) var<storage, read_write> brain: array<f32>;
@group(0) @binding(7) var<storage, read_write> no_csf: array<f32>;
@group(0) @binding(8) var<uniform> params: Params;

const BEYOND: u32 = 0xFFF00u;

// The voxel of the map at an index, beyond it air.
fn word(at: vec3<i32>) -> u32 {
    let shape = vec3<i32>(params.in_shape.xyz);
    let place = clamp(at, vec3<i32>(0), shape - 1);
    let found = map[(place.x * shape.y + place.y) * shape.z + place.z];
    return select(BEYOND, found, all(place == at));
}

fn envelope(word: u32) -> f32 {
    return (f32((word >> 8u) & 0xFFFu) - 2048.0) * params.step_mm;
}

// Weights of the lower and upper neighbour along an axis for corner bit 0 or 1.
fn part(fraction: f32, bit: u32) -> f32 {
    return select(1.0 - fraction, fraction, bit == 1u);
}

// The distance to the envelope at p, then its gradient by index.
fn envelope_at(p: vec3<f32>) -> vec4<f32> {
    let base = floor(p);
    let f = p - base;
    var sum = vec4<f32>(0.0);
    for (var corner = 0u; corner < 8u; corner++) {
        let bit = vec3<u32>(corner >> 2u, (corner >> 1u) & 1u, corner & 1u);
        let s = envelope(word(vec3<i32>(base) + vec3<i32>(bit)));
        let w = vec3<f32>(part(f.x, bit.x), part(f.y, bit.y), part(f.z, bit.z));
        let sign = vec3<f32>(bit) * 2.0 - 1.0;
        sum += s * vec4<f32>(w.x * w.y * w.z, sign.x * w.y * w.z, w.x * sign.y * w.z, w.x * w.y * sign.z);
    }
    return sum;
}

// 0 below -width / 2, 1 above width / 2.
fn ramp(x: f32, width: f32) -> f32 {
    return clamp(x / width + 0.5, 0.0, 1.0);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(global, groups, 64u);
    if i >= params.n {
        return;
    }
    let row = i / params.out_shape.z;
    let plane = row / params.out_shape.y;
    let index = vec3<u32>(plane, row - plane * params.out_shape.y, i - row * params.out_shape.z);
    let o = vec4<f32>(vec3<f32>(index), 1.0);
    var p = vec3<f32>(dot(params.matrix_d, o), dot(params.matrix_h, o), dot(params.matrix_w, o));
    let spline = spline_at(index.z, params.out_shape.z, params.points);
    let stride = params.out_shape.x * params.out_shape.y * params.points;
    for (var axis = 0u; axis < 3u; axis++) {
        let first = axis * stride + row * params.points + spline.first;
        p[axis] += dot(vec4<f32>(rows[first], rows[first + 1u], rows[first + 2u], rows[first + 3u]), spline.weights);
    }
    let fine = spline_at(index.z, params.out_shape.z, params.texture_points);
    let at = row * params.texture_points + fine.first;
    let t = dot(vec4<f32>(texture_rows[at], texture_rows[at + 1u], texture_rows[at + 2u], texture_rows[at + 3u]), fine.weights);

    // Lesions lie in the brain, which is not pulled.
    let q = p;
    if params.pull != 0.0 {
        let s = envelope_at(p);
        let gradient = s.yzw / params.voxel_mm.xyz;
        let way = gradient / max(length(gradient), 0.25);
        p += way * params.pull * clamp(s.x - params.pull_from_mm, 0.0, params.farthest_mm) / params.voxel_mm.xyz;
    }

    let base = floor(p);
    let f = p - base;
    var found = vec4<f32>(0.0);
    var of_tissue = 0.0;
    var distances = vec3<f32>(0.0);
    for (var corner = 0u; corner < 8u; corner++) {
        let bit = vec3<u32>(corner >> 2u, (corner >> 1u) & 1u, corner & 1u);
        let voxel = word(vec3<i32>(base) + vec3<i32>(bit));
        let w = part(f.x, bit.x) * part(f.y, bit.y) * part(f.z, bit.z);
        let entry = table[voxel & 0xFFu];
        found += w * entry;
        of_tissue += w * entry.x * entry.z;
        distances += w * vec3<f32>(envelope(voxel), f32((voxel >> 20u) & 63u) * 0.25, f32(voxel >> 26u) * 0.25);
    }
    var tissue = found.z;
    var value = found.x;
    // Ventricles end half a soft border beyond their own: tissue takes over there without a gap.
    let ventricle = ramp(0.5 * params.soft_mm - distances.z, params.soft_mm);
    var outer_kept = 1.0;
    if params.erosion_mm > 0.0 || params.growth_mm > 0.0 {
        outer_kept = select(1.0, ramp(distances.y - params.erosion_mm, params.soft_mm), params.erosion_mm > 0.0);
        let inner_kept = select(1.0, ramp(distances.z - params.growth_mm, params.soft_mm), params.growth_mm > 0.0);
        let kept = outer_kept * inner_kept;
        value += (1.0 - kept) * (tissue * params.fluid - of_tissue);
        tissue *= kept;
    }
    for (var lesion = 0u; lesion < params.lesions; lesion++) {
        let axes = lesions[2u * lesion + 1u];
        if all(axes.xyz > vec3<f32>(0.0)) {
            let r = length((q - lesions[2u * lesion].xyz) / axes.xyz) * (1.0 + 0.15 * clamp(t, -3.0, 3.0));
            value += tissue * ramp(1.0 - r, 0.25) * (axes.w - value);
        }
    }
    let n = normal(vec2<u32>(params.seed_low, params.seed_high), 0u, i).x;
    image[i] = value + found.y * (n + params.coarse * t);
    let whole = found.w * ramp(params.film_mm - params.erosion_mm - distances.x, params.soft_mm);
    brain[i] = whole;
    // Tissue that a growing ventricle took is inside it.
    no_csf[i] = min(whole, max(found.z * outer_kept, ventricle));
}
