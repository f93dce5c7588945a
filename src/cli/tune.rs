//! `trephine tune`.

use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use trephine::lab::timing::Budget;
use trephine::lab::tune::{Gain, Progress, TuneOptions, tune};
use trephine::lab::{Failure, LIMIT_S, Watchdog};
use trephine::pipeline::tuning_cache::{self, TuneEntry};

use super::bench::{check_limit, end_beside_a_stuck_device, number};
use super::json::named;
use super::terminal::Terminal;
use super::{ElementType, Outcome, Session, triple, usage};

/// Find the fastest kernels for this adapter
///
/// Times the kernel variants of a model's operators, for inference and for training, and keeps all timings in the
/// user's cache folder (or in $TREPHINE_CACHE_DIR). `strip`, `evaluate` and `train` then run the fastest ones, until
/// the adapter, its driver or the kernels change. They work well without, and with --no-tune as if it was not there.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine tune\n  trephine tune --model article --forward-only\n  TREPHINE_CACHE_DIR=cache trephine tune"
)]
pub(super) struct Options {
    /// A built-in model by name, or a .safetensors file [default: default]
    #[arg(long, value_name = "NAME|FILE")]
    model: Option<String>,
    /// Tune inference only
    #[arg(long)]
    forward_only: bool,
    /// Element type of inference's activations
    #[arg(long, value_name = "TYPE", value_enum, default_value_t)]
    dtype: ElementType,
    /// Grid of the network, D,H,W [default: the model's own]
    #[arg(long, value_name = "D,H,W", value_parser = triple::<usize>)]
    shape: Option<[usize; 3]>,
    /// Samples a training step
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Seconds for each variant
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = 0.3)]
    seconds: f64,
    /// Give up on a run of a variant after this long [default: 600]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    limit: Option<f64>,
}

impl Options {
    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if self.batch == 0 || self.shape.is_some_and(|shape| shape.contains(&0)) {
            return Err(usage("--batch and --shape must be at least 1"));
        }
        if !(self.seconds >= 0.0 && self.seconds.is_finite()) {
            return Err(usage("--seconds must not be negative"));
        }
        let limit_s = check_limit(self.limit)?.unwrap_or(LIMIT_S);
        let file = tuning_cache::cache_file().ok_or_else(|| {
            anyhow!("there is no home folder for the cache; name a folder in TREPHINE_CACHE_DIR")
        })?;
        // Measuring takes minutes: a file that cannot be written shall be known before.
        tuning_cache::store(&file, &[])?;
        let model = session.load_model(self.model.as_deref().unwrap_or("default"))?;
        let gpu = session.gpu().await?;
        let options = TuneOptions {
            forward: true,
            dtype: self.dtype.into(),
            train: !self.forward_only,
            shape: self.shape,
            batch: self.batch,
            budget: Budget { seconds: self.seconds, samples: 3 },
            limit_s,
        };
        let before = tuning_cache::load(&gpu.summary);
        // What was measured until a device does not come back counts.
        let so_far: Arc<Mutex<Vec<TuneEntry>>> = Arc::default();
        let (kept, terminal, cache) = (Arc::clone(&so_far), session.terminal, file.clone());
        let watchdog = Watchdog::new(&gpu, limit_s, move |failure| {
            terminal.report(&rejected(&failure));
            let entries = kept.lock().map(|mut entries| std::mem::take(&mut *entries)).unwrap_or_default();
            match tuning_cache::store(&cache, &entries) {
                Ok(()) => terminal.note(&format!("{} operators tuned until then are kept", entries.len())),
                Err(error) => terminal.error(&error.to_string()),
            }
            // The program ends in any case.
            let _ =
                terminal.json(&json!({ "file": named(&cache), "entries": entries, "failures": [failure] }));
            end_beside_a_stuck_device(terminal);
        });
        let mut display = Display { terminal: &session.terminal, bar: None, place: String::new() };
        let tuned = tune(&gpu, &model, &options, &before, &watchdog, &mut |progress| {
            if let Progress::Timed(entry, _) = &progress {
                so_far.lock().expect("no panic while held").push((*entry).clone());
            }
            display.show(&progress);
        })
        .await?;
        if let Some(bar) = display.bar {
            bar.finish_and_clear();
        }
        tuning_cache::store(&file, &tuned.entries)?;
        let [before_ms, after_ms] = Gain::total_ms(&tuned.gains);
        let ratio = before_ms / after_ms;
        let mut text = format!("{} operators tuned: {}", tuned.entries.len(), file.display());
        if !tuned.gains.is_empty() {
            let runs =
                if self.forward_only { "a forward pass" } else { "a forward pass and a training step" };
            text += &format!(
                "\n  in {runs} they took {} ms before and take {} ms now: {ratio:.2} times as fast",
                number(before_ms),
                number(after_ms)
            );
        }
        session.terminal.result(&text)?;
        session.terminal.json(&json!({
            "adapter": gpu.summary,
            "file": named(&file),
            "entries": tuned.entries,
            "gains": tuned.gains,
            "total": { "before_ms": before_ms, "after_ms": after_ms, "ratio": ratio },
            "failures": tuned.failures,
        }))?;
        Ok(if tuned.failures.is_empty() { Outcome::Done } else { Outcome::SomeFailed })
    }
}

