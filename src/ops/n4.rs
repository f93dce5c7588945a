//! N4 bias-field correction (Tustison et al., IEEE TMI 29(6), 2010): the kernels of one iteration.
//!
//! The voxels lie on a grid, so ITK's fit of a B-spline to scattered data factorises exactly into one
//! contraction an axis: for the update `delta` the weights are B³/ΣB², for its normaliser `omega` B², for
//! the field B. They are inputs of `[n, 4]`: row i holds the weights of voxel i for the four control points
//! from [`span_of`] on ([`BasisPower`] makes them).
//!
//! Volumes are f32 `[D, H, W]`. In `v`, the image's logarithm less the field, voxels that do not count hold
//! [`OUTSIDE`], so that no kernel of an iteration reads a mask; `weight` is 0 there, else a confidence.
//! `status` is f32 `[8]`: least masked value, extent (greatest - least),
//! voxels in the mask, convergence measure, 1 once the level is done, iterations of the level, two spares.

use super::{Case, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs};
use crate::gpu::{Caps, DeviceClass, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::Cost;
use crate::tensor::{DType, HostTensor, TensorDesc};

/// What voxels hold that do not count; every value below [`LEAST_COUNTED`] means the same.
pub const OUTSIDE: f32 = -3e38;
/// Least value that counts.
pub const LEAST_COUNTED: f32 = -1e30;
/// Elements of the status tensor.
pub const STATUS: usize = 8;
/// Field of the status: least value in the mask.
pub const LEAST: usize = 0;
/// Field of the status: greatest less least value in the mask.
pub const EXTENT: usize = 1;
/// Field of the status: voxels in the mask.
pub const VOXELS: usize = 2;
/// Field of the status: convergence measure of the last iteration.
pub const CONVERGENCE: usize = 3;
/// Field of the status: 1 once the convergence measure has been at most the tolerance.
pub const DONE: usize = 4;
/// Field of the status: iterations of this level so far.
pub const ITERATIONS: usize = 5;
/// Most bins that the histogram kernels hold.
pub const MAX_BINS: usize = 256;

/// Workgroups of `n4/histogram.wgsl`: enough for a large GPU, few enough that summing their partial
/// results costs nothing.
const HISTOGRAM_GROUPS: usize = 128;
/// Voxels that a workgroup of `n4/histogram.wgsl` takes in a turn.
const HISTOGRAM_BATCH: usize = 15 * 256;
/// Fewest workgroups of `n4/histogram_private.wgsl` on a large image: enough for the cores of a processor.
const PRIVATE_GROUPS: usize = 32;
/// Most voxels that a workgroup of `n4/histogram_private.wgsl` counts: of the fours that an invocation takes, the most
/// below 4,096.
const PRIVATE_MOST: usize = 4092 * 16;

/// The variants of the kernels that walk along z, and the neighbouring columns that an invocation takes in each: a
/// processor fetches a cache line for any of them.
const COLUMN_VARIANTS: [(&str, usize); 3] =
    [("one column", 1), ("eight columns", 8), ("sixteen columns", 16)];
/// Fewest invocations that keep the cores of a processor busy.
const BUSY: usize = 256;

/// The variants for a volume of so many columns, preferred first.
fn column_variants(caps: &Caps, columns: usize) -> Vec<&'static str> {
    let [one, eight, sixteen] = COLUMN_VARIANTS.map(|(name, _)| name);
    match caps.class {
        DeviceClass::Software if columns >= 16 * BUSY => vec![sixteen, eight, one],
        DeviceClass::Software => vec![eight, sixteen, one],
        _ => vec![one, eight, sixteen],
    }
}

fn columns_of(variant: &str) -> usize {
    COLUMN_VARIANTS.iter().find(|(name, _)| *name == variant).map_or(1, |&(_, columns)| columns)
}

/// Length of the zero-padded histogram: twice the next power of two, as in ITK.
pub fn padded_bins(bins: usize) -> usize {
    2 * bins.next_power_of_two()
}

/// Span of a cubic B-spline that voxel `i` of `n` falls in: the first of its four control points. The
/// last voxel belongs to the last span.
pub fn span_of(i: usize, spans: usize, n: usize) -> usize {
    if n < 2 { 0 } else { (spans * i / (n - 1)).min(spans - 1) }
}

/// Which weights of a B-spline axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasisPower {
    /// B: evaluates a lattice.
    Evaluate,
    /// B²: sums the normaliser omega.
    Omega,
    /// B³ / ΣB²: sums the update delta.
    Delta,
}

impl BasisPower {
    /// The weights `[n, 4]` of `n` voxels in `spans` spans. Voxel i lies at u = spans·i/(n-1); the last one,
    /// which is outside the half-open domain, is moved in by a thousandth of a voxel, as in ITK.
    pub fn weights(self, n: usize, spans: usize) -> HostTensor {
        let cubic = |x: f64| match x.abs() {
            a if a < 1.0 => (4.0 - 6.0 * a * a + 3.0 * a * a * a) / 6.0,
            a if a < 2.0 => (2.0 - a).powi(3) / 6.0,
            _ => 0.0,
        };
        let mut data = Vec::with_capacity(n * 4);
        for i in 0..n {
            let step = spans as f64 / (n.max(2) - 1) as f64;
            let mut u = if n < 2 { 0.0 } else { step * i as f64 };
            if i > 0 && i + 1 == n {
                u = spans as f64 - 1e-3 * step;
            }
            let t = u - span_of(i, spans, n) as f64;
            let b: [f64; 4] = std::array::from_fn(|k| cubic(t - k as f64 + 1.0));
            let squares: f64 = b.iter().map(|b| b * b).sum();
            data.extend(b.map(|b| match self {
                Self::Evaluate => b,
                Self::Omega => b * b,
                Self::Delta => b * b * b / squares,
            }));
        }
        HostTensor::new(TensorDesc::f32(&[n, 4]), data)
    }
}

