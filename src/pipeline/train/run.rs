//! A run from its first step to its last: epochs, validation, checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::checkpoint::{Checkpoint, MapRecord};
use super::compact;
use super::config::{NetworkConfig, TrainConfig};
use super::data::{LabelledHead, Split};
use super::loader::{HeadCache, Loader, epoch_order};
use super::log::{CURVES, EpochRow, LOG, draw_curves, write_log};
use super::parent::Beginning;
use super::synthetic::SyntheticHeads;
use super::validate::{metrics_of, validate};
use crate::gpu::Gpu;
use crate::graph::{Executor, ExecutorOptions, Tuning, run_op1};
use crate::model::{Description, Model, ModelCard, Tensors, TrainingGraph, tensors_of_first, weights_of};
use crate::ops::elementwise::Scale;
use crate::pipeline::synth::LabelMap;
use crate::pipeline::{PipelineError, write_whole};
use crate::tensor::TensorDesc;

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
        /// Bytes of GPU buffers that a step needs.
        gpu_bytes: u64,
    },
    /// A step is done.
    Step {
        /// Its loss.
        loss: f32,
    },
    /// An epoch is done.
    Epoch(EpochRow),
    /// The next epoch would not end in time.
    Stopped {
        /// Epochs done.
        epochs: usize,
    },
    /// A resumed run has no epoch left to do.
    Finished {
        /// Epochs done.
        epochs: usize,
    },
    /// Something to know.
    Note(String),
    /// Something that a person should look at.
    Warning(String),
}

/// Where a run begins.
pub enum Start {
    /// With fresh weights.
    Fresh,
    /// With the weights of a model.
    From(Box<Model>),
    /// Where a checkpoint of the same run left off; heads and configuration are compared with it.
    Resume(Box<Checkpoint>),
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
    pub training: Vec<LabelledHead>,
    /// Heads to validate on; empty: a fraction of `training`.
    pub validation: Vec<LabelledHead>,
    /// Label maps that heads are made from, where the configuration has a synthesis.
    pub maps: Vec<Arc<LabelMap>>,
    /// Folder of the run.
    pub folder: PathBuf,
    /// Where it begins.
    pub start: Start,
    /// Stored in the weights' card.
    pub card: ModelCard,
    /// No epoch begins that would end later, as long as the longest of this call; one is done in any case.
    pub stop_at: Option<Instant>,
}

/// Files of a run's folder.
const BEST: &str = "best.safetensors";
const LAST: &str = "last.safetensors";
const HEADS: &str = "heads.tsv";
/// Steps in a row with gradients that are not finite after which training stops.
const MAX_SKIPPED_IN_A_ROW: u64 = 10;

