//! `trephine strip`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use anyhow::{anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::files::{Input, append, check_distinct, check_folder, check_outputs};
use super::terminal::{Terminal, one_line};
use super::{FrameOptions, ModelOptions, Outcome, Session, text_about, usage};
use crate::gpu::AdapterSummary;
use crate::pipeline::report::qc;
use crate::pipeline::strip::{StripOptions, Stripper};
use crate::pipeline::{PipelineError, write_whole};
use crate::volume::image::{self, FrameChoice};
use crate::volume::pairs;

/// Extract the brain from heads
///
/// Short form: `trephine strip head.nii.gz` writes head_brain.nii.gz, head_mask.nii.gz and head_qc.png beside
/// the input, or in -O DIR (.mgz from .mgz). Existing files are kept unless --force is given.
///
/// Long form: with any of -o -m -d -p -q --bias --corrected, those files are written, and no others. Existing
/// ones are replaced.
///
/// Batch: several files, or a folder, with -O OUT. A head that fails does not stop the rest. OUT/report.csv
/// holds a row a head.
///
/// Outputs lie on the input's grid with its header; the brain is bit-equal to the input inside the mask. Their
/// names say what they are: NIfTI (.nii, .nii.gz) or FreeSurfer's MGH (.mgz, .mgh), which knows no scaling and
/// stores scaled voxels as float32.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine strip head.nii.gz\n  trephine strip -i head.nii.gz -o brain.nii.gz -m mask.nii.gz -q check.png\n  trephine strip heads/ -O stripped"
)]
pub(super) struct Options {
    /// Heads: NIfTI or MGH files, or folders to look through
    #[arg(value_name = "FILE|DIR", required_unless_present = "input", conflicts_with = "input")]
    inputs: Vec<PathBuf>,
    /// One head
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Folder for the outputs; created if needed [default, for one head: beside the input]
    #[arg(short = 'O', long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// Replace existing files in the short form and in batches
    #[arg(long)]
    force: bool,

    /// The brain: the input inside the mask, --fill elsewhere
    #[arg(short = 'o', long = "output", value_name = "FILE", help_heading = "Outputs")]
    brain: Option<PathBuf>,
    /// The mask, 0 and 1
    #[arg(short, long, value_name = "FILE", help_heading = "Outputs")]
    mask: Option<PathBuf>,
    /// Signed distance to the brain's border in mm, negative inside
    #[arg(short, long, value_name = "FILE", help_heading = "Outputs")]
    distance: Option<PathBuf>,
    /// Probability of brain
    #[arg(short, long, value_name = "FILE", help_heading = "Outputs")]
    probability: Option<PathBuf>,
    /// Picture to check the result with: slices with the mask's outline, the brain below
    #[arg(short, long, value_name = "PNG", help_heading = "Outputs")]
    qc: Option<PathBuf>,
    /// Multiplicative bias field: corrected = input / field
    #[arg(long, value_name = "FILE", conflicts_with = "no_n4", help_heading = "Outputs")]
    bias: Option<PathBuf>,
    /// The whole head with its bias field corrected
    #[arg(long, value_name = "FILE", conflicts_with = "no_n4", help_heading = "Outputs")]
    corrected: Option<PathBuf>,

    /// Move the mask's border outward by MM; inward when negative
    #[arg(short, long, value_name = "MM", default_value_t = 0.0, allow_negative_numbers = true)]
    border: f64,
    /// Value outside the brain in -o
    #[arg(short, long, value_name = "VALUE", default_value_t = 0.0, allow_negative_numbers = true)]
    fill: f32,
    /// Leave out the CSF around the brain (for models that offer it)
    #[arg(long)]
    no_csf: bool,
    #[command(flatten)]
    frames: FrameOptions,
    #[command(flatten)]
    model: ModelOptions,
}

/// What is written for a head.
#[derive(Clone, Debug, Default, Serialize)]
struct Outputs {
    brain: Option<PathBuf>,
    mask: Option<PathBuf>,
    distance: Option<PathBuf>,
    probability: Option<PathBuf>,
    qc: Option<PathBuf>,
    bias: Option<PathBuf>,
    corrected: Option<PathBuf>,
}

impl Outputs {
    fn images(&self) -> Vec<&Path> {
        [&self.brain, &self.mask, &self.distance, &self.probability, &self.bias, &self.corrected]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect()
    }

