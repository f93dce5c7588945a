//! N4 bias-field correction: the outer loop over resolution levels.
//!
//! Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 29(6), 2010, as ITK's
//! `N4BiasFieldCorrectionImageFilter` does it. The kernels are operators of [`crate::ops::n4`]; an
//! iteration is eleven launches, without allocation and without reading back, and a submission holds several.

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;

use crate::gpu::{Gpu, GpuError, GpuTensor};
use crate::graph::{Executor, ExecutorOptions, Graph, GraphError, run_op, run_op1};
use crate::ops::n4::{
    Apply, BasisPower, CONVERGENCE, Contract, DONE, EXTENT, Evaluate, FieldUpdate, Histogram, ITERATIONS,
    LatticeUpdate, LogShrink, MAX_BINS, Range, ResidualContract, Sharpen, VOXELS,
};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// Fewest voxels that a field is fitted to.
pub const MIN_VOXELS: usize = 1000;

/// Most spans of the finest level: more than one for every voxel of a large head.
const MOST_CONTROL_POINTS: f64 = 1.6e7;

/// Voxels that the iterations of one submission pass. While a level may converge, the status is looked at after
/// each: a look costs a round trip, an iteration after convergence changes nothing.
const SUBMITTED_VOXELS: usize = 1 << 22;
/// Most iterations of one submission.
const MOST_SUBMITTED: usize = 5;

/// What can go wrong.
#[derive(Debug, Error)]
pub enum N4Error {
    /// An option is out of range.
    #[error("N4: {0}")]
    Options(String),
    /// The volume is not `[D, H, W]`, or mask or confidence do not fit it.
    #[error("N4: {what} has shape {shape:?}{remedy}")]
    Shape {
        /// Volume, mask or confidence.
        what: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// What is expected.
        remedy: String,
    },
    /// The mask is (nearly) empty.
    #[error(
        "N4: only {voxels} voxels to fit the field to after shrinking by {} (at least {MIN_VOXELS} are needed): \
         the mask or the image is empty, or not positive there; a smaller shrink factor keeps more voxels",
        factors(shrink)
    )]
    TooFewVoxels {
        /// Voxels in the mask.
        voxels: usize,
        /// Shrink factors.
        shrink: [usize; 3],
    },
    /// All voxels of the mask have one value.
    #[error("N4: the image has one value throughout the mask: there is no field to estimate")]
    Constant,
    /// The shrunken volume exceeds what the device binds.
    #[error(
        "N4: shrunken by {}, the volume takes {mib} MiB, and {adapter} binds {limit_mib} MiB at once; a larger \
         shrink factor fits",
        factors(shrink)
    )]
    TooLarge {
        /// Size of the shrunken volume.
        mib: u64,
        /// What the adapter binds.
        limit_mib: u64,
        /// Its name.
        adapter: String,
        /// Shrink factors.
        shrink: [usize; 3],
    },
    /// The device refused or failed.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl From<GpuError> for N4Error {
    fn from(error: GpuError) -> Self {
        Self::Graph(error.into())
    }
}

/// One number for three equal factors, else `x,y,z`.
pub(crate) fn factors([z, y, x]: &[usize; 3]) -> String {
    if x == y && y == z { x.to_string() } else { format!("{x},{y},{z}") }
}

/// Where a field is estimated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Region<'a> {
    /// u32 `[D, H, W]`: voxels of 0 are left out, any other label counts.
    pub mask: Option<&'a GpuTensor>,
    /// f32 `[D, H, W]`: how much each voxel counts in the fit; those that are not positive are left out.
    pub confidence: Option<&'a GpuTensor>,
}

impl<'a> Region<'a> {
    /// The voxels of a mask, which count alike.
    pub fn mask(mask: &'a GpuTensor) -> Self {
        Self { mask: Some(mask), confidence: None }
    }
}

