//! Networks whose tensors exceed what a device binds at once: the same function with channels in several tensors.

use std::collections::HashMap;
use std::ops::Range;

use super::ModelError;
use super::build::{Mode, build};
use super::description::*;
use super::weights::Tensors;
use crate::tensor::DType;

/// A part of a layer's output: the layer that computes it, and its channels.
type Part = (String, Range<usize>);

/// The same function of an input `[1, 1, shape]` with no tensor above `most` bytes, its activations in `dtype`: where one is
/// larger, its channels are shared out among several layers. A convolution of several parts is the sum of those of each; what
/// keeps channels apart is done part by part.
///
/// `None` where no tensor is too large, or where that cannot be helped: the output itself, a plane of it, layers that mix
/// channels otherwise than by a convolution.
///
/// # Errors
/// A description that does not make a network.
pub fn split_channels(
    description: &Description,
    tensors: &Tensors,
    shape: [usize; 3],
    dtype: DType,
    most: u64,
) -> Result<Option<(Description, Tensors)>, ModelError> {
    let network = build(description, 1, shape, Mode::Inference(DType::F32))?;
    let channels_of = |name: &str| network.graph.desc(network.layers[name]).shape[1];
    let names: Vec<&str> =
        std::iter::once("input").chain(description.layers.iter().map(|layer| layer.name.as_str())).collect();
    let number: HashMap<&str, usize> = names.iter().enumerate().map(|(ix, name)| (*name, ix)).collect();

    // Layers that keep channels apart share them out as the layers that they read do.
    let mut alike: Vec<usize> = (0..names.len()).collect();
    for layer in description.layers.iter().filter(|layer| keeps_channels_apart(&layer.kind)) {
        for input in &layer.inputs {
            let (own, other) = (alike[number[layer.name.as_str()]], alike[number[input.as_str()]]);
            alike.iter_mut().filter(|class| **class == other).for_each(|class| *class = own);
        }
    }
    let mut counts = vec![1; names.len()];
    for name in &names {
        let desc = network.graph.desc(network.layers[*name]);
        let plane = desc.voxels() as u64 * dtype.bytes();
        let fitting = usize::try_from(most / plane.max(1)).unwrap_or(usize::MAX);
        if fitting == 0 {
            return Ok(None);
        }
        let class = alike[number[name]];
        counts[class] = counts[class].max(desc.shape[1].div_ceil(fitting));
    }
    if counts.iter().all(|&count| count == 1) {
        return Ok(None);
    }
    let parts = |name: &str| -> Vec<Part> {
        let (channels, count) = (channels_of(name), counts[alike[number[name]]]);
        if count == 1 {
            return vec![(name.to_owned(), 0..channels)];
        }
        (0..count)
            .map(|ix| (format!("{name}.part{ix}"), channels * ix / count..channels * (ix + 1) / count))
            .collect()
    };
    let mut split = Split { tensors, layers: Vec::new(), taken: Tensors::new() };
    for layer in &description.layers {
        let own = parts(&layer.name);
        let inputs: Vec<Vec<Part>> = layer.inputs.iter().map(|input| parts(input)).collect();
        match &layer.kind {
            LayerKind::Conv3d { .. } | LayerKind::ConvTranspose3d { .. } => {
                split.convolution(layer, &own, &inputs)
            }
            kind if keeps_channels_apart(kind) => split.apart(layer, &own, &inputs),
            _ if own.len() > 1 || inputs.iter().any(|parts| parts.len() > 1) => return Ok(None),
            _ => split.apart(layer, &own, &inputs),
        }
    }
    if parts(&description.output).len() > 1 {
        return Ok(None);
    }
    let description = Description { layers: split.layers, ..description.clone() };
    Ok(Some((description, split.taken)))
}

/// Whether a channel that a layer writes depends on the same channel of what it reads, and on no other.
fn keeps_channels_apart(kind: &LayerKind) -> bool {
    match kind {
        LayerKind::BatchNorm { .. }
        | LayerKind::InstanceNorm { .. }
        | LayerKind::Activation { .. }
        | LayerKind::MaxPool3d { .. }
        | LayerKind::AvgPool3d { .. }
        | LayerKind::Upsample { .. }
        | LayerKind::Add
        | LayerKind::Dropout { .. } => true,
        LayerKind::Conv3d { .. }
        | LayerKind::ConvTranspose3d { .. }
        | LayerKind::GroupNorm { .. }
        | LayerKind::SpaceToDepth { .. }
        | LayerKind::DepthToSpace { .. } => false,
    }
}

struct Split<'a> {
    tensors: &'a Tensors,
    layers: Vec<Layer>,
    taken: Tensors,
}

