//! The training graph of a network: forward, loss, backward, clipping, optimiser, average of the weights.

use std::collections::BTreeMap;

use globset::Glob;
use serde::{Deserialize, Serialize};

use super::build::{BuiltNetwork, Mode, build};
use super::description::{AnswerKind, Description, LayerKind};
use super::weights::expected_tensors;
use super::{ModelError, Tensors};
use crate::graph::{Executor, Graph, GraphError, ValueKind};
use crate::ops::ValueId;
use crate::ops::border_distance::BorderDistance;
use crate::ops::constant::Constant;
use crate::ops::distance_loss::DistanceLoss;
use crate::ops::elementwise::Add;
use crate::ops::loss::{Loss, OverlapCounts};
use crate::ops::optimizer::{AccumulateSumOfSquares, Adam, AdamForm, ClipFactor, Ema};
use crate::tensor::{HostTensor, TensorDesc};

/// Losses that training offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Soft Dice plus binary cross-entropy.
    DiceBce,
    /// Soft Dice.
    Dice,
    /// Binary cross-entropy.
    Bce,
    /// Focal loss, gamma 2, alpha 0.25.
    Focal,
    /// Huber loss of signed distances to the brain's border, clipped, for networks that answer with them.
    Distance,
    /// Soft Dice plus that loss.
    DiceDistance,
}

/// Distance from the brain's border from which on only the side counts, in mm: in the skull, and below the cortex.
const CLIP_MM: f32 = 5.0;

impl LossKind {
    /// The loss that networks with such an answer learn by, unless another is asked for.
    pub fn of(answer: AnswerKind) -> Self {
        match answer {
            AnswerKind::Logit | AnswerKind::TwoClasses => Self::DiceBce,
            AnswerKind::DistanceMm { .. } => Self::Distance,
        }
    }

    /// Whether it asks for signed distances instead of logits.
    pub fn asks_for_distances(self) -> bool {
        matches!(self, Self::Distance | Self::DiceDistance)
    }

    /// Whether networks with such an answer can learn by it: a distance in mm is no probability's logit, nor the other way
    /// round.
    pub fn suits(self, answer: AnswerKind) -> bool {
        self.asks_for_distances() == matches!(answer, AnswerKind::DistanceMm { .. })
    }

    /// Adds the loss `[1]` of logits and masks, and perhaps weights, `[N, 1, D, H, W]` to a graph; the masks may be fractions, and
    /// distances are those to where they pass a half, on voxels of this size.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn apply(
        self,
        graph: &mut Graph,
        logits: ValueId,
        masks: ValueId,
        weights: Option<ValueId>,
        voxel_mm: [f64; 3],
    ) -> Result<ValueId, GraphError> {
        let mut apply = |loss: Loss| -> Result<ValueId, GraphError> {
            let inputs: Vec<ValueId> = [logits, masks].into_iter().chain(weights).collect();
            Ok(graph.apply(loss, &inputs)?[0])
        };
        let dice = Loss::SoftDice { smooth: 1.0, per_sample: false };
        let overlap = match self {
            Self::DiceBce => {
                return apply(Loss::DiceBce {
                    smooth: 1.0,
                    per_sample: false,
                    dice_weight: 1.0,
                    bce_weight: 1.0,
                });
            }
            Self::Dice => return apply(dice),
            Self::Bce => return apply(Loss::Bce),
            Self::Focal => return apply(Loss::Focal { gamma: 2.0, alpha: 0.25 }),
            Self::Distance => None,
            Self::DiceDistance => Some(apply(dice)?),
        };
        let to_border = BorderDistance { voxel_mm, most_mm: CLIP_MM.into() };
        let distance = graph.apply1(to_border, &[masks])?;
        let inputs: Vec<ValueId> = [logits, distance, masks].into_iter().chain(weights).collect();
        let distances = graph.apply1(DistanceLoss { clip_mm: CLIP_MM }, &inputs)?;
        match overlap {
            Some(overlap) => graph.apply1(Add, &[overlap, distances]),
            None => Ok(distances),
        }
    }
}