/// Settings of N4. Arrays of three follow the axes of the volume's tensor: z, y, x.
#[derive(Clone, Debug, PartialEq)]
pub struct N4Options {
    /// Every how many voxels the field is estimated from, along each axis.
    pub shrink: [usize; 3],
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
    pub control_points: [usize; 3],
    /// Voxels that the spline's domain has before and after the volume along each axis (see
    /// [`N4Options::with_spline_distance`]).
    pub padding: [[usize; 2]; 3],
    /// Count values <= 0 in the mask and take them as they are for logarithms, as ITK does. Off, they
    /// leave the mask. Without a mask, a background of zeros then counts as an intensity of 1, and the
    /// field depends on the image's unit: on an 8-bit head with 42% zeros (Colin27) the two fields differ
    /// by 0.041 rms.
    pub keep_nonpositive: bool,
    /// First voxel `[z, y, x]` of the shrunken grid; `None` takes ITK's.
    pub offset: Option<[usize; 3]>,
}

impl Default for N4Options {
    /// Shrink 4, four levels of at most 50 iterations, tolerance 1e-3.
    fn default() -> Self {
        Self {
            shrink: [4; 3],
            iterations: vec![50; 4],
            tolerance: 1e-3,
            bins: 200,
            fwhm: 0.15,
            noise: 0.01,
            control_points: [4; 3],
            padding: [[0; 2]; 3],
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
            shrink: [3; 3],
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
        Self { shrink: [1; 3], keep_nonpositive: true, ..Self::default() }
    }

    /// The same with knots every `distance_mm` in the first level, as ANTs' `-b [distance]` places them: the
    /// domain grows evenly on both sides to a multiple of it. `shape` and `voxel_mm` are the volume's.
    ///
    /// # Errors
    /// A distance or a voxel size that is not positive.
    pub fn with_spline_distance(
        mut self,
        distance_mm: f64,
        shape: [usize; 3],
        voxel_mm: [f64; 3],
    ) -> Result<Self, N4Error> {
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
            self.control_points[axis] = spans as usize + 3;
            self.padding[axis] = [extra / 2, extra - extra / 2];
        }
        Ok(self)
    }

    /// The same shrunken along each axis to voxels of about `target_mm`: thick slices less than thin voxels.
    #[must_use]
    pub fn shrunken_to(mut self, target_mm: f64, voxel_mm: [f64; 3]) -> Self {
        self.shrink = voxel_mm.map(|mm| ((target_mm / mm).round() as usize).max(1));
        self
    }

    /// The first step with these settings.
    pub(super) fn log_shrink(&self) -> LogShrink {
        LogShrink {
            factor: self.shrink,
            padding: self.padding,
            offset: self.offset,
            keep_nonpositive: self.keep_nonpositive,
        }
    }

    /// Whether [`n4`] can run with these.
    ///
    /// # Errors
    /// An option out of range.
    pub fn validate(&self) -> Result<(), N4Error> {
        let refuse = |reason: String| Err(N4Error::Options(reason));
        if self.shrink.contains(&0) {
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
        if self.control_points.iter().any(|&points| points < 4) {
            return refuse("a cubic B-spline needs at least 4 control points along each axis".to_owned());
        }
        let finest =
            self.control_points.map(|points| (points - 3) as f64 * 2f64.powi(self.iterations.len() as i32));
        if finest.iter().product::<f64>() > MOST_CONTROL_POINTS {
            return refuse(format!(
                "{} levels from {} control points end in too fine a spline; take fewer levels, fewer control \
                 points or a greater spline distance",
                self.iterations.len(),
                factors(&self.control_points)
            ));
        }
        Ok(())
    }
}

/// How a level ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct N4Level {
    /// Iterations that changed the field.
    pub iterations: usize,
    /// Convergence measure of the last one.
    pub convergence: f32,
}

/// What N4 estimated: a B-spline.
#[derive(Clone, Debug)]
pub struct N4Fit {
    /// Control points `[cz, cy, cx]` of the log field.
    pub lattice: HostTensor,
    /// How each level ended.
    pub levels: Vec<N4Level>,
    /// Voxels of the shrunken grid that the field was fitted to.
    pub voxels: usize,
}

/// What N4 estimated, and the field itself.
#[derive(Debug)]
pub struct N4Result {
    /// The estimate.
    pub fit: N4Fit,
    /// Logarithm of the field, `[D, H, W]` f32 on the volume's grid.
    pub log_field: GpuTensor,
}

