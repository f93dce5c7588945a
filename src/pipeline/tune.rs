//! The autotune cache: which kernel variant is fastest on this adapter, and how fast all of them are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bench::subject::{Subject, nodes_of};
use super::bench::timing::{Budget, Milliseconds};
use super::bench::{Failure, distinct, race_variants, training_spec};
use super::{PipelineError, write_whole};
use crate::gpu::{AdapterSummary, Gpu};
use crate::graph::{Tuning, TuningKey, source_hash};
use crate::model::{Mode, Model, TrainingGraph, build, fold_for_inference};
use crate::tensor::DType;

/// Version of the file's format.
const FORMAT: u32 = 1;
const FILE: &str = "tuning.json";
/// Folder that is used instead of the user's cache folder.
const FOLDER_VARIABLE: &str = "TREPHINE_CACHE_DIR";

/// The measurements of one operator at one size on one adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneEntry {
    /// The operator with its attributes.
    pub operator: String,
    /// Shapes, see [`TuningKey`].
    pub shapes: String,
    /// The adapter's name.
    pub adapter: String,
    /// vulkan, metal or dx12.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// Hash of the assembled sources of all variants, in hexadecimal.
    pub source_hash: String,
    /// The variant with the shortest median.
    pub fastest: String,
    /// Durations of all variants that gave the right results.
    pub timings: BTreeMap<String, Milliseconds>,
}

impl TuneEntry {
    /// Whether both are measurements of the same thing, of whatever kernels.
    fn replaces(&self, other: &Self) -> bool {
        (&self.operator, &self.shapes) == (&other.operator, &other.shapes) && self.same_adapter(other)
    }

    fn same_adapter(&self, other: &Self) -> bool {
        (&self.adapter, &self.backend, &self.driver) == (&other.adapter, &other.backend, &other.driver)
    }

    fn is_of(&self, adapter: &AdapterSummary) -> bool {
        (&self.adapter, &self.backend, &self.driver) == (&adapter.name, &adapter.backend, &adapter.driver)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct TuneFile {
    format: u32,
    entries: Vec<TuneEntry>,
}

/// Where the measurements are kept: `tuning.json` in the folder that the environment variable
/// `TREPHINE_CACHE_DIR` names, else in `trephine` in the user's cache folder. `None` for a user without a home.
pub fn cache_file() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
        return Some(PathBuf::from(folder).join(FILE));
    }
    use etcetera::BaseStrategy as _;
    let user = etcetera::base_strategy::choose_native_strategy().ok()?;
    Some(user.cache_dir().join("trephine").join(FILE))
}

/// All entries of a file; none where there is no file.
///
/// # Errors
/// A file that cannot be read or is not one of ours.
pub fn read(file: &Path) -> Result<Vec<TuneEntry>, PipelineError> {
    let fail = |reason: String| PipelineError::Input { file: file.to_path_buf(), reason };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(format!("cannot be read ({error})"))),
    };
    let content: TuneFile = serde_json::from_str(&text)
        .map_err(|e| fail(format!("is not a tuning file ({e}); delete it and run `trephine tune` again")))?;
    if content.format != FORMAT {
        return Err(fail(format!(
            "has format {}, this program reads {FORMAT}; delete it and run `trephine tune` again",
            content.format
        )));
    }
    Ok(content.entries)
}

/// Adds entries to a file, in place of earlier ones of the same operator, shapes and adapter.
///
/// # Errors
/// When the file cannot be read or written.
pub fn store(file: &Path, new: &[TuneEntry]) -> Result<(), PipelineError> {
    let mut entries = read(file)?;
    entries.retain(|old| !new.iter().any(|entry| entry.replaces(old)));
    entries.extend_from_slice(new);
    let text = serde_json::to_string_pretty(&TuneFile { format: FORMAT, entries })
        .map_err(|e| PipelineError::Check(format!("the measurements do not serialise: {e}")))?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|source| PipelineError::Write { file: folder.to_path_buf(), source })?;
    }
    write_whole(file, text.as_bytes())
}

/// What the cache knows about an adapter; nothing where there is no cache. One that cannot be used is reported in
/// the log and left alone, as everything works without it.
pub fn load(adapter: &AdapterSummary) -> Arc<Tuning> {
    let mut tuning = Tuning::default();
    let Some(file) = cache_file() else { return Arc::new(tuning) };
    let entries = match read(&file) {
        Ok(entries) => entries,
        Err(error) => {
            log::warn!("kernels run untuned: {error}");
            Vec::new()
        }
    };
    for entry in entries.iter().filter(|entry| entry.is_of(adapter)) {
        if let Ok(hash) = u64::from_str_radix(&entry.source_hash, 16) {
            let key = TuningKey { operator: entry.operator.clone(), shapes: entry.shapes.clone() };
            tuning.insert(key, hash, entry.fastest.clone());
        }
    }
    if !tuning.is_empty() {
        log::info!("{}: {} measurements for {}", file.display(), tuning.len(), adapter.name);
    }
    Arc::new(tuning)
}

