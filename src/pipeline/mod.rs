//! What the commands do, without a terminal: placing grids, training, stripping.

pub mod bias;
pub mod evaluate;
pub mod normalise;
pub mod place;
pub mod postprocess;
pub mod report;
pub mod resample;
pub mod strip;
pub mod train;
pub mod tuning_cache;
pub mod window;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::gpu::GpuError;
use crate::graph::GraphError;
use crate::model::ModelError;
use crate::volume::VolumeError;

/// What can go wrong in a command.
#[derive(Debug, Error)]
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

/// Writes a file by way of a temporary one in the same folder, so that it is whole or absent.
///
/// # Errors
/// When the folder cannot be written or the disk is full.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PipelineError> {
    let fail = |source| PipelineError::Write { file: path.to_path_buf(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = crate::volume::image::temporary_in(folder).map_err(fail)?;
    std::io::Write::write_all(&mut file, bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}