impl TrainRun<'_> {
    /// Trains to the end, or until time is up; `progress` hears of every step. Returns the model of the epoch that validated
    /// best.
    ///
    /// # Errors
    /// A configuration, heads or weights that do not go together, data that cannot be read, a device that fails, a loss
    /// that is not finite.
    pub async fn run(mut self, progress: &mut dyn FnMut(Progress)) -> Result<Model, PipelineError> {
        let fail = PipelineError::Training;
        self.config.check().map_err(fail)?;
        let (training, validation) =
            (std::mem::take(&mut self.training), std::mem::take(&mut self.validation));
        let synthetic = self.synthetic_heads().map_err(fail)?;
        let parent = match &self.start {
            Start::Fresh => None,
            Start::From(model) => Some(&model.description),
            Start::Resume(checkpoint) => checkpoint.network.as_ref(),
        };
        let description = self.config.description(parent).map_err(fail)?;
        self.config.check_for(&description).map_err(fail)?;
        let takes_network = matches!(self.config.network, NetworkConfig::Model { .. });
        let maps: Vec<MapRecord> = self.maps.iter().map(|map| MapRecord::of(map)).collect();
        let (split, mut state, start) = match std::mem::replace(&mut self.start, Start::Fresh) {
            Start::Resume(checkpoint) => {
                checkpoint.config.goes_on_as(&self.config).map_err(fail)?;
                check_maps(&checkpoint.maps, &maps, &self.folder).map_err(fail)?;
                let split = Split::again(&checkpoint.heads, training, validation).map_err(|differences| {
                    fail(format!(
                        "the heads are not those that the run in {} began with: {differences}; name the same tables, \
                         or start anew in another folder",
                        self.folder.display()
                    ))
                })?;
                (split, *checkpoint, None)
            }
            start => {
                let split = split(training, validation, &self.config)?;
                let state = Checkpoint {
                    epochs_done: 0,
                    best_dice: 0.0,
                    config: self.config.clone(),
                    card: self.card.clone(),
                    heads: split.records(),
                    maps: maps.clone(),
                    network: takes_network.then(|| description.clone()),
                    rows: Vec::new(),
                    tensors: Tensors::new(),
                };
                (split, state, Some(start))
            }
        };
        if let Some(words) = split.shared() {
            progress(Progress::Warning(words));
        }
        let config = &self.config;
        if state.epochs_done > config.epochs {
            return Err(PipelineError::Training(format!(
                "{} epochs are done, more than the {} asked for; ask for more, or leave the number out",
                state.epochs_done, config.epochs
            )));
        }
        if state.epochs_done == config.epochs {
            progress(Progress::Finished { epochs: state.epochs_done });
            return Ok(Model::read(&self.folder.join(BEST))?);
        }
        let sample_shape = config.crop.unwrap_or(description.input.shape);
        let weight_of = |head: &LabelledHead| head.row().weight.clone();
        let weighted = split.training.iter().map(weight_of).any(|weight| {
            weight.image.is_some()
                || (config.batch > 1 && weight.factor != split.training[0].row().weight.factor)
        });
        let (loss, optimiser) = (config.loss, &config.optimiser);
        let graph =
            TrainingGraph::with_weights(&description, config.batch, sample_shape, loss, optimiser, weighted)?;
        let options = ExecutorOptions { tuning: Arc::clone(&self.tuning), ..ExecutorOptions::default() };
        let executor = Executor::new(self.gpu, graph.graph.clone(), options)?;
        let cache = HeadCache::new(config.cache_mib);
        let mut of_first = tensors_of_first(&description, &state.tensors);
        let model_of = |tensors: &Tensors| Model {
            description: description.clone(),
            tensors: weights_of(tensors),
            card: self.card.clone(),
        };
        match start {
            None => {
                graph.load(&executor, &state.tensors).await?;
                if !self.folder.join(BEST).exists() {
                    state.best_dice = 0.0;
                    progress(Progress::Note(format!(
                        "{BEST} is not in the folder: the best epoch from here on makes it anew"
                    )));
                }
                if state.config != *config || state.card != self.card {
                    state.config = config.clone();
                    state.card = self.card.clone();
                    write_config(&self.folder, config)?;
                    // A run that is stopped before its next epoch ends goes on with these as well.
                    state.write(&self.folder)?;
                }
            }
            Some(start) => {
                let beginning = match start {
                    Start::From(model) if takes_network => Ok(Beginning::of_model(*model, &description)),
                    Start::From(model) => Beginning::of_equal(*model, &description),
                    _ => Beginning::fresh(&description, config.seed),
                };
                let Beginning { tensors, of_first: first, notes } = beginning.map_err(fail)?;
                notes.into_iter().for_each(|note| progress(Progress::Note(note)));
                of_first = first;
                graph.load(&executor, &tensors).await?;
                prepare_folder(&self.folder)?;
                write_config(&self.folder, config)?;
                split.write_table(&self.folder.join(HEADS))?;
                if takes_network {
                    let mut row = EpochRow::default();
                    let mut all = tensors;
                    all.extend(of_first.clone());
                    let model = model_of(&all);
                    let heads = &split.validation;
                    validate(self.gpu, &model, &self.tuning, config.loss, heads, &cache, &mut row).await?;
                    progress(Progress::Note(format!(
                        "before the first step: validation loss {:.4}, Dice {:.4}, IoU {:.4}",
                        row.validation_loss, row.validation_dice, row.validation_iou
                    )));
                }
            }
        }
        let steps = match config.steps_per_epoch {
            0 => split.training.len().div_ceil(config.batch),
            n => n,
        };
        progress(Progress::Start {
            training: split.training.len(),
            validation: split.validation.len(),
            steps_per_epoch: steps,
            first_epoch: state.epochs_done,
            epochs: config.epochs,
            gpu_bytes: executor.allocated_bytes,
        });
        let mut longest = Duration::ZERO;
        for epoch in state.epochs_done..config.epochs {
            let begun = Instant::now();
            let heads = &split.training;
            let synthetic = synthetic.as_ref();
            let mut row = self
                .epoch(epoch, steps, heads, synthetic, &description, &graph, &executor, &cache, progress)
                .await?;
            state.tensors = graph.save(&executor).await?;
            if config.compact_checkpoint {
                state.tensors = compact::rounded(&state.tensors);
                graph.load(&executor, &state.tensors).await?;
            }
            state.tensors.extend(of_first.clone());
            let model = model_of(&state.tensors);
            let heads = &split.validation;
            validate(self.gpu, &model, &self.tuning, config.loss, heads, &cache, &mut row).await?;
            row.seconds = begun.elapsed().as_secs_f64();
            state.epochs_done = epoch + 1;
            state.rows.push(row.clone());
            if row.validation_dice >= state.best_dice {
                state.best_dice = row.validation_dice;
                write_whole(&self.folder.join(BEST), &model.to_bytes(false)?)?;
            }
            write_whole(&self.folder.join(LAST), &model.to_bytes(false)?)?;
            state.write(&self.folder)?;
            write_log(&self.folder, &state.rows)?;
            draw_curves(&self.folder, &state.rows)?;
            progress(Progress::Epoch(row));
            longest = longest.max(begun.elapsed());
            let in_time = |end: Instant| Instant::now() + longest <= end;
            if state.epochs_done < config.epochs && !self.stop_at.is_none_or(in_time) {
                progress(Progress::Stopped { epochs: state.epochs_done });
                break;
            }
        }
        Ok(Model::read(&self.folder.join(BEST))?)
    }

    /// What heads are made from.
    fn synthetic_heads(&self) -> Result<Option<SyntheticHeads>, String> {
        match (&self.config.synthesis, self.maps.is_empty()) {
            (None, true) => Ok(None),
            (None, false) => {
                Err("label maps are named, but the settings have no table [synthesis]; add one".into())
            }
            (Some(synthesis), _) if synthesis.share == 0.0 => Ok(None),
            (Some(_), true) => {
                Err("the settings have a table [synthesis], which needs label maps; name them with --labels"
                    .into())
            }
            (Some(synthesis), false) => {
                Ok(Some(SyntheticHeads { synthesis: synthesis.clone(), maps: self.maps.clone() }))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is state of the run that `run` owns")]
    async fn epoch(
        &self,
        epoch: usize,
        steps: usize,
        training: &[LabelledHead],
        synthetic: Option<&SyntheticHeads>,
        description: &Description,
        graph: &TrainingGraph,
        executor: &Executor,
        cache: &HeadCache,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<EpochRow, PipelineError> {
        let config = &self.config;
        let gpu = self.gpu;
        let samples = steps * config.batch;
        let first = (epoch * samples) as u64;
        let map_of =
            |sample: u64| synthetic.and_then(|heads| Some((heads, heads.map_of(config.seed, sample)?)));
        // Of a pass through the heads, those are left out in whose place a synthetic one stands.
        let order = epoch_order(training, config.seed, epoch, samples).into_iter().zip(first..);
        let order = order.filter(|(_, sample)| map_of(*sample).is_none()).map(|(head, _)| head).collect();
        let mut loader = Loader::start(gpu, order, description, config.augmentation.is_spatial(), cache);
        let total = (steps * config.epochs) as u64;
        let mut row = EpochRow { epoch: epoch + 1, ..EpochRow::default() };
        let (mut counted, mut skipped_in_a_row) = (0u64, 0);
        let voxels = executor.graph.desc(graph.input).voxels();
        // Masks of real heads do not tell the CSF round the brain.
        let unknown = gpu.upload(&TensorDesc::f32(&[voxels]), &vec![-1.0f32; voxels]).await?;
        let alike = gpu.upload(&TensorDesc::f32(&[voxels]), &vec![1.0f32; voxels]).await?;
        for step_in_epoch in 0..steps {
            let step = (epoch * steps + step_in_epoch + 1) as u64;
            let (mut factors, mut weights) = (Vec::new(), Vec::new());
            for slot in 0..config.batch {
                let sample = (step - 1) * config.batch as u64 + slot as u64;
                let (spec, seed, crop) = (&description.input, config.seed, config.crop);
                let [x, brain, no_csf] = match map_of(sample) {
                    Some((heads, map)) => {
                        factors.push(1.0);
                        weights.push(None);
                        heads.sample(gpu, map, description, seed, sample, crop).await?
                    }
                    None => {
                        let head = loader.next().await;
                        let head = head.expect("a head is ordered for every sample that is real")?;
                        let augmentation = &config.augmentation;
                        factors.push(head.factor);
                        weights.push(head.weights(gpu, augmentation, seed, sample, crop).await?);
                        let [x, brain] = head.augmented(gpu, spec, augmentation, seed, sample, crop).await?;
                        [x, brain, unknown.clone()]
                    }
                };
                gpu.copy(&x, executor.tensor(graph.input), slot * voxels)?;
                gpu.copy(&brain, executor.tensor(graph.target), slot * voxels)?;
                if let Some(target) = graph.target_no_csf {
                    gpu.copy(&no_csf, executor.tensor(target), slot * voxels)?;
                }
            }
            // What heads count among those of their batch is in the loss, what the batch counts among others in the gradients.
            let mean = factors.iter().sum::<f32>() / config.batch as f32;
            if let Some(value) = graph.weights {
                for (slot, (weight, factor)) in weights.iter().zip(&factors).enumerate() {
                    let weight = weight.as_ref().unwrap_or(&alike);
                    let scaled = run_op1(gpu, &Scale { factor: factor / mean }, &[weight])?;
                    gpu.copy(&scaled, executor.tensor(value), slot * voxels)?;
                }
            }
            row.learning_rate = config.learning_rate_at(step, total);
            let step_state = config.optimiser.adam().step_state(step, row.learning_rate, mean.into());
            executor.write(graph.step_state, &step_state).await?;
            if let Some(seed) = graph.dropout_seed {
                executor.write(seed, &[config.seed as u32, step as u32]).await?;
            }
            executor.run()?;
            loader.get_ready(config.batch).await;
            let read =
                executor.read_each::<f32, 3>([graph.loss, graph.gradient_squares, graph.counts]).await?;
            let [loss, squares, counts] = read;
            let (loss, squares) = (loss[0], squares[0]);
            row.step = step;
            if loss.is_finite() && squares.is_finite() {
                skipped_in_a_row = 0;
                counted += 1;
                row.loss += loss as f64;
                let dice: f64 = counts.chunks_exact(6).map(|c| metrics_of(c)[0]).sum();
                row.dice += dice / config.batch as f64;
            } else {
                row.skipped += 1;
                skipped_in_a_row += 1;
                log::warn!("step {step}: loss {loss}, a gradient is not finite; the step was skipped");
                if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW {
                    return Err(PipelineError::Training(format!(
                        "loss or gradients were not finite for {MAX_SKIPPED_IN_A_ROW} steps, up to step {step}; \
                         go on from the last checkpoint with --resume and a lower --learning-rate"
                    )));
                }
            }
            progress(Progress::Step { loss });
        }
        // NaN when every step was skipped: there is no loss to tell.
        row.loss /= counted as f64;
        row.dice /= counted as f64;
        Ok(row)
    }
}

/// Whether the label maps are those that a run began with.
fn check_maps(before: &[MapRecord], now: &[MapRecord], folder: &Path) -> Result<(), String> {
    let same = |(a, b): (&MapRecord, &MapRecord)| a.sha256 == b.sha256;
    if before.len() == now.len() && before.iter().zip(now).all(same) {
        return Ok(());
    }
    let first = before.iter().zip(now).find(|pair| !same(*pair));
    let difference = match first {
        Some((before, now)) => format!("{} is another than {}", now.file, before.file),
        None => format!("there are {}, not {}", now.len(), before.len()),
    };
    Err(format!(
        "the label maps are not those that the run in {} began with: {difference}; name the same with --labels, in the \
         same order, or start anew in another folder",
        folder.display()
    ))
}

/// Training and validation heads of a run that begins.
fn split(
    mut training: Vec<LabelledHead>,
    mut validation: Vec<LabelledHead>,
    config: &TrainConfig,
) -> Result<Split, PipelineError> {
    if validation.is_empty() {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        training.shuffle(&mut rng);
        let count = (training.len() as f64 * config.validation_fraction).ceil() as usize;
        validation = training.split_off(training.len().saturating_sub(count));
    }
    if training.is_empty() || validation.is_empty() {
        return Err(PipelineError::Training(format!(
            "{} heads to train on and {} to validate on, where both are needed; add heads to the table, name others with \
             --validation, or change validation_fraction",
            training.len(),
            validation.len()
        )));
    }
    Ok(Split { training, validation })
}

/// Makes a run's folder, without what an earlier run left in it.
fn prepare_folder(folder: &Path) -> Result<(), PipelineError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| PipelineError::Write { file: folder.to_path_buf(), source })?;
    let checkpoint = Checkpoint::path_in(folder);
    for file in [checkpoint, folder.join(BEST), folder.join(LAST), folder.join(LOG), folder.join(CURVES)] {
        match std::fs::remove_file(&file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(PipelineError::Write { file, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// For people: a resumed run takes the configuration of its checkpoint.
fn write_config(folder: &Path, config: &TrainConfig) -> Result<(), PipelineError> {
    let text = toml::to_string_pretty(config)
        .map_err(|e| PipelineError::Training(format!("the configuration does not serialise: {e}")))?;
    write_whole(&folder.join("config.toml"), text.as_bytes())
}
