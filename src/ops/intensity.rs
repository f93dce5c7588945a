//! Intensity statistics and normalisation of volumes: `min_max`, `moments`, `histogram`, `percentiles`, and
//! `rescale` and `standardise` that apply them without a trip to the host.
//!
//! NaN and infinite voxels are skipped by every statistic; `rescale` and `standardise` write the value of the
//! background in their place.

use super::{Case, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs, fill_dispatch};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// Values with NaN and infinities among them.
const SPOILT: Fill =
    Fill::Values(&[1.5, f32::NAN, -2.25, 7.5, f32::INFINITY, 3.0, f32::NEG_INFINITY, 0.0, 0.125, 9.0, -0.5]);

/// Values none of which counts.
const NOTHING: Fill = Fill::Values(&[f32::NAN, f32::INFINITY]);

/// Invocations of a strided pass over `n` voxels: enough to fill a GPU, few enough that one workgroup can sum
/// what they leave. A multiple of both workgroup sizes.
fn threads(n: usize) -> usize {
    n.div_ceil(64).clamp(1, 1 << 14).next_multiple_of(256)
}

fn finite(x: &HostTensor) -> Vec<f64> {
    x.data.iter().copied().filter(|v| v.is_finite()).collect()
}

fn expect_f32(name: &'static str, inputs: &[TensorDesc], ix: usize) -> Result<(), OpError> {
    if inputs[ix].dtype == DType::F32 && !inputs[ix].is_empty() {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("input {ix} must be f32 and not empty")))
    }
}

fn expect_pair(name: &'static str, inputs: &[TensorDesc], ix: usize) -> Result<(), OpError> {
    if inputs[ix] == TensorDesc::f32(&[2]) {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("input {ix} must be two f32")))
    }
}

/// `min_max`: smallest and largest finite value. Input: x, any shape. Output: `[2]`, (0, 0) when no value is
/// finite.
#[derive(Debug, Clone)]
pub struct MinMax;

/// Registry entry of [`MinMax`].
pub static MIN_MAX: OpDef = OpDef {
    name: "min_max",
    summary: "smallest and largest finite value",
    shaders: &["intensity/min_max.wgsl"],
    cases: || {
        let case =
            |name: &str, shape: &[usize], fill| Case::new(name, MinMax, vec![(TensorDesc::f32(shape), fill)]);
        vec![
            case("odd", &[13, 31, 7], Fill::Normal(3.0)),
            case("several passes", &[41, 65, 51], Fill::Uniform(2.0, 3.0)),
            case("one voxel", &[1, 1, 1], Fill::Normal(1.0)),
            case("with NaN and infinities", &[3, 7, 5], SPOILT),
            case("nothing finite", &[3, 2, 5], NOTHING),
            case("head", &[256, 256, 192], Fill::Normal(1.0)).bench_only(),
        ]
    },
};

impl Operator for MinMax {
    fn name(&self) -> &'static str {
        "min_max"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("min_max", inputs, 1)?;
        expect_f32("min_max", inputs, 0)?;
        Ok(vec![TensorDesc::f32(&[2])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        let threads = threads(n);
        let params = Params::new().u32("n", n).u32("threads", threads);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch(threads as u64 * 8);
        let launch = |partial, x, y| {
            Dispatch::new(KernelKey::new("intensity/min_max.wgsl").define("PARTIAL", partial))
                .bind("x", x)
                .bind("y", y)
                .params(params.clone())
        };
        lowered.push(launch(1, Slot::Input(0), partials).flat(threads, FLAT));
        lowered.push(launch(0, partials, Slot::Output(0)));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let values = finite(inputs[0]);
        let low = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let high = values.iter().copied().reduce(f64::max).unwrap_or(0.0);
        vec![HostTensor::new(TensorDesc::f32(&[2]), vec![low, high])]
    }
}

/// `moments`: mean and population standard deviation of the finite values. Input: x, any shape. Output: `[2]`,
/// (0, 0) when no value counts.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Count only values greater than this.
    pub above: Option<f32>,
}

/// Registry entry of [`Moments`].
pub static MOMENTS: OpDef = OpDef {
    name: "moments",
    summary: "mean and standard deviation of the finite values",
    shaders: &["intensity/moments.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize], above, fill| {
            Case::new(name, Moments { above }, vec![(TensorDesc::f32(shape), fill)])
        };
        vec![
            case("odd", &[13, 31, 7], None, Fill::Normal(3.0)),
            case("several passes", &[41, 65, 51], None, Fill::Uniform(1.0, 3.0)),
            case("above a threshold", &[13, 31, 7], Some(0.25), Fill::Normal(1.0)),
            case("one voxel", &[1, 1, 1], None, Fill::Normal(1.0)),
            case("with NaN and infinities", &[3, 7, 5], None, SPOILT),
            case("nothing above", &[3, 7, 5], Some(100.0), SPOILT),
            case("head", &[256, 256, 192], None, Fill::Normal(1.0)).bench_only(),
        ]
    },
};

