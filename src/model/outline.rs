//! What a network costs on a grid, layer by layer, before anything runs.

use super::description::Description;
use super::weights::weights_of_fold;
use super::{Mode, Model, ModelError, build, fold_for_inference, split_channels};
use crate::gpu::Caps;
use crate::graph::{estimate_bytes, least_bytes};
use crate::tensor::DType;

/// A layer on a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerOutline {
    /// Its name.
    pub name: String,
    /// Its operator, as descriptions spell it.
    pub op: String,
    /// What it reads.
    pub inputs: Vec<String>,
    /// Its output `[C, D, H, W]`.
    pub shape: [usize; 4],
    /// Its trained numbers.
    pub parameters: usize,
    /// Floating-point operations of its forward pass, a multiplication with its addition counted as two.
    pub flops: f64,
}

/// A network on a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// Extents of the grid.
    pub shape: [usize; 3],
    /// Its layers in order, as described: before those that inference folds into others are gone.
    pub layers: Vec<LayerOutline>,
    /// Operations of the forward passes of all sets of weights.
    pub flops: f64,
    /// Bytes of buffers that inference takes in f32, weights included, within WebGPU's default limits.
    pub bytes: u64,
    /// Fewest bytes of buffers that its layers take, one after the other.
    pub least_bytes: u64,
}

impl Outline {
    /// That of a model's own network on a grid of such extents, by default those that its description names.
    ///
    /// # Errors
    /// Extents that the network does not take, with the layer that refuses.
    pub fn of(model: &Model, shape: Option<[usize; 3]>) -> Result<Self, ModelError> {
        let description = &model.description;
        let shape = shape.unwrap_or(description.input.shape);
        let weights = weights_of_fold(description, &model.tensors, 0);
        let network = build(description, 1, shape, Mode::Inference(DType::F32))?;
        let graph = &network.graph;
        let layers = description.layers.iter().map(|layer| {
            let own = format!("{}.", layer.name);
            let nodes = graph
                .nodes
                .iter()
                .filter(|node| node.name.strip_prefix(&own).is_some_and(|op| !op.contains('.')));
            let descs = |values: &[crate::ops::ValueId]| -> Vec<_> {
                values.iter().map(|&value| graph.desc(value).clone()).collect()
            };
            let flops =
                nodes.map(|node| node.op.cost(&descs(&node.inputs), &descs(&node.outputs)).flops).sum();
            let parameters =
                ["weight", "bias"].iter().filter_map(|part| weights.get(&format!("{own}{part}")));
            LayerOutline {
                name: layer.name.clone(),
                op: op_name(layer),
                inputs: layer.inputs.clone(),
                shape: graph.desc(network.layers[&layer.name]).shape[1..].try_into().expect("four extents"),
                parameters: parameters.map(|(_, values)| values.len()).sum(),
                flops,
            }
        });
        let layers: Vec<LayerOutline> = layers.collect();
        let flops = layers.iter().map(|layer| layer.flops).sum::<f64>() * description.folds as f64;
        let [bytes, least_bytes] = bytes(description, &weights, shape)?;
        Ok(Self { shape, layers, flops, bytes, least_bytes })
    }
}

/// The operator of a layer, as descriptions spell it.
fn op_name(layer: &super::Layer) -> String {
    let value = serde_json::to_value(&layer.kind).expect("a layer has plain values");
    value["op"].as_str().unwrap_or_default().to_owned()
}

/// Bytes that inference takes, and the fewest that it can.
fn bytes(
    description: &Description,
    weights: &super::Tensors,
    shape: [usize; 3],
) -> Result<[u64; 2], ModelError> {
    let caps = Caps::webgpu_defaults();
    let (folded, weights) = fold_for_inference(description, weights);
    let split = split_channels(&folded, &weights, shape, DType::F32, caps.max_binding)?;
    let runs = split.map_or(folded, |(split, _)| split);
    let mut network = build(&runs, 1, shape, Mode::Inference(DType::F32))?;
    network.graph.write_anew(network.input);
    Ok([estimate_bytes(&network.graph, &caps)?, least_bytes(&network.graph, &caps)?])
}
