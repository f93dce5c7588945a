//! A whole network: a forward pass or a training step, in all and by kernel.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::error::LabError;
use super::peak::Peak;
use super::report::{Error, KernelShare, NodeShare, Total};
use super::timing::Budget;
use super::trace::{self, Event};
use crate::gpu::{Gpu, KernelTime};
use crate::graph::{Executor, ExecutorOptions, Graph, Tuning, ValueKind};
use crate::model::{
    Description, LossKind, Mode, Model, OptimiserSpec, Tensors, TrainingGraph, build, fold_for_inference,
};
use crate::ops::{Comparison, Cost, Fill, ValueId, arithmetic_dtype};
use crate::pipeline::train::config::TrainConfig;
use crate::pipeline::tuning_cache::Milliseconds;
use crate::tensor::{DType, HostTensor, TensorDesc};

/// What of a network runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkDirection {
    /// Inference: folded, one submission.
    Forward,
    /// A training step: forward, loss, backward, optimiser.
    Train,
}

impl NetworkDirection {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Train => "train",
        }
    }
}

/// What to run and how long.
#[derive(Clone, Debug)]
pub struct NetworkBench {
    /// Forward pass or training step.
    pub direction: NetworkDirection,
    /// Extents of the grid instead of the model's own.
    pub shape: Option<[usize; 3]>,
    /// Samples.
    pub batch: usize,
    /// Element type of a forward pass's activations.
    pub dtype: DType,
    /// Which kernel variants.
    pub tuning: Arc<Tuning>,
    /// How long.
    pub budget: Budget,
    /// Also by kernel.
    pub profile: bool,
}

/// What was found.
#[derive(Debug)]
pub struct NetworkResult {
    /// The whole.
    pub total: Total,
    /// By kernel, longest first; empty without a profile.
    pub kernels: Vec<KernelShare>,
    /// By node, in order of execution; empty without a profile.
    pub nodes: Vec<NodeShare>,
    /// Launches of one run with their nodes.
    launches: Vec<(KernelTime, usize)>,
}

/// A graph with what to feed it and what to compare.
struct Built {
    graph: Graph,
    feeds: HashMap<ValueId, HostTensor>,
    compared: Vec<ValueId>,
}

/// Loss and optimiser that a model trains with: its preset's, where it has one.
pub(crate) fn training_spec(model: &Model) -> (LossKind, OptimiserSpec) {
    let preset = match model.description.name.as_str() {
        "article" => TrainConfig::article_preset(),
        _ => TrainConfig::default_preset(),
    };
    (preset.loss, preset.optimiser)
}

impl Built {
    fn new(model: &Model, bench: &NetworkBench, shape: [usize; 3], batch: usize) -> Result<Self, LabError> {
        match bench.direction {
            NetworkDirection::Forward => {
                let (folded, tensors) = fold_for_inference(&model.description, &model.tensors);
                Self::forward(&folded, &tensors, shape, batch, bench.dtype)
            }
            NetworkDirection::Train => Self::training(model, shape, batch),
        }
    }

    fn forward(
        description: &Description,
        tensors: &Tensors,
        shape: [usize; 3],
        batch: usize,
        dtype: DType,
    ) -> Result<Self, LabError> {
        let network = build(description, batch, shape, Mode::Inference(dtype))?;
        let feeds = feeds(&network.graph, tensors);
        Ok(Self { graph: network.graph, feeds, compared: vec![network.logits] })
    }

    fn training(model: &Model, shape: [usize; 3], batch: usize) -> Result<Self, LabError> {
        let (loss, optimiser) = training_spec(model);
        let training = TrainingGraph::new(&model.description, batch, shape, loss, &optimiser)?;
        let mut feeds = feeds(&training.graph, &model.tensors);
        let values = |words: &[f32]| words.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let mut set = |value: ValueId, data: Vec<f64>| {
            feeds.insert(value, HostTensor::new(training.graph.desc(value).clone(), data));
        };
        set(training.step_state, values(&optimiser.adam().step_state(1, 1e-4, 1.0)));
        if let Some(seed) = training.dropout_seed {
            set(seed, vec![1.0, 1.0]);
        }
        let target = training.graph.desc(training.target);
        let target = Fill::Binary(0.3).sample(&mut ChaCha8Rng::seed_from_u64(5), target);
        set(training.target, target.data);
        Ok(Self { compared: vec![training.loss, training.gradient_squares], graph: training.graph, feeds })
    }

    async fn executor(&self, gpu: &Arc<Gpu>, tuning: &Arc<Tuning>) -> Result<Executor, LabError> {
        let options = ExecutorOptions { tuning: Arc::clone(tuning), ..ExecutorOptions::default() };
        let executor = Executor::new(gpu, self.graph.clone(), options)?;
        for (&value, tensor) in &self.feeds {
            executor.write(value, &tensor.to_words()).await?;
        }
        Ok(executor)
    }
}

