//! `trephine strip`.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use trephine::gpu::AdapterSummary;
use trephine::pipeline::batch::{
    self, Batch, BatchOptions, BatchReport, Earlier, Finished, Job, Keeping, Output, Outputs, Plan,
    REPORT_CSV, REPORT_JSON, Row, Selection,
};
use trephine::pipeline::strip::{StripOptions, Stripper};
use trephine::volume::image::{self, FrameChoice};
use trephine::volume::pairs;

use super::files::{check_distinct, check_folder, check_outputs, read_list};
use super::json::named;
use super::terminal::Terminal;
use super::{FrameOptions, ModelOptions, Outcome, Session, names_of, usage};

/// Extract the brain from heads
///
/// Short form: `trephine strip head.nii.gz` writes head_brain.nii.gz, head_mask.nii.gz and head_qc.png beside
/// the input, or in -O DIR (.mgz from .mgz). Existing files are kept unless --force is given.
///
/// Long form: with any of -o -m -d -p -q --bias --corrected, those files are written, and no others. Existing
/// ones are replaced.
///
/// Batch: several files, a folder, or a list of files, with -O OUT. A head that fails does not stop the rest.
/// OUT/report.csv and OUT/report.json hold a row a head. Heads of one name keep their folders below OUT, or their
/// extensions. Ctrl-C finishes the heads that are begun, a second one stops at once; the same command with --resume
/// goes on.
///
/// Of a folder, derivatives are left out: by their names, and those of a BIDS data set by their folder.
///
/// DICOM: a folder that holds one series (and no NIfTI or MGH file) is one head, and a file stands for the series that it
/// belongs to, with the files beside it. Of a folder with several series, they are listed.
///
/// Outputs lie on the input's grid with its header; the brain is bit-equal to the input inside the mask. Their
/// names say what they are: NIfTI (.nii, .nii.gz) or FreeSurfer's MGH (.mgz, .mgh), which knows no scaling and
/// stores scaled voxels as float32.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine strip head.nii.gz\n  trephine strip -i head.nii.gz -o brain.nii.gz -m mask.nii.gz -q check.png\n  trephine strip -i dicom/ -o brain.nii.gz -m mask.nii.gz\n  trephine strip heads/ -O stripped --include '*_T1w.nii.gz' --resume\n  find . -name '*_T1w.nii.gz' | trephine strip --files-from - -O stripped --save mask"
)]
pub(super) struct Options {
    /// Heads: NIfTI or MGH files, DICOM series, or folders to look through
    #[arg(
        value_name = "FILE|DIR",
        required_unless_present_any = ["input", "files_from"],
        conflicts_with = "input"
    )]
    inputs: Vec<PathBuf>,
    /// One head: a file, or the folder of a DICOM series
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Folder for the outputs; created if needed [default, for one head: beside the input]
    #[arg(short = 'O', long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// Replace existing files in the short form and in batches
    #[arg(long)]
    force: bool,
    /// What to write in the short form and in batches, separated by commas [default: brain,mask,picture]
    #[arg(
        long,
        value_name = "WHAT,...",
        value_delimiter = ',',
        conflicts_with_all = ["brain", "mask", "distance", "probability", "qc", "bias", "corrected"]
    )]
    save: Vec<Save>,

    /// Heads from a list, one path a line; - is standard input
    ///
    /// Paths may be separated by zero bytes instead (find -print0). May be given beside files and folders.
    #[arg(long, value_name = "LIST", conflicts_with = "input", help_heading = "Batches")]
    files_from: Option<PathBuf>,
    /// Take only heads that match; may be given several times
    ///
    /// A pattern without / is matched against the file's name, one with / against the path below the folder:
    /// '*_T1w.nii.gz', 'sub-*/anat/*', '**/ses-1/**'. * and ? do not match /, ** does; {a,b} and [ab] are alternatives.
    #[arg(long, value_name = "GLOB", help_heading = "Batches")]
    include: Vec<String>,
    /// Leave out heads that match; stronger than --include
    #[arg(long, value_name = "GLOB", help_heading = "Batches")]
    exclude: Vec<String>,
    /// Go on with the batch in -O: heads that it has finished are left as they are
    ///
    /// A head is finished if OUT/report.json has a file of the same bytes, stripped by the same version, model and
    /// options, and its outputs are still there; names do not matter. All others are stripped (again), and their outputs
    /// replaced. Without a report, the batch starts at its beginning.
    #[arg(long, conflicts_with = "force", help_heading = "Batches")]
    resume: bool,

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
    /// Value outside the brain in -o [default: 0]
    ///
    /// One that the voxels of the input cannot store is refused.
    #[arg(short, long, value_name = "VALUE", allow_negative_numbers = true)]
    fill: Option<f32>,
    /// Leave the free text of the input's header out of the outputs
    ///
    /// Descriptions, names of files, extensions: they may name a person. What says where voxels lie stays. Names of files, and
    /// the report, are as the input's.
    #[arg(long)]
    anonymise: bool,
    /// Leave out the CSF around the brain (for models that offer it)
    #[arg(long)]
    no_csf: bool,
    #[command(flatten)]
    frames: FrameOptions,
    /// Strip the mean of all volumes of a 4D input and lay its mask on each of them
    ///
    /// The mask is 3D, as are distance and probability; the brain is 4D.
    #[arg(long, conflicts_with_all = ["volume", "all", "bias", "corrected"])]
    mean: bool,
    #[command(flatten)]
    model: ModelOptions,
}