impl Operator for Moments {
    fn name(&self) -> &'static str {
        "moments"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("moments", inputs, 1)?;
        expect_f32("moments", inputs, 0)?;
        Ok(vec![TensorDesc::f32(&[2])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        let threads = threads(n);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch(threads as u64 * 8);
        for squares in [0, 1] {
            for partial in [1, 0] {
                let dispatch = Dispatch::new(
                    KernelKey::new("intensity/moments.wgsl")
                        .define("PARTIAL", partial)
                        .define("SQUARES", squares)
                        .define("ABOVE", u32::from(self.above.is_some())),
                )
                .bind("partials", partials)
                .bind("y", Slot::Output(0))
                .params(
                    Params::new()
                        .u32("n", n)
                        .u32("threads", threads)
                        .f32("above", self.above.unwrap_or_default()),
                );
                lowered.push(match partial {
                    1 => dispatch.bind("x", Slot::Input(0)).flat(threads, FLAT),
                    _ => dispatch,
                });
            }
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut values = finite(inputs[0]);
        if let Some(above) = self.above {
            values.retain(|v| *v > above as f64);
        }
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        vec![HostTensor::new(TensorDesc::f32(&[2]), vec![mean, variance.sqrt()])]
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[0].len())
    }
}

/// `histogram`: counts of the finite values in equal bins of a range; the last bin is closed, values outside
/// the range do not count, and neither does anything in a range without width. Inputs: x, any shape; range
/// `[2]`. Output: u32 `[bins]`. A value within rounding error of a bin's border may fall on either side.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Number of bins, at most 4,096.
    pub bins: usize,
}

/// Registry entry of [`Histogram`].
pub static HISTOGRAM: OpDef = OpDef {
    name: "histogram",
    summary: "counts in equal bins of a range",
    shaders: &["intensity/histogram.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize], bins, fill, range| {
            Case::new(
                name,
                Histogram { bins },
                vec![(TensorDesc::f32(shape), fill), (TensorDesc::f32(&[2]), Fill::Values(range))],
            )
        };
        // Bins whose borders are exact in f32, so that the counts are.
        vec![
            case("powers of two", &[13, 31, 7], 256, Fill::Normal(0.5), &[-1.0, 1.0]),
            case("integers in 100 bins", &[13, 31, 7], 100, Fill::Integer(120), &[-0.5, 99.5]),
            case("upper end included", &[9, 7, 5], 3, Fill::Integer(5), &[1.0, 4.0]),
            case("with NaN and infinities", &[3, 7, 5], 8, SPOILT, &[-4.0, 4.0]),
            case("no width", &[3, 7, 5], 8, SPOILT, &[1.5, 1.5]),
            case("several passes", &[41, 65, 51], 2048, Fill::Uniform(0.0, 1.0), &[0.0, 1.0]),
            case("head", &[256, 256, 192], 256, Fill::Uniform(0.0, 1.0), &[0.0, 1.0]).bench_only(),
        ]
    },
};