/// The extents of a volume `[D, H, W]`, or an error naming the operator.
fn expect_volume(name: &'static str, inputs: &[TensorDesc], ix: usize) -> Result<[usize; 3], OpError> {
    <[usize; 3]>::try_from(inputs[ix].shape.as_slice())
        .ok()
        .filter(|shape| shape.iter().all(|&n| n > 0))
        .ok_or_else(|| OpError::new(name, inputs, format!("input {ix} must be D H W without an empty axis")))
}

/// Refuses an input of another shape.
fn expect_shape(
    name: &'static str,
    inputs: &[TensorDesc],
    ix: usize,
    shape: &[usize],
) -> Result<(), OpError> {
    if inputs[ix].shape == shape {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("input {ix} must be {shape:?}")))
    }
}

fn expect_bins(name: &'static str, inputs: &[TensorDesc], bins: usize) -> Result<(), OpError> {
    if (2..=MAX_BINS).contains(&bins) {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("{bins} bins; 2 to {MAX_BINS} are possible")))
    }
}

/// Lines along `axis`: how many lie outside it, its extent, and the distance between its elements.
fn lines(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// Splits a histogram position into its lower bin and the fraction of the upper one.
fn bin_of(value: f64, status: &HostTensor, bins: usize) -> (usize, f64) {
    let top = (bins - 1) as f64;
    let c = ((value - status.data[LEAST]) / status.data[EXTENT] * top).clamp(0.0, top);
    let j = (c as usize).min(bins - 2);
    (j, c - j as f64)
}

/// Contraction of `axis` by its definition.
fn contract_reference(x: &[f64], shape: &[usize], axis: usize, basis: &HostTensor, spans: usize) -> Vec<f64> {
    let (outer, n, inner) = lines(shape, axis);
    let mut y = vec![0.0; outer * (spans + 3) * inner];
    for o in 0..outer {
        for i in 0..n {
            for k in 0..4 {
                let point = span_of(i, spans, n) + k;
                for e in 0..inner {
                    y[(o * (spans + 3) + point) * inner + e] +=
                        basis.data[i * 4 + k] * x[(o * n + i) * inner + e];
                }
            }
        }
    }
    y
}

/// Evaluation of `axis` by its definition, with `margin` further voxels before and after the `n`.
fn evaluate_reference(x: &HostTensor, axis: usize, basis: &HostTensor, margin: [usize; 2]) -> Vec<f64> {
    let (outer, points, inner) = lines(&x.desc.shape, axis);
    let n = basis.desc.shape[0];
    let all = n + margin[0] + margin[1];
    let mut y = vec![0.0; outer * n * inner];
    for o in 0..outer {
        for i in 0..n {
            let first = span_of(margin[0] + i, points - 3, all);
            for e in 0..inner {
                y[(o * n + i) * inner + e] = (0..4)
                    .map(|k| basis.data[i * 4 + k] * x.data[(o * points + first + k) * inner + e])
                    .sum();
            }
        }
    }
    y
}

/// `n4_log_shrink`: `(volume[, mask u32][, confidence]) -> (v, weight)`: strided pick, logarithm and mask in
/// one. Inputs `[D, H, W]`, told apart by their types; outputs `[max(1, D/f), max(1, H/f), max(1, W/f)]`, with
/// the padding counted in D, H and W. The weight is the confidence, or 1, where the voxel counts, else 0 with
/// [`OUTSIDE`] as v.
#[derive(Debug, Clone)]
pub struct LogShrink {
    /// Keeps every factor-th voxel along each axis.
    pub factor: [usize; 3],
    /// Voxels outside the mask that are thought before and after the volume, along each axis.
    pub padding: [[usize; 2]; 3],
    /// First voxel along each axis of the padded volume; `None` takes ITK's.
    pub offset: Option<[usize; 3]>,
    /// Values <= 0 stay in the mask as they are (ITK) instead of leaving it.
    pub keep_nonpositive: bool,
}

impl LogShrink {
    /// First voxel that `itk::ShrinkImageFilter` picks from `n`: the picked grid is centred on the other.
    pub fn itk_offset(n: usize, factor: usize) -> usize {
        (n - factor * ((n / factor).max(1) - 1)) / 2
    }

    /// Output shape, and first voxel of the padded volume.
    pub(crate) fn geometry(&self, shape: &[usize]) -> ([usize; 3], [usize; 3]) {
        let padded = self.padded(shape);
        let out = std::array::from_fn(|a| (padded[a] / self.factor[a]).max(1));
        let centred = std::array::from_fn(|a| Self::itk_offset(padded[a], self.factor[a]).min(padded[a] - 1));
        (out, self.offset.unwrap_or(centred))
    }

    fn padded(&self, shape: &[usize]) -> [usize; 3] {
        std::array::from_fn(|a| shape[a] + self.padding[a][0] + self.padding[a][1])
    }

    /// Positions of the mask and of the confidence among the inputs.
    fn regions(inputs: &[TensorDesc]) -> [Option<usize>; 2] {
        [DType::U32, DType::F32].map(|dtype| (1..inputs.len()).find(|&ix| inputs[ix].dtype == dtype))
    }
}

/// Registry entry of [`LogShrink`].
pub static LOG_SHRINK: OpDef = OpDef {
    name: "n4_log_shrink",
    summary: "every f-th voxel, in the log domain, with the weight it counts with",
    shaders: &["n4/log_shrink.wgsl"],
    cases: || {
        let volume = |shape: &[usize]| (TensorDesc::f32(shape), Fill::Normal(50.0));
        let mask = |shape: &[usize]| (TensorDesc::u32(shape), Fill::Integer(3));
        let confidence = |shape: &[usize]| {
            (TensorDesc::f32(shape), Fill::Values(&[0.5, 1.0, 0.0, 2.5, f32::NAN, -1.0, f32::INFINITY]))
        };
        let op = |factor, keep_nonpositive| LogShrink {
            factor,
            padding: [[0; 2]; 3],
            offset: None,
            keep_nonpositive,
        };
        vec![
            Case::new("no mask", op([3; 3], false), vec![volume(&[11, 13, 17])]),
            Case::new("raw non-positive values", op([2, 1, 3], true), vec![volume(&[5, 4, 7])]),
            Case::new(
                "mask, thinner than the factor",
                op([4; 3], false),
                vec![volume(&[3, 9, 10]), mask(&[3, 9, 10])],
            ),
            Case::new("confidence", op([1; 3], false), vec![volume(&[4, 5, 6]), confidence(&[4, 5, 6])]),
            Case::new(
                "mask, confidence, padding, raw values, given offset",
                LogShrink {
                    factor: [2, 2, 1],
                    padding: [[3, 1], [0, 2], [2, 0]],
                    offset: Some([0, 1, 0]),
                    keep_nonpositive: true,
                },
                vec![volume(&[4, 5, 6]), mask(&[4, 5, 6]), confidence(&[4, 5, 6])],
            ),
            Case::new("head", op([3; 3], false), vec![volume(&[192, 256, 256])]).bench_only(),
        ]
    },
};

impl Operator for LogShrink {
    fn name(&self) -> &'static str {
        "n4_log_shrink"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let name = self.name();
        let regions = Self::regions(inputs);
        expect_inputs(name, inputs, 1 + regions.iter().flatten().count())?;
        let shape = expect_volume(name, inputs, 0)?;
        for ix in regions.into_iter().flatten() {
            expect_shape(name, inputs, ix, &shape)?;
        }
        if self.factor.contains(&0) {
            return Err(OpError::new(name, inputs, "the factors must be at least 1"));
        }
        let (out, offset) = self.geometry(&shape);
        let padded = self.padded(&shape);
        if (0..3).any(|a| offset[a] + self.factor[a] * (out[a] - 1) >= padded[a]) {
            return Err(OpError::new(name, inputs, format!("offset {offset:?} leaves the volume")));
        }
        Ok(vec![TensorDesc::f32(&out); 2])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let shape = &inputs[0].shape;
        let (out, offset) = self.geometry(shape);
        let n = outputs[0].len();
        let [mask, confidence] = Self::regions(inputs);
        let mut key = KernelKey::new("n4/log_shrink.wgsl");
        for (define, wanted) in [
            ("HAS_MASK", mask.is_some()),
            ("HAS_CONFIDENCE", confidence.is_some()),
            ("KEEP_NONPOSITIVE", self.keep_nonpositive),
        ] {
            if wanted {
                key = key.define(define, 1);
            }
        }
        let mut params = Params::new().u32("n", n).u32("h", out[1]).u32("w", out[2]);
        let names = [
            ["in_z", "factor_z", "offset_z", "before_z"],
            ["in_y", "factor_y", "offset_y", "before_y"],
            ["in_x", "factor_x", "offset_x", "before_x"],
        ];
        for (a, [extent, factor, first, before]) in names.into_iter().enumerate() {
            params = params
                .u32(extent, shape[a])
                .u32(factor, self.factor[a])
                .u32(first, offset[a])
                .u32(before, self.padding[a][0]);
        }
        let mut dispatch = Dispatch::new(key)
            .bind("volume", Slot::Input(0))
            .bind("v", Slot::Output(0))
            .bind("weight", Slot::Output(1))
            .params(params)
            .flat(n, FLAT);
        for (binding, input) in [("mask", mask), ("confidence", confidence)] {
            if let Some(ix) = input {
                dispatch = dispatch.bind(binding, Slot::Input(ix));
            }
        }
        Lowered::one(dispatch)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let shape = &inputs[0].desc.shape;
        let (out, offset) = self.geometry(shape);
        let descs: Vec<TensorDesc> = inputs.iter().map(|input| input.desc.clone()).collect();
        let [mask, confidence] = Self::regions(&descs);
        let mut weight = HostTensor::zeros(TensorDesc::f32(&out));
        let mut v = HostTensor::new(TensorDesc::f32(&out), vec![f64::from(OUTSIDE); weight.data.len()]);
        for to in 0..v.data.len() {
            let at = [to / (out[1] * out[2]), to / out[2] % out[1], to % out[2]];
            let padded: [usize; 3] = std::array::from_fn(|a| offset[a] + self.factor[a] * at[a]);
            if (0..3).any(|a| !(self.padding[a][0]..self.padding[a][0] + shape[a]).contains(&padded[a])) {
                continue;
            }
            let [iz, iy, ix] = std::array::from_fn(|a| padded[a] - self.padding[a][0]);
            let from = (iz * shape[1] + iy) * shape[2] + ix;
            let value = inputs[0].data[from];
            let labelled = mask.is_none_or(|ix| inputs[ix].data[from] != 0.0);
            let trust = confidence.map_or(1.0, |ix| inputs[ix].data[from]);
            if labelled
                && value.is_finite()
                && trust.is_finite()
                && trust > 0.0
                && (value > 0.0 || self.keep_nonpositive)
                && value >= f64::from(LEAST_COUNTED)
            {
                v.data[to] = if value > 0.0 { value.ln() } else { value };
                weight.data[to] = trust;
            }
        }
        vec![v, weight]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        // Of the inputs, what is picked.
        let values = outputs[0].len() * (inputs.len() + outputs.len());
        Cost { flops: outputs[0].len() as f64, bytes: 4.0 * values as f64 }
    }
}

