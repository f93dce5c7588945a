//! Training: epochs over shuffled, augmented heads; validation; checkpoints; exact resume.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::augment::Augmentation;
use super::dataset::{HeadCache, Loader};
use super::{PipelineError, plot, write_whole};
use crate::gpu::Gpu;
use crate::graph::{Executor, ExecutorOptions, Tuning};
use crate::model::{
    Centre, Description, GridSpec, Intensity, LayerKind, LossKind, Mode, Model, ModelCard, OptimiserSpec,
    Sampling, Tensors, TrainingGraph, article, build, initialise, residual_unet, weights_of,
};
use crate::tensor::{DType, TensorDesc};
use crate::volume::pairs::Pair;

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
    /// Adam's attributes.
    pub optimiser: OptimiserSpec,
    /// Strengths of the augmentation.
    pub augmentation: Augmentation,
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
    },
}

impl NetworkConfig {
    /// The network's description.
    pub fn description(&self) -> Description {
        match self {
            Self::Article { filters, dropout, voxel_mm, momentum: running } => {
                let mut description = article(*filters, 4, *dropout);
                for layer in &mut description.layers {
                    if let LayerKind::BatchNorm { momentum, .. } = &mut layer.kind {
                        *momentum = *running;
                    }
                }
                let grid = &mut description.input;
                grid.shape = grid.shape.map(|n| (n as f64 * grid.voxel_mm[0] / voxel_mm).round() as usize);
                grid.voxel_mm = [*voxel_mm; 3];
                description
            }
            Self::ResidualUnet { name, widths, shape, voxel_mm } => {
                let grid = GridSpec {
                    shape: *shape,
                    voxel_mm: [*voxel_mm; 3],
                    centre: Centre::Head { above_mm: 16.0 },
                    sampling: Sampling::Area,
                    intensity: Intensity::Percentile { low: 1.0, high: 99.5 },
                    n4: None,
                    mirror: true,
                };
                residual_unet(name, widths, grid)
            }
        }
    }
}

impl TrainConfig {
    /// The set-up behind the built-in `default` model, that of weights/default.toml.
    pub fn default_preset() -> Self {
        Self {
            network: NetworkConfig::ResidualUnet {
                name: "default".into(),
                widths: vec![16, 32, 64, 128],
                shape: [48, 56, 56],
                voxel_mm: 4.0,
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
            optimiser: OptimiserSpec { weight_decay: 1e-2, keras: false, clip_norm: 1.0, ema_decay: 0.99 },
            augmentation: Augmentation::default(),
        }
    }

    /// The article's set-up: Adam at 1e-1 in its code, batch 4, 60 epochs of 16 steps, focal loss in its code.
    pub fn article_preset() -> Self {
        Self {
            network: NetworkConfig::Article { filters: 16, dropout: 0.05, voxel_mm: 2.0, momentum: 0.01 },
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
            optimiser: OptimiserSpec { weight_decay: 0.0, keras: true, clip_norm: 0.0, ema_decay: 0.0 },
            augmentation: Augmentation::none(),
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

/// What a caller may want to show while training.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Training is about to start or go on.
    Start {
        /// Heads trained on.
        training: usize,
        /// Heads validated on.
        validation: usize,
        /// Steps an epoch.
        steps_per_epoch: usize,
        /// First epoch of this call, from 0.
        first_epoch: usize,
        /// Epochs in all.
        epochs: usize,
        /// Bytes of GPU buffers.
        gpu_bytes: u64,
    },
    /// A step is done.
    Step {
        /// Its loss.
        loss: f32,
    },
    /// An epoch is done.
    Epoch(EpochRow),
}

/// A row of `log.csv`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EpochRow {
    /// From 1.
    pub epoch: usize,
    /// Steps done in all.
    pub step: u64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean loss of the epoch.
    pub loss: f64,
    /// Mean Dice of the training samples, thresholded at 0.5.
    pub dice: f64,
    /// Mean loss on the validation heads.
    pub validation_loss: f64,
    /// Mean Dice on them.
    pub validation_dice: f64,
    /// Mean intersection over union on them.
    pub validation_iou: f64,
    /// Mean soft intersection over union on them: the article's `iou_score`.
    pub validation_soft_iou: f64,
    /// Steps skipped because a gradient was not finite.
    pub skipped: u64,
    /// Wall time of the epoch.
    pub seconds: f64,
}

/// A run: where its data come from and where its files go.
pub struct TrainRun<'a> {
    /// The device.
    pub gpu: &'a Arc<Gpu>,
    /// Which kernel variants run; the default is the same on every run.
    pub tuning: Arc<Tuning>,
    /// What to do.
    pub config: TrainConfig,
    /// Heads to train on (and to carve validation heads out of).
    pub training: Vec<Pair>,
    /// Heads to validate on; empty: a fraction of `training`.
    pub validation: Vec<Pair>,
    /// Folder of the run.
    pub folder: PathBuf,
    /// Go on from the folder's checkpoint.
    pub resume: bool,
    /// Weights to start from.
    pub init: Option<Model>,
    /// Stored in the weights' card.
    pub card: ModelCard,
}

const CHECKPOINT: &str = "checkpoint.safetensors";
/// Steps in a row with gradients that are not finite after which training stops.
const MAX_SKIPPED_IN_A_ROW: u64 = 10;

/// Where a run stands, beside the tensors of its checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    epochs_done: usize,
    best_dice: f64,
    rows: Vec<EpochRow>,
}

