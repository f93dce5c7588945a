//! What the commands do, without a terminal: placing grids, training, stripping.

pub mod batch;
pub mod bias;
pub mod bids;
pub mod evaluate;
pub mod input;
mod network;
pub mod normalise;
mod opinion;
mod patches;
pub mod place;
pub mod plausibility;
pub mod postprocess;
pub mod report;
pub mod resample;
mod stopwatch;
pub mod strip;
pub mod synth;
mod threads;
pub mod train;
pub mod tuning_cache;
pub mod window;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::gpu::GpuError;
use crate::graph::GraphError;
use crate::model::ModelError;
use crate::volume::VolumeError;
use crate::volume::unfinished::Temporary;

/// What can go wrong in a command.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// An image file.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A graph on the device.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A network or its weights.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An input that is readable but of no use.
    #[error("{}: {reason}", file.display())]
    Input {
        /// The file.
        file: PathBuf,
        /// What is wrong; what to do.
        reason: String,
    },
    /// A file that cannot be written.
    #[error(
        "{}: cannot be written ({source}); check that its folder exists, may be written to and has space left",
        file.display()
    )]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Bias correction.
    #[error(transparent)]
    N4(#[from] bias::N4Error),
    /// A grid that an image cannot be sampled on.
    #[error("{0}")]
    Target(String),
    /// The network marks no voxel.
    #[error("no brain found; check that the image shows a head and that its orientation is right")]
    NoBrain,
    /// A border so far inside that nothing of the brain is left.
    #[error("a border of {border_mm} mm leaves nothing of the brain; choose a --border nearer to 0")]
    Border {
        /// How far the border was to be moved outward.
        border_mm: f64,
    },
    /// An image too small or too large to show a human head.
    #[error(
        "measures {} mm in all, {} for a human head; correct the voxel size in its header ({} mm), or the unit that it is in",
        triple(.extent_mm),
        if *.too_small { "too small" } else { "too large" },
        triple(.voxel_mm)
    )]
    FieldOfView {
        /// Along x, y and z of the file.
        extent_mm: [f64; 3],
        /// Edges of a voxel.
        voxel_mm: [f64; 3],
        /// Or too large.
        too_small: bool,
    },
    /// A plot that cannot be drawn.
    #[error("the plot cannot be drawn ({0}); take the figures from --csv or log.csv")]
    Plot(String),
    /// Rows of a table that cannot be trained on.
    #[error(
        "{} of {total} heads cannot be trained on: {}",
        faults.len(),
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Rows {
        /// Each with its file.
        faults: Vec<Self>,
        /// Rows in all.
        total: usize,
    },
    /// Training went wrong.
    #[error("training: {0}")]
    Training(String),
}

impl PipelineError {
    /// The error with the file it is about, unless its text names one already.
    pub fn about(&self, file: &Path) -> String {
        match self {
            Self::Volume(_) | Self::Input { .. } | Self::Write { .. } => self.to_string(),
            other => format!("{}: {other}", file.display()),
        }
    }

    /// Whether another volume of the same series may well fare better.
    fn is_about_the_voxels(&self) -> bool {
        match self {
            Self::N4(error) => !matches!(error, bias::N4Error::Graph(_)),
            error => matches!(error, Self::NoBrain | Self::Border { .. }),
        }
    }

    /// Whether the device has too little memory.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Gpu(GpuError::OutOfMemory(_)) => true,
            Self::Graph(error) | Self::N4(bias::N4Error::Graph(error)) => error.is_out_of_memory(),
            _ => false,
        }
    }
}

/// `1 x 1 x 1.2`.
fn triple(values: &[f64; 3]) -> String {
    let short = |v: f64| if v < 10.0 { (v * 1000.0).round() / 1000.0 } else { v.round() };
    values.map(|v| short(v).to_string()).join(" x ")
}

/// Writes a file by way of a temporary one in the same folder, so that it is whole or absent.
///
/// # Errors
/// When the folder cannot be written or the disk is full.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PipelineError> {
    let fail = |source| PipelineError::Write { file: path.to_path_buf(), source };
    let mut file = Temporary::beside(path).map_err(fail)?;
    std::io::Write::write_all(&mut file, bytes).map_err(fail)?;
    file.finish().map_err(fail)
}
