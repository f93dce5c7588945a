//! What the integration tests share: the device, random generators, and a comparison of tensors.

use std::sync::{Arc, OnceLock};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use trephine::gpu::{Gpu, GpuOptions};

/// Waits for a future: the one place where tests do.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    pollster::block_on(future)
}

/// The device that tests run on, `None` when there is none and `REQUIRE_GPU` is not set.
/// `TREPHINE_DEVICE` picks an adapter by number or name.
pub fn gpu() -> Option<Arc<Gpu>> {
    static GPU: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    GPU.get_or_init(|| {
        let options = GpuOptions {
            device: std::env::var("TREPHINE_DEVICE").ok(),
            checked: true,
            ..GpuOptions::default()
        };
        match wait(Gpu::open(&options)) {
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

/// The same adapter with a smaller binding limit.
pub fn limited(gpu: &Gpu, max_binding: u64) -> Gpu {
    let device = Some(gpu.summary.index.to_string());
    let options =
        GpuOptions { device, checked: true, max_binding: Some(max_binding), ..GpuOptions::default() };
    wait(Gpu::open(&options)).expect("the adapter opened before")
}

/// A random generator for a test, from its name.
pub fn rng(name: &str) -> ChaCha8Rng {
    let seed = name.bytes().fold(17u64, |h, b| h.wrapping_mul(0x100_0000_01b3) ^ b as u64);
    ChaCha8Rng::seed_from_u64(seed)
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