/// What `--save` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Save {
    Brain,
    Mask,
    Distance,
    Probability,
    #[value(alias = "qc")]
    Picture,
    Bias,
    Corrected,
}

impl From<Save> for Output {
    fn from(save: Save) -> Self {
        match save {
            Save::Brain => Self::Brain,
            Save::Mask => Self::Mask,
            Save::Distance => Self::Distance,
            Save::Probability => Self::Probability,
            Save::Picture => Self::Picture,
            Save::Bias => Self::Bias,
            Save::Corrected => Self::Corrected,
        }
    }
}

/// What is to be done.
struct Task {
    jobs: Vec<Job>,
    /// The folder of a batch, and what earlier runs have finished there.
    batch: Option<(PathBuf, Earlier)>,
}

impl Task {
    fn one(job: Job) -> Self {
        Self { jobs: vec![job], batch: None }
    }
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

    /// What is written in the short form and in batches.
    fn wanted(&self) -> Vec<Output> {
        match &self.save[..] {
            [] => Output::USUAL.to_vec(),
            save => save.iter().map(|&save| save.into()).collect(),
        }
    }

    /// Whether a folder is one head: it holds DICOM, and no image beside it unless it was named as one head.
    fn takes_series(&self, folder: &Path) -> bool {
        let holds_images = || pairs::index(folder).is_ok_and(|index| !index.table.pairs.is_empty());
        (self.input.is_some() || !holds_images()) && image::is_dicom(folder)
    }

