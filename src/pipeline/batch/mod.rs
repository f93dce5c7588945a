//! Heads one after the other: reading, stripping and writing overlap, a head that fails leaves nothing behind and
//! does not stop the rest. Without a terminal: who calls hears of each head as it is done.

mod jobs;
mod report;
mod rows;
mod select;

use std::borrow::Cow;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

pub use jobs::{Batch, Job, Output, Outputs, Plan};
pub use report::{
    BatchReport, Earlier, Keeper, REPORT_CSV, read_report, read_rows, write_report, write_rows,
};
pub use rows::{Provenance, Row, Status};
pub use select::{DESCRIPTION, REPORT_JSON, Selection};

use super::input::{Input, append};
use super::report::qc;
use super::strip::{StripOptions, Stripped, Stripper};
use super::threads::{ReadAhead, WriteBehind};
use super::{PipelineError, write_whole};
use crate::tensor::DType;
use crate::volume::image::{self, FrameChoice};
use crate::volume::unfinished::Together;
use crate::volume::{Volume, VolumeError};
use rows::peak_memory_mb;

/// What is done with every head.
#[derive(Clone)]
pub struct BatchOptions {
    /// Which volumes of a series.
    pub frames: FrameChoice,
    /// Strip the mean of these volumes, and lay its mask on each of them.
    pub mean: bool,
    /// How they are stripped.
    pub strip: StripOptions,
    /// Value outside the brain; `None` for 0 or, where the voxels cannot store it, the nearest that they can, with a
    /// warning.
    pub fill: Option<f32>,
    /// Leave the free text of the input's header out of the outputs.
    pub anonymise: bool,
    /// Make the outputs' folders; where a user named every file, a missing folder is a mistake.
    pub create_folders: bool,
    /// Name of the model, for the pictures.
    pub model: String,
    /// Set from elsewhere, it ends the batch when the heads that are begun are done.
    pub stop: Arc<AtomicBool>,
}

/// What the outputs of a head depend on beside its file, the model and the version of the program.
pub fn settings(options: &BatchOptions, dtype: DType) -> serde_json::Value {
    #[derive(Serialize)]
    struct Settings<'a> {
        strip: &'a StripOptions,
        // Says whether the CSF round the brain belongs to it.
        model: &'a str,
        // JSON has no NaN.
        fill: Option<String>,
        frames: String,
        mean: bool,
        anonymise: bool,
        dtype: String,
    }
    let settings = Settings {
        strip: &options.strip,
        model: &options.model,
        fill: options.fill.map(|fill| fill.to_string()),
        frames: format!("{:?}", options.frames),
        mean: options.mean,
        anonymise: options.anonymise,
        dtype: format!("{dtype:?}"),
    };
    serde_json::to_value(settings).expect("numbers and names make JSON")
}

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

/// Strips all heads. One thread reads ahead, one writes and calls `done` with each row; what is awaited here strips.
/// `open` is called when the first head is read, so that a bad file shows before any work on the device; and again where the
/// device is lost: the head that was at work is stripped once more, and a warning tells.
///
/// # Errors
/// When `open` fails or what is kept cannot be written.
pub async fn run<E: From<PipelineError>>(
    jobs: Vec<Job>,
    options: &BatchOptions,
    keeping: Option<Keeping>,
    open: impl AsyncFnMut() -> Result<Stripper, E>,
    done: impl FnMut(&Row) + Send + 'static,
) -> Result<Finished, E> {
    let inputs: Vec<PathBuf> = jobs.iter().map(|job| job.input.clone()).collect();
    // One head waits on either side: memory for four at most.
    let (kept, mut keeper) = match keeping {
        Some(Keeping { made, earlier, keeper }) => (Some((made, earlier)), Some(keeper)),
        None => (None, None),
    };
    let reader = ReadAhead::start(1, read_all(jobs, options.clone(), kept));
    let written_with = options.clone();
    let writer =
        WriteBehind::start(1, move |heads| write_all(heads, &written_with, keeper.as_deref_mut(), done));
    let result = strip_all(reader, &writer, options, open).await;
    let rows = writer.finish().await.unwrap_or_else(|panic| resume_unwind(panic))?;
    result?;
    let left = inputs.into_iter().skip(rows.len()).collect();
    Ok(Finished { rows, left })
}

/// A head read.
struct Loaded {
    row: Row,
    head: Content,
}

