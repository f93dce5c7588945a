//! The adapter's roofline, measured: the rate of multiply-adds, of cooperative matrices, and of copying, each by a
//! micro-kernel of `shaders/peak/`. The best of a few forms counts, as drivers differ in what they like.

use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::error::LabError;
use super::timing::{Budget, race};
use crate::gpu::{Caps, DeviceClass, Dispatch, Gpu, GpuError, GpuTensor, KernelKey, Params, Slot};
use crate::ops::FLAT;
use crate::tensor::{DType, TensorDesc};

const FMA: &str = "peak/fma.wgsl";
const COPY: &str = "peak/copy.wgsl";
const MATRIX: &str = "peak/matrix.wgsl";

/// The roofline of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Multiply-adds in f32, 10^9 flops a second.
    pub fma_gflops: f64,
    /// Bytes read and written by a copy, 10^9 a second.
    pub copy_gbps: f64,
    /// Multiply-adds in f16, where kernels may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fma_f16_gflops: Option<f64>,
    /// Products of cooperative matrices, f16 into f32, where the adapter offers them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix_f16_gflops: Option<f64>,
}

impl Peak {
    /// The highest rate of arithmetic for an element type.
    pub fn gflops(&self, dtype: DType) -> f64 {
        let f16 = [self.fma_f16_gflops, self.matrix_f16_gflops];
        match dtype {
            DType::F16 => f16.into_iter().flatten().fold(self.fma_gflops, f64::max),
            _ => self.fma_gflops,
        }
    }

    /// The shortest time that this roofline allows work of `flops` that moves `bytes`, in seconds.
    pub fn shortest_seconds(&self, dtype: DType, flops: f64, bytes: f64) -> f64 {
        f64::max(flops / (self.gflops(dtype) * 1e9), bytes / (self.copy_gbps * 1e9))
    }
}

/// The micro-kernels that an adapter can run, one key a form: all of them for tests, each compiled and translated.
pub fn kernels(caps: &Caps) -> Vec<KernelKey> {
    let mut keys = fma_forms(false);
    keys.extend(copy_forms());
    if caps.f16 {
        keys.extend(fma_forms(true));
    }
    keys.extend(matrix_form(caps));
    keys
}

fn fma_forms(f16: bool) -> Vec<KernelKey> {
    let mut forms = Vec::new();
    for wide in [0, 1] {
        for fused in [0, 1] {
            let key = KernelKey::new(FMA).define("WIDE", wide).define("FUSED", fused);
            forms.push(key.define("F16", f16.into()));
        }
    }
    forms
}

fn copy_forms() -> Vec<KernelKey> {
    [0, 1].map(|four| KernelKey::new(COPY).define("FOUR", four)).into()
}

fn matrix_form(caps: &Caps) -> Option<KernelKey> {
    let (tile, [_, subgroup]) = (caps.cooperative_tile?, caps.subgroup_size?);
    let key = KernelKey::new(MATRIX).define("TILE8", (tile == 8).into());
    Some(key.define("TILE16", (tile == 16).into()).define("SUBGROUP", subgroup))
}

/// Measures the roofline; takes a second or two. Each kernel's results are checked before its time counts.
///
/// # Errors
/// A failing device, or a micro-kernel whose results are wrong.
pub async fn measure(gpu: &Gpu) -> Result<Peak, LabError> {
    let fma = async |f16| -> Result<f64, LabError> {
        let mut best: f64 = 0.0;
        for key in fma_forms(f16) {
            best = best.max(fma_rate(gpu, &key, f16).await?);
        }
        Ok(best)
    };
    let mut copy: f64 = 0.0;
    for key in copy_forms() {
        copy = copy.max(copy_rate(gpu, &key).await?);
    }
    Ok(Peak {
        fma_gflops: fma(false).await? * 1e-9,
        copy_gbps: copy * 1e-9,
        fma_f16_gflops: if gpu.caps.f16 { Some(fma(true).await? * 1e-9) } else { None },
        matrix_f16_gflops: match matrix_form(&gpu.caps) {
            Some(key) => Some(matrix_rate(gpu, &key).await? * 1e-9),
            None => None,
        },
    })
}