/// The dispatch that turns the columns' partial results into the status.
fn status_dispatch(partials: Slot, status: Slot, columns: usize, tolerance: Option<f32>) -> Dispatch {
    let mut key = KernelKey::new("n4/status.wgsl");
    if tolerance.is_none() {
        key = key.define("START", 1);
    }
    Dispatch::new(key)
        .bind("partials", partials)
        .bind("status", status)
        .params(Params::new().u32("columns", columns).f32("tolerance", tolerance.unwrap_or(0.0)))
}

/// Values of which some do not count.
const SOME_OUTSIDE: Fill =
    Fill::Values(&[1.5, OUTSIDE, 0.25, 3.0, 2.75, OUTSIDE, OUTSIDE, 1.125, 0.875, 2.25, 3.875, 1.75, 0.5]);

/// Whether a voxel counts.
fn counts(v: f64) -> bool {
    v >= f64::from(LEAST_COUNTED)
}

/// `n4_range`: `v -> status`: the status of a level that has not begun.
#[derive(Debug, Clone)]
pub struct Range;

/// Registry entry of [`Range`].
pub static RANGE: OpDef = OpDef {
    name: "n4_range",
    summary: "masked minimum, extent and voxel count as the status of a new N4 level",
    shaders: &["n4/range.wgsl", "n4/status.wgsl"],
    cases: || {
        let case = |name, shape: &[usize], fill| Case::new(name, Range, vec![(TensorDesc::f32(shape), fill)]);
        vec![
            case("odd", &[5, 7, 9], SOME_OUTSIDE),
            case("more columns than invocations", &[2, 19, 31], SOME_OUTSIDE),
            case("every voxel counts", &[4, 3, 5], Fill::Normal(2.0)),
            case("one voxel", &[1, 1, 1], Fill::Normal(2.0)),
            case("empty mask", &[3, 2, 2], Fill::Values(&[OUTSIDE])),
        ]
    },
};

