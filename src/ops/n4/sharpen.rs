//! `n4_sharpen`: deconvolution of the histogram.

use super::histogram::expect_bins;
use super::status::{EXTENT, LEAST, STATUS};
use super::voxels::expect_shape;
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{Case, Cost, Fill, OpDef, OpError, Operator, Precision, expect_inputs};
use crate::tensor::{HostTensor, TensorDesc};

/// Length of the zero-padded histogram: twice the next power of two, as in ITK.
pub fn padded_bins(bins: usize) -> usize {
    2 * bins.next_power_of_two()
}

/// `n4_sharpen`: `(histogram [bins], status) -> shift [bins]`: how far each intensity moves
/// when the histogram is deconvolved by a Gaussian (E - x of the paper's equation 8).
#[derive(Debug, Clone)]
pub struct Sharpen {
    /// Number of bins, at most [`MAX_BINS`](super::MAX_BINS).
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
