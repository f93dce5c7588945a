//! Strips the heads of a batch as they are read, volume by volume.

use std::panic::resume_unwind;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::reading::{Loaded, Work};
use super::writing::{Done, Results};
use super::{BatchOptions, Row, Status};
use crate::pipeline::PipelineError;
use crate::pipeline::input::Frame;
use crate::pipeline::strip::{Stripped, Stripper};
use crate::pipeline::threads::{ReadAhead, WriteBehind};
use crate::volume::{Problem, Volume, VolumeError};

/// Strips what is read and hands it on to be written, until the batch is stopped.
pub(super) async fn strip_all<E, R: Send + 'static>(
    reader: ReadAhead<Loaded>,
    writer: &WriteBehind<Done, R>,
    options: &BatchOptions,
    open: impl AsyncFnMut(Option<u64>) -> Result<Stripper, E>,
) -> Result<(), E> {
    let mut desk =
        Desk { reader, writer, options, open, stripper: None, losses: 0, ceiling: None, lowered: 0 };
    while let Some(loaded) = desk.next().await {
        // Volumes that nobody asked for are those of a head that failed before them.
        let Loaded::Head(row, work) = loaded else { continue };
        // The head at work when the batch was stopped is done; those read ahead are left.
        if options.stop.load(Ordering::Relaxed) {
            break;
        }
        let mut row = *row;
        let stripped = match work {
            None => Ok(()),
            Some(work) => desk.strip_head(work, &mut row).await,
        };
        let row = match stripped {
            Ok(()) => row,
            Err(Failure::Head(error)) => {
                let text = error.about(&row.path);
                row.failed(text)
            }
            Err(Failure::Batch(error)) => return Err(error),
            Err(Failure::Writer) => break,
        };
        if !writer.send(Done::Head(Box::new(row))).await {
            break;
        }
    }
    Ok(())
}

/// How often a ceiling is put below what the device turned out not to hold: the fourth leaves a third.
const MOST_CEILINGS: usize = 4;

/// What is said of a device with too little memory.
fn too_little(ceiling: u64, what: &str) -> String {
    let mib = ceiling >> 20;
    format!(
        "the device ran out of memory: {what} with at most {mib} MiB of buffers, which takes longer; --max-memory {mib}M starts so"
    )
}

/// What ends the work on a head.
enum Failure<E> {
    /// It alone has failed.
    Head(PipelineError),
    /// No device can be opened.
    Batch(E),
    /// The writer takes no more, and says why when it is asked for its rows.
    Writer,
}

impl<E> From<PipelineError> for Failure<E> {
    fn from(error: PipelineError) -> Self {
        Self::Head(error)
    }
}

impl<E> From<VolumeError> for Failure<E> {
    fn from(error: VolumeError) -> Self {
        Self::Head(error.into())
    }
}

/// Where heads are stripped.
struct Desk<'a, O, R> {
    reader: ReadAhead<Loaded>,
    writer: &'a WriteBehind<Done, R>,
    options: &'a BatchOptions,
    open: O,
    /// None before the first volume, and after a loss.
    stripper: Option<Stripper>,
    /// How often the device was lost during the head at work.
    losses: usize,
    /// Most bytes of the device's buffers, once it turned out to have too little memory; and how often it did.
    ceiling: Option<u64>,
    lowered: usize,
}

