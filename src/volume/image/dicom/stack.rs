//! From slices to a volume: their order, and the matrix that places it.

use super::slice::{COSINE, Slice};
use crate::tensor::Xyz;
use crate::volume::Problem;
use glam::{DMat4, DVec3};

/// Closer than this, mm, slices lie at one place.
const SAME_PLACE_MM: f64 = 1e-3;

/// How far, in distances between slices, one may lie from where an even stack has it.
const UNEVEN: f64 = 0.05;

/// How far the stack may lean from the normal of its slices, as a ratio, before it counts as leaning and not as rounded.
const LEAN: f64 = 1e-4;

/// DICOM's directions (left, posterior, superior) in those of images here: right, anterior, superior.
const LPS_TO_RAS: DVec3 = DVec3::new(-1.0, -1.0, 1.0);

/// Slices in the order of their places.
pub(super) struct Stack {
    pub slices: Vec<Slice>,
    pub shape: Xyz<usize>,
    /// Voxel index to world coordinates, mm, right anterior superior.
    pub affine: DMat4,
}

impl Stack {
    /// Orders slices along the normal of the first.
    ///
    /// # Errors
    /// Slices that are no even stack of one size and orientation, with what a person can do.
    pub fn of(mut slices: Vec<Slice>) -> Result<Self, Problem> {
        let Some(first) = slices.first().cloned() else { return Err(Problem::DicomContent("no slice")) };
        let name = |slice: &Slice| {
            let file = slice.file.file_name().unwrap_or_default().display();
            if slice.frames > 1 { format!("frame {} of {file}", slice.frame + 1) } else { file.to_string() }
        };
        let unlike = |what: &str, slice: &Slice| {
            Err(Problem::DicomStack(format!("{what}, {} and {} among them", name(&first), name(slice))))
        };
        for slice in &slices {
            if slice.format != first.format {
                return unlike("slices of different sizes or types of pixels", slice);
            }
            if !slice.axes.abs_diff_eq(first.axes, COSINE) {
                return unlike("slices of different orientations", slice);
            }
            if (0..2).any(|i| (slice.spacing_mm[i] / first.spacing_mm[i] - 1.0).abs() > COSINE) {
                return unlike("slices whose pixels are of different sizes in mm", slice);
            }
        }
        if slices.len() == 1 {
            return Err(Problem::DicomStack("a single slice".to_owned()));
        }
        let normal = first.axes.z_axis;
        let height = |slice: &Slice| slice.position.dot(normal);
        slices.sort_by(|a, b| height(a).total_cmp(&height(b)));
        let mut steps: Vec<f64> = slices.windows(2).map(|pair| height(&pair[1]) - height(&pair[0])).collect();
        if let Some(at) = steps.iter().position(|&step| step < SAME_PLACE_MM) {
            return Err(Problem::DicomStack(format!(
                "several slices at one place (echoes, repetitions, directions), {} and {} among them",
                name(&slices[at]),
                name(&slices[at + 1])
            )));
        }
        let of_pair = |at: usize| format!("{} and {}", name(&slices[at]), name(&slices[at + 1]));
        let widest = (0..steps.len()).max_by(|&a, &b| steps[a].total_cmp(&steps[b])).unwrap_or(0);
        let (gap, usual) = (steps[widest], median(&mut steps));
        if gap > usual * (2.0 - UNEVEN) {
            return Err(Problem::DicomStack(format!(
                "slices {usual:.3} mm apart with a gap of {gap:.3} mm between {}, where some are missing",
                of_pair(widest)
            )));
        }
        let last = slices.len() - 1;
        let step = (slices[last].position - slices[0].position) / last as f64;
        let off = |at: usize| (slices[at].position - slices[0].position - step * at as f64).length();
        let worst = (0..=last).max_by(|&a, &b| off(a).total_cmp(&off(b))).unwrap_or(0);
        if off(worst) > UNEVEN * usual {
            return Err(Problem::DicomStack(format!(
                "slices at uneven places: {} lies {:.3} mm from where an even stack has it",
                name(&slices[worst]),
                off(worst)
            )));
        }
        let along = normal * step.dot(normal);
        // Rounded positions make no shear.
        let step = if (step - along).length() < LEAN * along.length() { along } else { step };
        let column = |v: DVec3| (v * LPS_TO_RAS).extend(0.0);
        let affine = DMat4::from_cols(
            column(first.axes.x_axis * first.spacing_mm[0]),
            column(first.axes.y_axis * first.spacing_mm[1]),
            column(step),
            (slices[0].position * LPS_TO_RAS).extend(1.0),
        );
        let shape = Xyz([first.format.columns, first.format.rows, slices.len()]);
        Ok(Self { slices, shape, affine })
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
