//! Exact Euclidean distances on anisotropic grids.
//!
//! Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled Functions", Theory of
//! Computing 8 (2012): along one axis after the other, the lower envelope of the parabolas
//! `(s (q - p))^2 + f(p)`, with s the voxel's edge in mm. In f64, lines in parallel.

use super::{Problem, expect_length};
use crate::tensor::Xyz;
use rayon::prelude::*;

/// Squared distance, mm^2, of each voxel's centre to the nearest voxel's centre where `is_site`
/// holds; infinite where it holds nowhere.
pub fn squared_to(
    mask: &[u8],
    shape: Xyz<usize>,
    spacing_mm: [f64; 3],
    is_site: impl Fn(u8) -> bool + Sync,
) -> Result<Vec<f64>, Problem> {
    expect_length(shape, mask.len())?;
    if mask.is_empty() {
        return Ok(Vec::new());
    }
    let Xyz([nx, ny, nz]) = shape;
    let [sx, sy, sz] = spacing_mm;
    let mut out = vec![0.0; mask.len()];
    // x: distances on a line of sites need no envelope, only a sweep each way.
    out.par_chunks_mut(nx)
        .zip(mask.par_chunks(nx))
        .with_min_len(64)
        .for_each(|(out, row)| sweep(row, &is_site, sx, out));
    // y: within each slab.
    out.par_chunks_mut(nx * ny).for_each(|slab| {
        let mut line = Envelope::new(ny);
        for x in 0..nx {
            line.run(sy, slab, x, nx);
        }
    });
    // z: a plane of fixed y at a time, then back.
    let planes: Vec<Vec<f64>> = (0..ny)
        .into_par_iter()
        .map(|y| {
            let mut plane = Vec::with_capacity(nx * nz);
            for z in 0..nz {
                let at = nx * (y + ny * z);
                plane.extend_from_slice(&out[at..at + nx]);
            }
            let mut line = Envelope::new(nz);
            for x in 0..nx {
                line.run(sz, &mut plane, x, nx);
            }
            plane
        })
        .collect();
    out.par_chunks_mut(nx * ny).enumerate().for_each(|(z, slab)| {
        for (row, plane) in slab.chunks_mut(nx).zip(&planes) {
            row.copy_from_slice(&plane[z * nx..(z + 1) * nx]);
        }
    });
    Ok(out)
}

/// Squared distances along one row.
fn sweep(row: &[u8], is_site: &impl Fn(u8) -> bool, spacing: f64, out: &mut [f64]) {
    let square = |steps: usize| {
        let d = steps as f64 * spacing;
        d * d
    };
    let mut last = None;
    for (x, (&v, d)) in row.iter().zip(out.iter_mut()).enumerate() {
        if is_site(v) {
            last = Some(x);
        }
        *d = last.map_or(f64::INFINITY, |l| square(x - l));
    }
    let mut next = None;
    for (x, (&v, d)) in row.iter().zip(out.iter_mut()).enumerate().rev() {
        if is_site(v) {
            next = Some(x);
        }
        *d = d.min(next.map_or(f64::INFINITY, |n| square(n - x)));
    }
}

/// Working memory for one line. In the paper: `v` the parabolas of the envelope by the place of
/// their vertex, `z` where each begins, `f` the sampled function.
struct Envelope {
    f: Vec<f64>,
    v: Vec<usize>,
    z: Vec<f64>,
}

impl Envelope {
    fn new(n: usize) -> Self {
        Self { f: Vec::with_capacity(n), v: Vec::with_capacity(n), z: Vec::with_capacity(n) }
    }

