//! What a run goes on from: every tensor of the training graph, and all that decided the run so far, in one file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::compact::{self, Kept};
use super::config::TrainConfig;
use super::data::HeadRecord;
use super::log::EpochRow;
use crate::model::{Description, ModelCard, Tensors};
use crate::pipeline::synth::LabelMap;
use crate::pipeline::{PipelineError, write_whole};

/// Entry of the file's metadata that holds the run as TOML, which has words for NaN.
const RUN_KEY: &str = "trephine.run";
/// Entry that holds the network's description as JSON, as model files do.
const NETWORK_KEY: &str = "trephine.description";

/// A label map in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRecord {
    /// Where it lay.
    pub file: String,
    /// Hash of its labels, extents and place, as they are kept.
    pub sha256: String,
}

impl MapRecord {
    /// That of a map.
    pub fn of(map: &LabelMap) -> Self {
        Self { file: map.file.display().to_string(), sha256: map.sha256.clone() }
    }
}

/// A run between two epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Epochs done.
    pub epochs_done: usize,
    /// Best validation Dice so far.
    pub best_dice: f64,
    /// What decides the run.
    pub config: TrainConfig,
    /// The card of the models that the run writes.
    pub card: ModelCard,
    /// Which heads train and which validate, in order.
    pub heads: Vec<HeadRecord>,
    /// The label maps that heads are made from, in order.
    #[serde(default)]
    pub maps: Vec<MapRecord>,
    /// The network, where it is that of a model which the run began with.
    #[serde(skip)]
    pub network: Option<Description>,
    /// The rows of `log.csv`.
    pub rows: Vec<EpochRow>,
    /// Parameters, running statistics, moments and averages by name.
    #[serde(skip)]
    pub tensors: Tensors,
}

impl Checkpoint {
    /// Where a run's folder holds it.
    pub fn path_in(folder: &Path) -> PathBuf {
        folder.join("checkpoint.safetensors")
    }

    /// Writes it into a run's folder, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), PipelineError> {
        let fail = |e: &dyn std::fmt::Display| PipelineError::Training(format!("checkpoint: {e}"));
        let kept = match self.config.compact_checkpoint {
            true => compact::pack(&self.tensors),
            false => compact::plain(&self.tensors),
        };
        let views = kept
            .iter()
            .map(|(name, kept)| kept.view().map(|view| (name.as_str(), view)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| fail(&e))?;
        let run = toml::to_string(self).map_err(|e| fail(&e))?;
        let mut metadata = HashMap::from([(RUN_KEY.to_owned(), run)]);
        if let Some(network) = &self.network {
            let network = serde_json::to_string(network).map_err(|e| fail(&e))?;
            metadata.insert(NETWORK_KEY.to_owned(), network);
        }
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| fail(&e))?;
        write_whole(&Self::path_in(folder), &bytes)
    }

    /// Reads that of a run's folder.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of another version of the program.
    pub fn read(folder: &Path) -> Result<Self, PipelineError> {
        let file = Self::path_in(folder);
        let fail = |reason: String| PipelineError::Input { file: file.clone(), reason };
        let bytes = std::fs::read(&file).map_err(|e| {
            fail(format!("cannot be read: {e}; name the folder of a run, or start without --resume"))
        })?;
        let broken = |e: &dyn std::fmt::Display| {
            fail(format!("is not a checkpoint of this version ({e}); start anew in another folder"))
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(&e))?;
        let entry = |key: &str| metadata.metadata().as_ref().and_then(|entries| entries.get(key));
        let run = entry(RUN_KEY).ok_or_else(|| broken(&"it does not say which run it is of"))?;
        let mut checkpoint: Self = toml::from_str(run).map_err(|e| broken(&e.message()))?;
        checkpoint.network =
            entry(NETWORK_KEY).map(|text| serde_json::from_str(text)).transpose().map_err(|e| broken(&e))?;
        let kept = SafeTensors::deserialize(&bytes)
            .map_err(|e| broken(&e))?
            .iter()
            .map(|(name, view)| Ok((name.to_owned(), Kept::read(&view)?)))
            .collect::<Result<Vec<_>, String>>()
            .map_err(|e| broken(&e))?;
        checkpoint.tensors = compact::unpack(kept).map_err(|e| broken(&e))?;
        Ok(checkpoint)
    }
}