impl Operator for Histogram {
    fn name(&self) -> &'static str {
        "histogram"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("histogram", inputs, 2)?;
        expect_f32("histogram", inputs, 0)?;
        expect_pair("histogram", inputs, 1)?;
        if !(1..=4096).contains(&self.bins) {
            return Err(OpError::new("histogram", inputs, format!("{} bins", self.bins)));
        }
        Ok(vec![TensorDesc::u32(&[self.bins])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        let threads = threads(n);
        let mut lowered = Lowered::one(fill_dispatch(Slot::Output(0), self.bins, 0));
        lowered.push(
            Dispatch::new(KernelKey::new("intensity/histogram.wgsl").count("BINS", self.bins))
                .bind("x", Slot::Input(0))
                .bind("range", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", n).u32("threads", threads))
                .flat(threads, 256),
        );
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (low, high) = (inputs[1].data[0], inputs[1].data[1]);
        let mut counts = HostTensor::zeros(TensorDesc::u32(&[self.bins]));
        for value in finite(inputs[0]) {
            if low < high && (low..=high).contains(&value) {
                let bin = ((value - low) / (high - low) * self.bins as f64).floor() as usize;
                counts.data[bin.min(self.bins - 1)] += 1.0;
            }
        }
        vec![counts]
    }
}

/// `percentiles`: quantiles of the finite values with linear interpolation between neighbours in the order
/// (NumPy's default). The order statistics are exact: a radix selection on the bits, not a histogram of an
/// interval. Input: x, any shape. Output: `[K]`, zeros when no value is finite.
#[derive(Debug, Clone)]
pub struct Percentiles {
    /// Up to 8 quantiles in `[0, 1]`.
    pub quantiles: Vec<f64>,
}

/// Registry entry of [`Percentiles`].
pub static PERCENTILES: OpDef = OpDef {
    name: "percentiles",
    summary: "exact quantiles of the finite values",
    shaders: &[
        "intensity/select_histogram.wgsl",
        "intensity/select_digit.wgsl",
        "intensity/select_value.wgsl",
    ],
    cases: || {
        let case = |name: &str, shape: &[usize], quantiles: &[f64], fill| {
            let op = Percentiles { quantiles: quantiles.to_vec() };
            Case::new(name, op, vec![(TensorDesc::f32(shape), fill)])
        };
        vec![
            case("odd", &[13, 31, 7], &[0.01, 0.99], Fill::Normal(3.0)),
            case("ends, in no order", &[13, 31, 7], &[1.0, 0.5, 0.0, 0.25, 0.98, 0.5], Fill::Normal(1.0)),
            case("many equal values", &[9, 7, 11], &[0.1, 0.5, 0.9], Fill::Integer(3)),
            case("several passes", &[41, 65, 51], &[0.005, 0.995], Fill::Uniform(-1.0, 1.0)),
            case("one voxel", &[1, 1, 1], &[0.3], Fill::Normal(1.0)),
            case("with NaN and infinities", &[3, 7, 5], &[0.0, 0.02, 0.6, 1.0], SPOILT),
            case("nothing finite", &[3, 2, 5], &[0.5], NOTHING),
            case("head", &[256, 256, 192], &[0.01, 0.99], Fill::Normal(1.0)).bench_only(),
        ]
    },
};

/// Bins of a digit's histogram.
const DIGITS: usize = 2048;

impl Operator for Percentiles {
    fn name(&self) -> &'static str {
        "percentiles"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("percentiles", inputs, 1)?;
        expect_f32("percentiles", inputs, 0)?;
        let known = (1..=8).contains(&self.quantiles.len());
        if !known || self.quantiles.iter().any(|q| !(0.0..=1.0).contains(q)) {
            let reason = format!("needs 1 to 8 quantiles in [0, 1], got {:?}", self.quantiles);
            return Err(OpError::new("percentiles", inputs, reason));
        }
        Ok(vec![TensorDesc::f32(&[self.quantiles.len()])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        let threads = threads(n);
        let targets = 2 * self.quantiles.len();
        let mut fixed = [0u32; 8];
        for (to, q) in fixed.iter_mut().zip(&self.quantiles) {
            *to = (q * 2f64.powi(31)).round() as u32;
        }
        let [a, b, c, d, e, f, g, h] = fixed;
        let mut lowered = Lowered::default();
        let counts = lowered.scratch((targets * DIGITS) as u64 * 4);
        // After each level: prefix and rank of every target; after the first also the fractions.
        let states: [Slot; 3] = std::array::from_fn(|_| lowered.scratch(targets as u64 * 12));
        for level in 0..3usize {
            lowered.push(fill_dispatch(counts, if level == 0 { DIGITS } else { targets * DIGITS }, 0));
            let mut histogram =
                Dispatch::new(KernelKey::new("intensity/select_histogram.wgsl").count("LEVEL", level))
                    .bind("x", Slot::Input(0))
                    .bind("counts", counts)
                    .params(Params::new().u32("n", n).u32("threads", threads).u32("targets", targets))
                    .flat(threads, 256);
            let mut digit =
                Dispatch::new(KernelKey::new("intensity/select_digit.wgsl").count("LEVEL", level))
                    .bind("counts", counts)
                    .bind("after", states[level])
                    .params(
                        Params::new()
                            .u32("targets", targets)
                            .u32x4("quantiles_low", [a, b, c, d])
                            .u32x4("quantiles_high", [e, f, g, h]),
                    );
            if level > 0 {
                histogram = histogram.bind("state", states[level - 1]);
                digit = digit.bind("before", states[level - 1]);
            }
            lowered.push(histogram);
            lowered.push(digit);
        }
        lowered.push(
            Dispatch::new(KernelKey::new("intensity/select_value.wgsl"))
                .bind("state", states[2])
                .bind("first", states[0])
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", self.quantiles.len())),
        );
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut values = finite(inputs[0]);
        values.sort_by(f64::total_cmp);
        let data = self.quantiles.iter().map(|q| {
            let Some(last) = values.len().checked_sub(1) else { return 0.0 };
            let at = q * last as f64;
            let low = at.floor() as usize;
            let high = (low + 1).min(last);
            values[low] + (values[high] - values[low]) * (at - low as f64)
        });
        vec![HostTensor::new(TensorDesc::f32(&[self.quantiles.len()]), data.collect())]
    }
}

/// `rescale`: y = out_low + (out_high - out_low) clamp((x - low) / (high - low), 0, 1); `out_low` where x is
/// not finite, and everywhere when high <= low. Inputs: x, any shape; range `[2]` = (low, high). Output: as x.
#[derive(Debug, Clone)]
pub struct Rescale {
    /// What `low` becomes.
    pub out_low: f32,
    /// What `high` becomes.
    pub out_high: f32,
}

/// Registry entry of [`Rescale`].
pub static RESCALE: OpDef = OpDef {
    name: "rescale",
    summary: "a range of intensities to another, clipped",
    shaders: &["intensity/rescale.wgsl"],
    cases: || {
        let case = |name: &str, fill, range| {
            Case::new(
                name,
                Rescale { out_low: -1.0, out_high: 255.0 },
                vec![(TensorDesc::f32(&[9, 7, 5]), fill), (TensorDesc::f32(&[2]), Fill::Values(range))],
            )
        };
        vec![
            case("clipped", Fill::Normal(1.0), &[-1.25, 1.5]),
            case("with NaN and infinities", SPOILT, &[-1.0, 5.0]),
            case("no width", Fill::Normal(1.0), &[0.5, 0.5]),
        ]
    },
};

impl Operator for Rescale {
    fn name(&self) -> &'static str {
        "rescale"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("rescale", inputs, 2)?;
        expect_f32("rescale", inputs, 0)?;
        expect_pair("rescale", inputs, 1)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new("intensity/rescale.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("range", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", n).f32("out_low", self.out_low).f32("out_high", self.out_high))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (low, high) = (inputs[1].data[0], inputs[1].data[1]);
        let (out_low, out_high) = (self.out_low as f64, self.out_high as f64);
        let data = inputs[0].data.iter().map(|x| {
            let usable = x.is_finite() && high > low;
            let t = if usable { ((x - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
            out_low + (out_high - out_low) * t
        });
        vec![HostTensor::new(inputs[0].desc.clone(), data.collect())]
    }
}

/// `standardise`: y = out_mean + out_std (x - mean) / max(std, 1e-6 |mean|, 1e-30); `out_mean` where x is not finite. The
/// bound keeps a constant image near it. Inputs: x, any shape; moments `[2]` = (mean, std). Output: as x.
#[derive(Debug, Clone)]
pub struct Standardise {
    /// Mean of the result.
    pub out_mean: f32,
    /// Standard deviation of the result.
    pub out_std: f32,
}

/// Registry entry of [`Standardise`].
pub static STANDARDISE: OpDef = OpDef {
    name: "standardise",
    summary: "(x - mean) / std, brought to another mean and deviation",
    shaders: &["intensity/standardise.wgsl"],
    cases: || {
        let case = |name: &str, fill, moments, [out_mean, out_std]: [f32; 2]| {
            Case::new(
                name,
                Standardise { out_mean, out_std },
                vec![(TensorDesc::f32(&[9, 7, 5]), fill), (TensorDesc::f32(&[2]), Fill::Values(moments))],
            )
        };
        vec![
            case("odd", Fill::Normal(2.0), &[0.5, 1.75], [0.0, 1.0]),
            case("to another scale", Fill::Normal(2.0), &[0.5, 1.75], [0.449, 0.226]),
            case("with NaN and infinities", SPOILT, &[-1.0, 3.0], [0.25, 2.0]),
            case("constant", Fill::Values(&[1024.0]), &[1024.0, 0.0], [0.0, 1.0]),
        ]
    },
};

impl Operator for Standardise {
    fn name(&self) -> &'static str {
        "standardise"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("standardise", inputs, 2)?;
        expect_f32("standardise", inputs, 0)?;
        expect_pair("standardise", inputs, 1)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new("intensity/standardise.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("moments", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", n).f32("out_mean", self.out_mean).f32("out_std", self.out_std))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (mean, std) = (inputs[1].data[0], inputs[1].data[1]);
        let spread = std.max(1e-6 * mean.abs()).max(1e-30);
        let [out_mean, out_std] = [self.out_mean, self.out_std].map(f64::from);
        let standard = |x: f64| if x.is_finite() { (x - mean) / spread } else { 0.0 };
        let data = inputs[0].data.iter().map(|&x| out_mean + out_std * standard(x));
        vec![HostTensor::new(inputs[0].desc.clone(), data.collect())]
    }
}
