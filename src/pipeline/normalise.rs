//! Intensities brought to a common scale.

use std::borrow::Cow;

use super::place::slabs::{slabs, upload};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::model::Intensity;
use crate::ops::Operator;
use crate::ops::intensity::{MinMax, Moments, Percentiles, Rescale, Standardise};
use crate::tensor::{HostTensor, TensorDesc};
use crate::volume::Volume;

/// How intensities are brought to a common scale. NaN and infinite voxels never count and become background:
/// the lower end of a scale, or 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Smallest and largest value to the ends of a scale; the article's is 0 to 255.
    MinMax {
        /// What the smallest value becomes.
        low: f32,
        /// What the largest value becomes.
        high: f32,
    },
    /// Two quantiles to the ends of a scale, values beyond them clipped: a few bright vessels no longer
    /// decide the contrast.
    Percentiles {
        /// Quantiles in `[0, 1]`, 0.01 and 0.99 say.
        quantiles: [f64; 2],
        /// What the lower quantile becomes.
        low: f32,
        /// What the upper quantile becomes.
        high: f32,
    },
    /// Mean 0 and standard deviation 1.
    ZScore {
        /// Take mean and deviation over voxels above this only, 0 say for a head on a black background.
        above: Option<f32>,
    },
    /// Two quantiles to 0 and 1, values beyond them clipped, and then to a mean and a standard deviation.
    Standard {
        /// Quantiles in `[0, 1]`.
        quantiles: [f64; 2],
        /// Mean of the result.
        mean: f32,
        /// Its standard deviation.
        deviation: f32,
    },
}

impl From<Intensity> for Method {
    fn from(intensity: Intensity) -> Self {
        match intensity {
            Intensity::MinMax { high } => Self::MinMax { low: 0.0, high },
            Intensity::Percentile { low, high } => Self::Percentiles {
                quantiles: [low as f64 / 100.0, high as f64 / 100.0],
                low: 0.0,
                high: 1.0,
            },
            Intensity::ZScore => Self::ZScore { above: None },
            Intensity::ZScoreOfVoxels { masked } => Self::ZScore { above: masked.then_some(0.0) },
            Intensity::Standard { low, high, mean, deviation, .. } => {
                Self::Standard { quantiles: [low as f64 / 100.0, high as f64 / 100.0], mean, deviation }
            }
        }
    }
}

/// What finds the statistics of a volume, and what applies them to it.
type Step = (Box<dyn Operator>, Box<dyn Operator>);

impl Method {
    /// The steps, one after the other.
    fn steps(&self) -> Vec<Step> {
        let to_range = |quantiles: &[f64; 2], out_low, out_high| -> Step {
            (Box::new(Percentiles { quantiles: quantiles.to_vec() }), Box::new(Rescale { out_low, out_high }))
        };
        let standard = |above, out_mean, out_std| -> Step {
            (Box::new(Moments { above }), Box::new(Standardise { out_mean, out_std }))
        };
        match self {
            &Self::MinMax { low, high } => {
                vec![(Box::new(MinMax), Box::new(Rescale { out_low: low, out_high: high }))]
            }
            Self::Percentiles { quantiles, low, high } => vec![to_range(quantiles, *low, *high)],
            &Self::ZScore { above } => vec![standard(above, 0.0, 1.0)],
            Self::Standard { quantiles, mean, deviation } => {
                vec![to_range(quantiles, 0.0, 1.0), standard(None, *mean, *deviation)]
            }
        }
    }
}

/// The statistics that a method's first step takes of a volume.
///
/// # Errors
/// Quantiles outside `[0, 1]`, or a failing device.
pub fn levels_of(gpu: &Gpu, volume: &GpuTensor, method: &Method) -> Result<GpuTensor, GraphError> {
    run_op1(gpu, method.steps()[0].0.as_ref(), &[volume])
}

/// Normalises a volume on the device without reading anything back; returns a new one of the same shape.
///
/// # Errors
/// Quantiles outside `[0, 1]`, or a failing device.
pub fn normalise_tensor(gpu: &Gpu, volume: &GpuTensor, method: &Method) -> Result<GpuTensor, GraphError> {
    normalise_to_levels(gpu, volume, method, None)
}

/// As [`normalise_tensor`], where the first step's statistics may be those of another volume.
///
/// # Errors
/// As [`normalise_tensor`].
pub fn normalise_to_levels(
    gpu: &Gpu,
    volume: &GpuTensor,
    method: &Method,
    mut levels: Option<&GpuTensor>,
) -> Result<GpuTensor, GraphError> {
    let mut done = volume.clone();
    for (statistics, apply) in method.steps() {
        let own = match levels.take() {
            Some(levels) => levels.clone(),
            None => run_op1(gpu, statistics.as_ref(), &[&done])?,
        };
        done = run_op1(gpu, apply.as_ref(), &[&done, &own])?;
    }
    Ok(done)
}

/// Normalises a volume; with more than one slab, its statistics are the f64 references of the operators.
///
/// # Errors
/// Quantiles outside `[0, 1]`, or a failing device.
pub async fn normalise(gpu: &Gpu, volume: &Volume, method: &Method) -> Result<Vec<f32>, GraphError> {
    let slabs = slabs(gpu, volume.shape);
    if let [planes] = slabs.as_slice() {
        let placed = upload(gpu, volume, planes).await?;
        return Ok(gpu.download(&normalise_tensor(gpu, &placed.tensor, method)?).await?);
    }
    let mut done = Cow::Borrowed(volume);
    for (statistics, apply) in method.steps() {
        let data = done.data.iter().map(|&v| f64::from(v)).collect();
        let values = HostTensor::new(TensorDesc::f32(&[done.data.len()]), data);
        let statistics = statistics.reference(&[&values]).swap_remove(0);
        drop(values);
        let statistics = gpu.upload(&statistics.desc, &statistics.to_words()).await?;
        let mut normalised = Vec::with_capacity(done.data.len());
        for planes in &slabs {
            let placed = upload(gpu, &done, planes).await?;
            let slab = run_op1(gpu, apply.as_ref(), &[&placed.tensor, &statistics])?;
            normalised.append(&mut gpu.download(&slab).await?);
        }
        done = Cow::Owned(Volume { data: normalised, ..*volume });
    }
    Ok(done.into_owned().data)
}