impl Operator for Range {
    fn name(&self) -> &'static str {
        "n4_range"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        expect_volume(self.name(), inputs, 0)?;
        Ok(vec![TensorDesc::f32(&[STATUS])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let (_, d, columns) = lines(&inputs[0].shape, 0);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch(columns as u64 * 5 * 4);
        lowered.push(
            Dispatch::new(KernelKey::new("n4/range.wgsl"))
                .bind("v", Slot::Input(0))
                .bind("partials", partials)
                .params(Params::new().u32("d", d).u32("columns", columns))
                .flat(columns, FLAT),
        );
        lowered.push(status_dispatch(partials, Slot::Output(0), columns, None));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut status = HostTensor::zeros(TensorDesc::f32(&[STATUS]));
        status.data[CONVERGENCE] = f32::MAX as f64;
        masked_range(&inputs[0].data, &mut status);
        vec![status]
    }
}

fn masked_range(v: &[f64], status: &mut HostTensor) {
    let inside: Vec<f64> = v.iter().copied().filter(|&v| counts(v)).collect();
    let least = inside.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = inside.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let empty = inside.is_empty();
    status.data[LEAST] = if empty { 0.0 } else { least };
    status.data[EXTENT] = if empty { 0.0 } else { greatest - least };
    status.data[VOXELS] = inside.len() as f64;
}

/// `n4_histogram`: `(v, status) -> histogram [bins]`: each masked voxel split linearly between the
/// two bins round it, of `bins` from the least to the greatest value.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Number of bins, at most [`MAX_BINS`].
    pub bins: usize,
}

/// Registry entry of [`Histogram`].
pub static HISTOGRAM: OpDef = OpDef {
    name: "n4_histogram",
    summary: "masked histogram with a triangular Parzen kernel",
    shaders: &["n4/histogram.wgsl", "n4/histogram_private.wgsl", "n4/histogram_sum.wgsl"],
    cases: || {
        let case = |name, bins, shape: &[usize], fill| {
            let status = (TensorDesc::f32(&[STATUS]), Fill::Uniform(0.5, 2.0));
            Case::new(name, Histogram { bins }, vec![(TensorDesc::f32(shape), fill), status])
        };
        let uniform = Fill::Uniform(0.0, 4.0);
        vec![
            case("odd", 200, &[7, 9, 11], uniform),
            case("some outside", 200, &[7, 9, 11], SOME_OUTSIDE),
            case("several batches", 256, &[17, 31, 37], uniform),
            case("two bins", 2, &[1, 3, 5], uniform),
            // Position 100.996 of 0 to 199: every counter of the variant for processors comes to its limit.
            Case::new(
                "one value in as many voxels as 32 workgroups count",
                Histogram { bins: 200 },
                vec![
                    (TensorDesc::f32(&[64, 32, 1023]), Fill::Values(&[0.507_518])),
                    (TensorDesc::f32(&[STATUS]), Fill::Values(&[0.0, 1.0])),
                ],
            ),
            case("shrunken head", 200, &[64, 85, 85], uniform).bench_only(),
            case("head", 200, &[192, 256, 256], uniform).bench_only(),
        ]
    },
};

impl Operator for Histogram {
    fn name(&self) -> &'static str {
        "n4_histogram"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        expect_volume(self.name(), inputs, 0)?;
        expect_shape(self.name(), inputs, 1, &[STATUS])?;
        expect_bins(self.name(), inputs, self.bins)?;
        Ok(vec![TensorDesc::f32(&[self.bins])])
    }

    fn variants(&self, _: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        match caps.class {
            DeviceClass::Software => vec!["private", "atomic"],
            _ => vec!["atomic", "private"],
        }
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, variant: &str) -> Lowered {
        let n = inputs[0].len();
        let (path, groups) = if variant == "private" {
            let groups = n.div_ceil(PRIVATE_MOST).max(PRIVATE_GROUPS).min(n.div_ceil(HISTOGRAM_BATCH));
            ("n4/histogram_private.wgsl", groups)
        } else {
            ("n4/histogram.wgsl", n.div_ceil(HISTOGRAM_BATCH).min(HISTOGRAM_GROUPS))
        };
        let mut lowered = Lowered::default();
        let partials = lowered.scratch((groups * self.bins * 4) as u64);
        lowered.push(
            Dispatch::new(KernelKey::new(path))
                .bind("v", Slot::Input(0))
                .bind("status", Slot::Input(1))
                .bind("partials", partials)
                .params(Params::new().u32("n", n).u32("bins", self.bins))
                .grid([groups, 1, 1]),
        );
        lowered.push(
            Dispatch::new(KernelKey::new("n4/histogram_sum.wgsl"))
                .bind("partials", partials)
                .bind("histogram", Slot::Output(0))
                .params(Params::new().u32("n_partials", groups).u32("bins", self.bins))
                .grid([self.bins.div_ceil(FLAT), 1, 1]),
        );
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut histogram = HostTensor::zeros(TensorDesc::f32(&[self.bins]));
        for &value in &inputs[0].data {
            if counts(value) {
                let (j, fraction) = bin_of(value, inputs[1], self.bins);
                histogram.data[j] += 1.0 - fraction;
                histogram.data[j + 1] += fraction;
            }
        }
        vec![histogram]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // Fixed point: each voxel is off by at most 2^-9, which is at most 2^-8 of a bin that two half
        // voxels fill.
        Precision { reduction: 1, epsilon: 2f64.powi(-11) }
    }
}