    fn all(&self) -> Vec<&Path> {
        let mut all = self.images();
        all.extend(self.qc.as_deref());
        all
    }

    /// The short form's: `STEM_brain.nii.gz`, `STEM_mask.nii.gz`, `STEM_qc.png`; `.mgz` for an input of that
    /// format.
    fn beside(folder: &Path, stem: &str, input: &Path) -> Self {
        let extension = if image::is_mgh_name(input) { "mgz" } else { "nii.gz" };
        let name = |end: &str, extension: &str| Some(folder.join(format!("{stem}_{end}.{extension}")));
        Self {
            brain: name("brain", extension),
            mask: name("mask", extension),
            qc: name("qc", "png"),
            ..Self::default()
        }
    }
}

/// A head to strip.
struct Job {
    input: PathBuf,
    /// Or why it is not even begun.
    outputs: Result<Outputs, String>,
}

/// A head's row in the report.
#[derive(Clone, Debug, Serialize)]
struct Row {
    path: PathBuf,
    status: &'static str,
    brain_ml: Option<f64>,
    /// Wall time by stage, in order.
    #[serde(serialize_with = "as_map")]
    seconds: Vec<(&'static str, f64)>,
    warnings: Vec<String>,
    error: Option<String>,
    outputs: Option<Outputs>,
}

fn as_map<S: serde::Serializer>(pairs: &[(&'static str, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().copied())
}

impl Options {
    fn named_outputs(&self) -> Outputs {
        Outputs {
            brain: self.brain.clone(),
            mask: self.mask.clone(),
            distance: self.distance.clone(),
            probability: self.probability.clone(),
            qc: self.qc.clone(),
            bias: self.bias.clone(),
            corrected: self.corrected.clone(),
        }
    }

    /// The heads, and where the report goes if it is a batch.
    fn jobs(&self) -> anyhow::Result<(Vec<Job>, Option<PathBuf>)> {
        let inputs: Vec<&Path> = self.input.iter().chain(&self.inputs).map(PathBuf::as_path).collect();
        let single = match inputs[..] {
            [one] if !one.is_dir() => Some(one),
            _ => None,
        };
        let named = self.named_outputs();
        if !named.all().is_empty() {
            let Some(input) = single else {
                return Err(usage("-o, -m and the like name the files of one head; for several use -O DIR"));
            };
            if self.out_dir.is_some() {
                return Err(usage(
                    "-O names a folder for the short form; leave it out, or leave out -o, -m and the like",
                ));
            }
            check_outputs(&named.images(), &[input])?;
            if let Some(qc) = &named.qc {
                check_picture_name(qc)?;
                check_distinct(qc, &named.images(), &[input])?;
            }
            named.all().iter().try_for_each(|path| check_folder(path))?;
            return Ok((vec![Job { input: input.to_path_buf(), outputs: Ok(named) }], None));
        }
        if let Some(input) = single {
            let beside = input.parent().unwrap_or(Path::new(""));
            let folder = self.out_dir.as_deref().unwrap_or(beside);
            let job = self.short_job(input, folder);
            return match job.outputs {
                Ok(_) => Ok((vec![job], None)),
                Err(error) => bail!(error),
            };
        }
        let Some(out) = self.out_dir.as_deref() else {
            return Err(usage("several heads or a folder need -O DIR for the outputs and their report"));
        };
        let report = out.join("report.csv");
        if report.exists() && !self.force {
            bail!(
                "{}: exists already; replace it with --force, or name another folder with -O",
                report.display()
            );
        }
        std::fs::create_dir_all(out)
            .map_err(|e| anyhow!("{}: the folder cannot be created: {e}; choose another", out.display()))?;
        let jobs = self.batch(&inputs, out);
        if jobs.is_empty() {
            bail!(
                "{}: holds no image (.nii, .nii.gz, .hdr, .mgz, .mgh); name the folder that does",
                inputs[0].display()
            );
        }
        Ok((jobs, Some(report)))
    }

    /// A head in the short form. Whether it can be written is found out now, not after the work.
    fn short_job(&self, input: &Path, folder: &Path) -> Job {
        let name = input.file_name().unwrap_or_default().to_string_lossy();
        // The voxels of a pair; and files whose name says nothing are known by their content.
        let stem = pairs::stem(&name).or_else(|| name.strip_suffix(".img")).unwrap_or(&name);
        let outputs = Outputs::beside(folder, stem, input);
        let existing = outputs.all().into_iter().find(|path| path.exists());
        let outputs = match existing {
            Some(path) if !self.force => Err(format!(
                "{}: exists already; replace it with --force, or name another folder with -O",
                path.display()
            )),
            _ => Ok(outputs),
        };
        Job { input: input.to_path_buf(), outputs }
    }

    /// The heads of a batch. Those of a folder keep their subfolders in `out`.
    fn batch(&self, inputs: &[&Path], out: &Path) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        for input in inputs {
            if !input.is_dir() {
                jobs.push(self.short_job(input, out));
                continue;
            }
            match pairs::index(input) {
                Ok(index) => jobs.extend(index.table.pairs.iter().map(|pair| {
                    let folder = pair.image.parent().and_then(|p| p.strip_prefix(input).ok());
                    self.short_job(&pair.image, &out.join(folder.unwrap_or(Path::new(""))))
                })),
                Err(e) => jobs.push(Job { input: input.to_path_buf(), outputs: Err(e.to_string()) }),
            }
        }
        // Two heads of one name would overwrite each other.
        let mut taken: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for job in &mut jobs {
            let Ok(Outputs { mask: Some(mask), .. }) = &job.outputs else { continue };
            if let Some(other) = taken.get(mask) {
                job.outputs = Err(format!(
                    "{}: has the same name as {}, so their outputs would collide; strip it into another -O",
                    job.input.display(),
                    other.display()
                ));
            } else {
                taken.insert(mask.clone(), job.input.clone());
            }
        }
        jobs
    }

    fn strip_options(&self) -> StripOptions {
        let named = self.named_outputs();
        StripOptions {
            border_mm: self.border,
            n4: self.model.n4_choice(),
            distance: named.distance.is_some(),
            probability: named.probability.is_some(),
            corrected: named.bias.is_some() || named.corrected.is_some(),
        }
    }

    pub fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if !self.border.is_finite() {
            return Err(usage("--border must be a number of mm"));
        }
        let (jobs, report) = self.jobs()?;
        let model = self.model.load()?;
        if self.no_csf {
            bail!(
                "model {}: does not offer --no-csf; leave it out, or name a model that does",
                model.description.name
            );
        }
        let batch = Batch {
            terminal: session.terminal,
            frames: self.frames.into(),
            options: self.strip_options(),
            fill: self.fill,
            report,
            heads: jobs.len(),
            create_folders: self.named_outputs().all().is_empty(),
        };
        let mut adapter = None;
        let (dtype, tuning) = (self.model.dtype.into(), self.model.tuning);
        let rows = batch.run(jobs, || {
            let gpu = session.gpu()?;
            adapter = Some(gpu.summary.clone());
            Ok(Stripper::tuned(&gpu, &model, dtype, &tuning.load(&gpu))?)
        })?;
        let failed = rows.iter().filter(|row| row.error.is_some()).count();
        if let Some(report) = &batch.report {
            session.terminal.note(&format!(
                "{} heads, {failed} failed; report: {}",
                rows.len(),
                report.display()
            ));
        }
        session.terminal.json(&Summary {
            adapter,
            model: model.description.name,
            report: batch.report,
            heads: rows,
        })?;
        Ok(if failed == 0 { Outcome::Done } else { Outcome::SomeFailed })
    }
}

#[derive(Serialize)]
struct Summary {
    /// Absent when no head could be read.
    adapter: Option<AdapterSummary>,
    model: String,
    report: Option<PathBuf>,
    heads: Vec<Row>,
}

fn check_picture_name(path: &Path) -> anyhow::Result<()> {
    let is_png = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    if is_png {
        Ok(())
    } else {
        Err(usage(format!("{} is not a name for a picture; end it in .png", path.display())))
    }
}

/// A head read, or why not.
struct Loaded {
    job: Job,
    input: Result<Input, String>,
    seconds: f64,
}

/// Arrays to write, of all the volumes one after the other.
#[derive(Default)]
struct Results {
    mask: Vec<u8>,
    probability: Vec<f32>,
    distance: Vec<f32>,
    bias: Vec<f32>,
    corrected: Vec<f32>,
}

/// A head stripped, or a row that says why not.
enum Done {
    Stripped(Box<(Input, Outputs, Results)>, Row),
    Failed(Row),
}

/// Heads on their way: one thread reads ahead, this one strips, one writes.
struct Batch {
    terminal: Terminal,
    frames: FrameChoice,
    options: StripOptions,
    fill: f32,
    report: Option<PathBuf>,
    heads: usize,
    /// Make the outputs' folders; where the user named every file, a missing folder is a mistake.
    create_folders: bool,
}

impl Batch {
    /// Strips all heads; `open` is called when the first one is read, so that a bad file shows before any
    /// work on the device. Fails only when the device or the report does.
    fn run(
        &self,
        jobs: Vec<Job>,
        open: impl FnOnce() -> anyhow::Result<Stripper>,
    ) -> anyhow::Result<Vec<Row>> {
        std::thread::scope(|scope| {
            // One head waits on either side: memory for four at most.
            let (to_strip, loaded) = sync_channel(1);
            let (to_write, done) = sync_channel(1);
            scope.spawn(move || self.read_all(jobs, &to_strip));
            let writer = scope.spawn(move || self.write_all(&done));
            let result = self.strip_all(loaded, &to_write, open);
            drop(to_write);
            let rows = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            result?;
            Ok(rows)
        })
    }