/// What of it there is to strip.
enum Content {
    /// All.
    Read(Box<Input>, Outputs),
    /// Nothing, and the row says why.
    Done,
}

/// Arrays to write, of all the volumes one after the other.
#[derive(Default)]
struct Results {
    mask: Vec<u8>,
    probability: Vec<f32>,
    distance: Vec<f32>,
    bias: Vec<f32>,
    corrected: Vec<f32>,
    /// The first volume that has a mask, which the picture shows.
    shown: Option<usize>,
    /// The mean of all volumes, which the picture shows where it was what was stripped.
    mean: Option<Volume>,
}

/// A head stripped, or a row that says why there is nothing to write.
enum Head {
    Stripped(Box<(Input, Outputs, Results)>, Row),
    Done(Row),
}

/// Reads the heads until somebody stops the batch; those that an earlier run finished are only looked at.
fn read_all(
    jobs: Vec<Job>,
    options: BatchOptions,
    kept: Option<(Provenance, Earlier)>,
) -> impl Iterator<Item = Loaded> {
    let inner = options.clone();
    let read = move |Job { input: path, outputs }: Job| {
        let begun = Instant::now();
        let mut row = Row::new(path);
        let outputs = match outputs {
            Ok(outputs) => outputs,
            Err(error) => return Loaded { row: row.failed(error), head: Content::Done },
        };
        if let Some((made, earlier)) = &kept {
            row.input_sha256 = report::sha256_of(&row.path);
            let sha256 = row.input_sha256.as_deref();
            if let Some(known) = sha256.and_then(|sha256| earlier.finished(sha256, &outputs, made)) {
                // The file may have been moved since.
                let row = Row { path: row.path, kept: true, ..known.clone() };
                return Loaded { row, head: Content::Done };
            }
            row.made = Some(made.clone());
        }
        let input = read_head(&row.path, &outputs, &inner);
        row.add_seconds("read", begun.elapsed().as_secs_f64());
        match input {
            Ok(input) => {
                row.warnings.extend_from_slice(&input.warnings);
                Loaded { row, head: Content::Read(Box::new(input), outputs) }
            }
            Err(error) => Loaded { row: row.failed(error.to_string()), head: Content::Done },
        }
    };
    let stop = Arc::clone(&options.stop);
    jobs.into_iter().map_while(move |job| (!stop.load(Ordering::Relaxed)).then(|| read(job)))
}

fn read_head(path: &Path, outputs: &Outputs, options: &BatchOptions) -> Result<Input, VolumeError> {
    let mut input = Input::read_series(path, options.frames)?;
    if options.anonymise {
        input.image.anonymise();
    }
    if let Some(brain) = &outputs.brain {
        let told = check_fill(&input, brain, options.fill)?;
        input.warnings.extend(told);
    }
    Ok(input)
}

/// Refuses a fill value that the voxels cannot store, and tells of one that is stored as another.
fn check_fill(input: &Input, brain: &Path, fill: Option<f32>) -> Result<Option<String>, VolumeError> {
    let wanted = fill.unwrap_or(0.0);
    let fits = image::check_fill(brain, &input.image, wanted);
    let stored = image::stored_fill(brain, &input.image, wanted);
    let odd = match fill {
        Some(_) => fits.map(|()| stored != wanted && !wanted.is_nan())?,
        // Nobody chose 0: where it lies between two values that can be stored, either is as good.
        None => fits.is_err(),
    };
    Ok(odd.then(|| format!("outside the brain is {stored}: the voxels cannot store {wanted}")))
}

async fn strip_all<E, R: Send + 'static>(
    mut reader: ReadAhead<Loaded>,
    writer: &WriteBehind<Head, R>,
    options: &BatchOptions,
    mut open: impl AsyncFnMut() -> Result<Stripper, E>,
) -> Result<(), E> {
    let mut stripper = None;
    while let Some(loaded) = reader.next().await.unwrap_or_else(|panic| resume_unwind(panic)) {
        let Loaded { row, head } = loaded;
        // The one at work when the batch was stopped is done; those read ahead are left.
        if options.stop.load(Ordering::Relaxed) {
            break;
        }
        let head = match head {
            Content::Done => Head::Done(row),
            Content::Read(input, outputs) => {
                let (row, result) = strip_or_again(&mut stripper, &mut open, &input, options, row).await?;
                match result {
                    Ok(results) => Head::Stripped(Box::new((*input, outputs, results)), row),
                    Err(error) => {
                        let text = error.about(&row.path);
                        Head::Done(row.failed(text))
                    }
                }
            }
        };
        if !writer.send(head).await {
            break;
        }
    }
    Ok(())
}