impl Split<'_> {
    /// A layer part by part, with its share of each tensor.
    fn apart(&mut self, layer: &Layer, own: &[Part], inputs: &[Vec<Part>]) {
        for (ix, (name, channels)) in own.iter().enumerate() {
            for tensor in ["weight", "bias", "running_mean", "running_var"] {
                self.vector(&layer.name, name, tensor, channels);
            }
            let inputs = inputs.iter().map(|parts| parts[ix].0.clone()).collect();
            self.layers.push(Layer { name: name.clone(), inputs, kind: layer.kind.clone() });
        }
    }

    /// A convolution: for each part that it writes the sum over those that it reads, two at a time where it can read two.
    fn convolution(&mut self, layer: &Layer, own: &[Part], inputs: &[Vec<Part>]) {
        let transposed = matches!(layer.kind, LayerKind::ConvTranspose3d { .. });
        let mut sources: Vec<Part> = Vec::new();
        for parts in inputs {
            let first = sources.last().map_or(0, |(_, channels)| channels.end);
            sources.extend(parts.iter().map(|(name, c)| (name.clone(), first + c.start..first + c.end)));
        }
        let groups: Vec<&[Part]> = sources.chunks(if transposed { 1 } else { 2 }).collect();
        for (name, written) in own {
            let mut sum: Option<String> = None;
            for (ix, group) in groups.iter().enumerate() {
                let alone = groups.len() == 1;
                let piece = if alone { name.clone() } else { format!("{name}.from{ix}") };
                let read = group[0].1.start..group[group.len() - 1].1.end;
                self.matrix(
                    &layer.name,
                    &piece,
                    if transposed { [&read, written] } else { [written, &read] },
                );
                let mut kind = layer.kind.clone();
                if let LayerKind::Conv3d { out_channels, bias, activation, .. }
                | LayerKind::ConvTranspose3d { out_channels, bias, activation, .. } = &mut kind
                {
                    *out_channels = written.len();
                    *bias &= ix == 0;
                    if *bias {
                        self.vector(&layer.name, &piece, "bias", written);
                    }
                    if !alone {
                        *activation = ActivationKind::None;
                    }
                }
                let inputs = group.iter().map(|(name, _)| name.clone()).collect();
                self.layers.push(Layer { name: piece.clone(), inputs, kind });
                sum = Some(match sum {
                    None => piece,
                    Some(sum) => {
                        let activation = match (&layer.kind, ix + 1 == groups.len()) {
                            (
                                LayerKind::Conv3d { activation, .. }
                                | LayerKind::ConvTranspose3d { activation, .. },
                                true,
                            ) => *activation,
                            _ => ActivationKind::None,
                        };
                        self.add(name, ix, [sum, piece], activation, ix + 1 == groups.len())
                    }
                });
            }
        }
    }

    /// The sum of two layers; the last one of a part has its name, after the activation.
    fn add(
        &mut self,
        part: &str,
        ix: usize,
        inputs: [String; 2],
        activation: ActivationKind,
        last: bool,
    ) -> String {
        let plain = activation == ActivationKind::None;
        let name = if last && plain { part.to_owned() } else { format!("{part}.sum{ix}") };
        self.layers.push(Layer { name: name.clone(), inputs: inputs.to_vec(), kind: LayerKind::Add });
        if plain {
            return name;
        }
        let kind = LayerKind::Activation { activation };
        self.layers.push(Layer { name: part.to_owned(), inputs: vec![name], kind });
        part.to_owned()
    }

    /// Takes a layer's tensor of one value a channel, if it has it.
    fn vector(&mut self, layer: &str, part: &str, tensor: &str, channels: &Range<usize>) {
        if let Some((_, values)) = self.tensors.get(&format!("{layer}.{tensor}")) {
            let share = (vec![channels.len()], values[channels.clone()].to_vec());
            self.taken.insert(format!("{part}.{tensor}"), share);
        }
    }

    /// Takes these rows and columns of a convolution's weights.
    fn matrix(&mut self, layer: &str, part: &str, [rows, columns]: [&Range<usize>; 2]) {
        let Some((shape, values)) = self.tensors.get(&format!("{layer}.weight")) else { return };
        let taps: usize = shape[2..].iter().product();
        let mut share = Vec::with_capacity(rows.len() * columns.len() * taps);
        for row in rows.clone() {
            let start = row * shape[1] + columns.start;
            share.extend_from_slice(&values[start * taps..(start + columns.len()) * taps]);
        }
        let shape = [&[rows.len(), columns.len()], &shape[2..]].concat();
        self.taken.insert(format!("{part}.weight"), (shape, share));
    }
}