    fn read_all(&self, jobs: Vec<Job>, to_strip: &SyncSender<Loaded>) {
        for job in jobs {
            let begun = Instant::now();
            let input = match &job.outputs {
                Err(error) => Err(error.clone()),
                Ok(_) => Input::read(&job.input, self.frames).map_err(|e| e.to_string()),
            };
            let seconds = begun.elapsed().as_secs_f64();
            // Nobody listens any more when the device failed.
            if to_strip.send(Loaded { job, input, seconds }).is_err() {
                return;
            }
        }
    }

    fn strip_all(
        &self,
        loaded: Receiver<Loaded>,
        to_write: &SyncSender<Done>,
        open: impl FnOnce() -> anyhow::Result<Stripper>,
    ) -> anyhow::Result<()> {
        let mut open = Some(open);
        let mut stripper = None;
        for Loaded { job, input, seconds } in loaded {
            let mut row = Row {
                path: job.input,
                status: "ok",
                brain_ml: None,
                seconds: vec![("read", seconds)],
                warnings: Vec::new(),
                error: None,
                outputs: None,
            };
            let done = match (input, job.outputs) {
                (Err(error), _) | (_, Err(error)) => Done::Failed(row.failed(&error)),
                (Ok(input), Ok(outputs)) => {
                    row.warnings.clone_from(&input.warnings);
                    if let Some(open) = open.take() {
                        let begun = Instant::now();
                        stripper = Some(open()?);
                        row.add_seconds("start", begun.elapsed().as_secs_f64());
                    }
                    let stripper = stripper.as_mut().expect("opened for the first head");
                    match self.strip(stripper, &input, &mut row) {
                        Ok(results) => Done::Stripped(Box::new((input, outputs, results)), row),
                        Err(error) => {
                            let text = text_about(&row.path, &error);
                            Done::Failed(row.failed(&text))
                        }
                    }
                }
            };
            if to_write.send(done).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn strip(&self, stripper: &mut Stripper, input: &Input, row: &mut Row) -> Result<Results, PipelineError> {
        let mut results = Results::default();
        let frames = input.image.frames();
        for frame in 0..frames {
            let stripped = stripper.strip(&input.volume(frame)?, &self.options)?;
            append(&mut results.mask, stripped.mask);
            append(&mut results.probability, stripped.probability.unwrap_or_default());
            append(&mut results.distance, stripped.distance_mm.unwrap_or_default());
            append(&mut results.bias, stripped.bias.unwrap_or_default());
            append(&mut results.corrected, stripped.corrected.unwrap_or_default());
            // Of a series, the first volume stands for all.
            row.brain_ml.get_or_insert(stripped.brain_ml);
            stripped.seconds.into_iter().for_each(|(stage, seconds)| row.add_seconds(stage, seconds));
            let which = if frames > 1 { format!("volume {frame}: ") } else { String::new() };
            row.warnings.extend(stripped.warnings.into_iter().map(|text| format!("{which}{text}")));
        }
        Ok(results)
    }

    fn write_all(&self, done: &Receiver<Done>) -> anyhow::Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        for head in done {
            let row = match head {
                Done::Failed(row) => row,
                Done::Stripped(head, mut row) => {
                    let (input, outputs, results) = *head;
                    let begun = Instant::now();
                    let written = self.write(&input, &outputs, &results);
                    row.add_seconds("write", begun.elapsed().as_secs_f64());
                    match written {
                        Ok(()) => Row { outputs: Some(outputs), ..row },
                        Err(error) => row.failed(&text_about(input.image.path(), &error)),
                    }
                }
            };
            self.announce(&row, rows.len() + 1);
            rows.push(row);
            // After every head, so that a batch that is cut short leaves its report.
            if let Some(report) = &self.report {
                write_whole(report, &report_csv(&rows)?)?;
            }
        }
        Ok(rows)
    }

    fn write(&self, input: &Input, outputs: &Outputs, results: &Results) -> Result<(), PipelineError> {
        if let (true, Some(folder)) = (self.create_folders, outputs.mask.as_deref().and_then(Path::parent)) {
            std::fs::create_dir_all(folder)
                .map_err(|source| PipelineError::Write { file: folder.to_path_buf(), source })?;
        }
        let image = &input.image;
        if let Some(path) = &outputs.brain {
            image::write_stripped(path, image, &results.mask, self.fill)?;
        }
        if let Some(path) = &outputs.mask {
            image::write_mask(path, image, &results.mask)?;
        }
        for (path, data) in [
            (&outputs.distance, &results.distance),
            (&outputs.probability, &results.probability),
            (&outputs.bias, &results.bias),
            (&outputs.corrected, &results.corrected),
        ] {
            if let Some(path) = path {
                image::write_like(path, image, data)?;
            }
        }
        if let Some(path) = &outputs.qc {
            qc::write(path, &input.volume(0)?, &results.mask[..image.voxels()])?;
        }
        Ok(())
    }

    fn announce(&self, row: &Row, number: usize) {
        row.warnings.iter().for_each(|text| self.terminal.warning(&row.path, text));
        if let Some(error) = &row.error {
            self.terminal.error(error);
            return;
        }
        let count = if self.heads > 1 { format!("[{number}/{}] ", self.heads) } else { String::new() };
        let seconds: f64 = row.seconds.iter().map(|(_, s)| s).sum();
        let names: Vec<String> =
            row.outputs.iter().flat_map(Outputs::all).map(|path| path.display().to_string()).collect();
        self.terminal.note(&format!(
            "{count}{}: brain {:.0} mL in {seconds:.1} s; wrote {}",
            row.path.display(),
            row.brain_ml.unwrap_or_default(),
            names.join(", ")
        ));
    }
}

impl Row {
    fn failed(self, error: &str) -> Self {
        Self { status: "failed", brain_ml: None, error: Some(one_line(error)), ..self }
    }

