//! The network of HD-BET, version 1 (Isensee et al. 2019): a U-Net with residual blocks that normalise before they convolve.

use crate::model::builder::Builder;
use crate::model::description::*;

/// Slope below 0 within blocks, and of what stands alone.
const INNER: ActivationKind = ActivationKind::LeakyRelu(1e-2);
const OUTER: ActivationKind = ActivationKind::LeakyRelu(1e-1);
const HALVINGS: usize = 4;

/// Layers and output of the network with `width` channels at its finest level (21 in HD-BET); the names of its tensors are
/// those of HD-BET's files.
pub(super) fn hd_bet(width: usize) -> (Vec<Layer>, String) {
    let mut b = Builder::default();
    let mut x = b.conv("init_conv".into(), &["input"], width, [3; 3], true);
    let mut skips = Vec::new();
    for level in 0..=HALVINGS {
        let channels = width << level;
        let name = format!("context{}", level + 1);
        let mut inner = x.clone();
        for ix in 1..=2 {
            inner = b.instance_norm(format!("{name}.bn_{ix}"), &inner, true, INNER);
            inner = b.conv(format!("{name}.conv{ix}"), &[&inner], channels, [3; 3], true);
        }
        x = b.add(format!("{name}.add"), [&inner, &x]);
        if level < HALVINGS {
            let down = format!("down{}", level + 1);
            let skip = b.instance_norm(format!("{down}.bn"), &x, true, INNER);
            x = b.halving(format!("{down}.downsample"), &skip, 2 * channels, 3, true);
            skips.push(skip);
        }
    }
    x = b.instance_norm("bn_after_context5".into(), &x, true, OUTER);
    for level in (0..HALVINGS).rev() {
        let channels = width << level;
        let up = format!("up{}", HALVINGS - level);
        let finer = LayerKind::Upsample { factor: [2; 3], mode: UpsampleKind::TrilinearAligned };
        let finer = b.push(format!("{up}.upsample"), &[&x], finer);
        let conv = b.conv(format!("{up}.upsample_conv"), &[&finer], channels, [3; 3], true);
        let risen = b.instance_norm(format!("{up}.bn"), &conv, true, INNER);
        let skip = skips.pop().expect("a skip for each level");
        let (name, written, kernels, slope) = match level {
            0 => ("end_".to_owned(), [2 * channels; 2], [3, 3], OUTER),
            _ => (format!("loc{}.", HALVINGS - level), [2 * channels, channels], [3, 1], INNER),
        };
        let mut inputs = vec![skip, risen];
        for ix in 0..2 {
            // `end_conv_1` with `end_conv_1_bn`, but `loc1.conv1` with `loc1.bn_1`.
            let [conv, norm] = match level {
                0 => [format!("{name}conv_{}", ix + 1), format!("{name}conv_{}_bn", ix + 1)],
                _ => [format!("{name}conv{}", ix + 1), format!("{name}bn_{}", ix + 1)],
            };
            let read: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let conv = b.conv(conv, &read, written[ix], [kernels[ix]; 3], true);
            inputs = vec![b.instance_norm(norm, &conv, true, slope)];
        }
        x = inputs.swap_remove(0);
    }
    let output = b.conv("seg_layer".into(), &[&x], 2, [1; 3], false);
    (b.layers, output)
}