/// A sample of a micro-kernel takes this long: enough for a GPU to reach its clock.
const SAMPLE_SECONDS: f64 = 0.01;

fn budget() -> Budget {
    Budget { seconds: 10.0 * SAMPLE_SECONDS, samples: 3 }
}

/// Shortest time of a launch on each of several sets of tensors, in seconds.
async fn shortest(gpu: &Gpu, dispatch: &Dispatch, sets: &[[GpuTensor; 3]]) -> Result<f64, GpuError> {
    let contender = sets
        .iter()
        .map(|tensors| {
            let resolve = |slot: Slot| match slot {
                Slot::Input(ix) => &tensors[ix],
                _ => &tensors[2],
            };
            Ok(vec![gpu.prepare("peak", dispatch, &resolve)?])
        })
        .collect::<Result<Vec<_>, GpuError>>()?;
    let samples = race(gpu, &[contender], budget()).await?.swap_remove(0);
    Ok(samples.into_iter().fold(f64::INFINITY, f64::min).max(1e-9))
}

fn wrong(key: &KernelKey, got: f64, want: f64) -> LabError {
    LabError::Refused(format!(
        "the micro-kernel {} gives {got}, should give {want}: the roofline cannot be measured with it; \
         update the adapter's driver or take another --device",
        key.path
    ))
}

/// Whether a result is within a relative tolerance; not so for NaN.
fn close(got: f64, want: f64, tolerance: f64) -> bool {
    (got - want).abs() <= tolerance * want.abs().max(1.0)
}

/// Values of `x` in f32 for `n` invocations of four lanes.
fn uniform(n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    (0..4 * n).map(|_| rng.random()).collect()
}

/// More invocations than the device runs at a time.
fn invocations(gpu: &Gpu) -> usize {
    match gpu.caps.class {
        DeviceClass::Software => 1 << 14,
        _ => 1 << 19,
    }
}

async fn fma_rate(gpu: &Gpu, key: &KernelKey, f16: bool) -> Result<f64, LabError> {
    let n = invocations(gpu);
    let chains = if key.defines.contains(&("WIDE", 1)) { 16 } else { 8 };
    let values = uniform(n);
    let desc = TensorDesc::f32(&[n, 4]);
    let (x, y) = (gpu.upload(&desc, &values).await?, gpu.empty(&desc)?);
    let tensors = [[x.clone(), x, y]];
    let launch = |rounds: usize| {
        Dispatch::new(key.clone())
            .bind("x", Slot::Input(0))
            .bind("y", Slot::Output(0))
            .params(Params::new().u32("n", n).u32("rounds", rounds))
            .flat(n, FLAT)
    };
    let flops = |rounds: usize| (2 * 4 * chains * 4 * rounds * n) as f64;
    let mut rounds = 4;
    let mut seconds = shortest(gpu, &launch(rounds), &tensors).await?;
    let wanted = (SAMPLE_SECONDS / seconds * rounds as f64) as usize;
    if wanted > rounds {
        rounds = wanted.min(1 << 16);
        seconds = shortest(gpu, &launch(rounds), &tensors).await?;
    }
    let got: Vec<f32> = gpu.download(&tensors[0][2]).await?;
    for at in (0..got.len()).step_by(got.len() / 64 + 1) {
        let want = fma_result(values[at], chains, rounds);
        if !close(got[at].into(), want, if f16 { 0.05 } else { 1e-4 }) {
            return Err(wrong(key, got[at].into(), want));
        }
    }
    Ok(flops(rounds) / seconds)
}

/// What a lane of `peak/fma.wgsl` holds in the end.
fn fma_result(x: f32, chains: usize, rounds: usize) -> f64 {
    let x = f64::from(x);
    let (a, b) = (-0.75 - x * 0.125, 0.25 + x * 0.125);
    // The steps converge to b / (1 - a); what is left of the start shrinks by a with each.
    let fixed = b / (1.0 - a);
    let left = a.powi((4 * rounds).min(1 << 20) as i32);
    (0..chains).map(|k| fixed + (x + k as f64 / 16.0 - fixed) * left).sum()
}

