// Second and third pass of distance: along h, then d. For each line of voxels and each class (outside,
// inside) the lower envelope of the parabolas f_p + (size (q - p))^2, Felzenszwalb & Huttenlocher 2012; f_p is
// the square so far of the distance to the other class, 0 where voxel p is of the other class.
// Input: x [D, H, W] f32, signed squares. Output: y [D, H, W] f32, signed squares; with FINAL signed
// distances in mm. Temporaries: site u32 and start f32 [D, H, W], the parabolas of the envelope of each line
// and where each begins. One invocation a line. Cost: about 60 flops and 40 bytes a voxel.
#import "lib/index.wgsl"

struct Params {
    lines: u32,
    // Lines start at (line / inner) * inner * extent + line % inner and step by `inner`.
    inner: u32,
    extent: u32,
    // Voxel size along the line in mm.
    size: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> site: array<u32>;
@group(0) @binding(3) var<storage, read_write> start: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const FAR_SQUARED = 1e18;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let line = flat_index(global, groups, 64u);
    if line < params.lines {
        let inner = params.inner;
        let first = (line / inner) * inner * params.extent + line % inner;
        let size_squared = params.size * params.size;
        for (var pass_ix = 0u; pass_ix < 2u; pass_ix++) {
            // +1: distances of the voxels outside; -1: of those inside.
            let side = select(1.0, -1.0, pass_ix == 1u);
            var top = 0u;
            for (var q = 0u; q < params.extent; q++) {
                let f = max(side * x[first + q * inner], 0.0);
                if f < FAR_SQUARED {
                    var begin = -1.0;
                    while top > 0u {
                        let p = site[first + (top - 1u) * inner];
                        let f_p = max(side * x[first + p * inner], 0.0);
                        // Where the two parabolas meet: (f + s^2 q^2 - f_p - s^2 p^2) / (2 s^2 (q - p)).
                        let gap = f32(q - p);
                        begin = 0.5 * ((f - f_p) / (size_squared * gap) + gap) + f32(p);
                        if begin > start[first + (top - 1u) * inner] {
                            break;
                        }
                        top -= 1u;
                        begin = -1.0;
                    }
                    site[first + top * inner] = q;
                    start[first + top * inner] = begin;
                    top += 1u;
                }
            }
            var k = 0u;
            for (var q = 0u; q < params.extent; q++) {
                let own = x[first + q * inner];
                // Squares are never 0 for the voxel's own class, so the sign is the class.
                if side * own > 0.0 {
                    var best = FAR_SQUARED;
                    if top > 0u {
                        while k + 1u < top && start[first + (k + 1u) * inner] < f32(q) {
                            k += 1u;
                        }
                        let p = site[first + k * inner];
                        let steps = f32(max(p, q) - min(p, q));
                        best = max(side * x[first + p * inner], 0.0) + size_squared * steps * steps;
                    }
#ifdef FINAL
                    best = sqrt(best);
#endif
                    y[first + q * inner] = side * best;
                }
            }
        }
    }
}
