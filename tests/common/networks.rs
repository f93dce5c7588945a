//! Networks against their homes: numbers that both sides make, logits, and how far they are apart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use trephine::gpu::Gpu;
use trephine::graph::{Executor, ExecutorOptions};
use trephine::model::{Description, Mode, Tensors, build};
use trephine::tensor::DType;

use crate::common::wait;

/// Where a fixture lies.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The bytes of a fixture.
pub fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Numbers between -1 and 1, a function of the name: `numbers` of tools/published_networks.py.
pub fn numbers(name: &str, count: usize) -> Vec<f32> {
    let salt =
        name.bytes().fold(0x811C_9DC5u32, |salt, byte| (salt ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let hash = |ix: u32| {
        let h = ix.wrapping_add(salt).wrapping_mul(2_654_435_761);
        let h = (h ^ (h >> 16)).wrapping_mul(0x045D_9F3B);
        h ^ (h >> 16)
    };
    (0..count as u32).map(|ix| (f64::from(hash(ix)) / f64::from(1u32 << 31) - 1.0) as f32).collect()
}

/// What a network says of an input of one sample.
pub fn logits(
    gpu: &Arc<Gpu>,
    description: &Description,
    tensors: &Tensors,
    input: &[f32],
    extents: [usize; 3],
) -> Vec<f32> {
    let network = build(description, 1, extents, Mode::Inference(DType::F32)).expect("builds");
    let executor = Executor::new(gpu, network.graph, ExecutorOptions::default()).expect("compiles");
    for (name, (shape, values)) in tensors {
        let value = executor.graph().find(name).unwrap_or_else(|| panic!("no value '{name}'"));
        assert_eq!(*shape, executor.graph().desc(value).shape, "{name}");
        wait(executor.write(value, values)).expect("write");
    }
    wait(executor.write(network.input, input)).expect("write");
    executor.run().expect("runs");
    wait(executor.read(network.logits)).expect("read")
}

/// L2 norm of the difference over that of `want`.
pub fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f64| v * v;
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    (difference / norm.max(1e-30)).sqrt()
}