async fn copy_rate(gpu: &Gpu, key: &KernelKey) -> Result<f64, LabError> {
    // Half of what the adapter binds, at most 64 MiB, four times over: past the caches of all but the largest.
    let bytes = (gpu.caps.max_binding / 2).min(64 << 20) / 64 * 64;
    let n = bytes as usize / 16;
    let values = uniform(n);
    let desc = TensorDesc::f32(&[n, 4]);
    let mut sets = Vec::new();
    for _ in 0..2 {
        let x = gpu.upload(&desc, &values).await?;
        sets.push([x.clone(), x, gpu.empty(&desc)?]);
    }
    let four = key.defines.contains(&("FOUR", 1));
    let dispatch = Dispatch::new(key.clone())
        .bind("x", Slot::Input(0))
        .bind("y", Slot::Output(0))
        .params(Params::new().u32("n", n).u32("stride", n / 4))
        .flat(if four { n / 4 } else { n }, FLAT);
    let seconds = shortest(gpu, &dispatch, &sets).await?;
    let got: Vec<f32> = gpu.download(&sets[0][2]).await?;
    if let Some((got, want)) = got.iter().zip(&values).find(|(got, want)| got != want) {
        return Err(wrong(key, f64::from(*got), f64::from(*want)));
    }
    Ok(2.0 * bytes as f64 / seconds)
}

async fn matrix_rate(gpu: &Gpu, key: &KernelKey) -> Result<f64, LabError> {
    let tile = if key.defines.contains(&("TILE16", 1)) { 16 } else { 8 };
    let area = tile * tile;
    let groups = invocations(gpu) / 128;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    // Multiples of 1/64: sums of products are exact in f32 up to 2^24 times their unit, 2^-12.
    let mut random = |n: usize| -> Vec<f16> {
        (0..n).map(|_| f16::from_f32(f32::from(rng.random_range(1..32u8)) / 64.0)).collect()
    };
    let (left, right) = (random(4 * area), random(area));
    let upload = async |values: &[f16]| -> Result<GpuTensor, GpuError> {
        let words: &[u32] = bytemuck::cast_slice(values);
        gpu.upload(&TensorDesc::u32(&[words.len()]), words).await
    };
    let inputs = [upload(&left).await?, upload(&right).await?];
    let desc = TensorDesc::f32(&[groups, 4, area]);
    let launch = |rounds: usize| {
        Dispatch::new(key.clone())
            .bind("left", Slot::Input(0))
            .bind("right", Slot::Input(1))
            .bind("y", Slot::Output(0))
            .params(Params::new().u32("n", groups).u32("rounds", rounds))
            .flat(groups, 1)
    };
    // The output accumulates, so the check takes a single run of few rounds.
    let run = async |rounds: usize| -> Result<[GpuTensor; 3], GpuError> {
        let [left, right] = inputs.clone();
        let tensors = [left, right, gpu.empty(&desc)?];
        let resolve = |slot: Slot| match slot {
            Slot::Input(ix) => &tensors[ix],
            _ => &tensors[2],
        };
        gpu.submit(&[gpu.prepare("peak", &launch(rounds), &resolve)?])?;
        gpu.wait().await?;
        Ok(tensors)
    };
    let rounds = 4;
    let tensors = run(rounds).await?;
    let got: Vec<f32> = gpu.download(&tensors[2]).await?;
    for (at, &got) in
        got.iter().enumerate().take(4 * area).chain(got.iter().enumerate().skip(groups / 2 * 4 * area))
    {
        let (k, row, column) = (at / area % 4, at % area / tile, at % tile);
        let products =
            (0..tile).map(|i| left[k * area + row * tile + i].to_f64() * right[i * tile + column].to_f64());
        let want = rounds as f64 * products.sum::<f64>();
        if !close(got.into(), want, 1e-3) {
            return Err(wrong(key, got.into(), want));
        }
    }
    let mut rounds = rounds;
    let mut seconds = shortest(gpu, &launch(rounds), std::slice::from_ref(&tensors)).await?;
    let wanted = (SAMPLE_SECONDS / seconds * rounds as f64) as usize;
    if wanted > rounds {
        rounds = wanted.min(1 << 16);
        seconds = shortest(gpu, &launch(rounds), std::slice::from_ref(&tensors)).await?;
    }
    Ok((2 * 4 * area * tile * rounds * groups) as f64 / seconds)
}
