//! Launches of a run in the Trace Event Format of Chrome: open it at <https://ui.perfetto.dev>.

use std::path::Path;

use serde_json::{Value, json};

use super::error::LabError;
use crate::gpu::KernelTime;
use crate::pipeline::write_whole;

/// A launch with what there is to say about it.
pub(super) struct Event<'a> {
    /// What the launch is part of.
    pub name: &'a str,
    /// Kind of thing that it is part of.
    pub category: &'a str,
    /// When, and which kernel.
    pub time: &'a KernelTime,
    /// More, as an object.
    pub details: Value,
}

/// Writes the launches of a run under a title.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write<'a>(
    path: &Path,
    title: &str,
    launches: impl Iterator<Item = Event<'a>>,
) -> Result<(), LabError> {
    let mut events = vec![json!({ "name": "process_name", "ph": "M", "pid": 1, "args": { "name": title } })];
    events.extend(launches.map(|Event { name, category, time, mut details }| {
        details["kernel"] = time.kernel.into();
        json!({
            "name": name,
            "cat": category,
            "ph": "X",
            "pid": 1,
            "tid": 1,
            "ts": time.begin * 1e6,
            "dur": time.seconds * 1e6,
            "args": details,
        })
    }));
    let trace = json!({ "traceEvents": events, "displayTimeUnit": "ms" });
    Ok(write_whole(path, trace.to_string().as_bytes())?)
}
