//! `trephine train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use trephine::model::{self as models, LossKind, Model, ModelCard, WeightFile};
use trephine::pipeline::PipelineError;
use trephine::pipeline::synth::{LabelMap, list};
use trephine::pipeline::train::checkpoint::Checkpoint;
use trephine::pipeline::train::config::{NetworkConfig, TrainConfig};
use trephine::pipeline::train::data::{LabelledHead, Row, check_rows};
use trephine::pipeline::train::log::EpochRow;
use trephine::pipeline::train::run::{Progress, Start, TrainRun};
use trephine::volume::pairs::{PairTable, Weight};

use super::json::named;
use super::model::CardFile;
use super::terminal::{Terminal, one_line};
use super::{Outcome, Session, TuningOptions, usage};

/// Train a network on heads with masks
///
/// The settings come from --preset, then --config (a TOML file that may set a few of them only), then the
/// options below. Every row of the tables is read and judged before the first step. The folder of the run holds
/// config.toml, heads.tsv (which heads trained and which validated), log.csv, training.svg, best.safetensors (for
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
    /// Label maps to make a share of the heads from: a table with the columns image and family, or a folder with labels.toml
    ///
    /// The settings' table [synthesis] says how, [default: half of the samples]; see `trephine synth`.
    #[arg(long, value_name = "TSV|DIR")]
    labels: Option<PathBuf>,
    /// Folder of the run
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Settings; what the file leaves out comes from the preset
    #[arg(long, value_name = "TOML")]
    config: Option<PathBuf>,
    /// Settings to start from [default: default]
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// Go on from the run's checkpoint, with its settings and on the same heads
    ///
    /// Only the number of epochs, the learning rate and the memory for heads may change; a run of which all epochs are
    /// done goes on when --epochs names more.
    #[arg(long, conflicts_with_all = ["init", "preset", "force"])]
    resume: bool,
    /// Start over in a folder that holds a checkpoint already
    #[arg(long)]
    force: bool,
    /// Start from this model: a file, or the name of one that is built in or in your folder, published ones included
    ///
    /// The network, its grid and its intensities are the model's own, and the settings those of a short run at a low rate,
    /// unless --preset or a table [network] names a network; that must be the same then. A network with `fold` may begin with
    /// one without that is the same otherwise, on voxels so many times as large.
    #[arg(long, value_name = "FILE|NAME")]
    init: Option<String>,
    /// Name of the model [default: the name in --config, or that of the run's folder]
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    name: Option<String>,
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
    /// Stop in time, to go on with --resume: begin no epoch that would not end within so many minutes
    ///
    /// Counted from the start of the command and judged by the longest epoch since; one epoch is done in any case.
    #[arg(long, value_name = "MINUTES")]
    stop_after: Option<f64>,
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
    /// Signed distances in mm to the brain's border, for networks that answer with them; a new network then does
    Distance,
    /// Soft Dice plus signed distances
    DiceDistance,
}

impl From<Loss> for LossKind {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::DiceBce => Self::DiceBce,
            Loss::Dice => Self::Dice,
            Loss::Bce => Self::Bce,
            Loss::Focal => Self::Focal,
            Loss::Distance => Self::Distance,
            Loss::DiceDistance => Self::DiceDistance,
        }
    }
}

impl Options {
    /// The configuration of a run that begins, with a model or without.
    fn configuration(&self, parent: Option<&Model>) -> anyhow::Result<TrainConfig> {
        let over = self.config.as_deref().map(read_table).transpose()?;
        let kind = over.as_ref().and_then(kind_of_network);
        let mut base = match (self.preset, parent) {
            (Some(Preset::Article), _) => TrainConfig::article_preset(),
            (None, Some(model)) if matches!(kind.as_deref(), None | Some("model")) => {
                TrainConfig::fine_tuning(&model.description)
            }
            _ => TrainConfig::default_preset(),
        };
        if kind.as_deref() == Some("model") {
            let name = parent.map_or("model", |model| &model.description.name).to_owned();
            base.network = NetworkConfig::Model { name };
        }
        let mut config = self.changed(base)?;
        let of_parent = matches!((&config.network, parent), (NetworkConfig::Model { name }, Some(model))
            if *name == model.description.name);
        if let Some(name) = &self.name {
            config.network.set_name(name);
        } else if of_parent || models::builtin_names().contains(&config.network.name()) {
            config.network.set_name(&folder_name(&self.out));
        }
        config.check().map_err(usage)?;
        let network = config.description(parent.map(|model| &model.description)).map_err(usage)?;
        config.check_for(&network).map_err(usage)?;
        Ok(config)
    }

