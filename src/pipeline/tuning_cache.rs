//! The tuning cache: which kernel variant is fastest on this adapter, and how fast all of them are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{PipelineError, write_whole};
use crate::gpu::AdapterSummary;
use crate::graph::{Tuning, TuningKey};

/// Version of the file's format.
const FORMAT: u32 = 1;
const FILE: &str = "tuning.json";
/// Folder that is used instead of the user's cache folder.
const FOLDER_VARIABLE: &str = "TREPHINE_CACHE_DIR";

/// Median and spread of a duration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Milliseconds {
    /// Median.
    pub median: f64,
    /// Shortest.
    pub min: f64,
    /// Longest.
    pub max: f64,
}

impl Milliseconds {
    /// Of durations in seconds, at least one.
    pub fn of(seconds: &[f64]) -> Self {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        Self { median: median * 1e3, min: sorted[0] * 1e3, max: sorted[sorted.len() - 1] * 1e3 }
    }
}

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
        Err(error) => {
            return Err(fail(format!("cannot be read ({error}); delete it or change its permissions")));
        }
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

/// Adds entries to a file, in place of earlier ones of the same operator, shapes and adapter. Without entries it writes
/// what is there, which shows whether it can be written.
///
/// # Errors
/// When the file cannot be read or written.
pub fn store(file: &Path, new: &[TuneEntry]) -> Result<(), PipelineError> {
    let mut entries = read(file)?;
    entries.retain(|old| !new.iter().any(|entry| entry.replaces(old)));
    entries.extend_from_slice(new);
    let text = serde_json::to_string_pretty(&TuneFile { format: FORMAT, entries })
        .map_err(|e| PipelineError::Write { file: file.to_path_buf(), source: e.into() })?;
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

    #[test]
    fn median_and_spread() {
        let ms = Milliseconds::of(&[0.004, 0.001, 0.002]);
        assert_eq!((ms.median, ms.min, ms.max), (2.0, 1.0, 4.0));
        assert_eq!(Milliseconds::of(&[0.004, 0.002]).median, 3.0);
    }
}
