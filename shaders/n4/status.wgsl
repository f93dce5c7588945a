// Last stage of n4_range and n4_field_update: the columns' partial results become the status.
//   convergence = std / mean of q = exp(old field - new field) over the mask (ddof 1), from the sums of
//   e = q - 1 and e^2 of each column, merged by Chan's rule for means and squared deviations.
// A level is done at the first iteration with convergence <= tolerance; the status of a level that is done
// no longer changes. START: writes a fresh status instead of continuing one.
// Input: partials [5, columns] f32: least, greatest, voxels, sum of e, sum of e^2. Output: status [8] f32.
// One workgroup: strided sums, then a tree. Workgroup memory: 5 KiB. Cost: 20 bytes a column.
#import "lib/n4.wgsl"

struct Params {
    columns: u32,
    tolerance: f32,
}

@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> status: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

const SIZE: u32 = 256u;

struct Part {
    least: f32,
    greatest: f32,
    n: f32,
    mean: f32,
    // Sum of squared deviations from the mean.
    squares: f32,
}

var<workgroup> wg_parts: array<Part, SIZE>;

fn merge(a: Part, b: Part) -> Part {
    let n = a.n + b.n;
    if n == 0.0 {
        return a;
    }
    let delta = b.mean - a.mean;
    let share = b.n / n;
    return Part(
        min(a.least, b.least),
        max(a.greatest, b.greatest),
        n,
        a.mean + delta * share,
        a.squares + b.squares + delta * delta * a.n * share,
    );
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) t: u32) {
    var part = Part(LARGEST, -LARGEST, 0.0, 0.0, 0.0);
    for (var column = t; column < params.columns; column += SIZE) {
        let n = partials[2u * params.columns + column];
        if n > 0.0 {
            let mean = partials[3u * params.columns + column] / n;
            let squares = max(0.0, partials[4u * params.columns + column] - n * mean * mean);
            part = merge(
                part,
                Part(partials[column], partials[params.columns + column], n, mean, squares),
            );
        }
    }
    wg_parts[t] = part;
    workgroupBarrier();
    for (var half = SIZE / 2u; half > 0u; half /= 2u) {
        if t < half {
            wg_parts[t] = merge(wg_parts[t], wg_parts[t + half]);
        }
        workgroupBarrier();
    }
    if t == 0u {
        let all = wg_parts[0];
#ifdef START
        status[CONVERGENCE] = LARGEST;
        status[DONE] = 0.0;
        status[ITERATIONS] = 0.0;
        status[6] = 0.0;
        status[7] = 0.0;
        let going = true;
#else
        let going = status[DONE] < 0.5;
        if going {
            let convergence = sqrt(all.squares / max(1.0, all.n - 1.0)) / (1.0 + all.mean);
            status[CONVERGENCE] = convergence;
            // Not `convergence <= tolerance`: a NaN must stop the level too.
            status[DONE] = select(1.0, 0.0, convergence > params.tolerance);
            status[ITERATIONS] += 1.0;
        }
#endif
        if going {
            let any = all.n > 0.0;
            status[LEAST] = select(0.0, all.least, any);
            status[EXTENT] = select(0.0, all.greatest - all.least, any);
            status[VOXELS] = all.n;
        }
    }
}
