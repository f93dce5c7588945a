//! What became of each head: rows for programs and for `report.csv`.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::jobs::Outputs;
use crate::pipeline::plausibility::Signals;

/// How a head ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All of it was done.
    Ok,
    /// Volumes of a series failed; the outputs hold the others.
    Partial,
    /// There are no outputs.
    Failed,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }
}

/// A head's row in the report.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The image.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// How it ended.
    pub status: Status,
    /// Volume of the mask in mL; of a series, that of the first volume that has one.
    pub brain_ml: Option<f64>,
    /// How plausible the mask is, 0 to 1; of a series, that of the first volume that has one.
    pub score: Option<f64>,
    /// Wall time by stage, in order.
    #[serde(serialize_with = "as_map")]
    pub seconds: Vec<(&'static str, f64)>,
    /// What the mask was judged by; of a series, that of the first volume that has one.
    pub signals: Option<Signals>,
    /// What a person should look at.
    pub warnings: Vec<String>,
    /// What failed, with the file: `FILE: what is wrong; what to do`.
    pub error: Option<String>,
    /// What was written.
    pub outputs: Option<Outputs>,
}

fn as_map<S: Serializer>(pairs: &[(&'static str, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().copied())
}

/// JSON is Unicode, names of files need not be.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl Row {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut warnings = Vec::new();
        if path.to_str().is_none() {
            warnings.push("the name is not UTF-8; reports spell it with \u{fffd} where it is not".into());
        }
        Self {
            path,
            status: Status::Ok,
            brain_ml: None,
            score: None,
            seconds: Vec::new(),
            signals: None,
            warnings,
            error: None,
            outputs: None,
        }
    }

    pub(super) fn failed(self, error: String) -> Self {
        Self {
            status: Status::Failed,
            brain_ml: None,
            score: None,
            signals: None,
            error: Some(error),
            ..self
        }
    }

    pub(super) fn add_seconds(&mut self, stage: &'static str, seconds: f64) {
        match self.seconds.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += seconds,
            None => self.seconds.push((stage, seconds)),
        }
    }
}

/// How results were made: the same for all rows of a report.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// Of the program.
    pub version: String,
    /// Name of the model.
    pub model: String,
    /// SHA-256 of its weight file.
    pub model_sha256: String,
    /// Options as JSON.
    pub options: String,
}

/// The report as CSV: one column a stage that any head went through; the last columns say how it was made.
///
/// # Errors
/// When the rows do not make a table.
pub fn report_csv(rows: &[Row], made: &Provenance) -> csv::Result<Vec<u8>> {
    let mut stages: Vec<&str> = Vec::new();
    for (stage, _) in rows.iter().flat_map(|row| &row.seconds) {
        // The last stage stays last when a later head adds one.
        if !stages.contains(stage) {
            let at = stages.iter().position(|s| *s == "write").unwrap_or(stages.len());
            stages.insert(at, stage);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header: Vec<String> =
        ["path", "status", "brain_ml", "score", "seconds"].map(str::to_owned).into();
    header.extend(stages.iter().map(|stage| format!("seconds_{}", stage.replace(' ', "_"))));
    header.extend(["warnings", "error", "version", "model", "model_sha256", "options"].map(str::to_owned));
    writer.write_record(&header)?;
    for row in rows {
        let total: f64 = row.seconds.iter().map(|(_, s)| s).sum();
        let mut cells = vec![
            row.path.display().to_string(),
            row.status.name().to_owned(),
            row.brain_ml.map(|ml| format!("{ml:.3}")).unwrap_or_default(),
            row.score.map(|score| format!("{score:.3}")).unwrap_or_default(),
            format!("{total:.3}"),
        ];
        cells.extend(stages.iter().map(|stage| {
            let found = row.seconds.iter().find(|(name, _)| name == stage);
            found.map(|(_, seconds)| format!("{seconds:.3}")).unwrap_or_default()
        }));
        cells.push(row.warnings.join("; "));
        cells.push(row.error.clone().unwrap_or_default());
        let Provenance { version, model, model_sha256, options } = made;
        cells.extend([version, model, model_sha256, options].map(String::clone));
        writer.write_record(&cells)?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}
