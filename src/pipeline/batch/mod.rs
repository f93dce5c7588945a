//! Heads one after the other: reading, stripping and writing overlap, a head that fails leaves nothing behind and
//! does not stop the rest. Without a terminal: who calls hears of each head as it is done.

mod jobs;
mod options;
mod reading;
mod report;
mod rows;
mod select;
mod stripping;
mod writing;

use std::panic::resume_unwind;
use std::path::PathBuf;

pub use jobs::{Batch, Job, Output, Outputs, Plan};
pub use options::{BatchOptions, settings};
pub use report::{
    BatchReport, Earlier, Keeper, REPORT_CSV, read_report, read_rows, write_report, write_rows,
};
pub use rows::{Provenance, Row, Status};
pub use select::{DESCRIPTION, REPORT_JSON, Selection};

use super::PipelineError;
use super::strip::Stripper;
use super::threads::{ReadAhead, WriteBehind};

/// What is kept of a batch for later.
pub struct Keeping {
    /// How results are made.
    pub made: Provenance,
    /// Heads that earlier runs finished, which are left as they are.
    pub earlier: Earlier,
    /// Takes the rows.
    pub keeper: Box<dyn Keeper>,
}

/// How a batch ended.
#[derive(Debug)]
pub struct Finished {
    /// A row for each head that was begun, in order.
    pub rows: Vec<Row>,
    /// Heads that were not, since the batch was stopped.
    pub left: Vec<PathBuf>,
}

/// Strips all heads. One thread reads ahead, one writes and calls `done` with each row; what is awaited here strips. All go
/// volume by volume, so that a series takes the memory of one.
/// `open` is called when the first head is read, so that a bad file shows before any work on the device; and again where the
/// device is lost, or with a ceiling for its buffers where it runs out of memory: the head that was at work is stripped once
/// more, and a warning tells.
///
/// # Errors
/// When `open` fails or what is kept cannot be written.
pub async fn run<E: From<PipelineError>>(
    jobs: Vec<Job>,
    options: &BatchOptions,
    keeping: Option<Keeping>,
    open: impl AsyncFnMut(Option<u64>) -> Result<Stripper, E>,
    done: impl FnMut(&Row) + Send + 'static,
) -> Result<Finished, E> {
    let inputs: Vec<PathBuf> = jobs.iter().map(|job| job.input.clone()).collect();
    // One volume waits on either side: memory for four at most.
    let (kept, mut keeper) = match keeping {
        Some(Keeping { made, earlier, keeper }) => (Some((made, earlier)), Some(keeper)),
        None => (None, None),
    };
    let reader = ReadAhead::start(1, reading::read_all(jobs, options.clone(), kept));
    let written_with = options.clone();
    let writer = WriteBehind::start(1, move |done_with| {
        writing::write_all(done_with, &written_with, keeper.as_deref_mut(), done)
    });
    let result = stripping::strip_all(reader, &writer, options, open).await;
    let rows = writer.finish().await.unwrap_or_else(|panic| resume_unwind(panic))?;
    result?;
    let left = inputs.into_iter().skip(rows.len()).collect();
    Ok(Finished { rows, left })
}
