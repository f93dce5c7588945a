//! What became of each head: rows for programs and for reports.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::jobs::Outputs;
use crate::pipeline::plausibility::Signals;
use crate::pipeline::strip::Stripped;

/// How a head ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }
}

/// How results were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Of the program.
    pub version: String,
    /// Name of the model.
    pub model: String,
    /// SHA-256 of its weight file.
    pub model_sha256: String,
    /// What the outputs depend on beside input, model and version (see [`super::settings`]).
    pub settings: serde_json::Value,
    /// Options as given and their defaults.
    pub options: serde_json::Value,
}

impl Provenance {
    /// Whether the same input gives the same outputs.
    pub fn gives_the_same(&self, other: &Self) -> bool {
        (&self.version, &self.model_sha256, &self.settings)
            == (&other.version, &other.model_sha256, &other.settings)
    }
}

/// A head's row in the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The image.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Of its file (of a pair, of both), where results are kept for later runs.
    #[serde(default)]
    pub input_sha256: Option<String>,
    /// How it ended.
    pub status: Status,
    /// Volume of the mask in mL; of a series, that of the first volume that has one.
    pub brain_ml: Option<f64>,
    /// How plausible the mask is, 0 to 1; of a series, that of the first volume that has one.
    pub score: Option<f64>,
    /// How far several models disagree (see [`Stripped::disagreement`](crate::pipeline::strip::Stripped)); of a series, that of
    /// the first volume that has one.
    #[serde(default)]
    pub disagreement: Option<f64>,
    /// Wall time by stage, in order.
    #[serde(serialize_with = "as_map", deserialize_with = "from_map")]
    pub seconds: Vec<(Cow<'static, str>, f64)>,
    /// Most memory that the process had held when the head was done, MiB; only Linux tells.
    #[serde(default)]
    pub peak_memory_mb: Option<f64>,
    /// Most bytes that the device's buffers had held when the head was done, MiB.
    #[serde(default)]
    pub peak_buffer_mb: Option<f64>,
    /// What the mask was judged by; of a series, that of the first volume that has one.
    pub signals: Option<Signals>,
    /// What a person should look at.
    pub warnings: Vec<String>,
    /// What failed, with the file: `FILE: what is wrong; what to do`.
    pub error: Option<String>,
    /// What was written.
    pub outputs: Option<Outputs>,
    /// How, where results are kept for later runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Provenance>,
    /// An earlier run finished it, and this one left it as it is.
    #[serde(skip)]
    pub kept: bool,
}

fn as_map<S: Serializer>(pairs: &[(Cow<'static, str>, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(stage, seconds)| (stage, seconds)))
}

/// A map whose order counts.
fn from_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Cow<'static, str>, f64)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(Cow<'static, str>, f64)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("seconds by stage")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some((stage, seconds)) = map.next_entry::<String, f64>()? {
                pairs.push((Cow::Owned(stage), seconds));
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
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
            input_sha256: None,
            status: Status::Ok,
            brain_ml: None,
            score: None,
            disagreement: None,
            seconds: Vec::new(),
            peak_memory_mb: None,
            peak_buffer_mb: None,
            signals: None,
            warnings,
            error: None,
            outputs: None,
            made: None,
            kept: false,
        }
    }

    pub(super) fn failed(self, error: String) -> Self {
        Self {
            status: Status::Failed,
            brain_ml: None,
            score: None,
            disagreement: None,
            signals: None,
            error: Some(error),
            ..self
        }
    }

    /// Takes over what is to be said of a volume; of several, figures are those of the first.
    pub(super) fn tells_of(&mut self, stripped: &Stripped, prefix: &str) {
        self.warnings.extend(stripped.warnings.iter().map(|text| format!("{prefix}{text}")));
        self.brain_ml.get_or_insert(stripped.brain_ml);
        self.score.get_or_insert(stripped.score);
        self.disagreement = self.disagreement.or(stripped.disagreement);
        self.signals.get_or_insert_with(|| stripped.signals.clone());
        for (stage, seconds) in &stripped.seconds {
            self.add_seconds(stage, *seconds);
        }
    }

    pub(super) fn add_seconds(&mut self, stage: &'static str, seconds: f64) {
        match self.seconds.iter_mut().find(|(name, _)| name == stage) {
            Some((_, sum)) => *sum += seconds,
            None => self.seconds.push((Cow::Borrowed(stage), seconds)),
        }
    }

    /// Wall time of all stages.
    pub fn total_seconds(&self) -> f64 {
        self.seconds.iter().map(|(_, seconds)| seconds).sum()
    }
}

/// The most memory that this process has held so far, MiB; `None` where the system does not tell.
pub(super) fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
