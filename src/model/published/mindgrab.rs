//! MindGrab's network (Fani et al. 2025): a MeshNet, dilated convolutions on one grid.

use crate::model::builder::Builder;
use crate::model::description::*;

/// Dilations of a round.
const DILATIONS: [usize; 5] = [16, 8, 4, 2, 1];

/// Layers and output of `rounds` times five convolutions of `width` channels, and a last one of one tap; the names of its
/// tensors are those of MindGrab's file.
pub(super) fn mindgrab(width: usize, rounds: usize) -> (Vec<Layer>, String) {
    let mut b = Builder::default();
    let mut x = "input".to_owned();
    let convolutions = rounds * DILATIONS.len();
    for ix in 0..convolutions {
        let reach = DILATIONS[ix % DILATIONS.len()];
        let kind = LayerKind::Conv3d {
            out_channels: width,
            kernel: [3; 3],
            stride: [1; 3],
            dilation: [reach; 3],
            padding: Some([[reach; 2]; 3]),
            bias: false,
            activation: ActivationKind::None,
        };
        let conv = b.push(format!("model.{ix}.0"), &[&x], kind);
        // A group of its own for each channel.
        let norm = b.instance_norm(format!("model.{ix}.1"), &conv, false, ActivationKind::None);
        x = b.activation(format!("model.{ix}.2"), &norm, ActivationKind::GeluTanh);
    }
    let output = b.conv(format!("model.{convolutions}"), &[&x], 2, [1; 3], true);
    (b.layers, output)
}
