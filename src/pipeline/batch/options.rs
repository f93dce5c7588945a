//! What a batch does with every head.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::pipeline::strip::StripOptions;
use crate::tensor::DType;
use crate::volume::image::FrameChoice;

/// What is done with every head.
#[derive(Clone)]
pub struct BatchOptions {
    /// Which volumes of a series.
    pub frames: FrameChoice,
    /// Strip the mean of these volumes, and lay its mask on each of them.
    pub mean: bool,
    /// How they are stripped.
    pub strip: StripOptions,
    /// Value outside the brain; `None` for 0 or, where the voxels cannot store it, the nearest that they can, with a
    /// warning.
    pub fill: Option<f32>,
    /// Leave the free text of the input's header out of the outputs.
    pub anonymise: bool,
    /// Make the outputs' folders; where a user named every file, a missing folder is a mistake.
    pub create_folders: bool,
    /// Name of the model, for the pictures.
    pub model: String,
    /// Set from elsewhere, it ends the batch when the heads that are begun are done.
    pub stop: Arc<AtomicBool>,
}

/// What the outputs of a head depend on beside its file, the model and the version of the program.
pub fn settings(options: &BatchOptions, dtype: DType) -> serde_json::Value {
    #[derive(Serialize)]
    struct Settings<'a> {
        strip: &'a StripOptions,
        // Says whether the CSF round the brain belongs to it.
        model: &'a str,
        // JSON has no NaN.
        fill: Option<String>,
        frames: String,
        mean: bool,
        anonymise: bool,
        dtype: String,
    }
    let settings = Settings {
        strip: &options.strip,
        model: &options.model,
        fill: options.fill.map(|fill| fill.to_string()),
        frames: format!("{:?}", options.frames),
        mean: options.mean,
        anonymise: options.anonymise,
        dtype: format!("{dtype:?}"),
    };
    serde_json::to_value(settings).expect("numbers and names make JSON")
}
