//! Settings of N4, and which of them can run.

use serde::Serialize;

use super::error::{N4Error, factors};
use crate::ops::n4::{LogShrink, MAX_BINS};
use crate::tensor::{Xyz, Zyx};

/// Most spans of the finest level: more than one for every voxel of a large head.
const MOST_CONTROL_POINTS: f64 = 1.6e7;

/// Settings of N4.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct N4Options {
    /// Every how many voxels the field is estimated from, along each axis.
    pub shrink: Zyx<usize>,
    /// Most iterations of each level; from level to level the control points double in density.
    pub iterations: Vec<usize>,
    /// A level stops at the iteration whose convergence measure (coefficient of variation of the change
    /// of the field) is at most this; 0 runs all iterations.
    pub tolerance: f32,
    /// Histogram bins, 2 to 256.
    pub bins: usize,
    /// Full width at half maximum of the Gaussian that the histogram is sharpened by, in log intensity.
    pub fwhm: f32,
    /// Noise power of the Wiener filter.
    pub noise: f32,
    /// Control points along each axis in the first level, at least 4: three more than spans.
    pub control_points: Zyx<usize>,
    /// Voxels that the spline's domain has before and after the volume along each axis (see
    /// [`N4Options::with_spline_distance`]).
    pub padding: Zyx<[usize; 2]>,
    /// Count values <= 0 in the mask and take them as they are for logarithms, as ITK does. Off, they
    /// leave the mask. Without a mask, a background of zeros then counts as an intensity of 1, and the
    /// field depends on the image's unit: on an 8-bit head with 42% zeros (Colin27) the two fields differ
    /// by 0.041 rms.
    pub keep_nonpositive: bool,
    /// First voxel of the shrunken grid; `None` takes ITK's.
    pub offset: Option<Zyx<usize>>,
}

impl Default for N4Options {
    /// Shrink 4, four levels of at most 50 iterations, tolerance 1e-3.
    fn default() -> Self {
        Self {
            shrink: Zyx([4; 3]),
            iterations: vec![50; 4],
            tolerance: 1e-3,
            bins: 200,
            fwhm: 0.15,
            noise: 0.01,
            control_points: Zyx([4; 3]),
            padding: Zyx([[0; 2]; 3]),
            keep_nonpositive: false,
            offset: None,
        }
    }
}

impl N4Options {
    /// The article's setting (nipype with ANTs): shrink 3, iterations 20 10 10 5, no convergence test. It
    /// used no mask.
    pub fn article() -> Self {
        Self {
            shrink: Zyx([3; 3]),
            iterations: vec![20, 10, 10, 5],
            tolerance: 0.0,
            keep_nonpositive: true,
            ..Self::default()
        }
    }

    /// The schedule of ANTs' N4BiasFieldCorrection: shrink 4, four times 50 iterations, no convergence
    /// test.
    pub fn ants() -> Self {
        Self { tolerance: 0.0, ..Self::default() }
    }

    /// The defaults of SimpleITK: no shrinking, four levels of at most 50 iterations, tolerance 1e-3.
    pub fn sitk() -> Self {
        Self { shrink: Zyx([1; 3]), keep_nonpositive: true, ..Self::default() }
    }

    /// The same with knots every `distance_mm` in the first level, as ANTs' `-b [distance]` places them: the
    /// domain grows evenly on both sides to a multiple of it. `shape` and `voxel_mm` are the volume's.
    ///
    /// # Errors
    /// A distance or a voxel size that is not positive.
    pub fn with_spline_distance(
        mut self,
        distance_mm: f64,
        shape: Xyz<usize>,
        voxel_mm: Xyz<f64>,
    ) -> Result<Self, N4Error> {
        let (Zyx(shape), Zyx(voxel_mm)) = (shape.into(), voxel_mm.into());
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(distance_mm) || !voxel_mm.into_iter().all(positive) {
            return Err(N4Error::Options(format!(
                "knots every {distance_mm} mm on voxels of {voxel_mm:?} mm; both must be positive"
            )));
        }
        for axis in 0..3 {
            let extent = (shape[axis] - 1) as f64 * voxel_mm[axis];
            let spans = (extent / distance_mm).ceil().max(1.0);
            let extra = ((spans * distance_mm - extent) / voxel_mm[axis] + 0.5) as usize;
            self.control_points.0[axis] = spans as usize + 3;
            self.padding.0[axis] = [extra / 2, extra - extra / 2];
        }
        Ok(self)
    }

    /// The same shrunken along each axis to voxels of about `target_mm`: thick slices less than thin voxels.
    #[must_use]
    pub fn shrunken_to(mut self, target_mm: f64, voxel_mm: Xyz<f64>) -> Self {
        self.shrink = Xyz(voxel_mm.0.map(|mm| ((target_mm / mm).round() as usize).max(1))).into();
        self
    }

    /// The first step with these settings.
    pub(super) fn log_shrink(&self) -> LogShrink {
        LogShrink {
            factor: self.shrink.0,
            padding: self.padding.0,
            offset: self.offset.map(|first| first.0),
            keep_nonpositive: self.keep_nonpositive,
        }
    }

    /// Whether [`n4`](super::n4) can run with these.
    ///
    /// # Errors
    /// An option out of range.
    pub fn validate(&self) -> Result<(), N4Error> {
        let refuse = |reason: String| Err(N4Error::Options(reason));
        if self.shrink.0.contains(&0) {
            return refuse("the shrink factor must be at least 1".to_owned());
        }
        if self.iterations.is_empty() || self.iterations.contains(&0) {
            return refuse("every level needs at least one iteration".to_owned());
        }
        if !(2..=MAX_BINS).contains(&self.bins) {
            return refuse(format!("{} bins; 2 to {MAX_BINS} are possible", self.bins));
        }
        if !(self.fwhm > 0.0 && self.fwhm.is_finite() && self.noise > 0.0 && self.noise.is_finite()) {
            return refuse("FWHM and noise must be positive".to_owned());
        }
        if self.tolerance.is_nan() || self.tolerance < 0.0 {
            return refuse("the tolerance must not be negative".to_owned());
        }
        if self.control_points.0.iter().any(|&points| points < 4) {
            return refuse("a cubic B-spline needs at least 4 control points along each axis".to_owned());
        }
        let finest =
            self.control_points.0.map(|points| (points - 3) as f64 * 2f64.powi(self.iterations.len() as i32));
        if finest.iter().product::<f64>() > MOST_CONTROL_POINTS {
            return refuse(format!(
                "{} levels from {} control points end in too fine a spline; take fewer levels, fewer control \
                 points or a greater spline distance",
                self.iterations.len(),
                factors(self.control_points)
            ));
        }
        Ok(())
    }
}
