//! `trephine bids`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use trephine::gpu::AdapterSummary;
use trephine::pipeline::batch::{self, BatchOptions, Finished, Keeping, REPORT_CSV, REPORT_JSON, Row};
use trephine::pipeline::bids::{self, Query, Records};
use trephine::pipeline::report::page;
use trephine::pipeline::strip::{StripOptions, Stripper};
use trephine::volume::image::FrameChoice;

use super::json::named;
use super::report::{REPORT_HTML, write_page};
use super::strip::{heads_done, outcome, say_left, summary};
use super::{ModelOptions, Outcome, Session, names_of, usage};

/// Strip the anatomical scans of a BIDS data set into a data set of derivatives
///
/// A BIDS App: the level `participant` strips, the level `group` merges what is known of all scans into OUT/report.csv,
/// report.json and report.html. Participants may be done by any number of processes at the same time.
///
/// For each scan, OUT/sub-*/[ses-*/]anat gets *_desc-brain_mask.nii.gz (of another contrast than T1w:
/// *_desc-brainT2w_mask.nii.gz), *_desc-brain_T1w.nii.gz, and sidecars that say how they were made; OUT/sub-*/figures
/// gets a picture. Scans that are finished already are left as they are: those whose file, model and options are the
/// same, and whose outputs are still there.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine bids ds000001 ds000001/derivatives/trephine participant --participant-label 01 02\n  trephine bids ds000001 ds000001/derivatives/trephine group"
)]
pub(super) struct Options {
    /// The data set
    #[arg(value_name = "BIDS_DIR")]
    data_set: PathBuf,
    /// Folder for the derivatives; created if needed
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// What to do
    #[arg(value_name = "LEVEL")]
    level: Level,

    /// Participants, with or without sub- [default: all]
    #[arg(long, alias = "participant_label", value_name = "LABEL", num_args = 1.., value_delimiter = ',')]
    participant_label: Vec<String>,
    /// Sessions, with or without ses- [default: all]
    #[arg(long, alias = "session_label", value_name = "LABEL", num_args = 1.., value_delimiter = ',')]
    session_label: Vec<String>,
    /// Suffixes of the scans to strip
    #[arg(long, value_name = "SUFFIX", num_args = 1.., value_delimiter = ',', default_value = "T1w")]
    suffix: Vec<String>,
    /// Strip scans that are finished already again, and replace what is there
    #[arg(long)]
    force: bool,
    /// Move the mask's border outward by MM; inward when negative
    #[arg(short, long, value_name = "MM", default_value_t = 0.0, allow_negative_numbers = true)]
    border: f64,
    /// Leave the free text of the scans' headers out of the outputs
    #[arg(long)]
    anonymise: bool,
    #[command(flatten)]
    model: ModelOptions,
}

/// Levels of analysis, in the words of BIDS Apps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Strip scans
    Participant,
    /// Make one report of all scans
    Group,
}

#[derive(Serialize)]
struct Summary {
    /// Absent when nothing had to be stripped.
    adapter: Option<AdapterSummary>,
    heads: Vec<Row>,
    /// Not begun when the run was interrupted.
    left: Vec<String>,
}

#[derive(Serialize)]
struct Merged {
    reports: Vec<String>,
    heads: Vec<Row>,
    /// Scans of which nothing is known.
    missing: Vec<String>,
}

impl Options {
    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if !self.border.is_finite() {
            return Err(usage("--border must be a number of mm"));
        }
        let query = Query {
            participants: self.participant_label.clone(),
            sessions: self.session_label.clone(),
            suffixes: self.suffix.clone(),
        };
        let found = bids::find(&self.data_set, &query)?;
        found.remarks.iter().for_each(|remark| session.terminal.note(remark));
        match self.level {
            Level::Participant => self.participant(session, &found.scans).await,
            Level::Group => self.group(session, &found.scans),
        }
    }

    async fn participant(&self, session: &Session, scans: &[bids::Scan]) -> anyhow::Result<Outcome> {
        let models = self.model.load(session)?;
        bids::prepare(&self.data_set, &self.out)?;
        let (jobs, earlier) = bids::jobs(scans, &self.out, self.force)?;
        let options = BatchOptions {
            frames: FrameChoice::Only,
            mean: false,
            strip: StripOptions {
                border_mm: self.border,
                n4: self.model.n4_choice(),
                tta: self.model.tta,
                ..StripOptions::default()
            },
            fill: None,
            anonymise: self.anonymise,
            create_folders: true,
            model: names_of(&models),
            stop: session.interrupt.stop_of_batch(jobs.len()),
        };
        let mut adapter = None;
        let open = async |ceiling| -> anyhow::Result<Stripper> {
            let (stripper, device) = self.model.stripper(session, &models, ceiling).await?;
            adapter = Some(device);
            Ok(stripper)
        };
        let keeping = Keeping {
            made: session.provenance(batch::settings(&options, self.model.dtype.into())),
            earlier,
            keeper: Box::new(Records::new(scans, &self.out)),
        };
        let done = heads_done(session.terminal, jobs.len());
        let finished = batch::run(jobs, &options, Some(keeping), open, done).await;
        session.terminal.clear_bar();
        let Finished { rows, left } = finished?;
        session.terminal.note(&format!("{}; derivatives: {}", summary(&rows), self.out.display()));
        say_left(session.terminal, &rows, &left, "the same command goes on");
        let outcome = outcome(&rows, &left);
        let left = left.iter().map(|path| named(path)).collect();
        session.terminal.json(&Summary { adapter, heads: rows, left })?;
        Ok(outcome)
    }

    fn group(&self, session: &Session, scans: &[bids::Scan]) -> anyhow::Result<Outcome> {
        let bids::Merged { rows, missing } = bids::merge(scans, &self.out)?;
        for path in &missing {
            session.terminal.warning(path, &"has no record; run the level participant for it");
        }
        let title = self.data_set.canonicalize().unwrap_or_else(|_| self.data_set.clone());
        let title = title.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let html = self.out.join(REPORT_HTML);
        write_page(session.terminal, &page::Subject { title, folder: &self.out, rows: &rows }, &html)?;
        let reports: Vec<String> =
            [REPORT_CSV, REPORT_JSON, REPORT_HTML].map(|name| named(&self.out.join(name))).into();
        session.terminal.note(&format!("{}; {}", summary(&rows), reports.join(", ")));
        session.terminal.json(&Merged {
            reports,
            heads: rows,
            missing: missing.iter().map(|path| named(path)).collect(),
        })?;
        Ok(Outcome::Done)
    }
}