/// `n4_sharpen`: `(histogram [bins], status) -> shift [bins]`: how far each intensity moves
/// when the histogram is deconvolved by a Gaussian (E - x of the paper's equation 8).
#[derive(Debug, Clone)]
pub struct Sharpen {
    /// Number of bins, at most [`MAX_BINS`].
    pub bins: usize,
    /// Full width at half maximum of the field's Gaussian, in log intensity.
    pub fwhm: f32,
    /// Noise power of the Wiener filter.
    pub noise: f32,
}

/// Registry entry of [`Sharpen`].
pub static SHARPEN: OpDef = OpDef {
    name: "n4_sharpen",
    summary: "shift of each intensity by deconvolution of the histogram",
    shaders: &["n4/sharpen.wgsl"],
    cases: || {
        let case = |name, bins, low: f32| {
            let inputs = vec![
                (TensorDesc::f32(&[bins]), Fill::Uniform(1.0, 100.0)),
                (TensorDesc::f32(&[STATUS]), Fill::Uniform(low, low + 0.5)),
            ];
            Case::new(name, Sharpen { bins, fwhm: 0.15, noise: 0.01 }, inputs)
        };
        vec![case("ITK's 200 bins", 200, 5.0), case("wide Gaussian", 256, 0.5), case("few bins", 19, 1.0)]
    },
};

impl Operator for Sharpen {
    fn name(&self) -> &'static str {
        "n4_sharpen"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        expect_bins(self.name(), inputs, self.bins)?;
        expect_shape(self.name(), inputs, 0, &[self.bins])?;
        expect_shape(self.name(), inputs, 1, &[STATUS])?;
        Ok(vec![TensorDesc::f32(&[self.bins])])
    }

    fn lower(&self, _: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/sharpen.wgsl"))
                .bind("histogram", Slot::Input(0))
                .bind("status", Slot::Input(1))
                .bind("shift", Slot::Output(0))
                .params(
                    Params::new()
                        .u32("bins", self.bins)
                        .u32("padded", padded_bins(self.bins))
                        .f32("fwhm", self.fwhm)
                        .f32("noise", self.noise),
                ),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let p = padded_bins(self.bins);
        let offset = (p - self.bins) / 2;
        let status = &inputs[1].data;
        let slope = status[EXTENT] / (self.bins - 1) as f64;
        let s = self.fwhm as f64 / slope;
        let ln2 = std::f64::consts::LN_2;
        let gauss: Vec<f64> = (0..p)
            .map(|n| {
                let n = n.min(p - n) as f64;
                2.0 * (ln2 / std::f64::consts::PI).sqrt() / s * (-4.0 * ln2 * n * n / (s * s)).exp()
            })
            .collect();
        let mut padded = vec![0.0; p];
        padded[offset..offset + self.bins].copy_from_slice(&inputs[0].data);
        let turn: Vec<(f64, f64)> =
            (0..p).map(|k| (std::f64::consts::TAU * k as f64 / p as f64).sin_cos()).collect();
        let cos = |k: usize, n: usize| turn[k * n % p].1;
        let sin = |k: usize, n: usize| turn[k * n % p].0;
        let transform = |x: &[f64], k: usize| {
            x.iter().enumerate().fold((0.0, 0.0), |(re, im), (n, x)| (re + x * cos(k, n), im - x * sin(k, n)))
        };
        let spectrum: Vec<(f64, f64)> = (0..p)
            .map(|k| {
                let (re, im) = transform(&padded, k);
                let (f, _) = transform(&gauss, k);
                let gain = f / (f * f + self.noise as f64);
                (re * gain, im * gain)
            })
            .collect();
        let sharp: Vec<f64> = (0..p)
            .map(|n| {
                let sum: f64 =
                    spectrum.iter().enumerate().map(|(k, (re, im))| re * cos(k, n) - im * sin(k, n)).sum();
                (sum / p as f64).max(0.0)
            })
            .collect();
        let x = |n: usize| status[LEAST] + (n as f64 - offset as f64) * slope;
        let data = (offset..offset + self.bins)
            .map(|n| {
                let (mut numerator, mut denominator) = (0.0, 0.0);
                for m in 0..p {
                    let weight = gauss[(n + p - m) % p] * sharp[m];
                    numerator += weight * x(m);
                    denominator += weight;
                }
                let expected = if denominator == 0.0 { 0.0 } else { numerator / denominator };
                expected - x(n)
            })
            .collect();
        vec![HostTensor::new(TensorDesc::f32(&[self.bins]), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let (p, bins) = (padded_bins(self.bins) as f64, self.bins as f64);
        let multiply_adds = p / 2.0 * (p / 2.0 + 2.0 * bins) + p * p + 2.0 * bins * p;
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 2.0 * multiply_adds, bytes }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // Two transforms and two sums over the padded histogram; the Wiener filter amplifies by at most
        // 1 / (2 sqrt(noise)).
        let gain = 0.5 / (self.noise as f64).sqrt();
        Precision { reduction: padded_bins(self.bins), epsilon: f32::EPSILON as f64 * gain }
    }
}

/// `n4_residual_contract`: `(v, status, shift [bins], basis [D, 4][, weight]) -> [spans + 3, H, W]`: the
/// residual v - E(v) where v counts, times weight, contracted along z.
#[derive(Debug, Clone)]
pub struct ResidualContract {
    /// B-spline spans along z.
    pub spans: usize,
}

