//! `intensity_augment`: what scanners and sequences do to intensities, for training.

use super::dropout::standard_normal;
use super::{Case, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// `intensity_augment`: a tone curve, a smooth multiplicative bias field and Rician noise.
///
/// Inputs: x, a volume with intensities round `[0, 1]`; curve `[K]`, K >= 2, the values that intensities 0 to 1
/// take; lattice `[4, 4, 4]`, the logarithm of the bias field at knots that span the volume; seed `[2]` u32.
/// Output: as x. The noise is a function of seed and voxel alone.
#[derive(Debug, Clone)]
pub struct IntensityAugment {
    /// Standard deviation of the noise in each channel of the complex signal.
    pub noise: f32,
}

/// Registry entry of [`IntensityAugment`].
pub static INTENSITY_AUGMENT: OpDef = OpDef {
    name: "intensity_augment",
    summary: "tone curve, bias field and Rician noise, for training",
    shaders: &["augment/intensity.wgsl"],
    cases: || {
        let case = |name: &str, shape: [usize; 3], knots: usize, noise: f32| {
            Case::new(
                name,
                IntensityAugment { noise },
                vec![
                    (TensorDesc::f32(&shape), Fill::Uniform(-0.1, 1.1)),
                    (TensorDesc::f32(&[knots]), Fill::Uniform(0.0, 1.0)),
                    (TensorDesc::f32(&[4, 4, 4]), Fill::Normal(0.3)),
                    (TensorDesc::u32(&[2]), Fill::Integer(1000)),
                ],
            )
        };
        vec![
            case("odd", [5, 7, 9], 16, 0.05),
            case("no noise, two knots", [3, 1, 6], 2, 0.0),
            case("4 mm grid", [48, 64, 64], 16, 0.05).bench_only(),
        ]
    },
};

impl Operator for IntensityAugment {
    fn name(&self) -> &'static str {
        "intensity_augment"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("intensity_augment", inputs, 4)?;
        let fail = |reason: &str| OpError::new("intensity_augment", inputs, reason);
        if inputs[0].shape.len() != 3 || inputs[0].is_empty() {
            return Err(fail("x must be a volume D H W"));
        }
        if inputs[1].shape.len() != 1 || inputs[1].len() < 2 {
            return Err(fail("the curve needs at least 2 knots"));
        }
        if inputs[2].shape != [4, 4, 4] {
            return Err(fail("the lattice must be 4x4x4"));
        }
        if inputs[3] != TensorDesc::u32(&[2]) || inputs[0].dtype != DType::F32 {
            return Err(fail("x must be f32 and the seed two u32"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let shape = &inputs[0].shape;
        Lowered::one(
            Dispatch::new(KernelKey::new("augment/intensity.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("curve", Slot::Input(1))
                .bind("lattice", Slot::Input(2))
                .bind("seed", Slot::Input(3))
                .bind("y", Slot::Output(0))
                .params(
                    Params::new()
                        .u32("d", shape[0])
                        .u32("h", shape[1])
                        .u32("w", shape[2])
                        .u32("knots", inputs[1].len())
                        .f32("noise", self.noise),
                )
                .flat(inputs[0].len(), FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (x, curve, lattice, seed) = (inputs[0], &inputs[1].data, &inputs[2].data, &inputs[3].data);
        let [d, h, w] = [0, 1, 2].map(|a| x.desc.shape[a]);
        let knot = |index: usize, extent: usize| {
            let position = 3.0 * index as f64 / (extent.max(2) - 1) as f64;
            let below = position.floor().min(2.0);
            (below as usize, position - below)
        };
        let mut y = HostTensor::zeros(x.desc.clone());
        for i in 0..d * h * w {
            let (kd, kh, kw) = (knot(i / (w * h), d), knot(i / w % h, h), knot(i % w, w));
            let mut log_bias = 0.0;
            for corner in 0..8 {
                let (od, oh, ow) = (corner >> 2, (corner >> 1) & 1, corner & 1);
                let part = |fraction: f64, upper: usize| if upper == 1 { fraction } else { 1.0 - fraction };
                log_bias += part(kd.1, od)
                    * part(kh.1, oh)
                    * part(kw.1, ow)
                    * lattice[((kd.0 + od) * 4 + kh.0 + oh) * 4 + kw.0 + ow];
            }
            let position = x.data[i].clamp(0.0, 1.0) * (curve.len() - 1) as f64;
            let below = (position as usize).min(curve.len() - 2);
            let fraction = position - below as f64;
            let clean = (curve[below] * (1.0 - fraction) + curve[below + 1] * fraction) * log_bias.exp();
            let counter = u32::try_from(i / 2).expect("a volume has fewer voxels");
            let numbers = standard_normal([seed[0] as u32, seed[1] as u32], 0, counter)
                .map(|number| number * f64::from(self.noise));
            // Its cosines come first, then its sines.
            let pair = if i % 2 == 0 { [numbers[0], numbers[1]] } else { [numbers[2], numbers[3]] };
            y.data[i] = ((clean + pair[0]).powi(2) + pair[1].powi(2)).sqrt();
        }
        vec![y]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // log of software Vulkan: 9e-5 relative.
        Precision { reduction: 1, epsilon: 1e-5 }
    }
}