/// What of a network to tune for, and how thoroughly.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// For inference.
    pub forward: bool,
    /// Element type of the activations of inference.
    pub dtype: DType,
    /// For training.
    pub train: bool,
    /// Extents of the grid instead of the model's own.
    pub shape: Option<[usize; 3]>,
    /// Samples a training step.
    pub batch: usize,
    /// How long to time each variant.
    pub budget: Budget,
}

/// Flops above which the variant `naive` is not timed where there are others: it exists because it runs everywhere,
/// and would take most of the time of tuning.
const NAIVE_FLOPS: f64 = 2e9;

/// Times the legal variants of every convolution and other choice in a model's networks. `progress` hears of each
/// entry, with the number of operators to tune.
///
/// # Errors
/// A model that does not build, or a device that fails.
pub fn tune(
    gpu: &Gpu,
    model: &Model,
    options: &TuneOptions,
    progress: &mut dyn FnMut(usize, &TuneEntry, &[Failure]),
) -> Result<Vec<TuneEntry>, PipelineError> {
    let subjects = choices(gpu, model, options)?;
    let mut entries = Vec::new();
    for (subject, variants) in &subjects {
        let race = race_variants(gpu, subject, variants, options.budget)?;
        let timings: BTreeMap<String, Milliseconds> = race
            .samples
            .iter()
            .map(|(variant, seconds)| ((*variant).to_owned(), Milliseconds::of(seconds)))
            .collect();
        let Some((fastest, _)) = timings.iter().min_by(|a, b| a.1.median.total_cmp(&b.1.median)) else {
            continue;
        };
        let descs = subject.descs();
        let TuningKey { operator, shapes } = TuningKey::new(subject.op.as_ref(), &descs);
        let entry = TuneEntry {
            operator,
            shapes,
            adapter: gpu.summary.name.clone(),
            backend: gpu.summary.backend.clone(),
            driver: gpu.summary.driver.clone(),
            source_hash: format!("{:016x}", source_hash(subject.op.as_ref(), &descs, &gpu.caps)?),
            fastest: fastest.clone(),
            timings,
        };
        progress(subjects.len(), &entry, &race.failures);
        entries.push(entry);
    }
    Ok(entries)
}

/// Operators of a model's networks with a choice of variants, once for each key.
fn choices(
    gpu: &Gpu,
    model: &Model,
    options: &TuneOptions,
) -> Result<Vec<(Subject, Vec<&'static str>)>, PipelineError> {
    let shape = options.shape.unwrap_or(model.description.input.shape);
    let mut subjects = Vec::new();
    if options.forward {
        let (folded, _) = fold_for_inference(&model.description, &model.tensors);
        gpu.require(options.dtype)?;
        let network = build(&folded, 1, shape, Mode::Inference(options.dtype))?;
        subjects.extend(nodes_of(&network.graph, "forward"));
    }
    if options.train {
        let (loss, optimiser) = training_spec(model);
        let training = TrainingGraph::new(&model.description, options.batch, shape, loss, &optimiser)?;
        subjects.extend(nodes_of(&training.graph, "train"));
    }
    let mut seen = std::collections::HashSet::new();
    let mut choices = Vec::new();
    for subject in distinct(subjects) {
        let descs = subject.descs();
        let mut variants = subject.op.variants(&descs, &gpu.caps);
        if variants.len() > 2 && subject.flops() > NAIVE_FLOPS {
            variants.retain(|variant| *variant != "naive");
        }
        if variants.len() > 1 && seen.insert(TuningKey::new(subject.op.as_ref(), &descs)) {
            choices.push((subject, variants));
        }
    }
    Ok(choices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(operator: &str, driver: &str, fastest: &str) -> TuneEntry {
        TuneEntry {
            operator: operator.to_owned(),
            shapes: "1x8x2^16".to_owned(),
            adapter: "GPU".to_owned(),
            backend: "vulkan".to_owned(),
            driver: driver.to_owned(),
            source_hash: "00ff".to_owned(),
            fastest: fastest.to_owned(),
            timings: BTreeMap::from([(fastest.to_owned(), Milliseconds { median: 1.0, min: 0.5, max: 2.0 })]),
        }
    }

    #[test]
    fn entries_are_kept_replaced_and_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("deeper").join(FILE);
        assert!(read(&file).expect("no file is no entry").is_empty());
        store(&file, &[entry("conv", "1", "a"), entry("conv", "2", "a")]).expect("writes");
        store(&file, &[entry("conv", "1", "b"), entry("pool", "1", "a")]).expect("writes");
        let entries = read(&file).expect("reads");
        let found: Vec<_> = entries.iter().map(|e| (&*e.operator, &*e.driver, &*e.fastest)).collect();
        assert_eq!(found, [("conv", "2", "a"), ("conv", "1", "b"), ("pool", "1", "a")]);
        std::fs::write(&file, "{\"format\": 7, \"entries\": []}").expect("writes");
        assert!(read(&file).expect_err("another format").to_string().contains("format 7"));
    }
}
