//! What decides a run: its network, its schedule, its augmentation.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::augment::Augmentation;
use crate::model::{
    AnswerKind, AxisCodes, Centre, Description, GridSpec, Intensity, LayerKind, LossKind, OptimiserSpec,
    Readout, Sampling, add_no_csf, article, residual_unet,
};
use crate::pipeline::synth::Synthesis;

/// Everything that decides what a run does; written to `config.toml` in its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Which network.
    pub network: NetworkConfig,
    /// Samples a step.
    pub batch: usize,
    /// Extents of the random window of the network's grid that a sample is; absent: the whole grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<[usize; 3]>,
    /// Number of epochs.
    pub epochs: usize,
    /// Steps an epoch; 0: once through the training heads.
    pub steps_per_epoch: usize,
    /// Fraction of the heads kept for validation when no table of their own is given.
    pub validation_fraction: f64,
    /// Seed of weights, order, augmentation and dropout.
    pub seed: u64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Falls along a half cosine to a hundredth by the last step instead of staying.
    pub cosine: bool,
    /// The loss.
    pub loss: LossKind,
    /// Memory for heads kept between epochs, in MiB.
    pub cache_mib: usize,
    /// Keeps the checkpoint in a quarter of its size: 4 bytes a parameter instead of 16. The run goes on from the rounded
    /// numbers at the end of every epoch, whether it is stopped there or not.
    #[serde(default)]
    pub compact_checkpoint: bool,
    /// Adam's attributes.
    pub optimiser: OptimiserSpec,
    /// Strengths of the augmentation.
    pub augmentation: Augmentation,
    /// Heads made from label maps; absent: all are real.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthesis: Option<Synthesis>,
}

/// Which network to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkConfig {
    /// The article's network on its 2 mm grid.
    Article {
        /// Channels of the finest level.
        filters: usize,
        /// Probability of dropout.
        dropout: f32,
        /// Voxel size in mm; the extents of the grid shrink as it grows.
        voxel_mm: f64,
        /// Weight of a batch's statistics in the running ones (Keras: 0.01). More when steps are few.
        momentum: f32,
        /// Name of the model.
        #[serde(default = "article_name")]
        name: String,
    },
    /// A residual U-Net on a grid centred on the head.
    ResidualUnet {
        /// Name of the model.
        name: String,
        /// Channels of each level, finest first.
        widths: Vec<usize>,
        /// Extents of the grid along x, y, z.
        shape: [usize; 3],
        /// Voxel size in mm.
        voxel_mm: f64,
        /// Extent of the blocks of voxels that the network reads and writes as channels: its finest level has voxels so many
        /// times as large. 1: it has the grid's own.
        #[serde(default = "unfolded")]
        fold: usize,
        /// Whether it also says what is brain without the CSF round it, which it learns from label maps alone.
        #[serde(default)]
        no_csf: bool,
    },
    /// That of the model to begin with, with all that the model says of its input and its answer.
    Model {
        /// Name of the model that training makes.
        name: String,
    },
}

/// How often the article's network halves its grid.
const ARTICLE_HALVINGS: usize = 4;

fn unfolded() -> usize {
    1
}

fn article_name() -> String {
    "article".to_owned()
}

/// Extents of the article's grid, 96 x 128 x 160 voxels of 2 mm, with voxels of another size.
fn article_shape(voxel_mm: f64) -> [usize; 3] {
    [192.0, 256.0, 320.0].map(|mm| (mm / voxel_mm).round() as usize)
}

impl NetworkConfig {
    /// Name of the model that training makes.
    pub fn name(&self) -> &str {
        match self {
            Self::Article { name, .. } | Self::ResidualUnet { name, .. } | Self::Model { name } => name,
        }
    }

    /// Gives the model another name.
    pub fn set_name(&mut self, to: &str) {
        match self {
            Self::Article { name, .. } | Self::ResidualUnet { name, .. } | Self::Model { name } => {
                to.clone_into(name);
            }
        }
    }

