//! `trephine strip`.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::Args;
use serde::Serialize;
use trephine::gpu::AdapterSummary;
use trephine::pipeline::batch::{self, Batch, BatchOptions, Finished, Job, Outputs, Row};
use trephine::pipeline::strip::{StripOptions, Stripper};

use super::files::{check_distinct, check_folder, check_outputs};
use super::json::named;
use super::terminal::Terminal;
use super::{FrameOptions, ModelOptions, Outcome, Session, usage};

/// Extract the brain from heads
///
/// Short form: `trephine strip head.nii.gz` writes head_brain.nii.gz, head_mask.nii.gz and head_qc.png beside
/// the input, or in -O DIR (.mgz from .mgz). Existing files are kept unless --force is given.
///
/// Long form: with any of -o -m -d -p -q --bias --corrected, those files are written, and no others. Existing
/// ones are replaced.
///
/// Batch: several files, or a folder, with -O OUT. A head that fails does not stop the rest. OUT/report.csv
/// holds a row a head. Heads of one name keep their folders below OUT, or their extensions. Ctrl-C finishes the
/// heads that are begun.
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
    /// Value outside the brain in -o [default: 0]
    ///
    /// One that the voxels of the input cannot store is refused.
    #[arg(short, long, value_name = "VALUE", allow_negative_numbers = true)]
    fill: Option<f32>,
    /// Leave out the CSF around the brain (for models that offer it)
    #[arg(long)]
    no_csf: bool,
    #[command(flatten)]
    frames: FrameOptions,
    #[command(flatten)]
    model: ModelOptions,
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
    fn jobs(&self, session: &Session) -> anyhow::Result<(Vec<Job>, Option<PathBuf>)> {
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
            let job = Job::new(input, folder, self.force);
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
        let Batch { jobs, remarks } = Batch::of(&inputs, out, self.force);
        if let [Job { outputs: Err(error), .. }] = &jobs[..] {
            bail!(error.clone());
        }
        remarks.iter().for_each(|remark| session.terminal.note(remark));
        std::fs::create_dir_all(out)
            .map_err(|e| anyhow!("{}: the folder cannot be created: {e}; choose another", out.display()))?;
        Ok((jobs, Some(report)))
    }

    fn strip_options(&self) -> StripOptions {
        let named = self.named_outputs();
        StripOptions {
            border_mm: self.border,
            n4: self.model.n4_choice(),
            tta: self.model.tta,
            distance: named.distance.is_some(),
            probability: named.probability.is_some(),
            corrected: named.bias.is_some() || named.corrected.is_some(),
        }
    }

    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if !self.border.is_finite() {
            return Err(usage("--border must be a number of mm"));
        }
        let (jobs, report) = self.jobs(session)?;
        let model = self.model.load(session)?;
        if self.no_csf {
            bail!(
                "model {}: does not offer --no-csf; leave it out, or name a model that does",
                model.description.name
            );
        }
        let heads = jobs.len();
        let options = BatchOptions {
            frames: self.frames.into(),
            strip: self.strip_options(),
            fill: self.fill,
            create_folders: self.named_outputs().all().is_empty(),
            report: report.clone().map(|file| (file, session.provenance())),
            stop: session.interrupt.stop_of_batch(heads),
        };
        let mut adapter = None;
        let (dtype, tuning) = (self.model.dtype.into(), self.model.tuning);
        let open = async || -> anyhow::Result<Stripper> {
            let gpu = session.gpu().await?;
            adapter = Some(gpu.summary.clone());
            Ok(Stripper::tuned(&gpu, &model, dtype, &tuning.load(&gpu)).await?)
        };
        let (terminal, mut number) = (session.terminal, 0);
        let done = move |row: &Row| {
            number += 1;
            announce(terminal, row, number, heads);
        };
        let Finished { rows, left } = batch::run(jobs, &options, open, done).await?;
        let failed = rows.iter().filter(|row| row.error.is_some()).count();
        if let Some(report) = &report {
            session.terminal.note(&format!(
                "{} heads, {failed} failed; report: {}",
                rows.len(),
                report.display()
            ));
        }
        if let Some(next) = left.first() {
            session.terminal.error(&format!(
                "interrupted: {} of {heads} heads are done, {} are left, the next is {}",
                rows.len(),
                left.len(),
                next.display()
            ));
        }
        session.terminal.json(&Summary {
            adapter,
            report: report.as_deref().map(named),
            heads: rows,
            left: left.iter().map(|path| named(path)).collect(),
        })?;
        Ok(match failed {
            _ if !left.is_empty() => Outcome::Interrupted,
            0 => Outcome::Done,
            _ => Outcome::SomeFailed,
        })
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
    row.warnings.iter().for_each(|text| terminal.warning(&row.path, text));
    if let Some(error) = &row.error {
        terminal.error(error);
    }
    let Some(outputs) = &row.outputs else { return };
    let count = if heads > 1 { format!("[{number}/{heads}] ") } else { String::new() };
    let seconds: f64 = row.seconds.iter().map(|(_, s)| s).sum();
    let names: Vec<String> = outputs.all().into_iter().map(|path| path.display().to_string()).collect();
    terminal.note(&format!(
        "{count}{}: brain {:.0} mL in {seconds:.1} s; wrote {}",
        row.path.display(),
        row.brain_ml.unwrap_or_default(),
        names.join(", ")
    ));
}
