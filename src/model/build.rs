//! From a description to a graph.

use std::collections::HashMap;

use super::ModelError;
use super::description::*;
use crate::graph::Graph;
use crate::ops::ValueId;
use crate::ops::activation::Activation;
use crate::ops::cast::Cast;
use crate::ops::conv::{Conv3d, ConvTranspose3d, Window};
use crate::ops::dropout::Dropout;
use crate::ops::elementwise::Add;
use crate::ops::norm::{BatchNormInference, BatchNormUpdate, Norm, NormKind};
use crate::ops::pool::{AvgPool3d, MaxPool3d};
use crate::ops::space_to_depth::{DepthToSpace, SpaceToDepth};
use crate::ops::upsample::{Upsample, UpsampleTo};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// What the graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, dropout, running statistics updated.
    Training,
    /// Running statistics, no dropout; activations of this type, f32 or f16. Input, weights and logits are f32.
    Inference(DType),
}

impl Mode {
    /// Element type of the activations.
    fn activations(self) -> DType {
        match self {
            Self::Training => DType::F32,
            Self::Inference(dtype) => dtype,
        }
    }
}

/// A description's graph with the values that its caller feeds and reads.
#[derive(Debug)]
pub struct BuiltNetwork {
    /// The graph.
    pub graph: Graph,
    /// Input `[N, 1, D, H, W]`.
    pub input: ValueId,
    /// Logits `[N, 1, D, H, W]`.
    pub logits: ValueId,
    /// Those of the brain without the CSF round it, where the description says both.
    pub no_csf: Option<ValueId>,
    /// `[seed, step]` of dropout, when the network has any and is trained.
    pub dropout_seed: Option<ValueId>,
    /// Output of every layer by name.
    pub layers: HashMap<String, ValueId>,
}

/// A terabyte of values: far beyond any device, and few enough that counts of bytes and of multiplications fit 64 bits.
const MOST_VALUES: usize = 1 << 38;

struct Builder {
    graph: Graph,
    mode: Mode,
    dropout_seed: Option<ValueId>,
    dropouts: u32,
}

impl Builder {
    fn parameter(&mut self, layer: &str, name: &str, shape: &[usize]) -> ValueId {
        self.graph.parameter(&format!("{layer}.{name}"), TensorDesc::f32(shape))
    }

    fn norm(
        &mut self,
        layer: &str,
        x: ValueId,
        kind: NormKind,
        eps: f32,
        affine: bool,
        activation: Activation,
    ) -> Result<Vec<ValueId>, ModelError> {
        let channels = self.graph.desc(x).shape[1];
        let mut operand = |name: &str, without: f64| match affine {
            true => self.parameter(layer, name, &[channels]),
            false => {
                let same = HostTensor::new(TensorDesc::f32(&[channels]), vec![without; channels]);
                self.graph.constant(&format!("{layer} without {name}"), &same)
            }
        };
        let (gamma, beta) = (operand("weight", 1.0), operand("bias", 0.0));
        Ok(self.graph.apply(Norm { kind, eps, activation }, &[x, gamma, beta])?)
    }

    fn batch_norm(
        &mut self,
        layer: &str,
        x: ValueId,
        eps: f32,
        momentum: f32,
        activation: Activation,
    ) -> Result<ValueId, ModelError> {
        let channels = TensorDesc::f32(&[self.graph.desc(x).shape[1]]);
        if self.mode != Mode::Training {
            let gamma = self.parameter(layer, "weight", &channels.shape);
            let beta = self.parameter(layer, "bias", &channels.shape);
            let mean = self.graph.state(&format!("{layer}.running_mean"), channels.clone());
            let variance = self.graph.state(&format!("{layer}.running_var"), channels);
            let op = BatchNormInference { eps, activation };
            return Ok(self.graph.apply1(op, &[x, gamma, beta, mean, variance])?);
        }
        let outputs = self.norm(layer, x, NormKind::Batch, eps, true, activation)?;
        let mean = self.graph.state(&format!("{layer}.running_mean"), channels.clone());
        let variance = self.graph.state(&format!("{layer}.running_var"), channels);
        self.graph.apply(BatchNormUpdate { momentum, eps }, &[mean, variance, outputs[1], outputs[2]])?;
        Ok(outputs[0])
    }

