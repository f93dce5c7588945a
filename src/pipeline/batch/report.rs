//! What is kept of a batch in its folder: `report.csv` for people and `report.json` for programs, renewed as heads are done,
//! so that a batch that is cut short leaves them. `report.json` is also what a later run goes on from.
//!
//! Outputs in `report.json` are relative to its folder, so that the folder can be moved.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::jobs::Outputs;
use super::rows::{Provenance, Row, Status};
use super::select::REPORT_JSON;
use crate::model::hex;
use crate::pipeline::{PipelineError, write_whole};
use crate::volume::image;

/// What keeps the rows of a batch.
pub trait Keeper: Send {
    /// Files to write beside the outputs of a head: there when the outputs are, gone when they are.
    fn sidecars(&self, _row: &Row, _outputs: &Outputs) -> Vec<(PathBuf, Vec<u8>)> {
        Vec::new()
    }

    /// The batch begins, with no row yet; or one more row is there, the last one; or the batch has ended, whether or not all
    /// heads are done.
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep(&mut self, rows: &[Row], ended: bool) -> Result<(), PipelineError>;
}

/// Rows of earlier runs.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    rows: Vec<Row>,
    by_sha256: HashMap<String, Vec<usize>>,
}

impl Earlier {
    /// Of these rows, whose outputs are paths that can be opened.
    pub fn new(rows: Vec<Row>) -> Self {
        let mut by_sha256: HashMap<String, Vec<usize>> = HashMap::new();
        for (ix, row) in rows.iter().enumerate() {
            if let Some(sha256) = &row.input_sha256 {
                by_sha256.entry(sha256.clone()).or_default().push(ix);
            }
        }
        Self { rows, by_sha256 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row of an image with these bytes, if it has all these outputs, they are still there, and doing it again would
    /// make the same.
    pub(super) fn finished(&self, sha256: &str, outputs: &Outputs, made: &Provenance) -> Option<&Row> {
        let rows = self.by_sha256.get(sha256)?.iter().map(|&ix| &self.rows[ix]);
        rows.into_iter().find(|row| {
            let there = row.outputs.as_ref().is_some_and(|there| {
                let there = there.all();
                outputs.all().iter().all(|wanted| there.contains(wanted) && wanted.is_file())
            });
            there && row.status != Status::Failed && row.made.as_ref().is_some_and(|m| m.gives_the_same(made))
        })
    }
}

/// SHA-256 of the files of an image, in hexadecimal; `None` for what is no file (a pipe can be read once) or cannot be read,
/// which is said when it is to be stripped.
pub(super) fn sha256_of(image: &Path) -> Option<String> {
    let mut hash = Sha256::new();
    for file in image::files(image) {
        if !fs::metadata(&file).ok()?.is_file() {
            return None;
        }
        io::copy(&mut fs::File::open(&file).ok()?, &mut hash).ok()?;
    }
    Some(hex(&hash.finalize()))
}

/// Name of the report for people.
pub const REPORT_CSV: &str = "report.csv";

/// What `report.json` holds.
#[derive(Debug, Deserialize)]
struct Held {
    heads: Vec<Row>,
}

/// The same, borrowed.
#[derive(Serialize)]
struct Holds<'a> {
    trephine: &'static str,
    heads: &'a [Row],
    left: Vec<String>,
}

/// The rows that `report.json` of a folder holds, with outputs that can be opened; `None` where there is no such file.
///
/// # Errors
/// A file that cannot be read or is no report.
pub fn read_report(folder: &Path) -> Result<Option<Vec<Row>>, PipelineError> {
    read_rows(&folder.join(REPORT_JSON), folder)
}

/// As [`read_report`], of a file with outputs relative to `folder`.
///
/// # Errors
/// The same.
pub fn read_rows(file: &Path, folder: &Path) -> Result<Option<Vec<Row>>, PipelineError> {
    let refused = |reason: String| PipelineError::Input { file: file.to_path_buf(), reason };
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(refused(format!("cannot be read ({e}); check its permissions"))),
    };
    let held: Held = serde_json::from_slice(&text).map_err(|e| {
        refused(format!(
            "is no report of Trephine's ({e}); take --force to strip all heads anew and replace it"
        ))
    })?;
    let mut rows = held.heads;
    for row in &mut rows {
        row.outputs = row.outputs.as_ref().map(|outputs| outputs.each(|path| folder.join(path)));
    }
    Ok(Some(rows))
}

/// The report of a batch in the folder of its outputs.
#[derive(Debug)]
pub struct BatchReport {
    folder: PathBuf,
    heads: Vec<PathBuf>,
    earlier: Vec<Row>,
    /// When it was written last, and how long that took.
    written: Option<(Instant, Duration)>,
}

/// A report is not written more often than that this share of the time goes into it.
const SHARE_OF_TIME: u32 = 20;

