//! `trephine tune`.

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::{ElementType, Outcome, Session, triple, usage};
use crate::model as models;
use crate::pipeline::bench::timing::Budget;
use crate::pipeline::tune::{TuneOptions, cache_file, store, tune};

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
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3)]
    seconds: f64,
}

impl Options {
    pub fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if self.batch == 0 || self.shape.is_some_and(|shape| shape.contains(&0)) {
            return Err(usage("--batch and --shape must be at least 1"));
        }
        if !(self.seconds >= 0.0 && self.seconds.is_finite()) {
            return Err(usage("--seconds must not be negative"));
        }
        let file = cache_file().ok_or_else(|| {
            anyhow!("there is no home folder for the cache; name a folder in TREPHINE_CACHE_DIR")
        })?;
        let model = models::load(self.model.as_deref().unwrap_or("default"))?;
        let gpu = session.gpu()?;
        let options = TuneOptions {
            forward: true,
            dtype: self.dtype.into(),
            train: !self.forward_only,
            shape: self.shape,
            batch: self.batch,
            budget: Budget { seconds: self.seconds, samples: 3 },
        };
        let (mut done, mut failed) = (0, 0);
        let entries = tune(&gpu, &model, &options, &mut |count, entry, failures| {
            done += 1;
            failed += failures.len();
            for failure in failures {
                session.terminal.error(&format!(
                    "{} [{}]: {}; it is not used",
                    failure.operator, failure.variant, failure.reason
                ));
            }
            let mut timings: Vec<_> = entry.timings.iter().collect();
            timings.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
            let text: Vec<String> =
                timings.iter().map(|(name, ms)| format!("{name} {:.3} ms", ms.median)).collect();
            let operator = entry.operator.split([' ', '{']).next().unwrap_or_default();
            session.terminal.note(&format!(
                "[{done}/{count}] {operator} {}: {}",
                entry.shapes,
                text.join(", ")
            ));
        })?;
        store(&file, &entries)?;
        session.terminal.result(&format!("{} operators tuned: {}", entries.len(), file.display()))?;
        session.terminal.json(&json!({
            "adapter": gpu.summary,
            "file": file,
            "entries": entries,
        }))?;
        Ok(if failed == 0 { Outcome::Done } else { Outcome::SomeFailed })
    }
}