    fn dropout(&mut self, x: ValueId, rate: f32) -> Result<ValueId, ModelError> {
        if self.mode != Mode::Training {
            return Ok(x);
        }
        let seed = match self.dropout_seed {
            Some(seed) => seed,
            None => self.graph.input("dropout_seed", TensorDesc::u32(&[2])),
        };
        self.dropout_seed = Some(seed);
        self.dropouts += 1;
        Ok(self.graph.apply1(Dropout { rate, stream: self.dropouts }, &[x, seed])?)
    }

    /// The logits that an answer stands for: a convolution of one tap with constant weights, where it is none already.
    fn logits(&mut self, layer: &str, answer: ValueId, kind: AnswerKind) -> Result<ValueId, ModelError> {
        let channels = self.graph.desc(answer).shape[1];
        let (weights, bias): (&[f64], Option<f32>) = match kind {
            AnswerKind::Logit => (&[1.0], None),
            AnswerKind::TwoClasses => (&[-1.0, 1.0], None),
            AnswerKind::DistanceMm { border_mm } => (&[-1.0], Some(border_mm)),
        };
        if channels != weights.len() {
            return Err(ModelError::Layer {
                layer: layer.to_owned(),
                reason: format!(
                    "is the output and has {channels} channels; an answer of the kind {kind:?} has {}",
                    weights.len()
                ),
            });
        }
        if kind == AnswerKind::Logit {
            return Ok(answer);
        }
        self.graph.set_scope("answer");
        let mut constant = |name: &str, shape: &[usize], values: Vec<f64>| {
            self.graph.constant(name, &HostTensor::new(TensorDesc::f32(shape), values))
        };
        let mut operands = vec![answer, constant("answer.weight", &[1, channels, 1, 1, 1], weights.to_vec())];
        operands.extend(bias.map(|bias| constant("answer.bias", &[1], vec![bias.into()])));
        let op = Conv3d::new(Window::same([1; 3]), bias.is_some());
        let logits = self.graph.apply1(op, &operands)?;
        self.graph.set_scope("");
        Ok(logits)
    }

    fn layer(&mut self, layer: &Layer, inputs: &[ValueId]) -> Result<ValueId, ModelError> {
        let name = layer.name.as_str();
        let channels: usize = inputs.iter().map(|&v| self.graph.desc(v).shape[1]).sum();
        match &layer.kind {
            LayerKind::Conv3d { out_channels, kernel, stride, dilation, padding, bias, activation } => {
                let [kd, kh, kw] = *kernel;
                let mut operands = inputs.to_vec();
                operands.push(self.parameter(name, "weight", &[*out_channels, channels, kd, kh, kw]));
                if *bias {
                    operands.push(self.parameter(name, "bias", &[*out_channels]));
                }
                let padding = padding.unwrap_or(Window::same(*kernel).padding);
                let op = Conv3d {
                    window: Window { stride: *stride, dilation: *dilation, padding },
                    two_inputs: inputs.len() == 2,
                    bias: *bias,
                    activation: fused(layer, *activation)?,
                };
                Ok(self.graph.apply1(op, &operands)?)
            }
            LayerKind::ConvTranspose3d { out_channels, kernel, stride, crop, bias, activation } => {
                let [kd, kh, kw] = *kernel;
                let mut operands = inputs.to_vec();
                operands.push(self.parameter(name, "weight", &[channels, *out_channels, kd, kh, kw]));
                if *bias {
                    operands.push(self.parameter(name, "bias", &[*out_channels]));
                }
                let op = ConvTranspose3d {
                    window: Window { stride: *stride, dilation: [1; 3], padding: *crop },
                    bias: *bias,
                    activation: fused(layer, *activation)?,
                };
                Ok(self.graph.apply1(op, &operands)?)
            }
            LayerKind::BatchNorm { eps, momentum, activation } => {
                self.batch_norm(name, inputs[0], *eps, *momentum, fused(layer, *activation)?)
            }
            LayerKind::InstanceNorm { eps, affine, activation } => {
                let activation = fused(layer, *activation)?;
                Ok(self.norm(name, inputs[0], NormKind::Instance, *eps, *affine, activation)?[0])
            }
            LayerKind::GroupNorm { groups, eps, affine, activation } => {
                let (kind, activation) = (NormKind::Group { groups: *groups }, fused(layer, *activation)?);
                Ok(self.norm(name, inputs[0], kind, *eps, *affine, activation)?[0])
            }
            LayerKind::Activation { activation } => match activation.operator() {
                None => Ok(inputs[0]),
                Some(op) => Ok(self.graph.apply1(op, inputs)?),
            },
            LayerKind::MaxPool3d { kernel, stride, padding } => {
                let op = MaxPool3d { kernel: *kernel, stride: *stride, padding: *padding };
                Ok(self.graph.apply(op, inputs)?[0])
            }
            LayerKind::AvgPool3d { kernel, stride } => {
                Ok(self.graph.apply1(AvgPool3d { kernel: *kernel, stride: *stride }, inputs)?)
            }
            LayerKind::Upsample { factor, mode } => {
                let op = Upsample { mode: (*mode).into(), to: UpsampleTo::Scale(*factor) };
                Ok(self.graph.apply1(op, inputs)?)
            }
            LayerKind::Add => Ok(self.graph.apply1(Add, inputs)?),
            LayerKind::SpaceToDepth { factor } => {
                Ok(self.graph.apply1(SpaceToDepth { factor: *factor }, inputs)?)
            }
            LayerKind::DepthToSpace { factor } => {
                Ok(self.graph.apply1(DepthToSpace { factor: *factor }, inputs)?)
            }
            LayerKind::Dropout { rate } => self.dropout(inputs[0], *rate),
        }
    }
}

