//! What a benchmark found: the JSON that `trephine bench --json` prints, and CSV.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::error::LabError;
use super::peak::Peak;
use super::timing::Clock;
use crate::gpu::{Gpu, GpuError};
use crate::pipeline::tuning_cache::Milliseconds;
use crate::pipeline::{PipelineError, write_whole};
use crate::tensor::DType;

/// All results of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub adapter: Adapter,
    /// The adapter's roofline.
    pub peak: Peak,
    /// What durations were measured with.
    pub clock: Clock,
    /// What ran.
    pub versions: Versions,
    /// When, in UTC: `2026-01-31T12:00:00Z`.
    pub date: String,
    /// Results by operator, shape and variant; only those whose check passed.
    pub rows: Vec<Row>,
    /// What gave wrong results or none.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// Networks and pipelines: the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Total>,
    /// Networks and N4: by kernel, longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<KernelShare>,
    /// Networks: by node, in order of execution.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeShare>,
}

/// An adapter's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// vulkan, metal or dx12.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// discrete, integrated, other or software.
    #[serde(rename = "type")]
    pub class: String,
}

/// Versions of what ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// This program.
    pub trephine: String,
    /// Commit of the sources that it was built from, where the build knew it.
    pub commit: Option<String>,
    /// Compiled with optimisation and without debug assertions.
    pub release: bool,
    /// Operating system and architecture.
    pub host: String,
}

/// One variant of one operator at one shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Operator: gradients go by the name of what they are the gradient of.
    pub op: String,
    /// Its name in the registry.
    pub operator: String,
    /// Which shapes these are.
    pub case: String,
    /// Kernel variant.
    pub variant: String,
    /// A user's own kernel that stands in for the variant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shader: Option<String>,
    /// forward, grad-input, grad-weight, backward.
    pub direction: String,
    /// Element type that the kernels store or multiply.
    pub dtype: String,
    /// Extents of the first input; of a convolution's gradients, those of the convolution's.
    pub shape: Vec<usize>,
    /// All inputs, as in `1x32x96x128x160`.
    pub inputs: Vec<String>,
    /// All outputs.
    pub outputs: Vec<String>,
    /// Durations of one run.
    pub ms: Milliseconds,
    /// Number of samples that they come from.
    pub samples: usize,
    /// Useful arithmetic a second, 10^9 flops.
    pub gflops: f64,
    /// Bytes that must move a second, 10^9.
    pub gbps: f64,
    /// Share of what the roofline allows.
    pub roofline_fraction: f64,
    /// Flops a byte.
    pub intensity: f64,
    /// How it compares with the f64 reference.
    pub error: Error,
    /// Copies of the data that the samples went through in turn.
    pub copies: usize,
    /// Bytes of all copies together.
    pub working_set_bytes: u64,
}

/// A comparison with the f64 reference.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Error {
    /// Norm of the difference over the norm of the reference; of several outputs, the largest.
    pub rel_l2: f64,
    /// Largest difference, as a share of what the operator's precision allows.
    pub of_allowed: f64,
    /// What was compared, in words.
    pub checked: String,
    /// Number of elements compared.
    pub compared: usize,
    /// Number of elements that this shape has.
    pub outputs: usize,
}

/// Something that has no result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Operator in the registry, or pipeline.
    pub operator: String,
    /// Which shapes.
    pub case: String,
    /// Kernel variant.
    pub variant: String,
    /// A user's own kernel that stands in for the variant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shader: Option<String>,
    /// What kind of thing went wrong.
    #[serde(default)]
    pub kind: FailureKind,
    /// What went wrong; of a kernel that does not compile, its lines with carets too.
    pub reason: String,
}

/// Why something has no result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// It differs from the reference by more than the operator's precision explains.
    WrongResult,
    /// A kernel does not assemble, parse, validate or fit its operator.
    DoesNotCompile,
    /// It was not done within the limit.
    DidNotEnd,
    /// The shapes, the device or a file.
    #[default]
    Other,
}

impl FailureKind {
    /// The kind of an error.
    pub fn of(error: &LabError) -> Self {
        match error {
            LabError::Wrong(_) => Self::WrongResult,
            LabError::Gpu(GpuError::Shader { .. } | GpuError::Mismatch { .. }) => Self::DoesNotCompile,
            _ => Self::Other,
        }
    }
}

impl Failure {
    /// Something that runs and may not end; the reason is still to be filled in.
    pub(super) fn did_not_end(operator: &str, case: &str, variant: &str, shader: Option<&str>) -> Self {
        let [operator, case, variant] = [operator, case, variant].map(str::to_owned);
        let (kind, reason) = (FailureKind::DidNotEnd, String::new());
        Self { operator, case, variant, shader: shader.map(str::to_owned), kind, reason }
    }

    /// What an error says of an operator or pipeline.
    pub fn new(operator: &str, case: &str, variant: &str, error: &LabError) -> Self {
        let kind = FailureKind::of(error);
        let reason = match kind {
            FailureKind::DoesNotCompile => format!("does not compile: {error}"),
            _ => error.to_string(),
        };
        let [operator, case, variant] = [operator, case, variant].map(str::to_owned);
        Self { operator, case, variant, shader: None, kind, reason }
    }
}