/// Registry entry of [`ResidualContract`].
pub static RESIDUAL_CONTRACT: OpDef = OpDef {
    name: "n4_residual_contract",
    summary: "residual of the sharpened image, contracted to control points along z",
    shaders: &["n4/residual_contract.wgsl"],
    cases: || {
        let case = |name, spans, shape: &[usize], bins, fill| {
            let inputs = vec![
                (TensorDesc::f32(shape), fill),
                (TensorDesc::f32(&[STATUS]), Fill::Uniform(0.5, 2.0)),
                (TensorDesc::f32(&[bins]), Fill::Normal(1.0)),
                (TensorDesc::f32(&[shape[0], 4]), Fill::Normal(1.0)),
            ];
            Case::new(name, ResidualContract { spans }, inputs)
        };
        let uniform = Fill::Uniform(0.0, 4.0);
        let weighted = |name, spans, shape: &[usize], bins| {
            let mut case = case(name, spans, shape, bins, SOME_OUTSIDE);
            case.inputs.push((TensorDesc::f32(shape), Fill::Uniform(0.0, 2.0)));
            case
        };
        vec![
            weighted("weighted", 3, &[9, 4, 5], 50),
            case("one span", 1, &[5, 7, 11], 17, SOME_OUTSIDE),
            case("voxels on knots", 2, &[9, 3, 5], 200, uniform),
            case("uneven spans", 8, &[21, 13, 9], 200, SOME_OUTSIDE),
            case("more spans than voxels", 8, &[3, 2, 5], 2, uniform),
            case("one slice", 2, &[1, 4, 3], 5, uniform),
            case("shrunken head", 8, &[64, 85, 85], 200, uniform).bench_only(),
            case("head", 8, &[192, 256, 256], 200, uniform).bench_only(),
        ]
    },
};