/// An activation that a layer applies last.
fn fused(layer: &Layer, activation: ActivationKind) -> Result<Activation, ModelError> {
    activation.fused().ok_or_else(|| ModelError::Layer {
        layer: layer.name.clone(),
        reason: format!("cannot apply {activation:?} last; make that a layer of its own"),
    })
}

/// Builds the graph of a description for a batch of inputs `[batch, 1, shape]`.
///
/// # Errors
/// A layer that reads an unknown name, or shapes that do not fit, with the layer's name.
pub fn build(
    description: &Description,
    batch: usize,
    shape: [usize; 3],
    mode: Mode,
) -> Result<BuiltNetwork, ModelError> {
    let mut builder = Builder { graph: Graph::new(), mode, dropout_seed: None, dropouts: 0 };
    let [d, h, w] = shape;
    let input = builder.graph.input("input", TensorDesc::f32(&[batch, 1, d, h, w]));
    let half = mode.activations() != DType::F32;
    let first = if half { builder.graph.apply1(Cast { to: mode.activations() }, &[input])? } else { input };
    let mut layers = HashMap::from([("input".to_owned(), first)]);
    for layer in &description.layers {
        let fail = |reason: String| ModelError::Layer { layer: layer.name.clone(), reason };
        let inputs: Vec<ValueId> = layer
            .inputs
            .iter()
            .map(|name| {
                layers.get(name).copied().ok_or_else(|| fail(format!("reads unknown layer '{name}'")))
            })
            .collect::<Result<_, _>>()?;
        if inputs.is_empty() || inputs.len() > 2 {
            return Err(fail(format!("has {} inputs; 1 or 2 are possible", inputs.len())));
        }
        builder.graph.set_scope(&layer.name);
        let value = builder.layer(layer, &inputs)?;
        let mut extents = builder.graph.desc(value).shape.iter();
        let values = extents.try_fold(1_usize, |values, &extent| values.checked_mul(extent));
        if values.is_none_or(|values| values > MOST_VALUES) {
            return Err(fail("makes more values than any device holds".to_owned()));
        }
        if layers.insert(layer.name.clone(), value).is_some() {
            return Err(fail("has the name of an earlier layer".to_owned()));
        }
    }
    builder.graph.set_scope("");
    let mut logits_of = |output: &String| -> Result<ValueId, ModelError> {
        let answer = layers.get(output).copied().ok_or_else(|| ModelError::Layer {
            layer: output.clone(),
            reason: "is named as an output but does not exist".to_owned(),
        })?;
        let mut logits = builder.logits(output, answer, description.answer)?;
        if half {
            logits = builder.graph.apply1(Cast { to: DType::F32 }, &[logits])?;
        }
        builder.graph.mark_output(logits);
        Ok(logits)
    };
    let logits = logits_of(&description.output)?;
    let no_csf = description.no_csf.as_ref().map(logits_of).transpose()?;
    if mode != Mode::Training {
        builder.graph.write_over_inputs();
    }
    Ok(BuiltNetwork {
        graph: builder.graph,
        input,
        logits,
        no_csf,
        dropout_seed: builder.dropout_seed,
        layers,
    })
}
