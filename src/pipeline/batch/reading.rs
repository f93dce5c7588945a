//! Reads the heads of a batch, volume by volume.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::report::{Earlier, sha256_of};
use super::{BatchOptions, Job, Outputs, Provenance, Row};
use crate::pipeline::PipelineError;
use crate::pipeline::input::{Frame, Frames};
use crate::volume::image::{self, Info};
use crate::volume::{Problem, VolumeError};

/// What is read, in order.
pub(super) enum Loaded {
    /// A head begins. Its volumes follow, unless its row says why there is nothing to strip.
    Head(Box<Row>, Option<Work>),
    /// Its next volume, and the seconds that reading it took. None follows one that cannot be read.
    Volume(Box<Result<Frame, VolumeError>>, f64),
}

/// What there is to do for a head.
pub(super) struct Work {
    pub outputs: Outputs,
    /// Volumes that follow; twice where their mean is stripped and its mask laid on them.
    pub volumes: usize,
    /// Whether their mean is stripped.
    pub mean: bool,
}

/// Reads the heads until somebody stops the batch; those that an earlier run finished are only looked at.
pub(super) fn read_all(
    jobs: Vec<Job>,
    options: BatchOptions,
    kept: Option<(Provenance, Earlier)>,
) -> impl Iterator<Item = Loaded> {
    let stop = Arc::clone(&options.stop);
    jobs.into_iter()
        .take_while(move |_| !stop.load(Ordering::Relaxed))
        .flat_map(move |job| read(job, &options, kept.as_ref()))
}

/// A head, and its volumes.
fn read(
    Job { input: path, outputs }: Job,
    options: &BatchOptions,
    kept: Option<&(Provenance, Earlier)>,
) -> Box<dyn Iterator<Item = Loaded> + Send> {
    let begun = Instant::now();
    let mut row = Row::new(path);
    let nothing = |row: Row| Box::new(std::iter::once(Loaded::Head(Box::new(row), None)));
    let outputs = match outputs {
        Ok(outputs) => outputs,
        Err(error) => return nothing(row.failed(error)),
    };
    if let Some((made, earlier)) = kept {
        row.input_sha256 = sha256_of(&row.path);
        let sha256 = row.input_sha256.as_deref();
        if let Some(known) = sha256.and_then(|sha256| earlier.finished(sha256, &outputs, made)) {
            // The file may have been moved since.
            return nothing(Row { path: row.path, kept: true, ..known.clone() });
        }
        row.made = Some(made.clone());
    }
    let opened = Frames::open(&row.path, options.frames).map_err(PipelineError::from).and_then(|frames| {
        row.warnings.extend(frames.info().warnings.iter().map(ToString::to_string));
        if let Some(brain) = &outputs.brain {
            let fill = check_fill(frames.info(), brain, options.fill);
            row.warnings.extend(fill.map_err(|problem| problem.at(&row.path))?);
        }
        Ok(frames)
    });
    row.add_seconds("read", begun.elapsed().as_secs_f64());
    let frames = match opened {
        Ok(frames) => frames,
        Err(error) => {
            let text = error.about(&row.path);
            return nothing(row.failed(text));
        }
    };
    let mean = options.mean && frames.count() > 1;
    let again = mean && outputs.brain.is_some();
    if again && frames.come_once() {
        let reason = "comes through a pipe, and its volumes are needed twice, for their mean and under its mask; save \
                      it to a file first";
        let error = PipelineError::Input { file: row.path.clone(), reason: reason.into() };
        let text = error.about(&row.path);
        return nothing(row.failed(text));
    }
    let path = row.path.clone();
    let work = Work { outputs, volumes: frames.count(), mean };
    let head = std::iter::once(Loaded::Head(Box::new(row), Some(work)));
    let choice = options.frames;
    let second = again.then_some(move || Frames::open(&path, choice));
    let anonymise = options.anonymise;
    let volumes = volumes(Ok(frames), anonymise)
        .chain(second.into_iter().flat_map(move |open| volumes(open(), anonymise)));
    Box::new(head.chain(volumes))
}

/// The volumes of an image, or why it cannot be read (further).
fn volumes(frames: Result<Frames, VolumeError>, anonymise: bool) -> impl Iterator<Item = Loaded> {
    // None once an error was told.
    let mut frames = Some(frames);
    std::iter::from_fn(move || {
        let begun = Instant::now();
        let read = match frames.take()? {
            Ok(mut opened) => {
                let read = opened.next_frame().transpose()?;
                frames = read.is_ok().then_some(Ok(opened));
                read
            }
            Err(error) => Err(error),
        };
        let read = read.map(|mut frame| {
            if anonymise {
                frame.image.anonymise();
            }
            frame
        });
        Some(Loaded::Volume(Box::new(read), begun.elapsed().as_secs_f64()))
    })
}

/// Refuses a fill value that the voxels cannot store, and tells of one that is stored as another.
fn check_fill(info: &Info, brain: &Path, fill: Option<f32>) -> Result<Option<String>, Problem> {
    let wanted = fill.unwrap_or(0.0);
    let fits = image::check_fill(brain, info, wanted);
    let stored = image::stored_fill(brain, info, wanted);
    let odd = match fill {
        Some(_) => fits.map(|()| stored != wanted && !wanted.is_nan())?,
        // Nobody chose 0: where it lies between two values that can be stored, either is as good.
        None => fits.is_err(),
    };
    Ok(odd.then(|| format!("outside the brain is {stored}: the voxels cannot store {wanted}")))
}
