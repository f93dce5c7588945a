//! `trephine train`.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::model::CardFile;
use super::terminal::{Terminal, one_line};
use super::{Outcome, Session, TuningOptions};
use crate::model::{self as models, LossKind, ModelCard};
use crate::pipeline::train::config::{NetworkConfig, TrainConfig};
use crate::pipeline::train::log::EpochRow;
use crate::pipeline::train::run::{Progress, TrainRun};
use crate::volume::pairs::{Pair, PairTable};
use crate::volume::{companion, image};

/// Train a network on heads with masks
///
/// The settings come from --preset, then --config (a TOML file that may set a few of them only), then the
/// options below. The folder of the run holds config.toml, log.csv, training.svg, best.safetensors (for
/// `strip --model`), last.safetensors, and the checkpoint that --resume goes on from, exactly.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine index heads -o pairs.tsv\n  trephine train --data pairs.tsv --out run\n  trephine train --data pairs.tsv --out run --resume\n  trephine strip head.nii.gz --model run/best.safetensors"
)]
pub(super) struct Options {
    /// Table of pairs to train on (see `trephine index`)
    #[arg(long, value_name = "TSV")]
    data: PathBuf,
    /// Table of pairs to validate on [default: a fraction of --data]
    #[arg(long, value_name = "TSV")]
    validation: Option<PathBuf>,
    /// Folder of the run
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Settings; what the file leaves out comes from the preset
    #[arg(long, value_name = "TOML")]
    config: Option<PathBuf>,
    /// Settings to start from [default: default]
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// Go on from the run's checkpoint, with its settings
    #[arg(long, conflicts_with_all = ["init", "preset", "force"])]
    resume: bool,
    /// Start over in a folder that holds a checkpoint already
    #[arg(long)]
    force: bool,
    /// Start from the weights of this model (a file or a built-in name)
    #[arg(long, value_name = "FILE|NAME")]
    init: Option<String>,
    /// Take entries of the model card from this TOML file: data, licence, attribution, figures
    #[arg(long, value_name = "TOML")]
    card: Option<PathBuf>,
    /// Number of epochs
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Steps an epoch; 0: once through the heads
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Samples a step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// The loss
    #[arg(long, value_name = "NAME")]
    loss: Option<Loss>,
    /// Highest learning rate
    #[arg(long, value_name = "VALUE")]
    learning_rate: Option<f64>,
    /// Seed of weights, order, augmentation and dropout
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    tuning: TuningOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// The set-up behind the built-in model `default`
    Default,
    /// The article's: Adam, batch 4, 60 epochs of 16 steps, focal loss
    Article,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Loss {
    /// Soft Dice plus binary cross-entropy
    DiceBce,
    /// Soft Dice
    Dice,
    /// Binary cross-entropy
    Bce,
    /// Focal loss, gamma 2, alpha 0.25
    Focal,
}

impl From<Loss> for LossKind {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::DiceBce => Self::DiceBce,
            Loss::Dice => Self::Dice,
            Loss::Bce => Self::Bce,
            Loss::Focal => Self::Focal,
        }
    }
}

impl Options {
    fn configuration(&self) -> anyhow::Result<TrainConfig> {
        let base = match self.preset {
            None | Some(Preset::Default) => TrainConfig::default_preset(),
            Some(Preset::Article) => TrainConfig::article_preset(),
        };
        let saved = self.out.join("config.toml");
        let mut config = match &self.config {
            Some(path) => read_config(path, base)?,
            None if self.resume => read_config(&saved, base)?,
            None => base,
        };
        let Self { epochs, steps, batch, loss, learning_rate, seed, .. } = *self;
        config.epochs = epochs.unwrap_or(config.epochs);
        config.steps_per_epoch = steps.unwrap_or(config.steps_per_epoch);
        config.batch = batch.unwrap_or(config.batch);
        config.loss = loss.map_or(config.loss, LossKind::from);
        config.learning_rate = learning_rate.unwrap_or(config.learning_rate);
        config.seed = seed.unwrap_or(config.seed);
        Ok(config)
    }

    fn card(&self) -> anyhow::Result<ModelCard> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let mut card = ModelCard {
            command: format!("trephine {}", arguments.join(" ")),
            data: self.data.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ..ModelCard::default()
        };
        if let Some(path) = &self.card {
            CardFile::read(path)?.apply(&mut card);
        }
        Ok(card)
    }

    pub fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        let config = self.configuration()?;
        let card = self.card()?;
        if !self.resume && !self.force && self.out.join("checkpoint.safetensors").exists() {
            bail!(
                "{}: holds the checkpoint of an earlier run; go on with --resume, start over with --force, \
                 or name another folder",
                self.out.display()
            );
        }
        let training = read_pairs(&self.data)?;
        let validation = self.validation.as_deref().map(read_pairs).transpose()?.unwrap_or_default();
        let init = self.init.as_deref().map(models::load).transpose()?;
        let gpu = session.gpu()?;
        let mut display = Display::new(session.terminal);
        let run = TrainRun {
            gpu: &gpu,
            tuning: self.tuning.load(&gpu),
            config,
            training,
            validation,
            folder: self.out.clone(),
            resume: self.resume,
            init,
            card,
        };
        let model = run.run(&mut |progress| display.show(progress));
        display.finish();
        let model = model?;
        let best = self.out.join("best.safetensors");
        session.terminal.note(&format!("best weights: {}", best.display()));
        session.terminal.json(&json!({
            "adapter": gpu.summary,
            "run": self.out,
            "best": best,
            "parameters": model.parameter_counts().0,
            "epochs": display.rows,
        }))?;
        Ok(Outcome::Done)
    }
}

