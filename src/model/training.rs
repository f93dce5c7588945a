//! The training graph of a network: forward, loss, backward, clipping, optimiser, average of the weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::build::{BuiltNetwork, Mode, build};
use super::description::Description;
use super::{ModelError, Tensors};
use crate::graph::{Executor, Graph, ValueKind};
use crate::ops::ValueId;
use crate::ops::constant::Constant;
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
}

impl LossKind {
    /// The operator.
    pub fn operator(self) -> Loss {
        match self {
            Self::DiceBce => {
                Loss::DiceBce { smooth: 1.0, per_sample: false, dice_weight: 1.0, bce_weight: 1.0 }
            }
            Self::Dice => Loss::SoftDice { smooth: 1.0, per_sample: false },
            Self::Bce => Loss::Bce,
            Self::Focal => Loss::Focal { gamma: 2.0, alpha: 0.25 },
        }
    }
}

/// The optimiser's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
}

impl OptimiserSpec {
    /// The Adam operator.
    pub fn adam(&self) -> Adam {
        let (form, epsilon) = if self.keras { (AdamForm::Keras, 1e-7) } else { (AdamForm::PyTorch, 1e-8) };
        Adam { beta1: 0.9, beta2: 0.999, epsilon, weight_decay: self.weight_decay, form }
    }
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
    /// Gradient of each parameter by name.
    pub gradients: BTreeMap<String, ValueId>,
    /// Every value that a checkpoint must hold, by name: parameters, running statistics, moments
    /// (`adam.m.NAME`, `adam.v.NAME`) and averages (`ema.NAME`).
    pub persistent: BTreeMap<String, ValueId>,
}

impl TrainingGraph {
    /// Builds the step for batches of `batch` samples of extents `shape`.
    ///
    /// # Errors
    /// A description that does not make a network.
    pub fn new(
        description: &Description,
        batch: usize,
        shape: [usize; 3],
        loss: LossKind,
        optimiser: &OptimiserSpec,
    ) -> Result<Self, ModelError> {
        let BuiltNetwork { mut graph, input, logits, no_csf, dropout_seed, .. } =
            build(description, batch, shape, Mode::Training)?;
        let parameters = graph.parameters();
        let target = graph.input("target", graph.desc(logits).clone());
        let step_state = graph.input("step_state", TensorDesc::f32(&[8]));
        graph.set_scope("loss");
        let mut total = graph.apply(loss.operator(), &[logits, target])?[0];
        let mut target_no_csf = None;
        if let Some(logits) = no_csf {
            let target = graph.input("target_no_csf", graph.desc(logits).clone());
            let further = graph.apply(loss.operator(), &[logits, target])?[0];
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
            let name = graph.values[parameter.0].name.clone();
            let desc = graph.desc(parameter).clone();
            graph.set_scope(&name);
            let m = graph.state(&format!("adam.m.{name}"), desc.clone());
            let v = graph.state(&format!("adam.v.{name}"), desc.clone());
            let updated = graph.apply(optimiser.adam(), &[parameter, m, v, gradient, step_state, clip])?;
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
