//! What the integration tests share: the device, and random tensors from a case's description.

use std::sync::{Arc, OnceLock};

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use trephine::gpu::{Gpu, GpuOptions};
use trephine::ops::Fill;
use trephine::tensor::{HostTensor, TensorDesc};

/// The device that tests run on, `None` when there is none and `REQUIRE_GPU` is not set.
/// `TREPHINE_DEVICE` picks an adapter by number or name.
pub fn gpu() -> Option<Arc<Gpu>> {
    static GPU: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    GPU.get_or_init(|| {
        let options = GpuOptions { device: std::env::var("TREPHINE_DEVICE").ok(), checked: true };
        match Gpu::open(&options) {
            Ok(gpu) => Some(Arc::new(gpu)),
            Err(error) if std::env::var_os("REQUIRE_GPU").is_some() => panic!("{error}"),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                None
            }
        }
    })
    .clone()
}

/// A random generator for a test, from its name.
pub fn rng(name: &str) -> ChaCha8Rng {
    let seed = name.bytes().fold(17u64, |h, b| h.wrapping_mul(0x100_0000_01b3) ^ b as u64);
    ChaCha8Rng::seed_from_u64(seed)
}

/// A standard normal number (Box-Muller).
pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A random tensor, rounded to what the device stores.
pub fn random(rng: &mut ChaCha8Rng, desc: &TensorDesc, fill: Fill) -> HostTensor {
    let n = desc.len();
    let data: Vec<f64> = match fill {
        Fill::Normal(std) => (0..n).map(|_| normal(rng) * std as f64).collect(),
        Fill::Uniform(low, high) => (0..n).map(|_| rng.random_range(low..high) as f64).collect(),
        Fill::Binary(p) => (0..n).map(|_| f64::from(u8::from(rng.random::<f32>() < p))).collect(),
        Fill::Integer(below) => (0..n).map(|_| f64::from(rng.random_range(0..below))).collect(),
        Fill::Distinct => {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(rng);
            order.into_iter().map(|ix| (ix as f64 - n as f64 / 2.0) * 0.01).collect()
        }
        Fill::Values(values) => values.iter().cycle().take(n).map(|&v| f64::from(v)).collect(),
        Fill::AwayFromZero => (0..n)
            .map(|_| {
                let value = normal(rng);
                value + 0.1 * value.signum()
            })
            .collect(),
    };
    let words = HostTensor::new(desc.clone(), data).to_words();
    HostTensor::from_words(desc.clone(), &words)
}

/// Panics with the worst element when `got` differs from `want` by more than `tolerance`.
pub fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let mut worst = (0usize, 0.0f64);
    for (ix, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs();
        if error.is_nan() || error > worst.1 {
            worst = (ix, error);
            if error.is_nan() {
                break;
            }
        }
    }
    let (ix, error) = worst;
    assert!(
        error <= tolerance,
        "{what}: element {ix} is {}, should be {}: error {error:.3e} is {:.0}% of the allowed {tolerance:.3e}",
        got[ix],
        want[ix],
        100.0 * error / tolerance
    );
}
