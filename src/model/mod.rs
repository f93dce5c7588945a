//! Networks as data: descriptions, their graphs, weights with their model card, and training graphs.

mod build;
mod builder;
mod builtin;
mod description;
mod drawing;
mod fold;
pub mod foreign;
mod formats;
mod outline;
pub mod published;
mod refine;
mod split;
mod training;
mod unet;
mod weights;

use thiserror::Error;

pub use build::{BuiltNetwork, Mode, build};
pub use builtin::{WeightFile, builtin_card, builtin_names, load, user_folder, user_models};
pub use description::{
    ActivationKind, AnswerKind, AxisCodes, Centre, Description, Fit, GridSpec, Intensity, Layer, LayerKind,
    Patches, Readout, Sampling, UpsampleKind, VoxelBox,
};
pub use drawing::drawing;
pub use fold::fold_for_inference;
pub use formats::{NamedTensors, is_torch, read_tensors};
pub use outline::{LayerOutline, Outline};
pub use refine::{begin_no_csf, spread_over_blocks};
pub use split::split_channels;
pub use training::{LossKind, OptimiserSpec, TrainingGraph, is_of_optimiser, weights_of};
pub use unet::{add_no_csf, article, residual_unet};
pub use weights::{
    Model, ModelCard, Tensors, Usual, initialise, tensors_of_first, weights_of_first, weights_of_fold,
};

/// A hash in hexadecimal, as programs that check one print it.
pub(crate) fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What can go wrong with a network or its weights.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The description does not make a network.
    #[error("layer '{layer}': {reason}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// A weight file is missing something or malformed.
    #[error("{file}: {reason}")]
    Weights {
        /// The file, or `built-in model NAME`.
        file: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Learning rates by layer that cannot be meant.
    #[error("optimiser.layers: the pattern '{pattern}' {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The graph layer refused.
    #[error(transparent)]
    Graph(#[from] crate::graph::GraphError),
}