    /// The network's description; `parent` is that of the model to begin with.
    fn description(&self, parent: Option<&Description>) -> Result<Description, String> {
        Ok(match self {
            Self::Model { name } => {
                let parent = parent.ok_or(
                    "[network] has the kind \"model\", the network of a model to begin with; name that with --init",
                )?;
                Description { name: name.clone(), folds: 1, ..parent.clone() }
            }
            Self::Article { filters, dropout, voxel_mm, momentum: running, name } => {
                let mut description = article(*filters, ARTICLE_HALVINGS, *dropout);
                description.name.clone_from(name);
                for layer in &mut description.layers {
                    if let LayerKind::BatchNorm { momentum, .. } = &mut layer.kind {
                        *momentum = *running;
                    }
                }
                description.input.shape = article_shape(*voxel_mm);
                description.input.voxel_mm = [*voxel_mm; 3];
                description
            }
            Self::ResidualUnet { name, widths, shape, voxel_mm, fold, no_csf } => {
                let grid = GridSpec {
                    shape: *shape,
                    voxel_mm: [*voxel_mm; 3],
                    centre: Centre::Head { above_mm: 16.0 },
                    sampling: Sampling::Area,
                    intensity: Intensity::Percentile { low: 1.0, high: 99.5 },
                    n4: None,
                    patches: None,
                    mirror: true,
                    mirror_axes: [false; 3],
                    axes: AxisCodes::RAS,
                    readout: Readout::Linear,
                };
                let mut description = residual_unet(name, widths, *fold, grid);
                if *no_csf {
                    add_no_csf(&mut description);
                }
                description
            }
        })
    }
}

impl TrainConfig {
    /// The network's description; `parent` is that of the model to begin with. What that says of brain without CSF is left out
    /// where no label maps teach it, since it would go astray as what it reads changes. Any other network answers as the loss
    /// asks for: with logits, or with distances to the brain's border.
    ///
    /// # Errors
    /// The network of a model where there is none to begin with.
    ///
    /// # Panics
    /// For a configuration in which [`TrainConfig::check`] finds a fault.
    pub fn description(&self, parent: Option<&Description>) -> Result<Description, String> {
        let mut description = self.network.description(parent)?;
        let is_model = matches!(self.network, NetworkConfig::Model { .. });
        if self.loss.asks_for_distances() && !is_model {
            description.answer = AnswerKind::DistanceMm { border_mm: 0.0 };
        }
        let from_maps = self.synthesis.as_ref().is_some_and(|synthesis| synthesis.share > 0.0);
        if is_model && !from_maps {
            return Ok(description.answering(false).expect("every network says what is brain"));
        }
        Ok(description)
    }

    /// What a run does that is told nothing else: the network of the built-in `default`, which `--init default` begins with,
    /// and a short run with real heads alone. weights/default.toml is what made `default`.
    pub fn default_preset() -> Self {
        Self {
            network: NetworkConfig::ResidualUnet {
                name: "default".into(),
                widths: vec![16, 32, 64, 128],
                shape: [96, 112, 112],
                voxel_mm: 2.0,
                fold: 2,
                no_csf: false,
            },
            batch: 1,
            crop: None,
            epochs: 22,
            steps_per_epoch: 100,
            validation_fraction: 0.03,
            seed: 1,
            learning_rate: 1.2e-3,
            warmup_steps: 50,
            cosine: true,
            loss: LossKind::DiceBce,
            cache_mib: 4096,
            compact_checkpoint: false,
            optimiser: OptimiserSpec {
                weight_decay: 1e-2,
                keras: false,
                clip_norm: 1.0,
                ema_decay: 0.99,
                layers: BTreeMap::new(),
            },
            augmentation: Augmentation::default(),
            synthesis: None,
        }
    }

    /// What a run does that begins with a model and is told nothing else: a short one at a low rate, with the model's own
    /// network.
    pub fn fine_tuning(model: &Description) -> Self {
        Self {
            network: NetworkConfig::Model { name: model.name.clone() },
            // Grids fitted to volumes have as many voxels at least.
            crop: model.input.is_padded().then_some(model.input.shape),
            epochs: 10,
            steps_per_epoch: 0,
            validation_fraction: 0.2,
            learning_rate: 1e-4,
            warmup_steps: 10,
            loss: LossKind::of(model.answer),
            optimiser: OptimiserSpec { clip_norm: 1.0, ema_decay: 0.9, ..OptimiserSpec::default() },
            augmentation: Augmentation::gentle(),
            ..Self::default_preset()
        }
    }