    fn task(&self, session: &Session) -> anyhow::Result<Task> {
        let listed = self.files_from.as_deref().map(read_list).transpose()?.unwrap_or_default();
        let inputs: Vec<&Path> =
            self.input.iter().chain(&self.inputs).chain(&listed).map(PathBuf::as_path).collect();
        if inputs.contains(&Path::new("-")) {
            return Err(usage("- names no head; a list of files on standard input goes to --files-from -"));
        }
        let of_batches =
            self.files_from.is_some() || self.resume || !self.include.is_empty() || !self.exclude.is_empty();
        let single = match inputs[..] {
            [one] if !of_batches && (!one.is_dir() || self.takes_series(one)) => Some(one),
            _ => None,
        };
        let named = self.named_outputs();
        if !named.all().is_empty() {
            let Some(input) = single else {
                return Err(usage(
                    "-o, -m and the like name the files of one head; for several use -O DIR, and --save to choose",
                ));
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
            return Ok(Task::one(Job { input: input.to_path_buf(), outputs: Ok(named) }));
        }
        let wanted = self.wanted();
        if let Some(input) = single {
            let beside = input.parent().unwrap_or(Path::new(""));
            let folder = self.out_dir.as_deref().unwrap_or(beside);
            let job = Job::new(input, folder, &wanted, self.force);
            return match job.outputs {
                Ok(_) => Ok(Task::one(job)),
                Err(error) => bail!(error),
            };
        }
        let Some(out) = self.out_dir.as_deref() else {
            return Err(usage("several heads or a folder need -O DIR for the outputs and their report"));
        };
        let existing =
            [REPORT_CSV, REPORT_JSON].map(|name| out.join(name)).into_iter().find(|path| path.exists());
        if let (Some(report), false) = (existing, self.force || self.resume) {
            bail!(
                "{}: exists already; go on with it with --resume, replace it with --force, or name another folder \
                 with -O",
                report.display()
            );
        }
        let earlier = if self.resume { batch::read_report(out)? } else { None };
        // What a batch left unfinished is its own to replace.
        let force = self.force || earlier.is_some();
        let selection = Selection::new(&self.include, &self.exclude).map_err(usage)?;
        let Batch { jobs, remarks } = Batch::of(&inputs, &Plan { out, wanted: &wanted, force, selection });
        if let [Job { outputs: Err(error), .. }] = &jobs[..] {
            bail!(error.clone());
        }
        remarks.iter().for_each(|remark| session.terminal.note(remark));
        if self.resume && earlier.is_none() {
            session.terminal.note(&format!(
                "{}: holds no {REPORT_JSON} to go on from; the batch starts at its beginning",
                out.display()
            ));
        }
        std::fs::create_dir_all(out)
            .map_err(|e| anyhow!("{}: the folder cannot be created: {e}; choose another", out.display()))?;
        Ok(Task { jobs, batch: Some((out.to_path_buf(), Earlier::new(earlier.unwrap_or_default()))) })
    }

    fn strip_options(&self) -> StripOptions {
        let named = self.named_outputs();
        let saves = |output: Output, path: &Option<PathBuf>| {
            path.is_some() || self.save.iter().any(|&save| Output::from(save) == output)
        };
        StripOptions {
            border_mm: self.border,
            n4: self.model.n4_choice(),
            tta: self.model.tta,
            distance: saves(Output::Distance, &named.distance),
            probability: saves(Output::Probability, &named.probability),
            corrected: saves(Output::Bias, &named.bias) || saves(Output::Corrected, &named.corrected),
        }
    }

    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if !self.border.is_finite() {
            return Err(usage("--border must be a number of mm"));
        }
        let strip = self.strip_options();
        if strip.corrected && self.model.no_n4 {
            return Err(usage("--save bias and --save corrected need a bias correction; leave out --no-n4"));
        }
        if strip.corrected && self.mean {
            return Err(usage(
                "--mean has one bias field for all volumes; leave out --save bias and --save corrected",
            ));
        }
        let Task { jobs, batch } = self.task(session)?;
        let mut models = self.model.load(session)?;
        if self.no_csf {
            for model in &mut models {
                let Some(without) = model.answering(true) else {
                    bail!(
                        "model {}: does not offer --no-csf; leave it out, or name a model that does",
                        model.description.name
                    );
                };
                *model = without;
            }
        }
        let heads = jobs.len();
        let options = BatchOptions {
            frames: if self.mean { FrameChoice::All } else { self.frames.into() },
            mean: self.mean,
            strip,
            fill: self.fill,
            anonymise: self.anonymise,
            create_folders: self.named_outputs().all().is_empty(),
            model: names_of(&models),
            stop: session.interrupt.stop_of_batch(heads),
        };
        let mut adapter = None;
        let open = async |ceiling| -> anyhow::Result<Stripper> {
            let (stripper, device) = self.model.stripper(session, &models, ceiling).await?;
            adapter = Some(device);
            Ok(stripper)
        };
        let report = batch.as_ref().map(|(out, _)| out.join(REPORT_CSV));
        let keeping = batch.map(|(out, earlier)| {
            let inputs = jobs.iter().map(|job| job.input.clone()).collect();
            let keeper = Box::new(BatchReport::new(&out, inputs, &earlier));
            Keeping {
                made: session.provenance(batch::settings(&options, self.model.dtype.into())),
                earlier,
                keeper,
            }
        });
        let done = heads_done(session.terminal, heads);
        let finished = batch::run(jobs, &options, keeping, open, done).await;
        session.terminal.clear_bar();
        let Finished { rows, left } = finished?;
        let outcome = outcome(&rows, &left);
        if let Some(report) = &report {
            session.terminal.note(&format!("{}; report: {}", summary(&rows), report.display()));
        }
        say_left(session.terminal, &rows, &left, "the same command with --resume goes on");
        session.terminal.json(&Summary {
            adapter,
            report: report.as_deref().map(named),
            heads: rows,
            left: left.iter().map(|path| named(path)).collect(),
        })?;
        Ok(outcome)
    }
}