/// A whole forward pass, training step or pipeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Total {
    /// What ran.
    pub name: String,
    /// forward, train, or the name of the pipeline.
    pub direction: String,
    /// Element type of the activations.
    #[serde(default = "single_precision")]
    pub dtype: String,
    /// Extents of the input.
    pub shape: Vec<usize>,
    /// Wall time of a run, submission to completion.
    pub ms: Milliseconds,
    /// Number of samples.
    pub samples: usize,
    /// Useful arithmetic of a run, 10^9 flops; networks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gflop: Option<f64>,
    /// The same a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
    /// Time that the roofline allows, summed over nodes, by the time taken; networks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roofline_fraction: Option<f64>,
    /// Bytes of GPU buffers.
    pub peak_buffer_bytes: u64,
    /// Submissions to the device's queue a run.
    pub submissions: u64,
    /// What a run consists of, in order; pipelines only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// Time of a run during which the host records and submits instead of waiting; networks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ms: Option<Milliseconds>,
    /// How results compare with the f64 reference.
    pub error: Error,
}

/// A part of a pipeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// What it does.
    pub name: String,
    /// Its wall time.
    pub ms: Milliseconds,
}

/// What reports without an element type were measured in.
fn single_precision() -> String {
    DType::F32.name().to_owned()
}

/// A kernel's part in a network or pipeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelShare {
    /// File below `shaders/`.
    pub kernel: String,
    /// Launches a run.
    pub calls: usize,
    /// Time of all of them.
    pub ms: f64,
    /// Share of the time of all kernels.
    pub share: f64,
    /// Time that the roofline allows the nodes of which it is the longest kernel, by their time; networks only.
    pub roofline_fraction: Option<f64>,
}

impl KernelShare {
    /// The parts of kernels, longest first, from the seconds of their launches.
    pub(super) fn of<'a>(launches: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<Self> {
        let mut kernels: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for (kernel, seconds) in launches {
            let (calls, total) = kernels.entry(kernel).or_default();
            *calls += 1;
            *total += seconds;
        }
        let all: f64 = kernels.values().map(|(_, seconds)| seconds).sum();
        let share = |(kernel, (calls, seconds)): (&str, (usize, f64))| Self {
            kernel: kernel.to_owned(),
            calls,
            ms: seconds * 1e3,
            share: seconds / all,
            roofline_fraction: None,
        };
        let mut kernels: Vec<Self> = kernels.into_iter().map(share).collect();
        kernels.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        kernels
    }
}

/// A node's part in a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeShare {
    /// Its name in the graph.
    pub node: String,
    /// Operator in the registry.
    pub op: String,
    /// Kernel variant.
    pub variant: String,
    /// All inputs.
    pub inputs: Vec<String>,
    /// All outputs.
    pub outputs: Vec<String>,
    /// Time of its launches.
    pub ms: f64,
    /// Share of the time of all nodes.
    pub share: f64,
    /// Useful arithmetic a second, 10^9 flops.
    pub gflops: f64,
    /// Share of what the roofline allows.
    pub roofline_fraction: f64,
}

impl Report {
    /// An empty report.
    pub fn new(gpu: &Gpu, peak: Peak) -> Self {
        let summary = &gpu.summary;
        Self {
            adapter: Adapter {
                name: summary.name.clone(),
                backend: summary.backend.clone(),
                driver: summary.driver.clone(),
                class: format!("{:?}", summary.class).to_lowercase(),
            },
            peak,
            clock: Clock::of(gpu),
            versions: Versions {
                trephine: env!("CARGO_PKG_VERSION").to_owned(),
                commit: option_env!("TREPHINE_COMMIT").map(str::to_owned).filter(|c| !c.is_empty()),
                release: !cfg!(debug_assertions),
                host: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            },
            date: now_utc(),
            rows: Vec::new(),
            failures: Vec::new(),
            total: None,
            kernels: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Reads what `--json` printed.
    ///
    /// # Errors
    /// A file that is missing or not such a report.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let fail = |reason: String| LabError::Input { file: path.to_path_buf(), reason };
        let text = std::fs::read_to_string(path)
            .map_err(|e| fail(format!("cannot be read ({e}); check the path")))?;
        serde_json::from_str(&text)
            .map_err(|e| fail(format!("is not a report of `trephine bench --json` ({e})")))
    }

    /// Writes a row a result as CSV.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_csv(&self, path: &Path) -> Result<(), LabError> {
        let fail = |source| LabError::Pipeline(PipelineError::Write { file: path.to_path_buf(), source });
        let csv_fail = |e: csv::Error| fail(std::io::Error::other(e));
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = [
            "op",
            "case",
            "variant",
            "shader",
            "direction",
            "dtype",
            "inputs",
            "median_ms",
            "min_ms",
            "max_ms",
            "gflops",
            "gbps",
            "roofline_fraction",
            "rel_l2",
            "checked",
            "adapter",
            "driver",
            "date",
        ];
        writer.write_record(header).map_err(csv_fail)?;
        for row in &self.rows {
            let numbers =
                [row.ms.median, row.ms.min, row.ms.max, row.gflops, row.gbps, row.roofline_fraction];
            let mut record = vec![
                row.op.clone(),
                row.case.clone(),
                row.variant.clone(),
                row.shader.clone().unwrap_or_default(),
                row.direction.clone(),
                row.dtype.clone(),
                row.inputs.join(" "),
            ];
            record.extend(numbers.map(|v| format!("{v:.6}")));
            record.extend([
                format!("{:.3e}", row.error.rel_l2),
                row.error.checked.clone(),
                self.adapter.name.clone(),
                self.adapter.driver.clone(),
                self.date.clone(),
            ]);
            writer.write_record(record).map_err(csv_fail)?;
        }
        let bytes = writer.into_inner().map_err(|e| fail(std::io::Error::other(e.to_string())))?;
        Ok(write_whole(path, &bytes)?)
    }
}

/// The time now, to the second.
fn now_utc() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    utc(seconds)
}

/// Seconds since 1970 as `2026-01-31T12:00:00Z` (H. Hinnant's `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds as i64 / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here.
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
