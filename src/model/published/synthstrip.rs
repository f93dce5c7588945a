//! SynthStrip's network (Hoopes et al. 2022): a U-Net of six halvings without normalisation that answers with a signed distance.

use crate::model::builder::Builder;
use crate::model::description::*;

const LEAKY: ActivationKind = ActivationKind::LeakyRelu(0.2);
const HALVINGS: usize = 6;

/// Layers and output of the network with `width` channels at its finest level and four times as many at most; the names of
/// its tensors are those of the file that FreeSurfer distributes.
pub(super) fn synthstrip(width: usize) -> (Vec<Layer>, String) {
    let mut b = Builder::default();
    let channels = |level: usize| (width << level).min(4 * width);
    let block = |b: &mut Builder, name: String, inputs: &[&str], channels: usize| {
        let conv = b.conv(format!("{name}.conv"), inputs, channels, [3; 3], true);
        b.activation(format!("{name}.activation"), &conv, LEAKY)
    };
    let mut x = "input".to_owned();
    let mut skips = Vec::new();
    for level in 0..HALVINGS {
        for ix in 0..2 {
            x = block(&mut b, format!("encoder.{level}.{ix}"), &[&x], channels(level));
        }
        skips.push(x.clone());
        x = b.halve(format!("pooling.{level}"), &x);
    }
    let mut skip: Option<String> = None;
    for level in 0..HALVINGS {
        for ix in 0..2 {
            let inputs: Vec<&str> = std::iter::once(x.as_str()).chain(skip.as_deref()).collect();
            x = block(&mut b, format!("decoder.{level}.{ix}"), &inputs, channels(HALVINGS - level));
            skip = None;
        }
        let finer = LayerKind::Upsample { factor: [2; 3], mode: UpsampleKind::Nearest };
        x = b.push(format!("upsampling.{level}"), &[&x], finer);
        skip = skips.pop();
    }
    for ix in 0..2 {
        let inputs: Vec<&str> = std::iter::once(x.as_str()).chain(skip.as_deref()).collect();
        x = block(&mut b, format!("remaining.{ix}"), &inputs, width);
        skip = None;
    }
    let output = b.conv("remaining.2.conv".into(), &[&x], 1, [3; 3], true);
    (b.layers, output)
}
