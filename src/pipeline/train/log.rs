//! What a run says of each epoch: `log.csv` and the curves drawn of it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::pipeline::report::plot::{Curve, Panel, curves};
use crate::pipeline::{PipelineError, write_whole};

/// Files of a run's folder.
pub(super) const LOG: &str = "log.csv";
pub(super) const CURVES: &str = "training.svg";

/// A row of `log.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// From 1.
    pub epoch: usize,
    /// Steps done in all.
    pub step: u64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean loss of the epoch.
    pub loss: f64,
    /// Mean Dice of the training samples, thresholded at 0.5.
    pub dice: f64,
    /// Mean loss on the validation heads.
    pub validation_loss: f64,
    /// Mean Dice on them.
    pub validation_dice: f64,
    /// Mean intersection over union on them.
    pub validation_iou: f64,
    /// Mean soft intersection over union on them: the article's `iou_score`.
    pub validation_soft_iou: f64,
    /// Steps skipped because a gradient was not finite.
    pub skipped: u64,
    /// Wall time of the epoch.
    pub seconds: f64,
}

/// Writes `log.csv` into a run's folder.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_log(folder: &Path, rows: &[EpochRow]) -> Result<(), PipelineError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fail = |e: &dyn std::fmt::Display| PipelineError::Training(format!("log.csv: {e}"));
    for row in rows {
        writer.serialize(row).map_err(|e| fail(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| fail(&e))?;
    write_whole(&folder.join(LOG), &bytes)
}

/// Draws `training.svg` into a run's folder: loss on the left and overlap on the right, by epoch.
///
/// # Errors
/// When it cannot be written.
pub(super) fn draw_curves(folder: &Path, rows: &[EpochRow]) -> Result<(), PipelineError> {
    let curve = |name, value: fn(&EpochRow) -> f64| Curve {
        name,
        points: rows.iter().map(|row| (row.epoch as f64, value(row))).collect(),
    };
    let loss = Panel {
        title: "Loss",
        curves: vec![curve("training", |r| r.loss), curve("validation", |r| r.validation_loss)],
    };
    let overlap = Panel {
        title: "Overlap",
        curves: vec![
            curve("training Dice", |r| r.dice),
            curve("validation Dice", |r| r.validation_dice),
            curve("validation IoU", |r| r.validation_iou),
        ],
    };
    curves(&folder.join(CURVES), "epoch", &[loss, overlap])
}