/// Overlap counts of [`crate::ops::loss::OverlapCounts`] as metrics: Dice, IoU, soft IoU.
fn metrics_of(counts: &[f32]) -> [f64; 3] {
    let c: Vec<f64> = counts.iter().map(|&v| v as f64).collect();
    let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 1.0 };
    [ratio(2.0 * c[0], c[1] + c[2]), ratio(c[0], c[1] + c[2] - c[0]), ratio(c[3], c[4] + c[5] - c[3])]
}

impl TrainRun<'_> {
    /// Trains to the end; `progress` hears of every step.
    ///
    /// # Errors
    /// Data that cannot be read, a device that fails, a loss that is not finite.
    pub fn run(self, progress: &mut dyn FnMut(Progress)) -> Result<Model, PipelineError> {
        let config = &self.config;
        if config.batch == 0 || config.epochs == 0 {
            return Err(PipelineError::Training("batch and epochs must be at least 1".into()));
        }
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| PipelineError::Write { file: self.folder.clone(), source })?;
        let description = config.network.description();
        let sample_shape = config.crop.unwrap_or(description.input.shape);
        if (0..3).any(|a| sample_shape[a] == 0 || sample_shape[a] > description.input.shape[a]) {
            return Err(PipelineError::Training(format!(
                "crop {sample_shape:?} does not fit the network's grid {:?}",
                description.input.shape
            )));
        }
        let (training, validation) = self.split()?;
        let graph =
            TrainingGraph::new(&description, config.batch, sample_shape, config.loss, &config.optimiser)?;
        let options = ExecutorOptions { tuning: Arc::clone(&self.tuning), ..ExecutorOptions::default() };
        let executor = Executor::new(self.gpu, graph.graph.clone(), options)?;
        let mut state = State::default();
        if self.resume {
            let (tensors, found) = self.read_checkpoint(config)?;
            graph.load(&executor, &tensors)?;
            state = found;
        } else {
            let start = match &self.init {
                Some(model) => model.tensors.clone(),
                None => initialise(&description, config.seed)?,
            };
            graph.load(&executor, &start)?;
            let text = toml::to_string_pretty(config)
                .map_err(|e| PipelineError::Training(format!("the configuration does not serialise: {e}")))?;
            write_whole(&self.folder.join("config.toml"), text.as_bytes())?;
        }
        let validator = Validator::new(self.gpu, &description, &graph, &executor, config.loss)?;
        let steps = match config.steps_per_epoch {
            0 => training.len().div_ceil(config.batch),
            n => n,
        };
        progress(Progress::Start {
            training: training.len(),
            validation: validation.len(),
            steps_per_epoch: steps,
            first_epoch: state.epochs_done,
            epochs: config.epochs,
            gpu_bytes: executor.allocated_bytes + validator.executor.allocated_bytes,
        });
        let cache = HeadCache::default();
        for epoch in state.epochs_done..config.epochs {
            let begun = Instant::now();
            let mut row =
                self.epoch(epoch, steps, &training, &description, &graph, &executor, &cache, progress)?;
            validator.validate(&validation, &description.input, config, &cache, &mut row)?;
            row.seconds = begun.elapsed().as_secs_f64();
            state.epochs_done = epoch + 1;
            state.rows.push(row.clone());
            let checkpoint = graph.save(&executor)?;
            let model = Model {
                description: description.clone(),
                tensors: weights_of(&checkpoint),
                card: self.card.clone(),
            };
            if row.validation_dice >= state.best_dice {
                state.best_dice = row.validation_dice;
                write_whole(&self.folder.join("best.safetensors"), &model.to_bytes(false)?)?;
            }
            write_whole(&self.folder.join("last.safetensors"), &model.to_bytes(false)?)?;
            self.write_checkpoint(&checkpoint, &state)?;
            write_log(&self.folder, &state.rows)?;
            plot::training_curves(&self.folder.join("training.svg"), &state.rows)?;
            progress(Progress::Epoch(row));
        }
        Ok(Model::read(&self.folder.join("best.safetensors"))?)
    }

    /// Training and validation heads.
    fn split(&self) -> Result<(Vec<Pair>, Vec<Pair>), PipelineError> {
        let mut training: Vec<Pair> = self.training.iter().filter(|p| p.mask.is_some()).cloned().collect();
        let mut validation = self.validation.clone();
        if validation.is_empty() {
            let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
            training.shuffle(&mut rng);
            let count = (training.len() as f64 * self.config.validation_fraction).ceil() as usize;
            validation = training.split_off(training.len().saturating_sub(count));
        }
        if training.is_empty() || validation.is_empty() {
            return Err(PipelineError::Training(format!(
                "{} heads to train on and {} to validate on; both are needed, each with a mask",
                training.len(),
                validation.len()
            )));
        }
        Ok((training, validation))
    }

    #[expect(clippy::too_many_arguments, reason = "each is state of the run that `run` owns")]
    fn epoch(
        &self,
        epoch: usize,
        steps: usize,
        training: &[Pair],
        description: &Description,
        graph: &TrainingGraph,
        executor: &Executor,
        cache: &HeadCache,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<EpochRow, PipelineError> {
        let config = &self.config;
        let gpu = self.gpu;
        let samples = steps * config.batch;
        let mut loader = Loader::start(
            gpu,
            epoch_order(training, config.seed, epoch, samples),
            &description.input,
            config.augmentation.is_spatial(),
            cache,
            config.cache_mib << 20,
        );
        let total = (steps * config.epochs) as u64;
        let mut row = EpochRow { epoch: epoch + 1, ..EpochRow::default() };
        let (mut counted, mut skipped_in_a_row) = (0u64, 0);
        let voxels = executor.graph.desc(graph.input).voxels();
        for step_in_epoch in 0..steps {
            let step = (epoch * steps + step_in_epoch + 1) as u64;
            for slot in 0..config.batch {
                let head = loader.next().ok_or_else(|| {
                    PipelineError::Training("the loader stopped before the epoch did".into())
                })??;
                let sample = (step - 1) * config.batch as u64 + slot as u64;
                let [x, y] = head.augmented(
                    gpu,
                    &description.input,
                    &config.augmentation,
                    config.seed,
                    sample,
                    config.crop,
                )?;
                gpu.copy(&x, executor.tensor(graph.input), slot * voxels)?;
                gpu.copy(&y, executor.tensor(graph.target), slot * voxels)?;
            }
            row.learning_rate = config.learning_rate_at(step, total);
            executor
                .write(graph.step_state, &config.optimiser.adam().step_state(step, row.learning_rate, 1.0))?;
            if let Some(seed) = graph.dropout_seed {
                executor.write(seed, &[config.seed as u32, step as u32])?;
            }
            executor.run()?;
            let loss = executor.read::<f32>(graph.loss)?[0];
            let squares = executor.read::<f32>(graph.gradient_squares)?[0];
            row.step = step;
            if loss.is_finite() && squares.is_finite() {
                skipped_in_a_row = 0;
                counted += 1;
                row.loss += loss as f64;
                let counts: Vec<f32> = executor.read(graph.counts)?;
                let dice: f64 = counts.chunks_exact(6).map(|c| metrics_of(c)[0]).sum();
                row.dice += dice / config.batch as f64;
            } else {
                row.skipped += 1;
                skipped_in_a_row += 1;
                log::warn!("step {step}: loss {loss}, a gradient is not finite; the step was skipped");
                if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW {
                    return Err(PipelineError::Training(format!(
                        "loss or gradients were not finite for {MAX_SKIPPED_IN_A_ROW} steps, up to step {step}; \
                         lower learning_rate and start again with --resume from the last checkpoint"
                    )));
                }
            }
            progress(Progress::Step { loss });
        }
        row.loss /= counted.max(1) as f64;
        row.dice /= counted.max(1) as f64;
        Ok(row)
    }

    fn write_checkpoint(&self, tensors: &Tensors, state: &State) -> Result<(), PipelineError> {
        let fail = |e: &dyn std::fmt::Display| PipelineError::Training(format!("checkpoint: {e}"));
        let views = tensors
            .iter()
            .map(|(name, (shape, values))| {
                TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values))
                    .map(|v| (name.as_str(), v))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| fail(&e))?;
        let state = serde_json::to_string(state).map_err(|e| fail(&e))?;
        let config = toml::to_string(&self.config).map_err(|e| fail(&e))?;
        let metadata = HashMap::from([("state".to_owned(), state), ("config".to_owned(), config)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| fail(&e))?;
        write_whole(&self.folder.join(CHECKPOINT), &bytes)
    }

    fn read_checkpoint(&self, config: &TrainConfig) -> Result<(Tensors, State), PipelineError> {
        let file = self.folder.join(CHECKPOINT);
        let fail = |reason: String| PipelineError::Input { file: file.clone(), reason };
        let bytes =
            std::fs::read(&file).map_err(|e| fail(format!("cannot be read: {e}; start without --resume")))?;
        let broken = |e: &dyn std::fmt::Display| fail(format!("is not a checkpoint: {e}"));
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| broken(&e))?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        let text = |key: &str| metadata.get(key).cloned().unwrap_or_default();
        let saved: TrainConfig = toml::from_str(&text("config")).map_err(|e| broken(&e))?;
        if saved.network != config.network {
            return Err(fail("was made with another network; use its own configuration".into()));
        }
        let state: State = serde_json::from_str(&text("state")).map_err(|e| broken(&e))?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes)
            .map_err(|e| broken(&e))?
            .iter()
            .map(|(name, view)| {
                let values = view.data().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
                (name.to_owned(), (view.shape().to_vec(), values))
            })
            .collect();
        Ok((tensors, state))
    }
}

