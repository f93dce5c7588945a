//! Intensities brought to a common scale.

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
        }
    }
}

impl Method {
    /// What finds the statistics of a volume, and what applies them to it.
    fn operators(&self) -> (Box<dyn Operator>, Box<dyn Operator>) {
        match *self {
            Self::MinMax { low, high } => {
                (Box::new(MinMax), Box::new(Rescale { out_low: low, out_high: high }))
            }
            Self::Percentiles { quantiles, low, high } => (
                Box::new(Percentiles { quantiles: quantiles.to_vec() }),
                Box::new(Rescale { out_low: low, out_high: high }),
            ),
            Self::ZScore { above } => (Box::new(Moments { above }), Box::new(Standardise)),
        }
    }
}

/// Normalises a volume on the device without reading anything back; returns a new one of the same shape.
///
/// # Errors
/// Quantiles outside `[0, 1]`, or a failing device.
pub fn normalise_tensor(gpu: &Gpu, volume: &GpuTensor, method: &Method) -> Result<GpuTensor, GraphError> {
    let (statistics, apply) = method.operators();
    let statistics = run_op1(gpu, statistics.as_ref(), &[volume])?;
    run_op1(gpu, apply.as_ref(), &[volume, &statistics])
}

/// Normalises a volume; with more than one slab, its statistics are the f64 references of the operators.
///
/// # Errors
/// Quantiles outside `[0, 1]`, or a failing device.
pub async fn normalise(gpu: &Gpu, volume: &Volume, method: &Method) -> Result<Vec<f32>, GraphError> {
    let slabs = slabs(gpu, volume.shape);
    let (statistics, apply) = method.operators();
    if let [planes] = slabs.as_slice() {
        let placed = upload(gpu, volume, planes).await?;
        return Ok(gpu.download(&normalise_tensor(gpu, &placed.tensor, method)?).await?);
    }
    let data = volume.data.iter().map(|&v| f64::from(v)).collect();
    let values = HostTensor::new(TensorDesc::f32(&[volume.data.len()]), data);
    let statistics = statistics.reference(&[&values]).swap_remove(0);
    drop(values);
    let statistics = gpu.upload(&statistics.desc, &statistics.to_words()).await?;
    let mut normalised = Vec::with_capacity(volume.data.len());
    for planes in &slabs {
        let placed = upload(gpu, volume, planes).await?;
        let done = run_op1(gpu, apply.as_ref(), &[&placed.tensor, &statistics])?;
        normalised.append(&mut gpu.download(&done).await?);
    }
    Ok(normalised)
}