/// The optimiser's attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserSpec {
    /// Decoupled weight decay; 0 for plain Adam.
    pub weight_decay: f64,
    /// Keras' form of Adam (epsilon 1e-7 outside the bias correction) instead of PyTorch's (1e-8).
    pub keras: bool,
    /// Largest L2 norm of all gradients together; 0 does not clip.
    pub clip_norm: f32,
    /// Decay of the moving average of the weights; 0 keeps none.
    pub ema_decay: f64,
    /// Factors on the learning rate by patterns of layers' names, as shells match files; of several that match, the longest
    /// counts. 0 freezes a layer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub layers: BTreeMap<String, f64>,
}

impl OptimiserSpec {
    /// The Adam operator.
    pub fn adam(&self) -> Adam {
        let (form, epsilon) = if self.keras { (AdamForm::Keras, 1e-7) } else { (AdamForm::PyTorch, 1e-8) };
        Adam { beta1: 0.9, beta2: 0.999, epsilon, weight_decay: self.weight_decay, form, rate: 1.0 }
    }

    /// The factor on the learning rate of every layer with weights.
    ///
    /// # Errors
    /// A pattern that is none or matches no layer, with the layers that there are; patterns that freeze all of them.
    pub fn rates(&self, description: &Description) -> Result<BTreeMap<String, f64>, ModelError> {
        let tensors = expected_tensors(description)?;
        let mut rates: BTreeMap<String, f64> =
            tensors.iter().map(|(name, _)| (layer_of(name).to_owned(), 1.0)).collect();
        let mut patterns: Vec<(&String, f64)> = self.layers.iter().map(|(p, &rate)| (p, rate)).collect();
        patterns.sort_by_key(|(pattern, _)| pattern.len());
        for (pattern, rate) in patterns {
            let fail = |reason: String| ModelError::Pattern { pattern: pattern.clone(), reason };
            let glob = Glob::new(pattern).map_err(|e| fail(format!("is no pattern: {}", e.kind())))?;
            let glob = glob.compile_matcher();
            let mut matched = false;
            for (_, of_layer) in rates.iter_mut().filter(|(name, _)| glob.is_match(name.as_str())) {
                *of_layer = rate;
                matched = true;
            }
            if !matched {
                let layers: Vec<&str> = rates.keys().map(String::as_str).collect();
                let reason = format!("matches no layer; those with weights are {}", layers.join(", "));
                return Err(fail(reason));
            }
        }
        if let Some((pattern, _)) = self.layers.first_key_value()
            && rates.values().all(|&rate| rate == 0.0)
        {
            let reason = "freezes, alone or with others, all layers; leave one to train".to_owned();
            return Err(ModelError::Pattern { pattern: pattern.clone(), reason });
        }
        Ok(rates)
    }
}

/// The layer that a tensor belongs to.
fn layer_of(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or(tensor, |(layer, _)| layer)
}

/// The network with the running statistics of its frozen layers frozen too.
fn with_frozen_statistics(description: &Description, rates: &BTreeMap<String, f64>) -> Description {
    let mut description = description.clone();
    for layer in &mut description.layers {
        if let LayerKind::BatchNorm { momentum, .. } = &mut layer.kind
            && rates.get(&layer.name) == Some(&0.0)
        {
            *momentum = 0.0;
        }
    }
    description
}

