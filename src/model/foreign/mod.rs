//! Networks of other programs' files that hold layers and weights, but not what they see of a head.

pub mod keras;
pub mod onnx;
mod proto;

use std::collections::HashMap;

use super::description::*;
use super::weights::Tensors;

/// Layers of a network, their weights, and what the last one says.
#[derive(Debug)]
pub struct Network {
    /// Layers in order of evaluation.
    pub layers: Vec<Layer>,
    /// The layer that answers.
    pub output: String,
    /// What it says: by the activation that the file ends with, or by its number of channels.
    pub answer: AnswerKind,
    /// Weights by the layers' names.
    pub tensors: Tensors,
    /// Whether padding depends on the grid, and is that of grids which every level halves exactly.
    pub whole_levels: bool,
}

/// A network on the way from the values of its file, by their names, to layers.
#[derive(Default)]
struct Assembly {
    layers: Vec<Layer>,
    tensors: Tensors,
    /// The layers that a value is the output of; several are joined along their channels.
    values: HashMap<String, Vec<String>>,
    /// What the values say that an activation at the end makes.
    ends: HashMap<String, AnswerKind>,
}

impl Assembly {
    /// The layers that a value is the output of.
    fn layers_of(&self, value: &str) -> Result<Vec<String>, String> {
        if let Some(end) = self.ends.get(value) {
            return Err(format!("goes on after the answer '{value}' ({end:?})"));
        }
        self.values
            .get(value)
            .cloned()
            .ok_or_else(|| format!("reads '{value}', which nothing before it makes"))
    }

    /// The one layer that a value is the output of.
    fn layer_of(&self, value: &str) -> Result<String, String> {
        match &self.layers_of(value)?[..] {
            [layer] => Ok(layer.clone()),
            _ => Err("reads a concatenation; here only convolutions read those".into()),
        }
    }

    /// Adds a layer that makes a value of others; convolutions read two joined ones at most.
    fn push(&mut self, name: String, reads: &[&str], kind: LayerKind, value: String) -> Result<(), String> {
        let mut inputs = Vec::new();
        for read in reads {
            match kind {
                LayerKind::Conv3d { .. } => inputs.extend(self.layers_of(read)?),
                _ => inputs.push(self.layer_of(read)?),
            }
        }
        let most = if matches!(kind, LayerKind::Conv3d { .. } | LayerKind::Add) { 2 } else { 1 };
        if inputs.len() > most {
            return Err(format!("reads {} values; {most} at most are possible here", inputs.len()));
        }
        self.values.insert(value, vec![name.clone()]);
        self.layers.push(Layer { name, inputs, kind });
        Ok(())
    }

    /// Gives a value of several the name of another, joined along their channels.
    fn join(&mut self, reads: &[&str], value: String) -> Result<(), String> {
        let mut joined = Vec::new();
        for read in reads {
            joined.extend(self.layers_of(read)?);
        }
        self.values.insert(value, joined);
        Ok(())
    }

    /// Takes an activation for the end of the network.
    fn end(&mut self, read: &str, value: String, answer: AnswerKind) -> Result<(), String> {
        let layer = self.layer_of(read)?;
        self.values.insert(value.clone(), vec![layer]);
        self.ends.insert(value, answer);
        Ok(())
    }

    /// The network that ends with a value.
    fn network(self, value: &str, whole_levels: bool) -> Result<Network, String> {
        let Some([output]) = self.values.get(value).map(Vec::as_slice) else {
            return Err(format!("has the output '{value}', which no layer makes"));
        };
        let output = output.clone();
        let channels = self.layers.iter().rev().find_map(|layer| match layer.kind {
            LayerKind::Conv3d { out_channels, .. } | LayerKind::ConvTranspose3d { out_channels, .. } => {
                Some(out_channels)
            }
            _ => None,
        });
        let answer = match (self.ends.get(value), channels) {
            (Some(answer), _) => *answer,
            (None, Some(2)) => AnswerKind::TwoClasses,
            (None, _) => AnswerKind::Logit,
        };
        Ok(Network { layers: self.layers, output, answer, tensors: self.tensors, whole_levels })
    }
}