/// Strips a head, on a device opened anew where there is none or it is lost meanwhile; a second loss is the head's failure.
async fn strip_or_again<E>(
    stripper: &mut Option<Stripper>,
    open: &mut impl AsyncFnMut() -> Result<Stripper, E>,
    input: &Input,
    options: &BatchOptions,
    mut row: Row,
) -> Result<(Row, Result<Results, PipelineError>), E> {
    let mut losses = 0;
    loop {
        let device = match stripper {
            Some(device) => device,
            None => {
                let begun = Instant::now();
                let opened = open().await?;
                row.add_seconds("start", begun.elapsed().as_secs_f64());
                stripper.insert(opened)
            }
        };
        let mut attempt = row.clone();
        let result = match options.mean && input.image.frames() > 1 {
            true => strip_mean(device, input, &options.strip, &mut attempt).await,
            false => strip(device, input, &options.strip, &mut attempt).await,
        };
        let lost = device.lost().filter(|_| result.is_err());
        let Some(words) = lost else { return Ok((attempt, result)) };
        *stripper = None;
        losses += 1;
        if losses > 1 {
            return Ok((row, result));
        }
        row.warnings.push(format!(
            "the device was lost ({}) and opened again: this head is stripped a second time",
            words.trim().trim_end_matches('.')
        ));
    }
}

/// Strips all held volumes. Of a series, a volume without a brain fails alone and its mask is empty.
async fn strip(
    stripper: &mut Stripper,
    input: &Input,
    options: &StripOptions,
    row: &mut Row,
) -> Result<Results, PipelineError> {
    let mut results = Results::default();
    let mut failures = Vec::new();
    let frames = input.image.frames();
    for frame in 0..frames {
        if let Some(problem) = input.hopeless.get(&frame) {
            failures.push(format!("volume {frame} {problem}"));
            results.add_nothing(&input.volume(frame)?, options);
            continue;
        }
        let volume = input.volume(frame)?;
        match stripper.strip(&volume, options).await {
            Ok(stripped) => {
                let prefix = if frames > 1 { format!("volume {frame}: ") } else { String::new() };
                row.tells_of(&stripped, &prefix);
                results.shown.get_or_insert(frame);
                results.add(stripped);
            }
            Err(error) if frames > 1 && error.is_about_the_voxels() => {
                failures.push(format!("volume {frame}: {error}"));
                results.add_nothing(&volume, options);
            }
            Err(error) => return Err(error),
        }
    }
    if failures.len() == frames {
        let reason = format!("no volume could be stripped, the first since: {}", failures[0]);
        return Err(PipelineError::Input { file: row.path.clone(), reason });
    }
    if !failures.is_empty() {
        row.status = Status::Partial;
        let what = failures.join("; ");
        row.error = Some(format!("{}: {what}; the mask is empty there", row.path.display()));
    }
    Ok(results)
}

/// Strips the mean of all held volumes, less those that are of no use.
async fn strip_mean(
    stripper: &mut Stripper,
    input: &Input,
    options: &StripOptions,
    row: &mut Row,
) -> Result<Results, PipelineError> {
    let mut sum: Option<Vec<f64>> = None;
    let mut useful = 0.0;
    let mut mean = None;
    for frame in 0..input.image.frames() {
        if let Some(problem) = input.hopeless.get(&frame) {
            row.warnings.push(format!("volume {frame} {problem}; it is left out of the mean"));
            continue;
        }
        let volume = input.volume(frame)?;
        let sum = sum.get_or_insert_with(|| vec![0.0; volume.data.len()]);
        sum.iter_mut().zip(&volume.data).for_each(|(sum, &value)| *sum += f64::from(value));
        useful += 1.0;
        mean = Some(volume);
    }
    let (Some(sum), Some(mut mean)) = (sum, mean) else { return Err(PipelineError::NoBrain) };
    mean.data.iter_mut().zip(sum).for_each(|(value, sum)| *value = (sum / useful) as f32);
    let stripped = stripper.strip(&mean, options).await?;
    row.tells_of(&stripped, "");
    let mut results = Results { mean: Some(mean), ..Results::default() };
    results.add(stripped);
    Ok(results)
}