impl Operator for ResidualContract {
    fn name(&self) -> &'static str {
        "n4_residual_contract"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let name = self.name();
        if inputs.len() != 5 {
            expect_inputs(name, inputs, 4)?;
        }
        let shape = expect_volume(name, inputs, 0)?;
        expect_shape(name, inputs, 1, &[STATUS])?;
        expect_bins(name, inputs, inputs[2].len())?;
        expect_shape(name, inputs, 3, &[shape[0], 4])?;
        if inputs.len() == 5 {
            expect_shape(name, inputs, 4, &shape)?;
        }
        if self.spans == 0 {
            return Err(OpError::new(name, inputs, "needs at least one span"));
        }
        Ok(vec![TensorDesc::f32(&[self.spans + 3, shape[1], shape[2]])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        column_variants(caps, lines(&inputs[0].shape, 0).2)
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, variant: &str) -> Lowered {
        let (_, d, columns) = lines(&inputs[0].shape, 0);
        let each = columns_of(variant);
        let mut key = KernelKey::new("n4/residual_contract.wgsl").define("COLUMNS", each as u32);
        if inputs.len() == 5 {
            key = key.define("HAS_WEIGHT", 1);
        }
        let mut dispatch = Dispatch::new(key)
            .bind("v", Slot::Input(0))
            .bind("status", Slot::Input(1))
            .bind("shift", Slot::Input(2))
            .bind("basis", Slot::Input(3))
            .bind("y", Slot::Output(0))
            .params(
                Params::new()
                    .u32("d", d)
                    .u32("columns", columns)
                    .u32("spans", self.spans)
                    .u32("bins", inputs[2].len()),
            )
            .flat(columns.div_ceil(each), FLAT);
        if inputs.len() == 5 {
            dispatch = dispatch.bind("weight", Slot::Input(4));
        }
        Lowered::one(dispatch)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let shift = &inputs[2].data;
        let weight = |i: usize| inputs.get(4).map_or(1.0, |weight| weight.data[i]);
        let residual = |(i, &value): (usize, &f64)| {
            if !counts(value) {
                return 0.0;
            }
            let (j, fraction) = bin_of(value, inputs[1], shift.len());
            -weight(i) * (shift[j] * (1.0 - fraction) + shift[j + 1] * fraction)
        };
        let residual: Vec<f64> = inputs[0].data.iter().enumerate().map(residual).collect();
        let shape = &inputs[0].desc.shape;
        let data = contract_reference(&residual, shape, 0, inputs[3], self.spans);
        vec![HostTensor::new(TensorDesc::f32(&[self.spans + 3, shape[1], shape[2]]), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 16.0 * inputs[0].len() as f64, bytes }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        // The position in the histogram is as exact as the number of bins lets it be.
        let bins = inputs[2].len() as f64;
        Precision { reduction: inputs[0].shape[0], epsilon: f32::EPSILON as f64 * bins }
    }
}

/// `n4_contract`: `(x [D, H, W], basis [n, 4]) ->` x with the `n` voxels of one axis contracted to
/// `spans + 3` control points.
#[derive(Debug, Clone)]
pub struct Contract {
    /// 0, 1 or 2 for D, H or W.
    pub axis: usize,
    /// B-spline spans along the axis.
    pub spans: usize,
}

/// Registry entry of [`Contract`].
pub static CONTRACT: OpDef = OpDef {
    name: "n4_contract",
    summary: "one axis of voxels contracted to B-spline control points",
    shaders: &["n4/contract.wgsl"],
    cases: || {
        let case = |name, axis, spans, shape: &[usize]| {
            let inputs = vec![
                (TensorDesc::f32(shape), Fill::Normal(1.0)),
                (TensorDesc::f32(&[shape[axis], 4]), Fill::Normal(1.0)),
            ];
            Case::new(name, Contract { axis, spans }, inputs)
        };
        vec![
            case("z, one span", 0, 1, &[5, 7, 11]),
            case("y, uneven spans", 1, 8, &[3, 21, 5]),
            case("x, voxels on knots", 2, 4, &[3, 2, 17]),
            case("x, more spans than voxels", 2, 16, &[3, 2, 5]),
            case("y of one voxel", 1, 2, &[4, 1, 3]),
            case("shrunken head", 0, 8, &[64, 85, 85]).bench_only(),
        ]
    },
};

impl Operator for Contract {
    fn name(&self) -> &'static str {
        "n4_contract"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        let mut shape = expect_volume(self.name(), inputs, 0)?;
        if self.axis > 2 || self.spans == 0 {
            return Err(OpError::new(self.name(), inputs, "needs an axis of three and at least one span"));
        }
        expect_shape(self.name(), inputs, 1, &[shape[self.axis], 4])?;
        shape[self.axis] = self.spans + 3;
        Ok(vec![TensorDesc::f32(&shape)])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let (outer, n, inner) = lines(&inputs[0].shape, self.axis);
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/contract.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("basis", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(
                    Params::new()
                        .u32("lines", outer * inner)
                        .u32("n", n)
                        .u32("inner", inner)
                        .u32("spans", self.spans),
                )
                .flat(outer * inner, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut shape = inputs[0].desc.shape.clone();
        let data = contract_reference(&inputs[0].data, &shape, self.axis, inputs[1], self.spans);
        shape[self.axis] = self.spans + 3;
        vec![HostTensor::new(TensorDesc::f32(&shape), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 8.0 * inputs[0].len() as f64, bytes }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[1].shape[0])
    }
}

/// `n4_lattice_update`: `(lattice, delta, omega, status) -> (lattice + change, change)`, the first in place;
/// the change is delta / omega, and 0 where omega is 0 or the status says done. All but the status of one shape.
#[derive(Debug, Clone)]
pub struct LatticeUpdate;

/// Registry entry of [`LatticeUpdate`].
pub static LATTICE_UPDATE: OpDef = OpDef {
    name: "n4_lattice_update",
    summary: "adds the fitted residual to the control points, in place",
    shaders: &["n4/lattice_update.wgsl"],
    cases: || {
        let case = |name, low, high| {
            let desc = TensorDesc::f32(&[5, 7, 11]);
            let inputs = vec![
                (desc.clone(), Fill::Normal(1.0)),
                (desc.clone(), Fill::Normal(1.0)),
                (desc, Fill::Integer(4)),
                (TensorDesc::f32(&[STATUS]), Fill::Uniform(low, high)),
            ];
            Case::new(name, LatticeUpdate, inputs)
        };
        vec![case("going on", 0.0, 0.4), case("done", 0.6, 1.0)]
    },
};

impl Operator for LatticeUpdate {
    fn name(&self) -> &'static str {
        "n4_lattice_update"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 4)?;
        let shape = expect_volume(self.name(), inputs, 0)?;
        expect_shape(self.name(), inputs, 1, &shape)?;
        expect_shape(self.name(), inputs, 2, &shape)?;
        expect_shape(self.name(), inputs, 3, &[STATUS])?;
        Ok(vec![inputs[0].clone(); 2])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/lattice_update.wgsl"))
                .bind("delta", Slot::Input(1))
                .bind("omega", Slot::Input(2))
                .bind("status", Slot::Input(3))
                .bind("lattice", Slot::Output(0))
                .bind("change", Slot::Output(1))
                .params(Params::new().u32("n", n))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let going = inputs[3].data[DONE] < 0.5;
        let quotient =
            |(delta, omega): (&f64, &f64)| if going && *omega > 1e-20 { delta / omega } else { 0.0 };
        let change: Vec<f64> = inputs[1].data.iter().zip(&inputs[2].data).map(quotient).collect();
        let lattice = inputs[0].data.iter().zip(&change).map(|(lattice, change)| lattice + change).collect();
        [lattice, change].map(|data| HostTensor::new(inputs[0].desc.clone(), data)).into()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

/// `n4_evaluate`: `(x [D, H, W], basis [n, 4]) ->` x with the control points of one axis evaluated on `n`
/// voxels.
#[derive(Debug, Clone)]
pub struct Evaluate {
    /// 0, 1 or 2 for D, H or W.
    pub axis: usize,
    /// Voxels that the spline's domain has before and after the `n`.
    pub margin: [usize; 2],
}

/// Registry entry of [`Evaluate`].
pub static EVALUATE: OpDef = OpDef {
    name: "n4_evaluate",
    summary: "one axis of B-spline control points evaluated on voxels",
    shaders: &["n4/evaluate.wgsl"],
    cases: || {
        let case = |name, axis, n, margin, shape: &[usize]| {
            let inputs = vec![
                (TensorDesc::f32(shape), Fill::Normal(1.0)),
                (TensorDesc::f32(&[n, 4]), Fill::Normal(1.0)),
            ];
            Case::new(name, Evaluate { axis, margin }, inputs)
        };
        vec![
            case("z, one span", 0, 9, [0, 0], &[4, 7, 5]),
            case("y, uneven spans", 1, 21, [0, 0], &[3, 11, 5]),
            case("x, voxels on knots", 2, 17, [0, 0], &[3, 2, 7]),
            case("x, more spans than voxels", 2, 5, [0, 0], &[3, 2, 19]),
            case("y on one voxel", 1, 1, [0, 0], &[4, 5, 3]),
            case("z in a wider domain", 0, 9, [3, 5], &[8, 3, 5]),
            case("x behind most of its domain", 2, 4, [13, 0], &[3, 2, 7]),
            case("head", 0, 192, [0, 0], &[11, 256, 256]).bench_only(),
        ]
    },
};

impl Operator for Evaluate {
    fn name(&self) -> &'static str {
        "n4_evaluate"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        let mut shape = expect_volume(self.name(), inputs, 0)?;
        if self.axis > 2 || shape[self.axis] < 4 {
            return Err(OpError::new(self.name(), inputs, "needs an axis of three with at least 4 points"));
        }
        let n = inputs[1].len() / 4;
        expect_shape(self.name(), inputs, 1, &[n.max(1), 4])?;
        shape[self.axis] = n;
        Ok(vec![TensorDesc::f32(&shape)])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let (outer, points, inner) = lines(&inputs[0].shape, self.axis);
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/evaluate.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("basis", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(
                    Params::new()
                        .u32("lines", outer * inner)
                        .u32("n", inputs[1].shape[0])
                        .u32("inner", inner)
                        .u32("spans", points - 3)
                        .u32("before", self.margin[0])
                        .u32("after", self.margin[1]),
                )
                .flat(outer * inner, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut shape = inputs[0].desc.shape.clone();
        shape[self.axis] = inputs[1].desc.shape[0];
        let data = evaluate_reference(inputs[0], self.axis, inputs[1], self.margin);
        vec![HostTensor::new(TensorDesc::f32(&shape), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 7.0 * outputs[0].len() as f64, bytes }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(4)
    }
}

/// `n4_field_update`: `(v, points [spans + 3, H, W], basis [D, 4], status) -> (v, status)`, both in place: the
/// change of the field, with its lattice already evaluated along x and y, is evaluated along z and taken off v
/// where that counts; and the status of the next iteration.
#[derive(Debug, Clone)]
pub struct FieldUpdate {
    /// Convergence measure at which the level is done.
    pub tolerance: f32,
}

/// Registry entry of [`FieldUpdate`].
pub static FIELD_UPDATE: OpDef = OpDef {
    name: "n4_field_update",
    summary: "takes the field's change off the image, with range and convergence, in place",
    shaders: &["n4/field_update.wgsl", "n4/status.wgsl"],
    cases: || {
        let case = |name, spans: usize, shape: &[usize], fill, tolerance, status| {
            let inputs = vec![
                (TensorDesc::f32(shape), fill),
                (TensorDesc::f32(&[spans + 3, shape[1], shape[2]]), Fill::Normal(0.2)),
                (TensorDesc::f32(&[shape[0], 4]), Fill::Normal(0.5)),
                (TensorDesc::f32(&[STATUS]), status),
            ];
            Case::new(name, FieldUpdate { tolerance }, inputs)
        };
        let going = Fill::Uniform(0.0, 0.4);
        let normal = Fill::Normal(0.5);
        vec![
            case("going on", 2, &[9, 5, 7], SOME_OUTSIDE, 0.0, going),
            case("converges", 8, &[21, 19, 31], normal, 1e6, going),
            case("done", 1, &[4, 3, 5], normal, 0.0, Fill::Uniform(0.6, 1.0)),
            case("one slice", 4, &[1, 3, 5], normal, 0.0, going),
            case("shrunken head", 8, &[64, 85, 85], normal, 0.0, going).bench_only(),
            case("head", 8, &[192, 256, 256], normal, 0.0, going).bench_only(),
        ]
    },
};

impl Operator for FieldUpdate {
    fn name(&self) -> &'static str {
        "n4_field_update"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let name = self.name();
        expect_inputs(name, inputs, 4)?;
        let shape = expect_volume(name, inputs, 0)?;
        let points = expect_volume(name, inputs, 1)?;
        if points[0] < 4 || points[1..] != shape[1..] {
            return Err(OpError::new(name, inputs, "input 1 must be at least 4 control points by H W"));
        }
        expect_shape(name, inputs, 2, &[shape[0], 4])?;
        expect_shape(name, inputs, 3, &[STATUS])?;
        Ok(vec![inputs[0].clone(), inputs[3].clone()])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        column_variants(caps, lines(&inputs[0].shape, 0).2)
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, variant: &str) -> Lowered {
        let (_, d, columns) = lines(&inputs[0].shape, 0);
        let each = columns_of(variant);
        let parts = columns.div_ceil(each);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch(parts as u64 * 5 * 4);
        lowered.push(
            Dispatch::new(KernelKey::new("n4/field_update.wgsl").define("COLUMNS", each as u32))
                .bind("v", Slot::Output(0))
                .bind("points", Slot::Input(1))
                .bind("basis", Slot::Input(2))
                .bind("partials", partials)
                .params(
                    Params::new().u32("d", d).u32("columns", columns).u32("spans", inputs[1].shape[0] - 3),
                )
                .flat(parts, FLAT),
        );
        lowered.push(status_dispatch(partials, Slot::Output(1), parts, Some(self.tolerance)));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [v, points, basis, status] = inputs else { unreachable!("the shape rule asks for four inputs") };
        let change = evaluate_reference(points, 0, basis, [0; 2]);
        let changed = |(&v, change): (&f64, &f64)| if counts(v) { v - change } else { v };
        let new: Vec<f64> = v.data.iter().zip(&change).map(changed).collect();
        let mut status = (*status).clone();
        if status.data[DONE] < 0.5 {
            let inside = (0..new.len()).filter(|&i| counts(v.data[i]));
            let ratios: Vec<f64> = inside.map(|i| (-change[i]).exp()).collect();
            let n = ratios.len() as f64;
            let mean = ratios.iter().sum::<f64>() / n;
            let squares: f64 = ratios.iter().map(|q| (q - mean) * (q - mean)).sum();
            status.data[CONVERGENCE] = (squares / (n - 1.0)).sqrt() / mean;
            status.data[DONE] = if status.data[CONVERGENCE] > self.tolerance as f64 { 0.0 } else { 1.0 };
            status.data[ITERATIONS] += 1.0;
            masked_range(&new, &mut status);
        }
        vec![HostTensor::new(v.desc.clone(), new), status]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 24.0 * inputs[0].len() as f64, bytes }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision { reduction: inputs[0].shape[0], epsilon: 6.0 * f32::EPSILON as f64 }
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 3)]
    }
}

/// `n4_apply`: `(x, log field) -> x / exp(field)`, shapes equal, x in place.
#[derive(Debug, Clone)]
pub struct Apply;

/// Registry entry of [`Apply`].
pub static APPLY: OpDef = OpDef {
    name: "n4_apply",
    summary: "divides an image by its bias field, given as a logarithm",
    shaders: &["n4/apply.wgsl"],
    cases: || {
        let desc = TensorDesc::f32(&[5, 7, 11]);
        let inputs = vec![(desc.clone(), Fill::Normal(50.0)), (desc, Fill::Normal(0.3))];
        vec![Case::new("odd", Apply, inputs)]
    },
};

impl Operator for Apply {
    fn name(&self) -> &'static str {
        "n4_apply"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        expect_shape(self.name(), inputs, 1, &inputs[0].shape)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/apply.wgsl"))
                .bind("x", Slot::Output(0))
                .bind("field", Slot::Input(1))
                .params(Params::new().u32("n", n))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let data = inputs[0].data.iter().zip(&inputs[1].data).map(|(x, field)| x / field.exp()).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // exp is exact to about 6 ulp on the worst adapter met (lavapipe 26).
        Precision { reduction: 1, epsilon: 6.0 * f32::EPSILON as f64 }
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}
