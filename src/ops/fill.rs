//! Random tensors as cases describe them.

use rand::Rng;
use rand::seq::SliceRandom;

use super::Fill;
use crate::tensor::{HostTensor, TensorDesc};

impl Fill {
    /// A tensor of this kind, rounded to what the device stores.
    pub fn sample(self, rng: &mut impl Rng, desc: &TensorDesc) -> HostTensor {
        let n = desc.len();
        let data: Vec<f64> = match self {
            Self::Normal(std) => (0..n).map(|_| normal(rng) * f64::from(std)).collect(),
            Self::Uniform(low, high) => (0..n).map(|_| f64::from(rng.random_range(low..high))).collect(),
            Self::Binary(p) => (0..n).map(|_| f64::from(u8::from(rng.random::<f32>() < p))).collect(),
            Self::Integer(below) => (0..n).map(|_| f64::from(rng.random_range(0..below))).collect(),
            Self::Distinct => {
                let mut order: Vec<usize> = (0..n).collect();
                order.shuffle(rng);
                order.into_iter().map(|ix| (ix as f64 - n as f64 / 2.0) * 0.01).collect()
            }
            Self::Values(values) => values.iter().cycle().take(n).map(|&v| f64::from(v)).collect(),
            Self::AwayFromZero => (0..n)
                .map(|_| {
                    let value = normal(rng);
                    value + 0.1 * value.signum()
                })
                .collect(),
        };
        let words = HostTensor::new(desc.clone(), data).to_words();
        HostTensor::from_words(desc.clone(), &words)
    }
}

/// A standard normal number (Box-Muller).
fn normal(rng: &mut impl Rng) -> f64 {
    let u: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