impl BatchReport {
    /// Of `heads` to come, in their order. Rows of earlier runs stay until a head of theirs is done again.
    pub fn new(folder: &Path, heads: Vec<PathBuf>, earlier: &Earlier) -> Self {
        Self { folder: folder.to_path_buf(), heads, earlier: earlier.rows.clone(), written: None }
    }

    /// The rows of this run, then those of earlier ones that it has not replaced.
    fn all(&self, rows: &[Row]) -> Vec<Row> {
        let mut all = rows.to_vec();
        let paths: HashSet<&Path> = rows.iter().map(|row| row.path.as_path()).collect();
        let outputs: HashSet<&Path> =
            rows.iter().filter_map(|row| row.outputs.as_ref()).flat_map(Outputs::all).collect();
        let stays = |row: &&Row| {
            let replaced = paths.contains(row.path.as_path())
                || row.outputs.iter().flat_map(Outputs::all).any(|path| outputs.contains(path));
            // A failure is of no interest once its file is gone.
            !replaced && (row.status != Status::Failed || row.path.exists())
        };
        all.extend(self.earlier.iter().filter(stays).cloned());
        all
    }
}

impl Keeper for BatchReport {
    fn keep(&mut self, rows: &[Row], ended: bool) -> Result<(), PipelineError> {
        let pays = self.written.is_none_or(|(when, took)| when.elapsed() >= SHARE_OF_TIME * took);
        if !pays && !ended {
            return Ok(());
        }
        let begun = Instant::now();
        let all = self.all(rows);
        let left = self.heads.iter().skip(rows.len()).map(|path| path.display().to_string()).collect();
        write_report(&self.folder, all, left)?;
        self.written = Some((Instant::now(), begun.elapsed()));
        Ok(())
    }
}

/// Writes `report.csv` and `report.json` into `folder`; `left` are heads that are not done.
///
/// # Errors
/// When they cannot be written.
pub fn write_report(folder: &Path, rows: Vec<Row>, left: Vec<String>) -> Result<(), PipelineError> {
    let csv = folder.join(REPORT_CSV);
    let bytes = report_csv(&rows)
        .map_err(|e| PipelineError::Write { file: csv.clone(), source: io::Error::other(e) })?;
    write_whole(&csv, &bytes)?;
    write_rows(&folder.join(REPORT_JSON), folder, rows, left)
}

/// Writes a report for programs alone, with outputs relative to `folder`.
///
/// # Errors
/// When it cannot be written.
pub fn write_rows(
    file: &Path,
    folder: &Path,
    mut rows: Vec<Row>,
    left: Vec<String>,
) -> Result<(), PipelineError> {
    for row in &mut rows {
        let relative = |path: &Path| path.strip_prefix(folder).unwrap_or(path).to_path_buf();
        row.outputs = row.outputs.as_ref().map(|outputs| outputs.each(relative));
    }
    let holds = Holds { trephine: env!("CARGO_PKG_VERSION"), heads: &rows, left };
    let mut json = serde_json::to_vec_pretty(&holds)
        .map_err(|e| PipelineError::Write { file: file.to_path_buf(), source: e.into() })?;
    json.push(b'\n');
    write_whole(file, &json)
}

/// The report as CSV: one column a stage that any head went through; the last columns say how it was made.
fn report_csv(rows: &[Row]) -> csv::Result<Vec<u8>> {
    let mut stages: Vec<&str> = Vec::new();
    for (stage, _) in rows.iter().flat_map(|row| &row.seconds) {
        // The last stage stays last when a later head adds one.
        if !stages.contains(&&**stage) {
            let at = stages.iter().position(|s| *s == "write").unwrap_or(stages.len());
            stages.insert(at, stage);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header: Vec<String> =
        ["path", "status", "brain_ml", "score", "seconds", "peak_memory_mb", "peak_buffer_mb"]
            .map(str::to_owned)
            .into();
    header.extend(stages.iter().map(|stage| format!("seconds_{}", stage.replace(' ', "_"))));
    let last = ["warnings", "error", "input_sha256", "version", "model", "model_sha256", "options"];
    header.extend(last.map(str::to_owned));
    writer.write_record(&header)?;
    for row in rows {
        let number = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
        let mut cells = vec![
            row.path.display().to_string(),
            row.status.name().to_owned(),
            number(row.brain_ml),
            number(row.score),
            number(Some(row.total_seconds())),
            row.peak_memory_mb.map(|mb| format!("{mb:.0}")).unwrap_or_default(),
            row.peak_buffer_mb.map(|mb| format!("{mb:.0}")).unwrap_or_default(),
        ];
        cells.extend(stages.iter().map(|stage| {
            let found = row.seconds.iter().find(|(name, _)| name == stage);
            number(found.map(|(_, seconds)| *seconds))
        }));
        cells.push(row.warnings.join("; "));
        cells.push(row.error.clone().unwrap_or_default());
        cells.push(row.input_sha256.clone().unwrap_or_default());
        let Provenance { version, model, model_sha256, options, .. } = row.made.clone().unwrap_or_default();
        cells.extend([version, model, model_sha256, options.to_string()]);
        writer.write_record(&cells)?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}
