//! Pipelines as a whole: bias correction, and resampling between heads and network grids.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use glam::{DMat4, DVec3};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::error::LabError;
use super::report::{KernelShare, Stage, Total};
use super::subject::Subject;
use super::timing::Budget;
use super::trace::{self, Event};
use crate::gpu::{Gpu, KernelTime};
use crate::ops::resample::{AxisOrder, Edge, Interpolation, Resample, grid_matrix, index_matrix};
use crate::ops::{Comparison, Fill};
use crate::pipeline::bias::{N4Options, RegionTensors, divide_in_place, factors, n4};
use crate::pipeline::tuning_cache::Milliseconds;
use crate::tensor::{DType, TensorDesc};

/// Largest error of the field's logarithm that passes. N4 does not find a field exactly, whatever it runs on; what
/// this catches is a field that has nothing to do with the image's.
const FIELD_ERROR: f64 = 0.25;

/// What N4 costs.
pub struct N4Measurement {
    /// The whole.
    pub total: Total,
    /// By kernel, longest first; empty without a profile.
    pub kernels: Vec<KernelShare>,
    /// Launches of the profiled run.
    launches: Vec<KernelTime>,
}

impl N4Measurement {
    /// Writes the launches of the profiled run in the Trace Event Format of Chrome: open it at
    /// <https://ui.perfetto.dev>.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_trace(&self, path: &Path) -> Result<(), LabError> {
        let events = self.launches.iter().map(|time| Event {
            name: &time.node,
            category: "n4",
            time,
            details: json!({}),
        });
        trace::write(path, &self.total.name, events)
    }
}

/// Times N4 on a made-up head `[D, H, W]`: tissues in shells, noise, and a known field, which it must find again.
/// A run goes from values in the host's memory to corrected values there: transfers count. With `profile`, one more
/// has a timestamp round every launch.
///
/// # Errors
/// A field that is wrong, options out of range, or a device that fails.
pub async fn measure_n4(
    gpu: &Arc<Gpu>,
    shape: [usize; 3],
    options: &N4Options,
    budget: Budget,
    profile: bool,
) -> Result<N4Measurement, LabError> {
    let Head { values, brain, field } = head(shape);
    let desc = TensorDesc::f32(&shape);
    // Warm-up, and the result to check.
    let volume = gpu.upload(&desc, &values).await?;
    let log_field: Vec<f32> =
        gpu.download(&n4(gpu, &volume, RegionTensors::default(), options).await?.log_field).await?;
    drop(volume);
    // The image's mean intensity cannot be told from the field's.
    let mean = |of: &[f32]| brain.iter().map(|&ix| f64::from(of[ix])).sum::<f64>() / brain.len() as f64;
    let (got_mean, want_mean) = (mean(&log_field), mean(&field));
    let pairs =
        brain.iter().map(|&ix| (ix, f64::from(log_field[ix]) - got_mean, f64::from(field[ix]) - want_mean));
    let checked = "logarithm of the field in the brain, against the one put into the image".to_owned();
    let error = Comparison::within(pairs, FIELD_ERROR).into_error(checked, values.len())?;
    gpu.wait().await?;
    gpu.reset_peak_bytes();
    let submissions = gpu.submissions();
    let mut seconds: Vec<f64> = Vec::new();
    let mut stages = ["upload", "field", "division", "download"].map(|name| (name, Vec::new()));
    while seconds.len() < budget.samples || seconds.iter().sum::<f64>() < budget.seconds {
        let begun = Instant::now();
        let mut ends = [0.0; 4];
        let volume = gpu.upload(&desc, &values).await?;
        gpu.wait().await?;
        ends[0] = begun.elapsed().as_secs_f64();
        let log_field = n4(gpu, &volume, RegionTensors::default(), options).await?.log_field;
        gpu.wait().await?;
        ends[1] = begun.elapsed().as_secs_f64();
        divide_in_place(gpu, &volume, &log_field)?;
        gpu.wait().await?;
        ends[2] = begun.elapsed().as_secs_f64();
        let corrected: Vec<f32> = gpu.download(&volume).await?;
        ends[3] = begun.elapsed().as_secs_f64();
        drop(corrected);
        seconds.push(ends[3]);
        let begins = [0.0, ends[0], ends[1], ends[2]];
        for ((_, samples), (begin, end)) in stages.iter_mut().zip(begins.into_iter().zip(ends)) {
            samples.push(end - begin);
        }
    }
    let peak_buffer_bytes = gpu.peak_bytes();
    let submissions = (gpu.submissions() - submissions) / seconds.len() as u64;
    let mut launches = Vec::new();
    if profile {
        let volume = gpu.upload(&desc, &values).await?;
        let (done, times) = gpu
            .profiled(async || -> Result<_, LabError> {
                let log_field = n4(gpu, &volume, RegionTensors::default(), options).await?.log_field;
                Ok(divide_in_place(gpu, &volume, &log_field)?)
            })
            .await?;
        done?;
        launches = times;
    }
    let total = Total {
        name: format!("n4, shrink {}", factors(options.shrink)),
        direction: "from host to host".to_owned(),
        dtype: DType::F32.name().to_owned(),
        shape: shape.to_vec(),
        ms: Milliseconds::of(&seconds),
        samples: seconds.len(),
        gflop: None,
        gflops: None,
        roofline_fraction: None,
        peak_buffer_bytes,
        submissions,
        stages: stages.map(|(name, s)| Stage { name: name.to_owned(), ms: Milliseconds::of(&s) }).to_vec(),
        host_ms: None,
        error,
    };
    let kernels = KernelShare::of(launches.iter().map(|time| (time.kernel, time.seconds)));
    Ok(N4Measurement { total, kernels, launches })
}

