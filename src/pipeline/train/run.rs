//! A run from its first step to its last: epochs, validation, checkpoints.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::checkpoint::{self, State};
use super::config::TrainConfig;
use super::loader::{HeadCache, Loader, epoch_order};
use super::log::{EpochRow, draw_curves, write_log};
use super::validate::{Validator, metrics_of};
use crate::gpu::Gpu;
use crate::graph::{Executor, ExecutorOptions, Tuning};
use crate::model::{Description, Model, ModelCard, TrainingGraph, initialise, weights_of};
use crate::pipeline::{PipelineError, write_whole};
use crate::volume::pairs::Pair;

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

/// Steps in a row with gradients that are not finite after which training stops.
const MAX_SKIPPED_IN_A_ROW: u64 = 10;

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
            let (tensors, found) = checkpoint::read(&self.folder, config)?;
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
            let tensors = graph.save(&executor)?;
            let model = Model {
                description: description.clone(),
                tensors: weights_of(&tensors),
                card: self.card.clone(),
            };
            if row.validation_dice >= state.best_dice {
                state.best_dice = row.validation_dice;
                write_whole(&self.folder.join("best.safetensors"), &model.to_bytes(false)?)?;
            }
            write_whole(&self.folder.join("last.safetensors"), &model.to_bytes(false)?)?;
            checkpoint::write(&self.folder, &tensors, config, &state)?;
            write_log(&self.folder, &state.rows)?;
            draw_curves(&self.folder, &state.rows)?;
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
}
