//! An operator that is not part of the crate: its kernel (window.wgsl), how it is launched, what it is by definition, and a
//! comparison of the two on this machine's GPU. `cargo run --example own_operator`
//!
//! Operators like this one run alone, as here, or as nodes of a `graph::Graph` beside the built-in ones.

use trephine::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use trephine::graph::run_op1;
use trephine::ops::{Comparison, FLAT, OpError, Operator};
use trephine::tensor::{HostTensor, TensorDesc};
use trephine::{Gpu, GpuOptions};

/// The name under which the device finds the kernel.
const KERNEL: &str = "window.wgsl";

/// `window`: y = clamp((x - low) / (high - low), 0, 1), as viewers show intensities.
#[derive(Debug)]
struct Window {
    low: f32,
    high: f32,
}

impl Operator for Window {
    fn name(&self) -> &'static str {
        "window"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        match inputs {
            [x] => Ok(vec![x.clone()]),
            _ => Err(OpError::new("window", inputs, "expects one input")),
        }
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new(KERNEL))
                .bind("x", Slot::Input(0))
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", n).f32("low", self.low).f32("high", self.high))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [low, high] = [self.low, self.high].map(f64::from);
        let window = |x: &f64| ((x - low) / (high - low)).clamp(0.0, 1.0);
        vec![HostTensor::new(inputs[0].desc.clone(), inputs[0].data.iter().map(window).collect())]
    }
}

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::open(&GpuOptions::default()).await?;
    gpu.replace_shader(KERNEL, include_str!("window.wgsl").to_owned());

    let desc = TensorDesc::f32(&[1, 1, 5, 7, 9]);
    let values: Vec<f32> = (0..desc.len()).map(|i| i as f32).collect();
    let op = Window { low: 40.0, high: 240.0 };
    let y = run_op1(&gpu, &op, &[&gpu.upload(&desc, &values).await?])?;

    let got = HostTensor::from_words(desc.clone(), &gpu.download::<u32>(&y).await?);
    let x = HostTensor::new(desc.clone(), values.iter().map(|&v| f64::from(v)).collect());
    let comparison = Comparison::of_outputs(&op, &[desc], &[got], &op.reference(&[&x]));
    if let Some(complaint) = comparison.ok_or("an operator has an output")?.complaint() {
        return Err(complaint.into());
    }
    println!("{op:?} on {}: right", gpu.summary.name);
    Ok(())
}