/// The heads of an epoch: whole shuffled passes, as many as it takes.
fn epoch_order(training: &[Pair], seed: u64, epoch: usize, samples: usize) -> Vec<Pair> {
    // Passes are numbered through the run, so that epochs shorter than a pass go through all heads in turn.
    let first = epoch * samples;
    let mut order = Vec::with_capacity(samples);
    let mut pass = first / training.len();
    let mut skip = first % training.len();
    while order.len() < samples {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(pass as u64 + 1);
        let mut shuffled: Vec<&Pair> = training.iter().collect();
        shuffled.shuffle(&mut rng);
        order.extend(shuffled.into_iter().skip(skip).take(samples - order.len()).cloned());
        skip = 0;
        pass += 1;
    }
    order
}

/// The inference graph on the trained weights (their averages where kept), sharing their buffers.
struct Validator<'a> {
    gpu: &'a Arc<Gpu>,
    executor: Executor,
    input: crate::ops::ValueId,
    target: crate::ops::ValueId,
    loss: crate::ops::ValueId,
    counts: crate::ops::ValueId,
}

impl<'a> Validator<'a> {
    fn new(
        gpu: &'a Arc<Gpu>,
        description: &Description,
        training: &TrainingGraph,
        trained: &Executor,
        loss: LossKind,
    ) -> Result<Self, PipelineError> {
        let network = build(description, 1, description.input.shape, Mode::Inference(DType::F32))?;
        let mut graph = network.graph;
        let [d, h, w] = description.input.shape;
        let target = graph.input("target", TensorDesc::f32(&[1, 1, d, h, w]));
        let loss = graph.apply(loss.operator(), &[network.logits, target])?[0];
        let counts =
            graph.apply1(crate::ops::loss::OverlapCounts { threshold: 0.5 }, &[network.logits, target])?;
        graph.mark_output(loss);
        graph.mark_output(counts);
        let mut shared = HashMap::new();
        for (name, &value) in &training.persistent {
            if let Some(own) = graph.find(name) {
                let source = training.persistent.get(&format!("ema.{name}")).copied().unwrap_or(value);
                shared.insert(own, trained.tensor(source).clone());
            }
        }
        let executor = Executor::new(gpu, graph, ExecutorOptions { shared, ..ExecutorOptions::default() })?;
        Ok(Self { gpu, executor, input: network.input, target, loss, counts })
    }

