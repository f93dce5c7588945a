//! How well a mask agrees with a reference mask.
//!
//! The surface of a mask is the mask minus its 6-connected erosion; voxels at the border of the
//! volume count as surface. Distances are between voxel centres, mm.

use super::{Problem, distance, expect_length, morphology};
use crate::tensor::Xyz;

/// Agreement of a mask with a reference.
///
/// Where both are empty they agree: overlaps 1, distances 0, volume error 0. Where one is
/// empty: overlaps 0, distances infinite, volume error -100% (nothing found) or infinite
/// (nothing to find).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// `2 |A and B| / (|A| + |B|)`.
    pub dice: f64,
    /// `|A and B| / |A or B|`.
    pub iou: f64,
    /// 95th percentile Hausdorff distance, mm, by MONAI's convention: the larger of the 95th
    /// percentiles (linear between samples, as NumPy's) of the distances from one surface to
    /// the other and back.
    pub hd95_mm: f64,
    /// Average symmetric surface distance, mm, by MONAI's convention: the mean of all distances
    /// from either surface to the other. (medpy averages the two directed means instead.)
    pub assd_mm: f64,
    /// `100 (|A| / |B| - 1)`: above 0 where the mask is larger than the reference.
    pub volume_error_percent: f64,
}

/// Compares `mask` (A) with `reference` (B) on a grid of `shape` with voxels of `spacing_mm`.
/// What is not 0 counts as inside.
pub fn compare(
    mask: &[u8],
    reference: &[u8],
    shape: Xyz<usize>,
    spacing_mm: [f64; 3],
) -> Result<Agreement, Problem> {
    expect_length(shape, mask.len())?;
    expect_length(shape, reference.len())?;
    let (mut a, mut b, mut both) = (0_usize, 0_usize, 0_usize);
    for (&m, &r) in mask.iter().zip(reference) {
        a += usize::from(m != 0);
        b += usize::from(r != 0);
        both += usize::from(m != 0 && r != 0);
    }
    let ratio = |part: usize, whole: usize| part as f64 / whole as f64;
    if a == 0 && b == 0 {
        return Ok(Agreement { dice: 1.0, iou: 1.0, hd95_mm: 0.0, assd_mm: 0.0, volume_error_percent: 0.0 });
    }
    let overlap = Agreement {
        dice: ratio(2 * both, a + b),
        iou: ratio(both, a + b - both),
        hd95_mm: f64::INFINITY,
        assd_mm: f64::INFINITY,
        volume_error_percent: 100.0 * (ratio(a, b) - 1.0),
    };
    if a == 0 || b == 0 {
        return Ok(overlap);
    }
    let to_reference = surface_distances(mask, reference, shape, spacing_mm)?;
    Ok(Agreement { hd95_mm: to_reference.hd95(), assd_mm: to_reference.assd(), ..overlap })
}

/// Distances between the surfaces of two masks, mm, in no particular order.
struct SurfaceDistances {
    a_to_b: Vec<f64>,
    b_to_a: Vec<f64>,
}

impl SurfaceDistances {
    fn hd95(&self) -> f64 {
        percentile(&self.a_to_b, 95.0).max(percentile(&self.b_to_a, 95.0))
    }

    fn assd(&self) -> f64 {
        let count = self.a_to_b.len() + self.b_to_a.len();
        self.a_to_b.iter().chain(&self.b_to_a).sum::<f64>() / count as f64
    }
}

fn surface_distances(
    a: &[u8],
    b: &[u8],
    shape: Xyz<usize>,
    spacing_mm: [f64; 3],
) -> Result<SurfaceDistances, Problem> {
    let (a, b) = (morphology::surface(a, shape)?, morphology::surface(b, shape)?);
    // No line between the surfaces leaves their common box, so the transform need not either.
    let (from, size) = bounding_box(&a, &b, shape);
    let a = crop(&a, shape, from, size);
    let b = crop(&b, shape, from, size);
    let distances = |surface: &[u8], other: &[u8]| -> Result<Vec<f64>, Problem> {
        let field = distance::squared_to(other, size, spacing_mm, |v| v != 0)?;
        let on_surface = field.iter().zip(surface).filter(|(_, s)| **s != 0);
        Ok(on_surface.map(|(d, _)| d.sqrt()).collect())
    };
    Ok(SurfaceDistances { a_to_b: distances(&a, &b)?, b_to_a: distances(&b, &a)? })
}

/// First voxel and size of the smallest box that holds both masks, at least one of which must
/// not be empty.
fn bounding_box(a: &[u8], b: &[u8], shape: Xyz<usize>) -> (Xyz<usize>, Xyz<usize>) {
    let Xyz([nx, ny, _]) = shape;
    let (mut low, mut high) = (shape, [0; 3]);
    for (row, (a, b)) in a.chunks(nx).zip(b.chunks(nx)).enumerate() {
        let inside = |x: &usize| a[*x] != 0 || b[*x] != 0;
        let (Some(first), Some(last)) = ((0..nx).find(inside), (0..nx).rev().find(inside)) else {
            continue;
        };
        let (y, z) = (row % ny, row / ny);
        for (axis, (first, last)) in [(first, last), (y, y), (z, z)].into_iter().enumerate() {
            low[axis] = low[axis].min(first);
            high[axis] = high[axis].max(last + 1);
        }
    }
    let size = Xyz(std::array::from_fn(|axis| high[axis].saturating_sub(low[axis])));
    (low, size)
}