/// Estimates the bias field of `volume` f32 `[D, H, W]` in `region`; without a mask every valid voxel counts.
/// Voxels that are not finite, and unless [`N4Options::keep_nonpositive`] is set those that are not positive,
/// are left out.
///
/// Takes up to two volumes of the shrunken grid while it runs, and the log field after them.
///
/// # Errors
/// Options out of range, shapes that do not fit, a region that is (nearly) empty or constant, a failing
/// device.
pub fn n4(
    gpu: &Arc<Gpu>,
    volume: &GpuTensor,
    region: Region,
    options: &N4Options,
) -> Result<N4Result, N4Error> {
    options.validate()?;
    if volume.desc.shape.len() != 3 {
        let remedy = ", a volume has three axes".to_owned();
        return Err(N4Error::Shape { what: "the volume", shape: volume.desc.shape.clone(), remedy });
    }
    for (what, tensor, dtype) in
        [("the mask", region.mask, DType::U32), ("the confidence", region.confidence, DType::F32)]
    {
        if let Some(tensor) = tensor.filter(|t| t.desc.shape != volume.desc.shape || t.desc.dtype != dtype) {
            let remedy = format!(
                " of {:?}, the volume {:?}; a {dtype:?} tensor is needed",
                tensor.desc.dtype, volume.desc.shape
            );
            return Err(N4Error::Shape { what, shape: tensor.desc.shape.clone(), remedy });
        }
    }
    let inputs: Vec<&GpuTensor> =
        [Some(volume), region.mask, region.confidence].into_iter().flatten().collect();
    let [v, weight]: [GpuTensor; 2] =
        run_op(gpu, &options.log_shrink(), &inputs)?.try_into().expect("n4_log_shrink has two outputs");
    let fit = fit_shrunken(gpu, v, weight, region.confidence.is_some(), options)?;
    // The working volumes are free once the device is idle; the field may take their place.
    gpu.wait()?;
    let native = [0, 1, 2].map(|axis| volume.desc.shape[axis]);
    let log_field = evaluate(gpu, &fit.lattice, native, options.padding)?;
    Ok(N4Result { fit, log_field })
}

/// Divides `volume`, in place, by the field whose logarithm is `log_field`, both `[D, H, W]`.
///
/// # Errors
/// Shapes that differ, or a failing device.
pub fn correct(gpu: &Gpu, volume: &GpuTensor, log_field: &GpuTensor) -> Result<(), N4Error> {
    run_op(gpu, &Apply, &[volume, log_field])?;
    Ok(())
}

/// The B-spline with these control points `[cz, cy, cx]` on a grid `[D, H, W]` that, with `padding` voxels
/// before and after it along each axis, spans its whole domain.
///
/// ITK stretches the lattice over the full grid although it was fitted on the shrunken one, whose outermost
/// voxels lie further in: the field is off by up to 0.012, and this follows it.
///
/// # Errors
/// Fewer than four control points along an axis, or a failing device.
pub fn evaluate(
    gpu: &Gpu,
    lattice: &HostTensor,
    shape: [usize; 3],
    padding: [[usize; 2]; 3],
) -> Result<GpuTensor, N4Error> {
    let mut values = upload(gpu, lattice)?;
    // x first: the largest step comes last, with neighbouring addresses for neighbouring invocations.
    for axis in [2, 1, 0] {
        let spans = lattice.desc.shape[axis].saturating_sub(3).max(1);
        let margin @ [before, after] = padding[axis];
        let all = BasisPower::Evaluate.weights(before + shape[axis] + after, spans);
        let rows = all.data[4 * before..4 * (before + shape[axis])].to_vec();
        let basis = upload(gpu, &HostTensor::new(TensorDesc::f32(&[shape[axis], 4]), rows))?;
        values = run_op1(gpu, &Evaluate { axis, margin }, &[&values, &basis])?;
    }
    Ok(values)
}