impl Results {
    fn add(&mut self, stripped: Stripped) {
        append(&mut self.mask, stripped.mask);
        append(&mut self.probability, stripped.probability.unwrap_or_default());
        append(&mut self.distance, stripped.distance_mm.unwrap_or_default());
        append(&mut self.bias, stripped.bias.unwrap_or_default());
        append(&mut self.corrected, stripped.corrected.unwrap_or_default());
    }

    /// A volume without a brain: the border is infinitely far, and the volume stays as it is.
    fn add_nothing(&mut self, volume: &Volume, options: &StripOptions) {
        let voxels = volume.data.len();
        let of = |wanted: bool, value: f32| if wanted { vec![value; voxels] } else { Vec::new() };
        append(&mut self.mask, vec![0; voxels]);
        append(&mut self.probability, of(options.probability, 0.0));
        append(&mut self.distance, of(options.distance, f32::INFINITY));
        append(&mut self.bias, of(options.corrected, 1.0));
        append(&mut self.corrected, if options.corrected { volume.data.clone() } else { Vec::new() });
    }
}

fn write_all(
    stripped: &mut dyn Iterator<Item = Head>,
    options: &BatchOptions,
    mut keeper: Option<&mut (dyn Keeper + 'static)>,
    mut done: impl FnMut(&Row),
) -> Result<Vec<Row>, PipelineError> {
    let mut rows: Vec<Row> = Vec::new();
    // Whatever ends the batch from now on, a later one knows that what lies there is its own.
    if let Some(keeper) = &mut keeper {
        keeper.keep(&rows, false)?;
    }
    for head in stripped {
        let mut row = match head {
            Head::Done(row) => row,
            Head::Stripped(head, mut row) => {
                let (input, outputs, results) = *head;
                let begun = Instant::now();
                let written = write(&input, &outputs, &results, &row, options).and_then(|mut together| {
                    for (path, bytes) in keeper.iter().flat_map(|keeper| keeper.sidecars(&row, &outputs)) {
                        write_whole(&path, &bytes)?;
                        together.add(&path);
                    }
                    Ok(together)
                });
                row.add_seconds("write", begun.elapsed().as_secs_f64());
                match written {
                    Ok(together) => {
                        together.keep();
                        Row { outputs: Some(outputs), ..row }
                    }
                    Err(error) => {
                        let text = error.about(input.image.path());
                        row.failed(text)
                    }
                }
            }
        };
        if !row.kept {
            row.peak_memory_mb = peak_memory_mb();
        }
        done(&row);
        rows.push(row);
        if let Some(keeper) = &mut keeper {
            keeper.keep(&rows, false)?;
        }
    }
    if let Some(keeper) = &mut keeper {
        keeper.keep(&rows, true)?;
    }
    Ok(rows)
}

/// Writes all outputs of a head or none; the picture says what its row warns of. They stay if what is returned is kept.
fn write(
    input: &Input,
    outputs: &Outputs,
    results: &Results,
    row: &Row,
    options: &BatchOptions,
) -> Result<Together, PipelineError> {
    if options.create_folders {
        for folder in outputs.all().into_iter().filter_map(Path::parent) {
            std::fs::create_dir_all(folder)
                .map_err(|source| PipelineError::Write { file: folder.to_path_buf(), source })?;
        }
    }
    let image = &input.image;
    let mut written = Together::default();
    if let Some(path) = &outputs.brain {
        image::write_stripped(path, image, &results.mask, options.fill.unwrap_or(0.0))?;
        written.add(path);
    }
    if let Some(path) = &outputs.mask {
        image::write_mask(path, image, &results.mask)?;
        written.add(path);
    }
    for (path, data) in [
        (&outputs.distance, &results.distance),
        (&outputs.probability, &results.probability),
        (&outputs.bias, &results.bias),
        (&outputs.corrected, &results.corrected),
    ] {
        if let Some(path) = path {
            image::write_like(path, image, data)?;
            written.add(path);
        }
    }
    if let Some(path) = &outputs.qc {
        let (frame, voxels) = (results.shown.unwrap_or(0), image.voxels());
        let mask = &results.mask[frame * voxels..(frame + 1) * voxels];
        let shown = match &results.mean {
            Some(mean) => Cow::Borrowed(mean),
            None => Cow::Owned(input.volume(frame)?),
        };
        let caption = qc::Caption {
            file: row.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            brain_ml: row.brain_ml,
            score: row.score,
            model: options.model.clone(),
        };
        qc::write(path, &shown, mask, &caption, &row.warnings)?;
        written.add(path);
    }
    Ok(written)
}
