//! The separable filter `convolve_axis` and weights for it.

use super::{Case, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs, expect_volume};
use crate::gpu::{Caps, DeviceClass, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// A box of `width` voxels: each tap weighs the part of its voxel that the box covers. The sum is 1, the
/// length odd. A width of 1 or less gives the single weight 1.
pub fn box_weights(width: f64) -> Vec<f32> {
    let half = width.max(1.0) / 2.0;
    let radius = (half - 0.5).ceil().max(0.0) as i64;
    normalised(radius, |k| (half.min(k + 0.5) - (-half).max(k - 0.5)).max(0.0))
}

/// A Gaussian of standard deviation `sigma` voxels, cut at 3 sigma. The sum is 1, the length odd.
pub fn gaussian_weights(sigma: f64) -> Vec<f32> {
    let radius = (3.0 * sigma).ceil().max(0.0) as i64;
    normalised(radius, |k| if sigma > 0.0 { (-0.5 * (k / sigma).powi(2)).exp() } else { 1.0 })
}

fn normalised(radius: i64, weight: impl Fn(f64) -> f64) -> Vec<f32> {
    let weights: Vec<f64> = (-radius..=radius).map(|k| weight(k as f64)).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| (w / total) as f32).collect()
}

/// `convolve_axis`: y(i) = sum_k w_k x(i + k - r) / sum_k w_k along one axis, r = (K - 1) / 2, over the taps
/// inside the volume. Inputs: x, a volume; weights `[K]`, K odd, whose sums over any run that contains the
/// centre must not vanish (positive weights do not). Output: as x.
#[derive(Debug, Clone)]
pub struct ConvolveAxis {
    /// 0 for D, 1 for H, 2 for W.
    pub axis: usize,
}

/// Neighbours along the axis that an invocation of `resample/convolve_axis_block.wgsl` makes.
const BLOCK_OUTPUTS: usize = 8;
/// Most weights that it unrolls.
const MOST_BLOCK_TAPS: usize = 17;

/// Registry entry of [`ConvolveAxis`].
pub static CONVOLVE_AXIS: OpDef = OpDef {
    name: "convolve_axis",
    summary: "separable filter along one axis of a volume, renormalised at the edges",
    shaders: &["resample/convolve_axis.wgsl", "resample/convolve_axis_block.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize], axis, taps| {
            Case::new(
                name,
                ConvolveAxis { axis },
                vec![
                    (TensorDesc::f32(shape), Fill::Normal(1.0)),
                    (TensorDesc::f32(&[taps]), Fill::Uniform(0.1, 1.0)),
                ],
            )
        };
        vec![
            case("along d", &[7, 5, 9], 0, 3),
            case("along h, wider than the volume", &[7, 5, 9], 1, 13),
            case("along w", &[1, 1, 7, 5, 9], 2, 5),
            case("one tap", &[3, 1, 4], 1, 1),
            case("blocks and a rest", &[3, 19, 6], 1, 7),
            case("along d, more weights than a block unrolls", &[40, 3, 5], 0, 19),
            case("head", &[256, 256, 192], 0, 5).bench_only(),
            case("head along w", &[256, 256, 192], 2, 5).bench_only(),
        ]
    },
};

impl ConvolveAxis {
    /// Extent of the axis, and the distance in memory between neighbours along it.
    fn geometry(&self, x: &TensorDesc) -> (usize, usize) {
        let shape = &x.shape[x.shape.len() - 3..];
        (shape[self.axis], shape[self.axis + 1..].iter().product())
    }
}

impl Operator for ConvolveAxis {
    fn name(&self) -> &'static str {
        "convolve_axis"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("convolve_axis", inputs, 2)?;
        expect_volume("convolve_axis", inputs, 0)?;
        if self.axis > 2 || inputs[1].shape.len() != 1 || inputs[1].len().is_multiple_of(2) {
            let reason = format!("needs an axis below 3 and an odd number of weights, axis is {}", self.axis);
            return Err(OpError::new("convolve_axis", inputs, reason));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        match (caps.class, inputs[1].len()) {
            (_, taps) if taps > MOST_BLOCK_TAPS => vec!["voxel"],
            (DeviceClass::Software, _) => vec!["block", "voxel"],
            _ => vec!["voxel", "block"],
        }
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, variant: &str) -> Lowered {
        let (extent, stride) = self.geometry(&inputs[0]);
        let (n, taps) = (inputs[0].len(), inputs[1].len());
        let params = Params::new().u32("extent", extent).u32("stride", stride);
        let (key, params, invocations) = if variant == "block" {
            let blocks = extent.div_ceil(BLOCK_OUTPUTS);
            let invocations = n / extent * blocks;
            let key = KernelKey::new("resample/convolve_axis_block.wgsl")
                .count("TAPS", taps)
                .count("OUTPUTS", BLOCK_OUTPUTS);
            (key, params.u32("n", invocations).u32("blocks", blocks), invocations)
        } else {
            (KernelKey::new("resample/convolve_axis.wgsl"), params.u32("n", n).u32("taps", taps), n)
        };
        Lowered::one(
            Dispatch::new(key)
                .bind("x", Slot::Input(0))
                .bind("weights", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(params)
                .flat(invocations, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (x, weights) = (inputs[0], &inputs[1].data);
        let (extent, stride) = self.geometry(&x.desc);
        let radius = weights.len() as i64 / 2;
        let data = (0..x.data.len())
            .map(|i| {
                let at = (i / stride % extent) as i64;
                let (mut sum, mut total) = (0.0, 0.0);
                for (k, weight) in weights.iter().enumerate() {
                    let offset = k as i64 - radius;
                    if (0..extent as i64).contains(&(at + offset)) {
                        sum += weight * x.data[(i as i64 + offset * stride as i64) as usize];
                        total += weight;
                    }
                }
                sum / total
            })
            .collect();
        vec![HostTensor::new(x.desc.clone(), data)]
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[1].len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_cover_their_width() {
        assert_eq!(box_weights(1.0), [1.0]);
        assert_eq!(box_weights(0.3), [1.0]);
        assert_eq!(box_weights(2.0), [0.25, 0.5, 0.25]);
        assert_eq!(box_weights(3.0), [1.0 / 3.0; 3]);
        let five = box_weights(3.5);
        assert_eq!(five.len(), 5);
        assert!((five[0] - 0.25 / 3.5).abs() < 1e-7 && (five[2] - 1.0 / 3.5).abs() < 1e-7);
        assert_eq!(gaussian_weights(0.0), [1.0]);
        let gaussian = gaussian_weights(1.0);
        assert_eq!(gaussian.len(), 7);
        assert!((gaussian.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