/// Weights by name, averages from the weights, moments 0, the rest random.
fn feeds(graph: &Graph, tensors: &Tensors) -> HashMap<ValueId, HostTensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut feeds = HashMap::new();
    let fed = |kind: &ValueKind| !matches!(kind, ValueKind::Computed | ValueKind::Constant(_));
    for value in graph.values_of(fed) {
        let (name, desc) = (&graph.values[value.0].name, graph.desc(value));
        let plain = name.strip_prefix("ema.").unwrap_or(name);
        let tensor = match tensors.get(plain) {
            Some((_, data)) if data.len() == desc.len() => {
                HostTensor::new(desc.clone(), data.iter().map(|&v| f64::from(v)).collect())
            }
            _ if name.starts_with("adam.") || desc.dtype == DType::U32 => HostTensor::zeros(desc.clone()),
            _ => Fill::Normal(1.0).sample(&mut rng, desc),
        };
        feeds.insert(value, tensor);
    }
    feeds
}

/// Grids on which the f64 interpreter runs a network in seconds: four halvings need 16 voxels, and five 32; of those twice as many,
/// since normalisation over two voxels makes errors of rounding large.
const CHECK_SHAPES: [[usize; 3]; 2] = [[16, 16, 32], [64, 64, 96]];
/// Relative error of logits, loss and gradient norm that rounding explains: a few hundred units in the last place.
const ALLOWED: f64 = 1e-4;
/// The same with activations in f16.
const ALLOWED_F16: f64 = 2e-2;

async fn check(gpu: &Arc<Gpu>, model: &Model, bench: &NetworkBench) -> Result<Error, LabError> {
    let [shape, larger] = CHECK_SHAPES;
    let (shape, small) = match Built::new(model, bench, shape, 1) {
        Ok(small) => (shape, small),
        Err(_) => (larger, Built::new(model, bench, larger, 1)?),
    };
    let executor = small.executor(gpu, &bench.tuning).await?;
    executor.run()?;
    let want = small.graph.evaluate_reference(&small.feeds)?;
    let f16 = bench.dtype == DType::F16;
    let mut all: Option<Comparison> = None;
    for &value in &small.compared {
        let got: Vec<f32> = executor.read(value).await?;
        let want = &want[value.0].data;
        let norm = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
        // Root mean squares: an error of a single logit may be several times theirs.
        let allowed = norm * 10.0 * if f16 { ALLOWED_F16 } else { ALLOWED };
        let pairs = got.iter().zip(want).enumerate();
        let one = Comparison::within(pairs.map(|(ix, (&got, &want))| (ix, f64::from(got), want)), allowed);
        all = Some(all.map_or(one, |all| all.and(one)));
    }
    let what = match bench.direction {
        NetworkDirection::Forward => "logits",
        NetworkDirection::Train => "loss and gradient norm",
    };
    let grid = TensorDesc::f32(&shape);
    let outputs = small.compared.iter().map(|&value| small.graph.desc(value).len()).sum();
    all.unwrap_or_default().into_error(format!("{what} on a grid of {grid}"), outputs)
}