/// How a batch ended, for the exit code.
pub(super) fn outcome(rows: &[Row], left: &[PathBuf]) -> Outcome {
    match rows.iter().any(|row| row.error.is_some()) {
        _ if !left.is_empty() => Outcome::Interrupted,
        true => Outcome::SomeFailed,
        false => Outcome::Done,
    }
}

/// Tells of heads as they are done: on a terminal by a bar below warnings and errors, elsewhere by a line each.
pub(super) fn heads_done(terminal: Terminal, heads: usize) -> impl FnMut(&Row) + Send + 'static {
    if heads > 1 {
        terminal.show_bar(heads, "{bar:30} {pos}/{len} heads, {eta} left{msg}");
    }
    let (mut number, mut failed) = (0, 0);
    move |row: &Row| {
        number += 1;
        failed += usize::from(row.error.is_some());
        announce(terminal, row, number, heads);
        let message = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        terminal.step_bar(row.kept, message);
    }
}

/// `5 heads, 1 failed, 2 finished before`.
pub(super) fn summary(rows: &[Row]) -> String {
    let failed = rows.iter().filter(|row| row.error.is_some()).count();
    let kept = rows.iter().filter(|row| row.kept).count();
    let kept = if kept > 0 { format!(", {kept} finished before") } else { String::new() };
    format!("{} heads, {failed} failed{kept}", rows.len())
}

/// Tells what an interrupted batch has left.
pub(super) fn say_left(terminal: Terminal, rows: &[Row], left: &[PathBuf], remedy: &str) {
    if let Some(next) = left.first() {
        terminal.error(&format!(
            "interrupted: {} of {} heads are done, {} are left, the next is {}; {remedy}",
            rows.len(),
            rows.len() + left.len(),
            left.len(),
            next.display()
        ));
    }
}

#[derive(Serialize)]
struct Summary {
    /// Absent when no head could be read.
    adapter: Option<AdapterSummary>,
    report: Option<String>,
    heads: Vec<Row>,
    /// Not begun when the batch was interrupted.
    left: Vec<String>,
}

fn check_picture_name(path: &Path) -> anyhow::Result<()> {
    let is_png = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    if is_png {
        Ok(())
    } else {
        Err(usage(format!("{} is not a name for a picture; end it in .png", path.display())))
    }
}

/// What is said of a head that is done, the `number`th of `heads`.
fn announce(terminal: Terminal, row: &Row, number: usize, heads: usize) {
    // Those of a head that was finished before have been told.
    if !row.kept {
        row.warnings.iter().for_each(|text| terminal.warning(&row.path, text));
    }
    if let Some(error) = &row.error {
        terminal.error(error);
    }
    let Some(outputs) = &row.outputs else { return };
    if heads > 1 && terminal.shows_progress() {
        return;
    }
    let count = if heads > 1 { format!("[{number}/{heads}] ") } else { String::new() };
    if row.kept {
        terminal.note(&format!("{count}{}: finished before", row.path.display()));
        return;
    }
    let seconds = row.total_seconds();
    let names: Vec<String> = outputs.all().into_iter().map(|path| path.display().to_string()).collect();
    terminal.note(&format!(
        "{count}{}: brain {:.0} mL in {seconds:.1} s; wrote {}",
        row.path.display(),
        row.brain_ml.unwrap_or_default(),
        names.join(", ")
    ));
}