    fn add_seconds(&mut self, stage: &'static str, seconds: f64) {
        match self.seconds.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += seconds,
            None => self.seconds.push((stage, seconds)),
        }
    }
}

/// The report: one column a stage that any head went through.
fn report_csv(rows: &[Row]) -> anyhow::Result<Vec<u8>> {
    let mut stages: Vec<&str> = Vec::new();
    for (stage, _) in rows.iter().flat_map(|row| &row.seconds) {
        // The last stage stays last when a later head adds one.
        if !stages.contains(stage) {
            let at = stages.iter().position(|s| *s == "write").unwrap_or(stages.len());
            stages.insert(at, stage);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header: Vec<String> = ["path", "status", "brain_ml", "seconds"].map(str::to_owned).into();
    header.extend(stages.iter().map(|stage| format!("seconds_{}", stage.replace(' ', "_"))));
    header.extend(["warnings", "error"].map(str::to_owned));
    writer.write_record(&header)?;
    for row in rows {
        let total: f64 = row.seconds.iter().map(|(_, s)| s).sum();
        let mut cells = vec![
            row.path.display().to_string(),
            row.status.to_owned(),
            row.brain_ml.map(|ml| format!("{ml:.3}")).unwrap_or_default(),
            format!("{total:.3}"),
        ];
        cells.extend(stages.iter().map(|stage| {
            let found = row.seconds.iter().find(|(name, _)| name == stage);
            found.map(|(_, seconds)| format!("{seconds:.3}")).unwrap_or_default()
        }));
        cells.push(row.warnings.join("; "));
        cells.push(row.error.clone().unwrap_or_default());
        writer.write_record(&cells)?;
    }
    writer.into_inner().map_err(|e| anyhow!("report: {e}"))
}