    /// What --config and the options say, laid over `base`.
    fn changed(&self, base: TrainConfig) -> anyhow::Result<TrainConfig> {
        let mut config = match &self.config {
            Some(path) => {
                let config = read_config(path, base)?;
                config.check().map_err(|faults| anyhow!("{}: {faults}", path.display()))?;
                config
            }
            None => base,
        };
        let Self { epochs, steps, batch, loss, learning_rate, seed, .. } = *self;
        config.epochs = epochs.unwrap_or(config.epochs);
        config.steps_per_epoch = steps.unwrap_or(config.steps_per_epoch);
        config.batch = batch.unwrap_or(config.batch);
        config.loss = loss.map_or(config.loss, LossKind::from);
        config.learning_rate = learning_rate.unwrap_or(config.learning_rate);
        config.seed = seed.unwrap_or(config.seed);
        if self.labels.is_some() {
            config.synthesis.get_or_insert_default();
        }
        config.check().map_err(usage)?;
        Ok(config)
    }

    /// The card of a run that begins, with the credits of the model that it begins with.
    fn card(&self, parent: Option<&(Model, String)>) -> anyhow::Result<ModelCard> {
        let mut card = ModelCard { command: command_line(), data: self.data_names(), ..ModelCard::default() };
        if let Some(path) = &self.card {
            CardFile::read(path)?.apply(&mut card);
        }
        if let Some((parent, sha256)) = parent {
            card.descend_from(parent, sha256);
        }
        Ok(card)
    }

    /// The names of the tables that are trained on, without their folders.
    fn data_names(&self) -> String {
        let names = [Some(&self.data), self.labels.as_ref()].into_iter().flatten();
        let names: Vec<String> =
            names.map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
        names.join(", ")
    }