impl<E, O: AsyncFnMut(Option<u64>) -> Result<Stripper, E>, R: Send + 'static> Desk<'_, O, R> {
    async fn next(&mut self) -> Option<Loaded> {
        self.reader.next().await.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The next volume of the head at work.
    async fn next_volume(&mut self, row: &mut Row) -> Result<Frame, VolumeError> {
        let Some(Loaded::Volume(frame, seconds)) = self.next().await else {
            unreachable!("a head's volumes follow it, or an error")
        };
        row.add_seconds("read", seconds);
        *frame
    }

    async fn send(&self, done: Done) -> Result<(), Failure<E>> {
        if self.writer.send(done).await { Ok(()) } else { Err(Failure::Writer) }
    }

    async fn strip_head(&mut self, work: Work, row: &mut Row) -> Result<(), Failure<E>> {
        let Work { volumes, mean, .. } = work;
        let again = mean && work.outputs.brain.is_some();
        self.losses = 0;
        self.send(Done::Begun(work)).await?;
        if !mean {
            return self.strip_each(volumes, row).await;
        }
        self.strip_mean(volumes, row).await?;
        for _ in 0..if again { volumes } else { 0 } {
            let image = Box::new(self.next_volume(row).await?.image);
            self.send(Done::Volume { image, results: None, brain: true }).await?;
        }
        Ok(())
    }

    /// Strips all volumes. Of a series, a volume without a brain fails alone and its mask is empty.
    async fn strip_each(&mut self, volumes: usize, row: &mut Row) -> Result<(), Failure<E>> {
        let mut failures = Vec::new();
        // The first reason, as long as no volume is of any use.
        let mut hopeless = None;
        for number in 0..volumes {
            let frame = self.next_volume(row).await?;
            let volume = frame.volume()?;
            row.warnings.extend(frame.warnings);
            let mut results = None;
            match frame.hopeless {
                Some(problem) => {
                    failures.push(format!("volume {number} {problem}"));
                    hopeless.get_or_insert(problem);
                }
                None => match self.strip_or_again(&volume, row).await? {
                    Ok(stripped) => {
                        let prefix = if volumes > 1 { format!("volume {number}: ") } else { String::new() };
                        row.tells_of(&stripped, &prefix);
                        results = Some(Results::of(stripped));
                    }
                    Err(error) if volumes > 1 && error.is_about_the_voxels() => {
                        failures.push(format!("volume {number}: {error}"));
                    }
                    Err(error) => return Err(error.into()),
                },
            }
            let results = results.unwrap_or_else(|| Results::none(volume, &self.options.strip));
            let (image, results) = (Box::new(frame.image), Some(Box::new(results)));
            self.send(Done::Volume { image, results, brain: true }).await?;
        }
        if failures.len() == volumes {
            return Err(nothing_of_use(row, hopeless, &failures[0]).into());
        }
        if !failures.is_empty() {
            row.status = Status::Partial;
            let what = failures.join("; ");
            row.error = Some(format!("{}: {what}; the mask is empty there", row.path.display()));
        }
        Ok(())
    }

    /// Strips the mean of all volumes, less those that are of no use.
    async fn strip_mean(&mut self, volumes: usize, row: &mut Row) -> Result<(), Failure<E>> {
        let mut sum: Vec<f64> = Vec::new();
        let mut useful = 0.0;
        let mut hopeless = None;
        let mut last = None;
        for number in 0..volumes {
            let frame = self.next_volume(row).await?;
            row.warnings.extend(frame.warnings.iter().cloned());
            let volume = frame.volume()?;
            match frame.hopeless {
                Some(problem) => {
                    let text = format!("volume {number} {problem}");
                    row.warnings.push(format!("{text}; it is left out of the mean"));
                    hopeless.get_or_insert((problem, text));
                }
                None => {
                    sum.resize(volume.data.len(), 0.0);
                    sum.iter_mut().zip(&volume.data).for_each(|(sum, &value)| *sum += f64::from(value));
                    useful += 1.0;
                }
            }
            last = Some((frame.image, volume));
        }
        let Some((image, mut mean)) = last.filter(|_| useful > 0.0) else {
            let (problem, text) = hopeless.expect("without a volume of use, the first is of none");
            return Err(nothing_of_use(row, Some(problem), &text).into());
        };
        mean.data.iter_mut().zip(sum).for_each(|(value, sum)| *value = (sum / useful) as f32);
        let stripped = self.strip_or_again(&mean, row).await??;
        row.tells_of(&stripped, "");
        let mut results = Results::of(stripped);
        results.mean = Some(mean);
        self.send(Done::Volume { image: Box::new(image), results: Some(Box::new(results)), brain: false })
            .await
    }

    /// Strips a volume, on a device opened anew where there is none or it is lost meanwhile; a second loss is the head's failure.
    async fn strip_or_again(
        &mut self,
        volume: &Volume,
        row: &mut Row,
    ) -> Result<Result<Stripped, PipelineError>, Failure<E>> {
        loop {
            let stripper = match &mut self.stripper {
                Some(stripper) => stripper,
                None => {
                    let begun = Instant::now();
                    let opened = (self.open)(self.ceiling).await.map_err(Failure::Batch)?;
                    row.add_seconds("start", begun.elapsed().as_secs_f64());
                    self.stripper.insert(opened)
                }
            };
            let result = stripper.strip(volume, &self.options.strip).await;
            row.peak_buffer_mb = Some(stripper.peak_bytes() as f64 / f64::from(1 << 20));
            let (lost, lowered) = (stripper.lost(), stripper.lowered_ceiling());
            if lowered.is_some() && lowered != self.ceiling {
                row.warnings.extend(lowered.map(|bytes| too_little(bytes, "the network runs in pieces")));
                self.ceiling = lowered;
            }
            let Err(error) = &result else { return Ok(result) };
            if error.is_out_of_memory() && self.lowered < MOST_CEILINGS {
                let bytes = stripper.refused_bytes() / 4 * 3;
                row.warnings.push(too_little(bytes, "this head is stripped again"));
                (self.stripper, self.ceiling) = (None, Some(bytes));
                self.lowered += 1;
                continue;
            }
            let Some(words) = lost else { return Ok(result) };
            self.stripper = None;
            self.losses += 1;
            if self.losses > 1 {
                return Ok(result);
            }
            row.warnings.push(format!(
                "the device was lost ({}) and opened again: this head is stripped a second time",
                words.trim().trim_end_matches('.')
            ));
        }
    }
}

/// Why a series has no mask: what is true of all its volumes, or why the first one has none.
fn nothing_of_use(row: &Row, hopeless: Option<Problem>, first: &str) -> PipelineError {
    let about_all = row.seconds.iter().all(|(stage, _)| stage != "start");
    match hopeless {
        Some(problem) if about_all => problem.at(&row.path).into(),
        _ => {
            let reason = format!("no volume could be stripped, the first since: {first}");
            PipelineError::Input { file: row.path.clone(), reason }
        }
    }
}