/// Graph and values of one training step.
#[derive(Debug)]
pub struct TrainingGraph {
    /// The graph.
    pub graph: Graph,
    /// Image batch `[N, 1, D, H, W]`.
    pub input: ValueId,
    /// Target batch `[N, 1, D, H, W]` in `[0, 1]`, negative where it is not known.
    pub target: ValueId,
    /// The same of the brain without the CSF round it, where the network says what that is.
    pub target_no_csf: Option<ValueId>,
    /// Weights of the batch's voxels `[N, 1, D, H, W]`, where they do not all count alike.
    pub weights: Option<ValueId>,
    /// See [`Adam::step_state`].
    pub step_state: ValueId,
    /// `[seed, step]`, when the network has dropout.
    pub dropout_seed: Option<ValueId>,
    /// The loss `[1]`.
    pub loss: ValueId,
    /// Sum of squares of all gradients `[1]`; not finite when any gradient is not.
    pub gradient_squares: ValueId,
    /// Overlap of prediction and target, see [`OverlapCounts`].
    pub counts: ValueId,
    /// Logits.
    pub logits: ValueId,
    /// Gradient of each parameter that is not frozen, by name.
    pub gradients: BTreeMap<String, ValueId>,
    /// Every value that a checkpoint must hold, by name: parameters, running statistics, moments
    /// (`adam.m.NAME`, `adam.v.NAME`) and averages (`ema.NAME`).
    pub persistent: BTreeMap<String, ValueId>,
}

impl TrainingGraph {
    /// Builds the step for batches of `batch` samples of extents `shape`.
    ///
    /// # Errors
    /// A description that does not make a network, or as [`OptimiserSpec::rates`].
    pub fn new(
        description: &Description,
        batch: usize,
        shape: [usize; 3],
        loss: LossKind,
        optimiser: &OptimiserSpec,
    ) -> Result<Self, ModelError> {
        Self::with_weights(description, batch, shape, loss, optimiser, false)
    }

    /// As [`TrainingGraph::new`], with weights of the voxels as an input if `weighted`.
    ///
    /// # Errors
    /// As [`TrainingGraph::new`].
    pub fn with_weights(
        description: &Description,
        batch: usize,
        shape: [usize; 3],
        loss: LossKind,
        optimiser: &OptimiserSpec,
        weighted: bool,
    ) -> Result<Self, ModelError> {
        let rates = optimiser.rates(description)?;
        let BuiltNetwork { mut graph, input, logits, no_csf, dropout_seed, .. } =
            build(&with_frozen_statistics(description, &rates), batch, shape, Mode::Training)?;
        let rate_of = |graph: &Graph, parameter: ValueId| rates[layer_of(&graph.values[parameter.0].name)];
        let parameters: Vec<ValueId> =
            graph.parameters().into_iter().filter(|&parameter| rate_of(&graph, parameter) != 0.0).collect();
        let target = graph.input("target", graph.desc(logits).clone());
        let weights = weighted.then(|| graph.input("weights", graph.desc(logits).clone()));
        let step_state = graph.input("step_state", TensorDesc::f32(&[8]));
        graph.set_scope("loss");
        let voxel_mm = description.input.voxel_mm;
        let mut total = loss.apply(&mut graph, logits, target, weights, voxel_mm)?;
        let mut target_no_csf = None;
        if let Some(logits) = no_csf {
            let target = graph.input("target_no_csf", graph.desc(logits).clone());
            let further = loss.apply(&mut graph, logits, target, weights, voxel_mm)?;
            total = graph.apply1(Add, &[total, further])?;
            target_no_csf = Some(target);
        }
        let loss = total;
        let counts = graph.apply1(OverlapCounts { threshold: 0.5 }, &[logits, target])?;
        let one = graph.constant("one", &HostTensor::new(TensorDesc::f32(&[1]), vec![1.0]));
        let gradients = graph.backward(loss, one, &parameters)?;
        graph.set_scope("clip");
        let mut squares = graph.apply1(Constant { desc: TensorDesc::f32(&[1]), value: 0.0 }, &[])?;
        for parameter in &parameters {
            if let Some(&gradient) = gradients.get(parameter) {
                squares = graph.apply1(AccumulateSumOfSquares, &[squares, gradient])?;
            }
        }
        // Without clipping the factor still is 0 for gradients that are not finite, which skips the step.
        let max_norm = if optimiser.clip_norm > 0.0 { optimiser.clip_norm } else { f32::MAX };
        let clip = graph.apply1(ClipFactor { max_norm }, &[squares])?;
        let mut by_name = BTreeMap::new();
        for &parameter in &parameters {
            let Some(&gradient) = gradients.get(&parameter) else { continue };
            let (name, rate) = (graph.values[parameter.0].name.clone(), rate_of(&graph, parameter));
            let desc = graph.desc(parameter).clone();
            graph.set_scope(&name);
            let m = graph.state(&format!("adam.m.{name}"), desc.clone());
            let v = graph.state(&format!("adam.v.{name}"), desc.clone());
            let adam = Adam { rate, ..optimiser.adam() };
            let updated = graph.apply(adam, &[parameter, m, v, gradient, step_state, clip])?;
            if optimiser.ema_decay > 0.0 {
                let average = graph.state(&format!("ema.{name}"), desc);
                graph.apply(Ema { decay: optimiser.ema_decay }, &[average, updated[0]])?;
            }
            by_name.insert(name, gradient);
        }
        graph.set_scope("");
        for value in [loss, squares, counts] {
            graph.mark_output(value);
        }
        let persistent = graph
            .values_of(|kind| matches!(kind, ValueKind::Parameter | ValueKind::State))
            .into_iter()
            .map(|value| (graph.values[value.0].name.clone(), value))
            .collect();
        Ok(Self {
            graph,
            input,
            target,
            target_no_csf,
            weights,
            step_state,
            dropout_seed,
            loss,
            gradient_squares: squares,
            counts,
            logits,
            gradients: by_name,
            persistent,
        })
    }