    /// The configuration and the card with which a run goes on, announced where they change.
    fn goes_on(
        &self,
        checkpoint: &Checkpoint,
        terminal: &Terminal,
    ) -> anyhow::Result<(TrainConfig, ModelCard)> {
        let before = &checkpoint.config;
        let config = self.changed(before.clone())?;
        let file = Checkpoint::path_in(&self.out);
        before.goes_on_as(&config).map_err(|reason| anyhow!("{}: {reason}", file.display()))?;
        let mut card = checkpoint.card.clone();
        let changes = before.differences(&config);
        for (key, [then, now]) in &changes {
            terminal.note(&format!("{key}: {now} from here on, {then} until now"));
        }
        if before.epochs != config.epochs && config.cosine {
            terminal.note("the learning rate falls to its end by the new last epoch, from here on");
        }
        if !changes.is_empty() {
            card.command = format!("{}\n{}", card.command, command_line());
        }
        if let Some(path) = &self.card {
            CardFile::read(path)?.apply(&mut card);
        }
        Ok((config, card))
    }

    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        let terminal = session.terminal;
        let stop_at = self.stop_after.map(stop_at).transpose()?;
        let (config, card, start) = if self.resume {
            let checkpoint = Checkpoint::read(&self.out)?;
            let (config, card) = self.goes_on(&checkpoint, &terminal)?;
            (config, card, Start::Resume(Box::new(checkpoint)))
        } else {
            let parent = self.init.as_deref().map(parent).transpose()?;
            let config = self.configuration(parent.as_ref().map(|(model, _)| model))?;
            if !self.force && Checkpoint::path_in(&self.out).exists() {
                bail!(
                    "{}: holds the checkpoint of an earlier run; go on with --resume, start over with --force, \
                     or name another folder",
                    self.out.display()
                );
            }
            let card = self.card(parent.as_ref())?;
            (config, card, parent.map_or(Start::Fresh, |(model, _)| Start::From(Box::new(model))))
        };
        let mut display = Display::new(terminal, &self.data);
        let [training, validation] = self.heads(&mut display)?;
        let maps = self.maps(&config, &mut display)?;
        let gpu = session.gpu().await?;
        let run = TrainRun {
            gpu: &gpu,
            tuning: self.tuning.load(&gpu),
            config,
            training,
            validation,
            maps,
            folder: self.out.clone(),
            start,
            card,
            stop_at,
        };
        let model = run.run(&mut |progress| display.show(progress)).await;
        display.finish();
        let model = model?;
        let best = self.out.join("best.safetensors");
        terminal.note(&format!("best weights: {}", best.display()));
        if let Ok(file) = WeightFile::open(&best.to_string_lossy()) {
            terminal.envelope().model = Some([model.description.name.clone(), file.sha256()]);
        }
        terminal.json(&json!({
            "adapter": gpu.summary,
            "run": named(&self.out),
            "best": named(&best),
            "name": model.description.name,
            "parameters": model.parameter_counts().0,
            "card": model.card,
            "epochs": display.rows,
        }))?;
        Ok(Outcome::Done)
    }

    /// The label maps, all of them read before the first step.
    fn maps(&self, config: &TrainConfig, display: &mut Display) -> anyhow::Result<Vec<Arc<LabelMap>>> {
        let (Some(path), Some(synthesis)) = (&self.labels, &config.synthesis) else { return Ok(Vec::new()) };
        let listed = list::list(path)?;
        display.reads(listed.len());
        let maps = list::read(&listed, synthesis.store_mm, &|| display.has_read());
        display.finish();
        let maps = maps?;
        display.line(&format!(
            "label maps: {}; {:.0}% of the samples are made of them",
            maps.len(),
            100.0 * synthesis.share
        ));
        Ok(maps)
    }

    /// The rows of the tables to train and to validate on, all of them read and judged before the first step: an hour
    /// into the first epoch is too late.
    fn heads(&self, display: &mut Display) -> anyhow::Result<[Vec<LabelledHead>; 2]> {
        let mut tables = vec![(&self.data, read_rows(&self.data, display)?)];
        if let Some(path) = &self.validation {
            tables.push((path, read_rows(path, display)?));
        }
        let rows = tables.iter().map(|(_, rows)| rows.len()).sum();
        display.reads(rows);
        let mut found = [Vec::new(), Vec::new()];
        let mut bad = Vec::new();
        for (into, (table, rows)) in found.iter_mut().zip(tables) {
            match check_rows(rows, &|| display.has_read()) {
                Ok(rows) => {
                    rows.remarks.iter().for_each(|remark| display.warn(table, remark));
                    *into = rows.heads;
                }
                Err(PipelineError::Rows { faults, total }) => bad.push((table, faults, total)),
                Err(error) => return Err(error.into()),
            }
        }
        display.finish();
        let faults: Vec<&PipelineError> = bad.iter().flat_map(|(_, faults, _)| faults).collect();
        match faults[..] {
            [] => Ok(found),
            [only] => bail!("{only}"),
            _ => {
                faults.iter().for_each(|fault| display.terminal.error(&fault.to_string()));
                let counts = bad.iter().map(|(table, faults, total)| {
                    format!("{}: {} of {total} rows cannot be trained on", table.display(), faults.len())
                });
                bail!("{}; mend the files or take the rows out", counts.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// A model to begin with, and the SHA-256 of its file.
fn parent(name_or_file: &str) -> anyhow::Result<(Model, String)> {
    let file = WeightFile::open(name_or_file)?;
    Ok((file.model()?, file.sha256()))
}

/// The end of so many minutes from now.
fn stop_at(minutes: f64) -> anyhow::Result<Instant> {
    let end =
        Duration::try_from_secs_f64(60.0 * minutes).ok().and_then(|time| Instant::now().checked_add(time));
    end.ok_or_else(|| usage(format!("--stop-after is {minutes}, must be a number of minutes, 0 or more")))
}

fn command_line() -> String {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    format!("trephine {}", arguments.join(" "))
}

/// The name of a run's folder as that of a model.
fn folder_name(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let name: String =
        name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    if name.is_empty() { "model".to_owned() } else { name }
}

/// What a configuration file says.
fn read_table(path: &Path) -> anyhow::Result<toml::Table> {
    let fail = |reason: &str| anyhow!("{}: {}", path.display(), one_line(reason));
    let text =
        std::fs::read_to_string(path).map_err(|e| fail(&format!("cannot be read: {e}; check the path")))?;
    text.parse().map_err(|e: toml::de::Error| fail(&format!("is not valid TOML: {e}")))
}

/// The kind of the network that a configuration file describes; empty where it leaves that to the preset, `None` where it
/// says nothing of it but a name.
fn kind_of_network(over: &toml::Table) -> Option<String> {
    let network = over.get("network")?.as_table()?;
    let kind = network.get("kind").and_then(toml::Value::as_str);
    (!network.keys().all(|key| key == "name")).then(|| kind.unwrap_or_default().to_owned())
}

/// A configuration file laid over `base`; a network of another kind over that of the preset that has it.
fn read_config(path: &Path, mut base: TrainConfig) -> anyhow::Result<TrainConfig> {
    let fail = |reason: &str| anyhow!("{}: {}", path.display(), one_line(reason));
    let over = read_table(path)?;
    match kind_of_network(&over).as_deref() {
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

/// The rows of a table that have a mask.
fn read_rows(path: &Path, display: &Display) -> anyhow::Result<Vec<Row>> {
    let table = PairTable::read(path)?;
    let weights = table.weights(path)?;
    let all = table.pairs.len();
    let rows: Vec<Row> = (table.pairs.into_iter().zip(weights))
        .filter(|(pair, _)| pair.mask.is_some())
        .map(|(pair, weight)| Row { pair, weight })
        .collect();
    match rows.len() {
        0 => bail!("{}: names no image with a mask; training needs masks", path.display()),
        kept if kept < all => {
            display.warn(path, &format!("{} of {all} rows name no mask and are left out", all - kept));
        }
        _ => {}
    }
    if rows.iter().any(|row| row.weight != Weight::default()) {
        let factors = || rows.iter().map(|row| row.weight.factor);
        display.line(&format!(
            "{}: heads count {} to {} times (column weight), {} of {} by voxel (column weight_image)",
            path.display(),
            factors().fold(f32::INFINITY, f32::min),
            factors().fold(0.0, f32::max),
            rows.iter().filter(|row| row.weight.image.is_some()).count(),
            rows.len()
        ));
    }
    Ok(rows)
}

/// A bar with the time left, or a line an epoch where stderr is not a terminal.
struct Display {
    terminal: Terminal,
    bar: Option<ProgressBar>,
    epochs: usize,
    rows: Vec<EpochRow>,
    /// The table to train on.
    data: PathBuf,
}

impl Display {
    fn new(terminal: Terminal, data: &Path) -> Self {
        Self { terminal, bar: None, epochs: 0, rows: Vec::new(), data: data.to_path_buf() }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.terminal.note(text)),
            None => self.terminal.note(text),
        }
    }

    /// Something odd about a table or a head of it.
    fn warn(&self, table: &Path, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.terminal.warning(table, &text)),
            None => self.terminal.warning(table, &text),
        }
    }

    /// So many heads are about to be read.
    fn reads(&mut self, heads: usize) {
        if self.terminal.shows_progress() {
            let style = ProgressStyle::with_template("{bar:30} looking at head {pos}/{len}, {eta} left");
            self.bar = Some(ProgressBar::new(heads as u64).with_style(style.expect("the template is valid")));
        }
    }

    fn has_read(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
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
            Progress::Stopped { epochs } => {
                self.line(&format!(
                    "stopped after epoch {epochs} of {}: the next one would not end in time; go on with --resume",
                    self.epochs
                ));
            }
            Progress::Finished { epochs } => {
                self.line(&format!(
                    "all {epochs} epochs are done: nothing to do; --epochs with a larger number goes on"
                ));
            }
            Progress::Note(text) => self.line(&text),
            Progress::Warning(text) => self.warn(&self.data, &text),
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