/// Shows how far tuning is: a bar on a terminal, and a line for each operator that is done.
struct Display<'a> {
    terminal: &'a Terminal,
    bar: Option<ProgressBar>,
    /// Which of how many operators.
    place: String,
}

impl Display<'_> {
    fn show(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::Begin { number, of, operator, variants } => {
                self.place = format!("[{number}/{of}]");
                if self.bar.is_none() && self.terminal.shows_progress() {
                    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} left, {msg}");
                    let bar = ProgressBar::new(*of as u64);
                    self.bar = Some(bar.with_style(style.expect("the template is valid")));
                }
                if let Some(bar) = &self.bar {
                    bar.set_position(*number as u64 - 1);
                    bar.set_message(format!("{operator}: {}", variants.join(", ")));
                }
            }
            Progress::Rejected(failure) => self.print(|terminal| terminal.report(&rejected(failure))),
            Progress::Timed(entry, gain) => {
                let text =
                    format!("{} {} {}: {}", self.place, gain.operator, gain.shapes, gained(entry, gain));
                self.print(|terminal| terminal.note(&text));
            }
        }
    }

    /// Prints above the bar.
    fn print(&self, print: impl FnOnce(&Terminal)) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print(self.terminal)),
            None => print(self.terminal),
        }
    }
}

/// Why a variant is not used.
fn rejected(failure: &Failure) -> String {
    let Failure { operator, variant, reason, .. } = failure;
    format!("{operator} [{variant}] is not used: {reason}")
}

/// What ran before, what runs now, and what is slower.
fn gained(entry: &TuneEntry, gain: &Gain) -> String {
    let Gain { before, before_ms, after, after_ms, ratio, .. } = gain;
    let now = format!("{after} {} ms", number(*after_ms));
    let mut text = match before {
        Some(before) if before == after => format!("{now}, the fastest as before"),
        Some(before) => {
            format!("{before} {} ms before, {now} now, {ratio:.2} times as fast", number(*before_ms))
        }
        None => format!("{now} now"),
    };
    let mut slower: Vec<_> = entry.timings.iter().filter(|(name, _)| *name != after).collect();
    slower.retain(|(name, _)| Some(*name) != before.as_ref());
    slower.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
    if !slower.is_empty() {
        let slower: Vec<String> =
            slower.iter().map(|(name, ms)| format!("{name} {} ms", number(ms.median))).collect();
        text += &format!("; slower: {}", slower.join(", "));
    }
    text
}