/// A configuration file laid over `base`; a network of another kind over that of the preset that has it.
fn read_config(path: &Path, mut base: TrainConfig) -> anyhow::Result<TrainConfig> {
    let fail = |reason: &str| anyhow!("{}: {}", path.display(), one_line(reason));
    let text =
        std::fs::read_to_string(path).map_err(|e| fail(&format!("cannot be read: {e}; check the path")))?;
    let over: toml::Table =
        text.parse().map_err(|e: toml::de::Error| fail(&format!("is not valid TOML: {e}")))?;
    match over.get("network").and_then(|network| network.get("kind")).and_then(toml::Value::as_str) {
        Some("article") if !matches!(base.network, NetworkConfig::Article { .. }) => {
            base.network = TrainConfig::article_preset().network;
        }
        Some("residual-unet") if !matches!(base.network, NetworkConfig::ResidualUnet { .. }) => {
            base.network = TrainConfig::default_preset().network;
        }
        _ => {}
    }
    let mut value = toml::Value::try_from(base)?;
    overlay(&mut value, toml::Value::Table(over));
    value
        .try_into()
        .map_err(|e: toml::de::Error| fail(&format!("is not a training configuration: {}", e.message())))
}

/// Puts the entries of `over` in place of those of `base`, table by table.
fn overlay(base: &mut toml::Value, over: toml::Value) {
    match (base, over) {
        (toml::Value::Table(base), toml::Value::Table(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(old) => overlay(old, value),
                    None => drop(base.insert(key, value)),
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// The pairs of a table that have a mask; all their headers are looked at now rather than an hour into the
/// first epoch.
fn read_pairs(path: &Path) -> anyhow::Result<Vec<Pair>> {
    let mut table = PairTable::read(path)?;
    table.pairs.retain(|pair| pair.mask.is_some());
    if table.pairs.is_empty() {
        bail!("{}: names no image with a mask; training needs masks", path.display());
    }
    for pair in &table.pairs {
        let Some(mask) = &pair.mask else { continue };
        companion::check_mask(mask, &image::read_info(&pair.image)?)?;
    }
    Ok(table.pairs)
}

/// A bar with the time left, or a line an epoch where stderr is not a terminal.
struct Display {
    terminal: Terminal,
    bar: Option<ProgressBar>,
    epochs: usize,
    rows: Vec<EpochRow>,
}

impl Display {
    fn new(terminal: Terminal) -> Self {
        Self { terminal, bar: None, epochs: 0, rows: Vec::new() }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.terminal.note(text)),
            None => self.terminal.note(text),
        }
    }

    fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Start { training, validation, steps_per_epoch, first_epoch, epochs, gpu_bytes } => {
                self.epochs = epochs;
                self.line(&format!(
                    "{training} heads to train on, {validation} to validate on; epochs {} to {epochs} of \
                     {steps_per_epoch} steps; {:.1} GiB of GPU memory",
                    first_epoch + 1,
                    gpu_bytes as f64 / (1u64 << 30) as f64
                ));
                if self.terminal.shows_progress() {
                    let steps = (epochs.saturating_sub(first_epoch) * steps_per_epoch) as u64;
                    let style = ProgressStyle::with_template(
                        "{bar:30} step {pos}/{len}, {per_sec}, {eta} left, loss {msg}",
                    );
                    let bar = ProgressBar::new(steps);
                    self.bar = Some(bar.with_style(style.expect("the template is valid")));
                }
            }
            Progress::Step { loss } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("{loss:.4}"));
                    bar.inc(1);
                }
            }
            Progress::Epoch(row) => {
                let skipped =
                    if row.skipped > 0 { format!(", {} steps skipped", row.skipped) } else { String::new() };
                self.line(&format!(
                    "epoch {}/{}: loss {:.4}, Dice {:.4}; validation loss {:.4}, Dice {:.4}, IoU {:.4}; {:.0} s{skipped}",
                    row.epoch,
                    self.epochs,
                    row.loss,
                    row.dice,
                    row.validation_loss,
                    row.validation_dice,
                    row.validation_iou,
                    row.seconds
                ));
                self.rows.push(row);
            }
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_configuration_is_laid_over_the_preset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_config(&path, TrainConfig::default_preset())
        };
        let config = read("epochs = 3\n[network]\nkind = \"residual-unet\"\nwidths = [4, 8]\n").unwrap();
        let mut want = TrainConfig::default_preset();
        want.epochs = 3;
        let NetworkConfig::ResidualUnet { widths, .. } = &mut want.network else {
            panic!("the default preset is a residual U-Net")
        };
        *widths = vec![4, 8];
        assert_eq!(config, want);
        let article = read("[network]\nkind = \"article\"\nfilters = 4\n").unwrap();
        let NetworkConfig::Article { filters: 4, voxel_mm: 2.0, .. } = article.network else {
            panic!("{:?}", article.network)
        };
        for bad in ["epochs = \"three\"", "epoch = 3", "= 3"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.starts_with(path.to_str().unwrap()) && !error.contains('\n'), "{error}");
        }
    }
}