/// Runs all levels on what [`LogShrink`] gave; `weighted` says whether the voxels that count do so differently.
pub(super) fn fit_shrunken(
    gpu: &Arc<Gpu>,
    v: GpuTensor,
    weight: GpuTensor,
    weighted: bool,
    options: &N4Options,
) -> Result<N4Fit, N4Error> {
    let status = run_op1(gpu, &Range, &[&v])?;
    let start: Vec<f32> = gpu.download(&status)?;
    let voxels = start[VOXELS] as usize;
    if voxels < MIN_VOXELS {
        return Err(N4Error::TooFewVoxels { voxels, shrink: options.shrink });
    }
    if start[EXTENT] <= 0.0 {
        return Err(N4Error::Constant);
    }

    let volumes = Volumes { v, weight, weighted, status };
    let mut lattice = HostTensor::zeros(TensorDesc::f32(&options.control_points));
    let mut levels = Vec::with_capacity(options.iterations.len());
    for (ix, &most) in options.iterations.iter().enumerate() {
        if ix > 0 {
            lattice = refine(&lattice);
        }
        let (refined, level) = run_level(gpu, &volumes, &lattice, most, options)?;
        lattice = refined;
        levels.push(level);
        log::debug!("N4 level {ix}: {level:?}");
    }
    Ok(N4Fit { lattice, levels, voxels })
}

/// The shrunken volumes `[d, h, w]` and the status that every level works on.
struct Volumes {
    /// Logarithm of the image less the field.
    v: GpuTensor,
    /// How much each voxel counts.
    weight: GpuTensor,
    /// Whether those that count do so differently.
    weighted: bool,
    /// See [`crate::ops::n4`].
    status: GpuTensor,
}

/// Fits one level, starting from `lattice`: at most `most` iterations.
fn run_level(
    gpu: &Arc<Gpu>,
    volumes: &Volumes,
    lattice: &HostTensor,
    most: usize,
    options: &N4Options,
) -> Result<(HostTensor, N4Level), N4Error> {
    let shape = &volumes.v.desc.shape;
    let spans: Vec<usize> = lattice.desc.shape.iter().map(|points| points - 3).collect();
    let basis = |power: BasisPower, axis: usize| power.weights(shape[axis], spans[axis]);

    let mut omega = volumes.weight.clone();
    for (axis, &spans) in spans.iter().enumerate() {
        let weights = upload(gpu, &basis(BasisPower::Omega, axis))?;
        omega = run_op1(gpu, &Contract { axis, spans }, &[&omega, &weights])?;
    }
    // The range is what the level before left.
    let mut fresh: Vec<f32> = gpu.download(&volumes.status)?;
    fresh[CONVERGENCE..=ITERATIONS].copy_from_slice(&[f32::MAX, 0.0, 0.0]);
    gpu.write(&volumes.status, &fresh)?;

    let mut graph = Graph::new();
    let mut shared = HashMap::new();
    let mut state = |graph: &mut Graph, name: &str, tensor: &GpuTensor| {
        let value = graph.state(name, tensor.desc.clone());
        shared.insert(value, tensor.clone());
        value
    };
    let v = state(&mut graph, "v", &volumes.v);
    let weight = volumes.weighted.then(|| state(&mut graph, "weight", &volumes.weight));
    let status = state(&mut graph, "status", &volumes.status);
    let points = state(&mut graph, "lattice", &upload(gpu, lattice)?);
    let omega = state(&mut graph, "omega", &omega);
    let delta_basis: Vec<_> =
        (0..3).map(|axis| graph.constant("delta basis", &basis(BasisPower::Delta, axis))).collect();
    let field_basis: Vec<_> =
        (0..3).map(|axis| graph.constant("field basis", &basis(BasisPower::Evaluate, axis))).collect();

    let bins = options.bins;
    let histogram = graph.apply1(Histogram { bins }, &[v, status])?;
    let sharpen = Sharpen { bins, fwhm: options.fwhm, noise: options.noise };
    let shift = graph.apply1(sharpen, &[histogram, status])?;
    // z first and last: neighbouring invocations then read neighbouring voxels.
    let residual = ResidualContract { spans: spans[0] };
    let inputs: Vec<_> = [v, status, shift, delta_basis[0]].into_iter().chain(weight).collect();
    let mut delta = graph.apply1(residual, &inputs)?;
    for axis in [1, 2] {
        delta = graph.apply1(Contract { axis, spans: spans[axis] }, &[delta, delta_basis[axis]])?;
    }
    let [updated, mut change] = graph.apply(LatticeUpdate, &[points, delta, omega, status])?[..] else {
        unreachable!("n4_lattice_update has two outputs")
    };
    for axis in [2, 1] {
        change = graph.apply1(Evaluate { axis, margin: [0; 2] }, &[change, field_basis[axis]])?;
    }
    let update = FieldUpdate { tolerance: options.tolerance };
    graph.apply(update, &[v, change, field_basis[0], status])?;
    graph.mark_output(updated);

    let executor = Executor::new(gpu, graph, ExecutorOptions { shared, ..ExecutorOptions::default() })?;
    let at_once = (SUBMITTED_VOXELS / volumes.v.desc.len()).clamp(1, MOST_SUBMITTED);
    let mut submitted = 0;
    while submitted < most {
        let next = at_once.min(most - submitted);
        executor.run_times(next)?;
        submitted += next;
        if options.tolerance > 0.0 && submitted < most {
            let now: Vec<f32> = executor.read(status)?;
            if now[DONE] > 0.5 {
                break;
            }
        }
    }
    let end: Vec<f32> = executor.read(status)?;
    let words: Vec<u32> = executor.read(updated)?;
    let level = N4Level { iterations: end[ITERATIONS] as usize, convergence: end[CONVERGENCE] };
    Ok((HostTensor::from_words(lattice.desc.clone(), &words), level))
}

