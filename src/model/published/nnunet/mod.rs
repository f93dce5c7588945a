//! Networks that nnU-Net (Isensee et al. 2021, version 2) trained: its checkpoints, and the folders that it lays them in.
//!
//! A checkpoint keeps the plans that it was trained by; the folder of a trained model has them in `plans.json` and `dataset.json`
//! beside the folders of its folds.

mod plans;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::take_described;
use crate::model::description::{AxisCodes, Description};
use crate::model::formats::{is_torch, read_facts, read_wanted};
use crate::model::{Model, ModelCard, ModelError};

/// The name of a fold that was trained on all heads.
const ALL: &str = "all";

/// What a checkpoint's weights are named behind.
const PREFIX: &str = "network_weights.";

/// Plans and dataset of a network, where a checkpoint's own do not count.
struct Plans {
    plans: Value,
    dataset: Value,
}

impl Plans {
    /// Those of the folder of a trained model.
    fn read(folder: &Path) -> Result<Self, ModelError> {
        let read = |name: &str| -> Result<Value, ModelError> {
            let path = folder.join(name);
            let fail = |reason: String| ModelError::Weights { file: path.display().to_string(), reason };
            let text = std::fs::read_to_string(&path).map_err(|e| {
                fail(format!("cannot be read: {e}; the folder of a model that nnU-Net trained has it"))
            })?;
            serde_json::from_str(&text).map_err(|e| fail(format!("is no JSON: {e}")))
        };
        Ok(Self { plans: read("plans.json")?, dataset: read("dataset.json")? })
    }
}

/// The model in a checkpoint of nnU-Net, of images that were stored along these axes; `None` where a file of PyTorch is none.
///
/// # Errors
/// A damaged file, plans of another kind, weights that do not fit them.
pub fn of_checkpoint(bytes: &[u8], file: &str, stored: AxisCodes) -> Result<Option<Model>, ModelError> {
    if !is_torch(bytes) {
        return Ok(None);
    }
    let facts = read_facts(bytes, file)?;
    if facts.get("network_weights").is_none() || facts.get("init_args").is_none() {
        return Ok(None);
    }
    of_facts(bytes, &facts, file, None, stored).map(Some)
}

fn of_facts(
    bytes: &[u8],
    facts: &Value,
    file: &str,
    plans: Option<&Plans>,
    stored: AxisCodes,
) -> Result<Model, ModelError> {
    let fail = |reason: String| ModelError::Weights { file: file.to_owned(), reason };
    let said = &facts["init_args"];
    let name =
        said["configuration"].as_str().ok_or_else(|| fail("does not name its configuration".into()))?;
    let beside;
    let known = match plans {
        Some(plans) => plans,
        None if said["plans"].is_object() && said["dataset_json"].is_object() => {
            beside = Plans { plans: said["plans"].clone(), dataset: said["dataset_json"].clone() };
            &beside
        }
        None => {
            // As nnU-Net lays it: the checkpoint in the folder of its fold, the plans beside that.
            beside = Plans::read(Path::new(file).parent().and_then(Path::parent).unwrap_or(Path::new("")))?;
            &beside
        }
    };
    let mut mirror_axes = [false; 3];
    for axis in facts["inference_allowed_mirroring_axes"].as_array().into_iter().flatten() {
        let axis = axis.as_u64().and_then(|axis| mirror_axes.get_mut(usize::try_from(axis).ok()?));
        *axis.ok_or_else(|| fail("allows mirroring along an axis that no volume has".into()))? = true;
    }
    let description =
        plans::describe(&known.plans, &known.dataset, name, mirror_axes, stored).map_err(fail)?;
    // The decoder names the encoder's weights again, blocks name theirs twice, and coarser answers served training.
    let output = format!("{PREFIX}{}.", description.output);
    let wanted = |name: &str| {
        name.starts_with(PREFIX)
            && !name.contains(".all_modules.")
            && !name.starts_with("network_weights.decoder.encoder.")
            && (!name.starts_with("network_weights.decoder.seg_layers.") || name.starts_with(&output))
    };
    let tensors = take_described(&read_wanted(bytes, file, &wanted)?, &description, file)?;
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let card = ModelCard {
        data: format!("nnU-Net's dataset {}", description.name),
        attribution: "nnU-Net: Isensee et al., Nature Methods 2021".into(),
        command: format!("{} of nnU-Net, configuration {name}", text(&facts["trainer_name"])),
        ..ModelCard::default()
    };
    Ok(Model { description, tensors, card })
}

/// The model in the folder that nnU-Net trained it in, with all its folds or the one of all heads, and the checkpoints that it is
/// made of.
///
/// # Errors
/// A folder without plans or checkpoints, and as [`of_checkpoint`].
pub fn of_folder(folder: &Path, stored: AxisCodes) -> Result<(Model, Vec<PathBuf>), ModelError> {
    let fail =
        |reason: &str| ModelError::Weights { file: folder.display().to_string(), reason: reason.to_owned() };
    let plans = Plans::read(folder)?;
    let entries = std::fs::read_dir(folder).map_err(|e| fail(&format!("cannot be read: {e}")))?;
    let mut folds: Vec<(String, PathBuf)> = (entries.flatten())
        .filter_map(|entry| {
            let fold = entry.file_name().to_str()?.strip_prefix("fold_")?.to_owned();
            let checkpoint = entry.path().join("checkpoint_final.pth");
            checkpoint.exists().then_some((fold, checkpoint))
        })
        .collect();
    // As nnU-Net chooses them: the fold of all heads counts where there is no other.
    if folds.iter().any(|(fold, _)| fold != ALL) {
        folds.retain(|(fold, _)| fold != ALL);
    }
    folds.sort();
    let mut model: Option<Model> = None;
    for (_, checkpoint) in &folds {
        let file = checkpoint.display().to_string();
        let bytes = std::fs::read(checkpoint).map_err(|e| ModelError::Weights {
            file: file.clone(),
            reason: format!("cannot be read: {e}"),
        })?;
        let facts = read_facts(&bytes, &file)?;
        let next = of_facts(&bytes, &facts, &file, Some(&plans), stored)?;
        model = Some(match model {
            None => next,
            Some(mut model) => {
                let own = Description { folds: 1, ..model.description.clone() };
                if own != next.description {
                    let reason = "was trained by another configuration than the folds before it; convert them one by one";
                    return Err(ModelError::Weights { file, reason: reason.into() });
                }
                model.add_fold(next.tensors);
                model
            }
        });
    }
    let model = model.ok_or_else(|| {
        fail("has no fold_*/checkpoint_final.pth; give the folder that holds plans.json and the folders of the folds")
    })?;
    Ok((model, folds.into_iter().map(|(_, checkpoint)| checkpoint).collect()))
}
