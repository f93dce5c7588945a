//! What can go wrong in the laboratory.

use std::path::PathBuf;

use thiserror::Error;

use crate::gpu::GpuError;
use crate::graph::GraphError;
use crate::model::ModelError;
use crate::pipeline::PipelineError;
use crate::pipeline::bias::N4Error;

/// What can go wrong in the laboratory.
#[derive(Debug, Error)]
pub enum LabError {
    /// The device, or a kernel.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A graph on the device.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A network or its weights.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A pipeline that is timed, or a file that cannot be written.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Bias correction.
    #[error(transparent)]
    N4(#[from] N4Error),
    /// An input that is missing or of no use.
    #[error("{}: {reason}", file.display())]
    Input {
        /// The file.
        file: PathBuf,
        /// What is wrong; what to do.
        reason: String,
    },
    /// A result that differs from the reference by more than the operator's precision explains.
    #[error("wrong result: {0}")]
    Wrong(String),
    /// Something that cannot be measured.
    #[error("{0}")]
    Refused(String),
}