    /// The article's set-up: Adam at 1e-1 in its code, batch 4, 60 epochs of 16 steps, focal loss in its code.
    pub fn article_preset() -> Self {
        Self {
            network: NetworkConfig::Article {
                filters: 16,
                dropout: 0.05,
                voxel_mm: 2.0,
                momentum: 0.01,
                name: article_name(),
            },
            batch: 4,
            crop: None,
            epochs: 60,
            steps_per_epoch: 16,
            validation_fraction: 0.2,
            seed: 1,
            learning_rate: 1e-1,
            warmup_steps: 0,
            cosine: false,
            loss: LossKind::Focal,
            cache_mib: 4096,
            compact_checkpoint: false,
            optimiser: OptimiserSpec {
                weight_decay: 0.0,
                keras: true,
                clip_norm: 0.0,
                ema_decay: 0.0,
                layers: BTreeMap::new(),
            },
            augmentation: Augmentation::none(),
            synthesis: None,
        }
    }

    /// Learning rate of step `step` (from 1) of `total`.
    pub fn learning_rate_at(&self, step: u64, total: u64) -> f64 {
        let warmup = if self.warmup_steps == 0 { 1.0 } else { step as f64 / self.warmup_steps as f64 };
        let progress = step.saturating_sub(self.warmup_steps) as f64
            / total.saturating_sub(self.warmup_steps).max(1) as f64;
        let decay = if self.cosine {
            0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
        } else {
            1.0
        };
        self.learning_rate * warmup.min(1.0) * decay
    }
}

/// Keys that a resumed run may change: how long it goes on, how fast, and what it keeps in memory and on disk.
const CHANGEABLE: [&str; 4] = ["epochs", "learning_rate", "cache_mib", "compact_checkpoint"];

impl TrainConfig {
    /// The keys whose values differ, each with the values of `self` and `other` in words.
    pub fn differences(&self, other: &Self) -> Vec<(String, [String; 2])> {
        let [ours, theirs] = [self, other].map(|config| {
            let mut entries = BTreeMap::new();
            let table = toml::Value::try_from(config).expect("a configuration is a table of plain values");
            flatten("", &table, &mut entries);
            entries
        });
        let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let value =
            |of: &BTreeMap<String, String>, key: &String| of.get(key).cloned().unwrap_or("absent".into());
        keys.into_iter()
            .map(|key| (key.clone(), [value(&ours, key), value(&theirs, key)]))
            .filter(|(_, [a, b])| a != b)
            .collect()
    }

    /// Whether a run that began with this configuration can go on with another one.
    ///
    /// # Errors
    /// What may not change, in words.
    pub fn goes_on_as(&self, other: &Self) -> Result<(), String> {
        let differences = self.differences(other).into_iter();
        let refused: Vec<String> = differences
            .filter(|(key, _)| !CHANGEABLE.contains(&key.as_str()))
            .map(|(key, [ours, theirs])| format!("{key} is {ours} in the checkpoint and {theirs} now"))
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}; a resumed run may change {} only, for others start anew in another folder",
            refused.join(", "),
            CHANGEABLE.join(", ")
        ))
    }
}

/// The plain values below `value`, by dotted keys.
fn flatten(key: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, into);
            }
        }
        plain => drop(into.insert(key.to_owned(), plain.to_string())),
    }
}

/// Collects what is wrong with values, by the names of their keys.
struct Faults(Vec<String>);

impl Faults {
    fn within(&mut self, key: &str, value: impl Into<f64>, low: f64, high: f64) {
        let value = value.into();
        if !(low..=high).contains(&value) {
            self.0.push(format!("{key} is {value}, must be {low} to {high}"));
        }
    }

    fn count(&mut self, key: &str, value: usize, low: usize, high: usize) {
        if !(low..=high).contains(&value) {
            self.0.push(format!("{key} is {value}, must be {low} to {high}"));
        }
    }
}

/// Voxel sizes that a network may have, in mm: from microscopy of small animals to grids coarser than a brain.
const VOXEL_MM: [f64; 2] = [0.01, 50.0];
/// Largest block of voxels along an axis that a network reads as channels: 64 channels.
const MOST_FOLD: usize = 4;
/// Most levels of a network.
const MOST_LEVELS: usize = 8;
/// Most voxels of a grid along an axis, and most channels of a level.
const MOST_EXTENT: usize = 2048;