    fn validate(
        &self,
        heads: &[Pair],
        spec: &GridSpec,
        config: &TrainConfig,
        cache: &HeadCache,
        row: &mut EpochRow,
    ) -> Result<(), PipelineError> {
        let loader = Loader::start(
            self.gpu,
            heads.to_vec(),
            spec,
            config.augmentation.is_spatial(),
            cache,
            config.cache_mib << 20,
        );
        for head in loader {
            let [x, y] = head?.plain(self.gpu, spec)?;
            self.gpu.copy(&x, self.executor.tensor(self.input), 0)?;
            self.gpu.copy(&y, self.executor.tensor(self.target), 0)?;
            self.executor.run()?;
            let n = heads.len() as f64;
            row.validation_loss += self.executor.read::<f32>(self.loss)?[0] as f64 / n;
            let [dice, iou, soft_iou] = metrics_of(&self.executor.read::<f32>(self.counts)?);
            row.validation_dice += dice / n;
            row.validation_iou += iou / n;
            row.validation_soft_iou += soft_iou / n;
        }
        Ok(())
    }
}

fn write_log(folder: &Path, rows: &[EpochRow]) -> Result<(), PipelineError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fail = |e: &dyn std::fmt::Display| PipelineError::Training(format!("log.csv: {e}"));
    for row in rows {
        writer.serialize(row).map_err(|e| fail(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| fail(&e))?;
    write_whole(&folder.join("log.csv"), &bytes)
}
