//! What a run goes on from: every tensor of the training graph, the configuration and the rows so far, in one file.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::config::TrainConfig;
use super::log::EpochRow;
use crate::model::Tensors;
use crate::pipeline::{PipelineError, write_whole};

/// Its name in a run's folder.
const CHECKPOINT: &str = "checkpoint.safetensors";

/// Where a run stands, beside the tensors of its checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) epochs_done: usize,
    pub(super) best_dice: f64,
    pub(super) rows: Vec<EpochRow>,
}

/// Writes the checkpoint of a run's folder.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(
    folder: &Path,
    tensors: &Tensors,
    config: &TrainConfig,
    state: &State,
) -> Result<(), PipelineError> {
    let fail = |e: &dyn std::fmt::Display| PipelineError::Training(format!("checkpoint: {e}"));
    let views = tensors
        .iter()
        .map(|(name, (shape, values))| {
            TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values))
                .map(|v| (name.as_str(), v))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| fail(&e))?;
    let state = serde_json::to_string(state).map_err(|e| fail(&e))?;
    let config = toml::to_string(config).map_err(|e| fail(&e))?;
    let metadata = HashMap::from([("state".to_owned(), state), ("config".to_owned(), config)]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| fail(&e))?;
    write_whole(&folder.join(CHECKPOINT), &bytes)
}

/// Reads it back.
///
/// # Errors
/// A file that is missing or damaged, or of a run with another network.
pub(super) fn read(folder: &Path, config: &TrainConfig) -> Result<(Tensors, State), PipelineError> {
    let file = folder.join(CHECKPOINT);
    let fail = |reason: String| PipelineError::Input { file: file.clone(), reason };
    let bytes =
        std::fs::read(&file).map_err(|e| fail(format!("cannot be read: {e}; start without --resume")))?;
    let broken = |e: &dyn std::fmt::Display| fail(format!("is not a checkpoint: {e}"));
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| broken(&e))?;
    let metadata = metadata.metadata().clone().unwrap_or_default();
    let text = |key: &str| metadata.get(key).cloned().unwrap_or_default();
    let saved: TrainConfig = toml::from_str(&text("config")).map_err(|e| broken(&e))?;
    if saved.network != config.network {
        return Err(fail("was made with another network; use its own configuration".into()));
    }
    let state: State = serde_json::from_str(&text("state")).map_err(|e| broken(&e))?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)
        .map_err(|e| broken(&e))?
        .iter()
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
            (name.to_owned(), (view.shape().to_vec(), values))
        })
        .collect();
    Ok((tensors, state))
}