    /// Replaces the values `f` of the line `plane[start], plane[start + stride], ...` by
    /// `min over p of (s (q - p))^2 + f(p)`.
    fn run(&mut self, s: f64, plane: &mut [f64], start: usize, stride: usize) {
        let Self { f, v, z } = self;
        f.clear();
        f.extend(plane[start..].iter().step_by(stride));
        v.clear();
        z.clear();
        let place = |i: usize| i as f64 * s;
        // A parabola at infinity is nowhere lowest.
        for q in (0..f.len()).filter(|&q| f[q].is_finite()) {
            let mut begins = f64::NEG_INFINITY;
            while let (Some(&p), Some(&z_p)) = (v.last(), z.last()) {
                let lift = |i: usize| f[i] + place(i) * place(i);
                begins = (lift(q) - lift(p)) / (2.0 * (place(q) - place(p)));
                if begins > z_p {
                    break;
                }
                v.pop();
                z.pop();
                begins = f64::NEG_INFINITY;
            }
            v.push(q);
            z.push(begins);
        }
        if v.is_empty() {
            return;
        }
        let mut k = 0;
        for (q, value) in plane[start..].iter_mut().step_by(stride).enumerate() {
            while k + 1 < v.len() && z[k + 1] < place(q) {
                k += 1;
            }
            let d = q.abs_diff(v[k]) as f64 * s;
            *value = d * d + f[v[k]];
        }
    }
}

/// Signed distance to the border of a mask, mm: outside the distance to the nearest mask voxel,
/// inside minus the distance to the nearest voxel outside, centre to centre. On a 1 mm grid the
/// voxels on either side of the border hold 1 and -1, none holds 0 (as
/// `edt(~mask) - edt(mask)` of SciPy; outside the volume there is nothing).
///
/// An empty mask is infinitely far (`+inf` everywhere), a full one has no border (`-inf`).
pub fn signed(mask: &[u8], shape: Xyz<usize>, spacing_mm: [f64; 3]) -> Result<Vec<f32>, Problem> {
    let outside = squared_to(mask, shape, spacing_mm, |v| v != 0)?;
    let inside = squared_to(mask, shape, spacing_mm, |v| v == 0)?;
    Ok(outside
        .into_par_iter()
        .zip(inside)
        .map(|(out, ins)| if out > 0.0 { out.sqrt() } else { -ins.sqrt() } as f32)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::morphology::tests::{at, noise_mask};
    use super::*;

    #[test]
    fn equal_to_brute_force() {
        let spacing = [0.7, 1.3, 2.9];
        for (shape, percent) in [
            ([6, 5, 4], 5),
            ([6, 5, 4], 60),
            ([1, 9, 7], 10),
            ([8, 1, 6], 20),
            ([9, 7, 1], 3),
            ([10, 9, 8], 1),
        ] {
            let mask = noise_mask(Xyz(shape), percent);
            let got = squared_to(&mask, Xyz(shape), spacing, |v| v != 0).unwrap();
            for (i, &got) in got.iter().enumerate() {
                let p = at(i, Xyz(shape));
                let want = (0..mask.len())
                    .filter(|&j| mask[j] != 0)
                    .map(|j| {
                        let q = at(j, Xyz(shape));
                        (0..3).map(|a| ((p[a] as f64 - q[a] as f64) * spacing[a]).powi(2)).sum::<f64>()
                    })
                    .fold(f64::INFINITY, f64::min);
                let same = got == want || (got - want).abs() <= 1e-12 * want;
                assert!(same, "{shape:?} {i}: {got} {want}");
            }
        }
    }

    #[test]
    fn sign_and_steps_across_the_border() {
        let mask = [0, 0, 1, 1, 1, 0];
        let got = signed(&mask, Xyz([6, 1, 1]), [2.0, 1.0, 1.0]).unwrap();
        assert_eq!(got, [4.0, 2.0, -2.0, -4.0, -2.0, 2.0]);
    }

    #[test]
    fn empty_and_full_masks_have_no_border() {
        let far = signed(&[0; 8], Xyz([2, 2, 2]), [1.0; 3]).unwrap();
        assert!(far.iter().all(|&d| d == f32::INFINITY));
        let deep = signed(&[1; 8], Xyz([2, 2, 2]), [1.0; 3]).unwrap();
        assert!(deep.iter().all(|&d| d == f32::NEG_INFINITY));
        assert!(signed(&[1; 7], Xyz([2, 2, 2]), [1.0; 3]).is_err());
    }
}