/// A made-up head.
struct Head {
    /// Intensities.
    values: Vec<f32>,
    /// Voxels of the brain.
    brain: Vec<usize>,
    /// Logarithm of the field.
    field: Vec<f32>,
}

fn head(shape: [usize; 3]) -> Head {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let n: usize = shape.iter().product();
    let (mut values, mut brain, mut field) = (Vec::with_capacity(n), Vec::new(), Vec::with_capacity(n));
    for ix in 0..n {
        let at = [ix / (shape[1] * shape[2]), ix / shape[2] % shape[1], ix % shape[2]];
        // -1 to 1 along each axis.
        let [z, y, x] = [0, 1, 2].map(|a| 2.0 * (at[a] as f32 + 0.5) / shape[a] as f32 - 1.0);
        let radius = (x * x + y * y + z * z).sqrt();
        let folds = (9.0 * x).sin() * (8.0 * y).sin() * (7.0 * z).sin();
        let tissue = match radius {
            r if r < 0.8 && folds > 0.1 => 700.0,
            r if r < 0.8 => 450.0,
            r if r < 0.9 => 150.0,
            _ => 20.0,
        };
        let bias = 0.25 * x + 0.15 * y * z - 0.2 * z * z;
        values.push((tissue + rng.random_range(-15.0..15.0f32)) * bias.exp());
        if radius < 0.8 {
            brain.push(ix);
        }
        field.push(bias);
    }
    Head { values, brain, field }
}

/// Resampling as `strip` does it: a head of 1 mm to the grid of the article's network and back, in each kind of
/// interpolation. `shape` is the head's, [D, H, W].
pub fn resample_subjects(shape: [usize; 3]) -> Vec<Subject> {
    let affine = |shape: [usize; 3], voxel: f64| {
        let centre = DVec3::from_array(shape.map(|n| (n as f64 - 1.0) / 2.0 * voxel));
        DMat4::from_translation(-centre) * DMat4::from_scale(DVec3::splat(voxel))
    };
    let network = [96, 128, 160];
    // Turned a little, as heads are.
    let turn = DMat4::from_rotation_z(0.1) * DMat4::from_rotation_x(0.05);
    let (head, grid) = (turn * affine(shape, 1.0), affine(network, 2.0));
    let subject = |case: &str, from: [usize; 3], to: [usize; 3], matrix: DMat4, interpolation, edge| {
        let matrix = index_matrix(matrix, AxisOrder::Xyz, AxisOrder::Xyz);
        let op = Resample { matrix, shape: to, interpolation, edge, outside: 0.0 };
        Subject {
            op: Arc::new(op),
            case: case.to_owned(),
            inputs: vec![(TensorDesc::f32(&from), Fill::Uniform(1.0, 2.0))],
            shape: from.to_vec(),
        }
    };
    let there = grid_matrix(head, grid);
    let back = grid_matrix(grid, head);
    vec![
        subject("head to network, nearest", shape, network, there, Interpolation::Nearest, Edge::Zero),
        subject("head to network, linear", shape, network, there, Interpolation::Linear, Edge::Clamp),
        subject("head to network, cubic", shape, network, there, Interpolation::Cubic, Edge::Clamp),
        subject("network to head, linear", network, shape, back, Interpolation::Linear, Edge::Clamp),
    ]
}