    /// Loads tensors into an executor of this graph. Moments absent from `tensors` start at 0, averages
    /// at the weights.
    ///
    /// # Errors
    /// A parameter that is missing or of another size.
    pub async fn load(&self, executor: &Executor, tensors: &Tensors) -> Result<(), ModelError> {
        for (name, &value) in &self.persistent {
            let n = executor.graph.desc(value).len();
            let found = tensors.get(name).or_else(|| tensors.get(name.strip_prefix("ema.")?));
            match found {
                Some((_, values)) if values.len() == n => executor.write(value, values).await?,
                Some((shape, _)) => {
                    let reason =
                        format!("has shape {shape:?}, the network needs {}", executor.graph.desc(value));
                    return Err(ModelError::Layer { layer: name.clone(), reason });
                }
                None if name.starts_with("adam.") => executor.write(value, &vec![0.0f32; n]).await?,
                None => {
                    let reason = "is missing from the weights to start from".to_owned();
                    return Err(ModelError::Layer { layer: name.clone(), reason });
                }
            }
        }
        Ok(())
    }

    /// Reads back everything that [`TrainingGraph::load`] restores.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn save(&self, executor: &Executor) -> Result<Tensors, ModelError> {
        let mut tensors = Tensors::new();
        for (name, &value) in &self.persistent {
            let values = executor.read(value).await?;
            tensors.insert(name.clone(), (executor.graph.desc(value).shape.clone(), values));
        }
        Ok(tensors)
    }
}

/// Whether a tensor of a checkpoint belongs to the optimiser (moments, averages) and not to the network.
pub fn is_of_optimiser(name: &str) -> bool {
    name.starts_with("adam.") || name.starts_with("ema.")
}

/// The weights to use out of everything a checkpoint holds: averages where there are any.
pub fn weights_of(checkpoint: &Tensors) -> Tensors {
    checkpoint
        .iter()
        .filter(|(name, _)| !is_of_optimiser(name))
        .map(|(name, value)| (name.clone(), checkpoint.get(&format!("ema.{name}")).unwrap_or(value).clone()))
        .collect()
}