impl TrainConfig {
    /// Looks for values that make no network or no training. The message names every faulty key with its value and
    /// what it may be, as a configuration file spells it.
    ///
    /// # Errors
    /// The message, when there is a fault.
    pub fn check(&self) -> Result<(), String> {
        let mut faults = Faults(Vec::new());
        faults.count("batch", self.batch, 1, 1024);
        faults.count("epochs", self.epochs, 1, 1_000_000);
        faults.count("steps_per_epoch", self.steps_per_epoch, 0, 1_000_000);
        if !(0.0..1.0).contains(&self.validation_fraction) {
            faults.0.push(format!(
                "validation_fraction is {}, must be at least 0 and below 1",
                self.validation_fraction
            ));
        }
        // TOML's whole numbers are signed.
        if i64::try_from(self.seed).is_err() {
            faults.0.push(format!("seed is {}, must be at most {}", self.seed, i64::MAX));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 10.0) {
            faults.0.push(format!("learning_rate is {}, must be above 0 and at most 10", self.learning_rate));
        }
        faults.count("cache_mib", self.cache_mib, 0, 1 << 24);
        let OptimiserSpec { weight_decay, keras: _, clip_norm, ema_decay, layers } = &self.optimiser;
        faults.within("optimiser.weight_decay", *weight_decay, 0.0, 1.0);
        faults.within("optimiser.clip_norm", *clip_norm, 0.0, 1e6);
        if !(0.0..1.0).contains(ema_decay) {
            faults.0.push(format!("optimiser.ema_decay is {ema_decay}, must be at least 0 and below 1"));
        }
        for (pattern, &factor) in layers {
            faults.within(&format!("the factor of '{pattern}' in optimiser.layers"), factor, 0.0, 1000.0);
        }
        self.check_augmentation(&mut faults);
        faults.0.extend(self.synthesis.iter().flat_map(Synthesis::faults));
        self.check_network(&mut faults);
        if faults.0.is_empty() { Ok(()) } else { Err(faults.0.join("; ")) }
    }

    fn check_augmentation(&self, faults: &mut Faults) {
        let a = &self.augmentation;
        for (key, probability) in [
            ("flip", a.flip),
            ("invert", a.invert),
            ("curve", a.curve),
            ("field_of_view", a.field_of_view),
            ("faults", a.faults),
        ] {
            faults.within(&format!("augmentation.{key}"), probability, 0.0, 1.0);
        }
        // A scale changes by up to four thirds of its strength and must not reach 0; the others are far beyond use.
        for (key, strength, most) in [
            ("rotation", a.rotation, 3.2),
            ("scale", a.scale, 0.7),
            ("shift_mm", a.shift_mm, 1000.0),
            ("elastic_mm", a.elastic_mm, 100.0),
            ("gamma", a.gamma, 2.0),
            ("bias", a.bias, 3.0),
            ("noise", a.noise, 10.0),
        ] {
            faults.within(&format!("augmentation.{key}"), strength, 0.0, most);
        }
    }

    fn check_network(&self, faults: &mut Faults) {
        let before = faults.0.len();
        let name = self.network.name();
        if name.is_empty() || name.contains(|c: char| c.is_control() || "/\\,".contains(c)) {
            faults.0.push(format!(
                "the model's name '{}' is empty or holds / \\ , or a control character",
                name.escape_default()
            ));
        }
        let (shape_key, shape, voxel_mm, fold, halvings) = match &self.network {
            NetworkConfig::Article { filters, dropout, voxel_mm, momentum, name: _ } => {
                faults.count("network.filters", *filters, 1, MOST_EXTENT);
                if !(0.0..1.0).contains(dropout) {
                    faults.0.push(format!("network.dropout is {dropout}, must be at least 0 and below 1"));
                }
                if !(*momentum > 0.0 && *momentum <= 1.0) {
                    faults.0.push(format!("network.momentum is {momentum}, must be above 0 and at most 1"));
                }
                ("the grid of network.voxel_mm", article_shape(*voxel_mm), *voxel_mm, 1, ARTICLE_HALVINGS)
            }
            NetworkConfig::ResidualUnet { widths, shape, voxel_mm, fold, no_csf, name: _ } => {
                if widths.is_empty() || widths.len() > MOST_LEVELS {
                    faults.0.push(format!(
                        "network.widths names {} levels, must name the channels of 1 to {MOST_LEVELS}, finest first, \
                         as in [16, 32, 64]",
                        widths.len()
                    ));
                }
                for &width in widths {
                    faults.count("a level of network.widths", width, 1, MOST_EXTENT);
                }
                faults.count("network.fold", *fold, 1, MOST_FOLD);
                if *no_csf && self.synthesis.as_ref().is_none_or(|synthesis| synthesis.share == 0.0) {
                    faults.0.push(
                        "network.no_csf is true, which only heads made from label maps can teach: add a table [synthesis] \
                         with a share above 0"
                            .into(),
                    );
                }
                ("network.shape", *shape, *voxel_mm, *fold, widths.len().saturating_sub(1))
            }
            NetworkConfig::Model { name: _ } => return,
        };
        faults.within("network.voxel_mm", voxel_mm, VOXEL_MM[0], VOXEL_MM[1]);
        // What the grid must be is known where the levels are.
        if faults.0.len() > before {
            return;
        }
        check_extents(faults, shape_key, shape, fold, halvings);
        if let Some(crop) = self.crop {
            check_extents(faults, "crop", crop, fold, halvings);
            if (0..3).any(|axis| crop[axis] > shape[axis]) {
                faults.0.push(format!("crop is {crop:?}, must fit the network's grid of {shape:?}"));
            }
        }
    }
}

