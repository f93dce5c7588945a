//! Agreement of masks with reference masks over a table of heads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::PipelineError;
use super::strip::{StripOptions, Stripper};
use crate::gpu::Gpu;
use crate::graph::Tuning;
use crate::model::Model;
use crate::tensor::DType;
use crate::volume::companion;
use crate::volume::image;
use crate::volume::metrics::{Agreement, compare};
use crate::volume::pairs::PairTable;

/// A head's agreement with its reference.
#[derive(Clone, Debug)]
pub struct HeadScore {
    /// The image.
    pub image: PathBuf,
    /// The table's column `contrast`.
    pub contrast: Option<String>,
    /// Dice and the rest.
    pub agreement: Agreement,
    /// Wall time of reading and stripping.
    pub seconds: f64,
    /// What a person should know about the reference (a file's name first) and the mask.
    pub warnings: Vec<String>,
}

/// A head that could not be scored.
#[derive(Debug)]
pub struct HeadFailure {
    /// The image.
    pub image: PathBuf,
    /// Why.
    pub error: PipelineError,
}

/// Strips every head that has a mask by a model or the mean of several, the network's activations in `dtype`, and compares; `progress` hears of each result. A head that fails does
/// not stop the rest.
///
/// # Errors
/// When the model does not compile.
pub async fn evaluate(
    gpu: &Arc<Gpu>,
    models: &[Model],
    dtype: DType,
    tuning: &Arc<Tuning>,
    table: &PairTable,
    options: &StripOptions,
    progress: &mut dyn FnMut(&Result<HeadScore, HeadFailure>),
) -> Result<Vec<Result<HeadScore, HeadFailure>>, PipelineError> {
    let mut stripper = Stripper::of_several(gpu, models, dtype, tuning).await?;
    let contrast = table.extra_columns.iter().position(|name| name == "contrast");
    let mut scores = Vec::new();
    for pair in &table.pairs {
        let Some(mask) = &pair.mask else { continue };
        let contrast = contrast.and_then(|ix| pair.extra.get(ix).cloned());
        let score = score(&mut stripper, &pair.image, mask, options)
            .await
            .map(|score| HeadScore { contrast, ..score })
            .map_err(|error| HeadFailure { image: pair.image.clone(), error });
        progress(&score);
        scores.push(score);
    }
    Ok(scores)
}

async fn score(
    stripper: &mut Stripper,
    image_path: &Path,
    mask_path: &Path,
    options: &StripOptions,
) -> Result<HeadScore, PipelineError> {
    let begun = Instant::now();
    let image = image::read_single(image_path)?;
    // Where the reference lies is known before the work.
    companion::check_mask(mask_path, image.info())?;
    let volume = image.frame_f32(0)?;
    volume.check_content().map_err(|problem| problem.at(image_path))?;
    let stripped = stripper.strip(&volume, options).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let reference = companion::read_mask(mask_path, &image, None)?;
    let agreement = compare(&stripped.mask, &reference.voxels, image.shape(), volume.voxel_size().into())
        .map_err(|problem| problem.at(mask_path))?;
    let warnings = reference.warnings.iter().map(|warning| format!("{}: {warning}", mask_path.display()));
    Ok(HeadScore {
        image: image_path.to_path_buf(),
        contrast: None,
        agreement,
        seconds,
        warnings: warnings.chain(stripped.warnings).collect(),
    })
}