/// The same B-spline with twice the spans along each axis: knot insertion for uniform cubics, exact.
fn refine(lattice: &HostTensor) -> HostTensor {
    let mut coarse = lattice.clone();
    for axis in 0..3 {
        let mut shape = coarse.desc.shape.clone();
        let outer: usize = shape[..axis].iter().product();
        let inner: usize = shape[axis + 1..].iter().product();
        let (n, m) = (shape[axis], 2 * shape[axis] - 3);
        shape[axis] = m;
        let mut fine = HostTensor::zeros(TensorDesc::f32(&shape));
        for o in 0..outer {
            for e in 0..inner {
                let p = |h: usize| coarse.data[(o * n + h) * inner + e];
                for i in 0..m {
                    let h = i / 2;
                    fine.data[(o * m + i) * inner + e] = if i % 2 == 0 {
                        (p(h) + p(h + 1)) / 2.0
                    } else {
                        (p(h) + 6.0 * p(h + 1) + p(h + 2)) / 8.0
                    };
                }
            }
        }
        coarse = fine;
    }
    coarse
}

fn upload(gpu: &Gpu, tensor: &HostTensor) -> Result<GpuTensor, N4Error> {
    Ok(gpu.upload(&tensor.desc, &tensor.to_words())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value of the spline through `points` at voxel `i` of `n`.
    fn value(points: &[f64], i: usize, n: usize) -> f64 {
        let spans = points.len() - 3;
        let weights = BasisPower::Evaluate.weights(n, spans);
        let first = crate::ops::n4::span_of(i, spans, n);
        (0..4).map(|k| weights.data[i * 4 + k] * points[first + k]).sum()
    }

    #[test]
    fn refining_keeps_the_spline() {
        let axis = [0.3, -1.2, 2.0, 0.7, -0.4];
        let data = (0..125).map(|i| axis[i / 25] * axis[i / 5 % 5] * axis[i % 5]).collect();
        let fine = refine(&HostTensor::new(TensorDesc::f32(&[5; 3]), data));
        assert_eq!(fine.desc.shape, [7; 3]);
        // The middle plane of a tensor product is the axis times constants.
        let n = 23;
        for i in 0..n - 1 {
            let coarse = value(&axis, i, n);
            let lines: Vec<f64> = (0..7).map(|h| fine.data[(h * 7 + 2) * 7 + 4]).collect();
            let factor = (axis[1] + axis[2]) / 2.0 * (axis[2] + axis[3]) / 2.0;
            assert!((value(&lines, i, n) - coarse * factor).abs() < 1e-12, "voxel {i}");
        }
    }

    #[test]
    fn weights_sum_to_one() {
        for (n, spans) in [(1, 1), (2, 1), (9, 4), (5, 8), (86, 8)] {
            let weights = BasisPower::Evaluate.weights(n, spans);
            for row in weights.data.chunks(4) {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }
}