impl TrainConfig {
    /// Looks for settings that do not go together with the network, in words as [`TrainConfig::check`].
    ///
    /// # Errors
    /// The message, when there is a fault.
    pub fn check_for(&self, network: &Description) -> Result<(), String> {
        let mut faults = Vec::new();
        let input = &network.input;
        match self.crop {
            None if input.is_padded() => faults.push(format!(
                "crop is absent, must be the window that samples are cut to, since the grid of '{}' is fitted to every \
                 volume: {:?} at most",
                network.name, input.shape
            )),
            None => {}
            Some(crop) => {
                if (0..3).any(|axis| crop[axis] > input.shape[axis]) {
                    faults.push(format!("crop is {crop:?}, must fit the network's grid of {:?}", input.shape));
                }
                let multiple = network.multiple()?;
                if (0..3).any(|axis| crop[axis] == 0 || crop[axis] % multiple[axis] != 0) {
                    faults.push(format!(
                        "crop is {crop:?}, must be multiples of {multiple:?}, the voxels of the coarsest level of '{}'",
                        network.name
                    ));
                }
            }
        }
        if !self.loss.suits(network.answer) {
            faults.push(format!(
                "loss is {}, must be {} for '{}', which answers with {}",
                plain_name(&self.loss),
                plain_name(&LossKind::of(network.answer)),
                network.name,
                match network.answer {
                    AnswerKind::DistanceMm { .. } => "signed distances",
                    AnswerKind::Logit | AnswerKind::TwoClasses => "logits",
                }
            ));
        }
        if let Err(fault) = self.optimiser.rates(network) {
            faults.push(fault.to_string());
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }
}

/// A setting as configuration files spell it.
fn plain_name(value: &impl Serialize) -> String {
    toml::Value::try_from(value)
        .map_or_else(|e| e.to_string(), |value| value.as_str().unwrap_or("").to_owned())
}

/// Whether a grid of `shape` can be folded and halved so many times, and is more than a voxel then: the norm of one voxel is
/// 0.
fn check_extents(faults: &mut Faults, key: &str, shape: [usize; 3], fold: usize, halvings: usize) {
    let multiple = fold << halvings;
    let folds = if fold > 1 { format!("folds by {fold} and ") } else { String::new() };
    for (axis, extent) in ["x", "y", "z"].into_iter().zip(shape) {
        if extent == 0 || extent > MOST_EXTENT {
            faults.count(&format!("{key} along {axis}"), extent, 1, MOST_EXTENT);
        } else if extent % multiple != 0 {
            let below = extent / multiple * multiple;
            let near = if below == 0 { String::new() } else { format!("{below} or ") };
            faults.0.push(format!(
                "{key} is {extent} voxels along {axis}, must be a multiple of {multiple}, which the network {folds}halves \
                 {halvings} times: {near}{}",
                below + multiple
            ));
        }
    }
    if shape.iter().all(|&extent| extent == multiple) {
        faults.0.push(format!(
            "{key} is {shape:?}, which the network {folds}halves {halvings} times, to a single voxel, must be larger along an \
             axis"
        ));
    }
}