/// Checks, then times a network.
///
/// # Errors
/// A network that gives wrong results, does not fit the device, or a device that fails.
pub async fn measure_network(
    gpu: &Arc<Gpu>,
    model: &Model,
    bench: &NetworkBench,
    peak: &Peak,
) -> Result<NetworkResult, LabError> {
    let error = check(gpu, model, bench).await?;
    let shape = bench.shape.unwrap_or(model.description.input.shape);
    let built = Built::new(model, bench, shape, bench.batch)?;
    let executor = built.executor(gpu, &bench.tuning).await?;
    gpu.wait().await?;
    let (mut seconds, mut host) = (Vec::new(), Vec::new());
    executor.run()?;
    gpu.wait().await?;
    let submissions = gpu.submissions();
    while seconds.len() < bench.budget.samples || seconds.iter().sum::<f64>() < bench.budget.seconds {
        let begun = Instant::now();
        executor.run()?;
        host.push(begun.elapsed().as_secs_f64());
        gpu.wait().await?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let submissions = (gpu.submissions() - submissions) / seconds.len() as u64;
    let (mut flops, mut shortest) = (0.0, 0.0);
    for (dtype, cost) in costs(&executor.graph) {
        flops += cost.flops;
        shortest += peak.shortest_seconds(dtype, cost.flops, cost.bytes);
    }
    let ms = Milliseconds::of(&seconds);
    let mut input = vec![bench.batch, 1];
    input.extend(shape);
    let total = Total {
        name: model.description.name.clone(),
        direction: bench.direction.name().to_owned(),
        dtype: bench.dtype.name().to_owned(),
        shape: input,
        ms,
        samples: seconds.len(),
        gflop: Some(flops * 1e-9),
        gflops: Some(flops * 1e-6 / ms.median),
        roofline_fraction: Some(shortest * 1e3 / ms.median),
        peak_buffer_bytes: executor.allocated_bytes,
        submissions,
        stages: Vec::new(),
        host_ms: Some(Milliseconds::of(&host)),
        error,
    };
    let mut result = NetworkResult { total, kernels: Vec::new(), nodes: Vec::new(), launches: Vec::new() };
    if bench.profile {
        result.profile(&executor, peak).await?;
    }
    Ok(result)
}

/// Element type of the arithmetic and cost of every node.
fn costs(graph: &Graph) -> Vec<(DType, Cost)> {
    let descs = |values: &[ValueId]| values.iter().map(|&v| graph.desc(v).clone()).collect::<Vec<_>>();
    let cost = |node: &crate::graph::Node| {
        let (inputs, outputs) = (descs(&node.inputs), descs(&node.outputs));
        (arithmetic_dtype(inputs.iter().chain(&outputs)), node.op.cost(&inputs, &outputs))
    };
    graph.nodes.iter().map(cost).collect()
}

impl NetworkResult {
    /// Times every launch; the median of three runs counts.
    async fn profile(&mut self, executor: &Executor, peak: &Peak) -> Result<(), LabError> {
        let mut runs = Vec::new();
        for _ in 0..3 {
            let Some(times) = executor.profile().await? else { return Ok(()) };
            runs.push(times);
        }
        let seconds: Vec<f64> = (0..runs[0].len())
            .map(|ix| {
                let mut of_runs: Vec<f64> = runs.iter().map(|run| run[ix].seconds).collect();
                of_runs.sort_by(f64::total_cmp);
                of_runs[1]
            })
            .collect();
        let all: f64 = seconds.iter().sum();
        let graph = &executor.graph;
        // Seconds of each node, and its longest launch.
        let mut nodes = vec![(0.0, 0); graph.nodes.len()];
        for (launch, &node) in executor.launch_nodes().iter().enumerate() {
            let (total, longest) = &mut nodes[node];
            if *total == 0.0 || seconds[launch] > seconds[*longest] {
                *longest = launch;
            }
            *total += seconds[launch];
        }
        self.kernels = KernelShare::of(runs[0].iter().map(|time| time.kernel).zip(seconds.iter().copied()));
        let text = |values: &[ValueId]| values.iter().map(|&v| graph.desc(v).to_string()).collect();
        let mut bounds: HashMap<&str, (f64, f64)> = HashMap::new();
        for (ix, ((node, (dtype, Cost { flops, bytes })), &(seconds, longest))) in
            graph.nodes.iter().zip(costs(graph)).zip(&nodes).enumerate()
        {
            let variant = executor.variants()[ix];
            let shortest = peak.shortest_seconds(dtype, flops, bytes);
            if seconds > 0.0 {
                let bound = bounds.entry(runs[0][longest].kernel).or_default();
                *bound = (bound.0 + shortest, bound.1 + seconds);
            }
            let seconds = f64::max(seconds, 1e-9);
            self.nodes.push(NodeShare {
                node: node.name.clone(),
                op: node.op.name().to_owned(),
                variant: variant.to_owned(),
                inputs: text(&node.inputs),
                outputs: text(&node.outputs),
                ms: seconds * 1e3,
                share: seconds / all,
                gflops: flops / seconds * 1e-9,
                roofline_fraction: shortest / seconds,
            });
        }
        for share in &mut self.kernels {
            share.roofline_fraction =
                bounds.get(share.kernel.as_str()).map(|(shortest, seconds)| shortest / seconds);
        }
        self.launches =
            runs.swap_remove(0).into_iter().zip(executor.launch_nodes().iter().copied()).collect();
        Ok(())
    }

    /// Writes the launches of one profiled run, as [`N4Measurement::write_trace`](super::N4Measurement::write_trace).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_trace(&self, path: &Path) -> Result<(), LabError> {
        let title = format!("{} {}", self.total.name, self.total.direction);
        let events = self.launches.iter().map(|(time, node)| {
            let node = &self.nodes[*node];
            let details = json!({ "variant": node.variant, "inputs": node.inputs, "outputs": node.outputs });
            Event { name: &node.node, category: &node.op, time, details }
        });
        trace::write(path, &title, events)
    }
}
