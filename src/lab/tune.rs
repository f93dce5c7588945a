//! Times the kernel variants of a model's operators: what the tuning cache is filled with.

use std::collections::BTreeMap;

use serde::Serialize;

use super::error::LabError;
use super::measure::race_variants;
use super::network::training_spec;
use super::report::Failure;
use super::subject::{Subject, nodes_of};
use super::timing::Budget;
use super::watchdog::Watchdog;
use crate::gpu::Gpu;
use crate::graph::{Tuning, TuningKey, source_hash};
use crate::model::{Mode, Model, TrainingGraph, build, fold_for_inference};
use crate::pipeline::tuning_cache::{Milliseconds, TuneEntry};
use crate::tensor::DType;

/// What of a network to tune for, and how thoroughly.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// For inference.
    pub forward: bool,
    /// Element type of the activations of inference.
    pub dtype: DType,
    /// For training.
    pub train: bool,
    /// Extents of the grid instead of the model's own.
    pub shape: Option<[usize; 3]>,
    /// Samples a training step.
    pub batch: usize,
    /// How long to time each variant.
    pub budget: Budget,
    /// How long a run of a variant may take, in seconds.
    pub limit_s: f64,
}

/// Flops above which the variant `naive` is not timed where there are others: it exists because it runs everywhere,
/// and would take most of the time of tuning.
const NAIVE_FLOPS: f64 = 2e9;

/// What tuning found out about an operator.
#[derive(Clone, Debug, Serialize)]
pub struct Gain {
    /// The operator's name.
    pub operator: String,
    /// Shapes, see [`TuningKey`].
    pub shapes: String,
    /// How often it runs in the networks that were tuned for.
    pub runs: usize,
    /// The variant that ran until now; `None` where it gave no right results.
    pub before: Option<String>,
    /// Its time, or the fastest variant's where there was none.
    pub before_ms: f64,
    /// The fastest variant.
    pub after: String,
    /// Its time.
    pub after_ms: f64,
    /// How many times as fast as before.
    pub ratio: f64,
}

impl Gain {
    /// Times of all runs of these operators, before and after, in milliseconds.
    pub fn total_ms(gains: &[Self]) -> [f64; 2] {
        let sum = |ms: fn(&Self) -> f64| gains.iter().map(|gain| ms(gain) * gain.runs as f64).sum();
        [sum(|gain| gain.before_ms), sum(|gain| gain.after_ms)]
    }
}

/// What happens while tuning.
#[derive(Debug)]
pub enum Progress<'a> {
    /// An operator is about to be timed.
    Begin {
        /// Its number, from 1.
        number: usize,
        /// Number of operators.
        of: usize,
        /// The operator.
        operator: &'a str,
        /// Its variants.
        variants: &'a [&'static str],
    },
    /// A variant that is not used.
    Rejected(&'a Failure),
    /// An operator has been timed.
    Timed(&'a TuneEntry, &'a Gain),
}

/// What tuning leaves.
#[derive(Clone, Debug, Default)]
pub struct Tuned {
    /// For the cache.
    pub entries: Vec<TuneEntry>,
    /// The same operators, compared with before.
    pub gains: Vec<Gain>,
    /// Variants that are not used.
    pub failures: Vec<Failure>,
}

/// Times the legal variants of every convolution and other choice in a model's networks; `before` is what ran until now.
///
/// # Errors
/// A model that does not build, or a device that fails.
pub async fn tune(
    gpu: &Gpu,
    model: &Model,
    options: &TuneOptions,
    before: &Tuning,
    watchdog: &Watchdog,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Tuned, LabError> {
    let choices = choices(gpu, model, options)?;
    let mut tuned = Tuned::default();
    for (ix, Choice { subject, variants, runs }) in choices.iter().enumerate() {
        let name = subject.op.name();
        progress(Progress::Begin { number: ix + 1, of: choices.len(), operator: name, variants });
        let race = race_variants(gpu, subject, variants, options.budget, options.limit_s, watchdog).await?;
        race.failures.iter().for_each(|failure| progress(Progress::Rejected(failure)));
        tuned.failures.extend(race.failures);
        let timings: BTreeMap<String, Milliseconds> = race
            .samples
            .iter()
            .map(|(variant, seconds)| ((*variant).to_owned(), Milliseconds::of(seconds)))
            .collect();
        let Some((fastest, ms)) = timings.iter().min_by(|a, b| a.1.median.total_cmp(&b.1.median)) else {
            continue;
        };
        let descs = subject.descs();
        let TuningKey { operator, shapes } = TuningKey::new(subject.op.as_ref(), &descs);
        let chosen = before.choose(subject.op.as_ref(), &descs, &gpu.caps);
        let known = timings.get(chosen);
        let before_ms = known.unwrap_or(ms).median;
        let gain = Gain {
            operator: name.to_owned(),
            shapes: shapes.clone(),
            runs: *runs,
            before: known.map(|_| chosen.to_owned()),
            before_ms,
            after: fastest.clone(),
            after_ms: ms.median,
            ratio: before_ms / ms.median,
        };
        let entry = TuneEntry {
            operator,
            shapes,
            adapter: gpu.summary.name.clone(),
            backend: gpu.summary.backend.clone(),
            driver: gpu.summary.driver.clone(),
            source_hash: format!("{:016x}", source_hash(subject.op.as_ref(), &descs, &gpu.caps)?),
            fastest: fastest.clone(),
            timings,
        };
        progress(Progress::Timed(&entry, &gain));
        tuned.entries.push(entry);
        tuned.gains.push(gain);
    }
    Ok(tuned)
}

/// An operator with a choice of variants.
struct Choice {
    subject: Subject,
    variants: Vec<&'static str>,
    /// How often it runs.
    runs: usize,
}

/// Operators of a model's networks with a choice of variants, once for each key.
fn choices(gpu: &Gpu, model: &Model, options: &TuneOptions) -> Result<Vec<Choice>, LabError> {
    let shape = options.shape.unwrap_or(model.description.input.shape);
    let mut subjects = Vec::new();
    if options.forward {
        let (folded, _) = fold_for_inference(&model.description, &model.tensors);
        gpu.require(options.dtype)?;
        let network = build(&folded, 1, shape, Mode::Inference(options.dtype))?;
        subjects.extend(nodes_of(&network.graph, "forward"));
    }
    if options.train {
        let (loss, optimiser) = training_spec(model);
        let training = TrainingGraph::new(&model.description, options.batch, shape, loss, &optimiser)?;
        subjects.extend(nodes_of(&training.graph, "train"));
    }
    let mut choices: Vec<(TuningKey, Choice)> = Vec::new();
    for subject in subjects {
        let descs = subject.descs();
        let mut variants = subject.op.variants(&descs, &gpu.caps);
        if variants.len() > 2 && subject.flops() > NAIVE_FLOPS {
            variants.retain(|variant| *variant != "naive");
        }
        let key = TuningKey::new(subject.op.as_ref(), &descs);
        match choices.iter_mut().find(|(known, _)| *known == key) {
            Some((_, choice)) => choice.runs += 1,
            None if variants.len() > 1 => choices.push((key, Choice { subject, variants, runs: 1 })),
            None => {}
        }
    }
    Ok(choices.into_iter().map(|(_, choice)| choice).collect())
}