fn crop(mask: &[u8], shape: Xyz<usize>, from: Xyz<usize>, size: Xyz<usize>) -> Vec<u8> {
    let mut out = Vec::with_capacity(size.iter().product());
    for z in from[2]..from[2] + size[2] {
        for y in from[1]..from[1] + size[1] {
            let at = from[0] + shape[0] * (y + shape[1] * z);
            out.extend_from_slice(&mask[at..at + size[0]]);
        }
    }
    out
}

/// The `percent` percentile with linear interpolation between samples (NumPy's default), NaN
/// for no samples.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let mut sorted = values.to_vec();
    let place = (percent / 100.0).clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let (_, &mut low, above) = sorted.select_nth_unstable_by(below, f64::total_cmp);
    let next = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    let fraction = place - below as f64;
    // Without this, an infinite sample above an exact hit would give NaN.
    if fraction == 0.0 { low } else { low + fraction * (next - low) }
}

#[cfg(test)]
mod tests {
    use super::super::morphology::tests::at;
    use super::*;

    const SHAPE: [usize; 3] = [20, 18, 12];

    /// Two ellipsoids; the first with a speck far away, the second cut off by the border.
    fn masks() -> (Vec<u8>, Vec<u8>) {
        let inside = |p: [usize; 3], centre: [i64; 3], squared_radii: [i64; 3]| {
            let all: i64 = squared_radii.iter().product();
            let sum: i64 =
                (0..3).map(|axis| (p[axis] as i64 - centre[axis]).pow(2) * (all / squared_radii[axis])).sum();
            sum <= all
        };
        let n = SHAPE.iter().product();
        (0..n)
            .map(|i| {
                let p = at(i, Xyz(SHAPE));
                let speck = p[0] == 17 && p[1] == 15 && p[2] >= 9;
                let a = inside(p, [9, 8, 5], [49, 36, 16]) || speck;
                let b = inside(p, [7, 9, 3], [49, 49, 25]);
                (u8::from(a), u8::from(b))
            })
            .unzip()
    }

    /// Expected figures: NumPy and SciPy 64-bit, the formulas of `Agreement`.
    #[test]
    fn equal_to_scipy_on_isotropic_and_thick_slices() {
        let (a, b) = masks();
        for (spacing, hd95, assd) in [
            ([1.0, 1.0, 1.0], 3.3166247903554, 1.5401890233173192),
            ([0.5, 0.8, 3.0], 4.678675026115834, 1.7399002679858422),
        ] {
            let got = compare(&a, &b, Xyz(SHAPE), spacing).unwrap();
            let want = Agreement {
                dice: 0.5918242830994509,
                iou: 0.4202772963604853,
                hd95_mm: hd95,
                assd_mm: assd,
                volume_error_percent: -30.155440414507773,
            };
            for (g, w) in [
                (got.dice, want.dice),
                (got.iou, want.iou),
                (got.hd95_mm, want.hd95_mm),
                (got.assd_mm, want.assd_mm),
                (got.volume_error_percent, want.volume_error_percent),
            ] {
                assert!((g - w).abs() <= 1e-12 * w.abs(), "{g} {w}");
            }
        }
    }

    #[test]
    fn a_mask_agrees_with_itself() {
        let (a, _) = masks();
        let got = compare(&a, &a, Xyz(SHAPE), [1.0; 3]).unwrap();
        assert_eq!((got.dice, got.iou), (1.0, 1.0));
        assert_eq!((got.hd95_mm, got.assd_mm), (0.0, 0.0));
        assert_eq!(got.volume_error_percent, 0.0);
    }

    #[test]
    fn empty_masks() {
        let (a, _) = masks();
        let none = vec![0; a.len()];
        let both = compare(&none, &none, Xyz(SHAPE), [1.0; 3]).unwrap();
        assert_eq!((both.dice, both.hd95_mm), (1.0, 0.0));
        let missed = compare(&none, &a, Xyz(SHAPE), [1.0; 3]).unwrap();
        assert_eq!((missed.dice, missed.iou), (0.0, 0.0));
        assert_eq!(missed.hd95_mm, f64::INFINITY);
        assert_eq!(missed.volume_error_percent, -100.0);
        let invented = compare(&a, &none, Xyz(SHAPE), [1.0; 3]).unwrap();
        assert_eq!(invented.assd_mm, f64::INFINITY);
        assert_eq!(invented.volume_error_percent, f64::INFINITY);
        assert!(compare(&a, &none[1..], Xyz(SHAPE), [1.0; 3]).is_err());
    }

    #[test]
    fn percentile_interpolates_as_numpy() {
        let v = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&v, 0.0), 1.0);
        assert_eq!(percentile(&v, 50.0), 2.5);
        assert!((percentile(&v, 95.0) - 3.85).abs() < 1e-12);
        assert_eq!(percentile(&v, 100.0), 4.0);
        assert!(percentile(&[], 50.0).is_nan());
    }
}
