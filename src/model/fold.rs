//! Folding for inference: batch norm into the convolution before it, activations into the kernel.

use super::description::*;
use super::weights::Tensors;

/// The same function with fewer layers: those that its answer does not need and dropout removed, each batch norm folded into the convolution that
/// alone feeds it (w' = w γ/√(σ²+ε), b' = β + (b − μ) γ/√(σ²+ε)), and each ReLU or leaky ReLU fused into
/// the convolution that alone feeds it.
pub fn fold_for_inference(description: &Description, tensors: &Tensors) -> (Description, Tensors) {
    let mut description = description.answering(false).expect("every network says what is brain");
    let mut tensors = tensors.clone();
    remove_dropout(&mut description);
    let mut ix = 0;
    while ix < description.layers.len() {
        if fold_layer(&mut description, &mut tensors, ix) {
            description.layers.remove(ix);
        } else {
            ix += 1;
        }
    }
    fold_answer(&mut description, &mut tensors);
    (description, tensors)
}

/// Lets the convolution that a network ends with compute the logit that its answer stands for, which is linear in the answer.
fn fold_answer(description: &mut Description, tensors: &mut Tensors) {
    let (factors, offset): (&[f32], f32) = match description.answer {
        AnswerKind::Logit => return,
        AnswerKind::TwoClasses => (&[-1.0, 1.0], 0.0),
        AnswerKind::DistanceMm { border_mm } => (&[-1.0], border_mm),
    };
    let name = description.output.clone();
    if description.layers.iter().any(|layer| layer.inputs.contains(&name)) {
        return;
    }
    let Some(layer) = description.layers.iter_mut().find(|layer| layer.name == name) else { return };
    // Weights are [written, read, taps], or [read, written, taps] of a transposed convolution.
    let written = usize::from(matches!(layer.kind, LayerKind::ConvTranspose3d { .. }));
    let (LayerKind::Conv3d { out_channels, bias, activation, .. }
    | LayerKind::ConvTranspose3d { out_channels, bias, activation, .. }) = &mut layer.kind
    else {
        return;
    };
    let Some((shape, weight)) = tensors.get_mut(&format!("{name}.weight")) else { return };
    if *out_channels != factors.len() || *activation != ActivationKind::None {
        return;
    }
    let combined = |values: &[f32], inner: usize| -> Vec<f32> {
        let channels =
            |values: &[f32], ix: usize| values.chunks(inner).zip(factors).map(|(v, f)| f * v[ix]).sum();
        let outer = values.chunks(inner * factors.len());
        outer.flat_map(|values| (0..inner).map(|ix| channels(values, ix)).collect::<Vec<f32>>()).collect()
    };
    *weight = combined(weight, shape[written + 1..].iter().product());
    shape[written] = 1;
    *out_channels = 1;
    let old = tensors.remove(&format!("{name}.bias")).map_or(vec![0.0; factors.len()], |(_, values)| values);
    *bias |= offset != 0.0;
    if *bias {
        tensors.insert(format!("{name}.bias"), (vec![1], vec![combined(&old, 1)[0] + offset]));
    }
    description.answer = AnswerKind::Logit;
}

fn rename(description: &mut Description, from: &str, to: &str) {
    for input in description.layers.iter_mut().flat_map(|l| &mut l.inputs) {
        if input == from {
            *input = to.to_owned();
        }
    }
    if description.output == from {
        description.output = to.to_owned();
    }
}

fn remove_dropout(description: &mut Description) {
    while let Some(ix) = description.layers.iter().position(|l| matches!(l.kind, LayerKind::Dropout { .. })) {
        let layer = description.layers.remove(ix);
        rename(description, &layer.name, &layer.inputs[0]);
    }
}

/// Merges layer `ix` into the convolution before it; tells whether it did.
fn fold_layer(description: &mut Description, tensors: &mut Tensors, ix: usize) -> bool {
    let layer = description.layers[ix].clone();
    let (norm_eps, activation) = match layer.kind {
        LayerKind::BatchNorm { eps, activation, .. } => (Some(eps), activation),
        LayerKind::Activation { activation } => (None, activation),
        _ => return false,
    };
    let [input] = layer.inputs.as_slice() else { return false };
    let reads = description.layers.iter().flat_map(|l| &l.inputs).chain([&description.output]);
    let readers = reads.filter(|name| *name == input).count();
    let Some(source) = description.layers.iter_mut().find(|l| l.name == *input) else { return false };
    if readers != 1 {
        return false;
    }
    let (fused, bias, rows_first) = match &mut source.kind {
        LayerKind::Conv3d { activation, bias, .. } => (activation, bias, true),
        LayerKind::ConvTranspose3d { activation, bias, .. } => (activation, bias, false),
        _ => return false,
    };
    if *fused != ActivationKind::None || activation.fused().is_none() {
        return false;
    }
    if let Some(eps) = norm_eps {
        let Some(affine) = take_norm(tensors, &layer.name, eps) else { return false };
        apply_affine(tensors, input, &affine, rows_first);
        *bias = true;
    }
    *fused = activation;
    let (from, to) = (layer.name.clone(), input.clone());
    rename(description, &from, &to);
    true
}

/// Factor and offset of a batch norm by channel; its tensors leave the set.
fn take_norm(tensors: &mut Tensors, name: &str, eps: f32) -> Option<Vec<(f32, f32)>> {
    let keys = ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{name}.{part}"));
    if !keys.iter().all(|key| tensors.contains_key(key)) {
        return None;
    }
    let [gamma, beta, mean, variance] =
        keys.map(|key| tensors.remove(&key).map(|(_, v)| v).unwrap_or_default());
    Some(
        (0..gamma.len())
            .map(|c| {
                let factor = gamma[c] as f64 / (variance[c] as f64 + eps as f64).sqrt();
                (factor as f32, (beta[c] as f64 - mean[c] as f64 * factor) as f32)
            })
            .collect(),
    )
}

/// Scales the output channels of a convolution's weights and moves its bias.
fn apply_affine(tensors: &mut Tensors, conv: &str, affine: &[(f32, f32)], rows_first: bool) {
    let channels = affine.len();
    if let Some((shape, weight)) = tensors.get_mut(&format!("{conv}.weight")) {
        let taps: usize = shape[2..].iter().product();
        let second = shape[1];
        for (ix, value) in weight.iter_mut().enumerate() {
            let channel = if rows_first { ix / (taps * second) } else { ix / taps % second };
            *value *= affine[channel].0;
        }
    }
    let bias = tensors.entry(format!("{conv}.bias")).or_insert_with(|| (vec![channels], vec![0.0; channels]));
    for (value, (factor, offset)) in bias.1.iter_mut().zip(affine) {
        *value = *value * factor + offset;
    }
}
