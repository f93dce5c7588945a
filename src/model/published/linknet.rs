//! deepbet's network (Fisch et al. 2024): LinkNet (Chaurasia and Culurciello 2017) in three dimensions.

use crate::model::builder::Builder;
use crate::model::description::*;

const RELU: ActivationKind = ActivationKind::Relu;

/// Layers and output of a LinkNet whose four levels have `width`, twice, four and eight times as many channels; the names of
/// its tensors are those of deepbet's files.
pub(super) fn linknet(width: usize) -> (Vec<Layer>, String) {
    let mut b = Builder::default();
    let init = b.halving("init.0".into(), "input", width, 7, false);
    let init = b.instance_norm("init.1".into(), &init, false, RELU);
    let pool = LayerKind::MaxPool3d { kernel: [3; 3], stride: [2; 3], padding: [1; 3] };
    let init = b.push("init.3".into(), &[&init], pool);
    let mut skips = vec![init.clone()];
    let mut x = init;
    for level in 0..4 {
        let channels = width << level;
        x = residual(&mut b, &format!("down{level}.block1"), &x, channels, level > 0);
        x = residual(&mut b, &format!("down{level}.block2"), &x, channels, false);
        skips.push(x.clone());
    }
    skips.pop();
    for level in 0..4 {
        let read = width << (3 - level);
        // The last one stays on the grid that the first pooling leaves.
        let (channels, finer) = if level < 3 { (read / 2, true) } else { (width, false) };
        let name = format!("up{level}");
        let narrow = b.conv(format!("{name}.conv1.0"), &[&x], read / 4, [1; 3], false);
        let narrow = b.instance_norm(format!("{name}.conv1.1"), &narrow, false, RELU);
        let up = transposed(&mut b, format!("{name}.tp_conv.0"), &narrow, read / 4, finer, false);
        let up = b.instance_norm(format!("{name}.tp_conv.1"), &up, false, RELU);
        let wide = b.conv(format!("{name}.conv2.0"), &[&up], channels, [1; 3], false);
        let wide = b.instance_norm(format!("{name}.conv2.1"), &wide, false, RELU);
        let skip = skips.pop().expect("a skip for each level");
        x = b.add(format!("{name}.add"), [&wide, &skip]);
    }
    let half = width / 2;
    let up = transposed(&mut b, "tp_conv1.0".into(), &x, half, true, true);
    let up = b.instance_norm("tp_conv1.1".into(), &up, false, RELU);
    let conv = b.conv("conv.0".into(), &[&up], half, [3; 3], true);
    let conv = b.instance_norm("conv.1".into(), &conv, false, RELU);
    let output = b.up("tp_conv2".into(), &conv, 2, 2);
    (b.layers, output)
}

/// Two convolutions round which the input goes, by a convolution of one tap where it is halved.
fn residual(b: &mut Builder, name: &str, input: &str, channels: usize, halved: bool) -> String {
    let inner = format!("{name}.double_conv");
    let first = match halved {
        true => b.halving(format!("{inner}.0"), input, channels, 3, false),
        false => b.conv(format!("{inner}.0"), &[input], channels, [3; 3], false),
    };
    let first = b.instance_norm(format!("{inner}.1"), &first, false, RELU);
    let second = b.conv(format!("{inner}.3"), &[&first], channels, [3; 3], false);
    let second = b.instance_norm(format!("{inner}.4"), &second, false, ActivationKind::None);
    let around = match halved {
        true => {
            let around = b.halving(format!("{name}.downsample.0"), input, channels, 1, false);
            b.instance_norm(format!("{name}.downsample.1"), &around, false, ActivationKind::None)
        }
        false => input.to_owned(),
    };
    let sum = b.add(format!("{name}.add"), [&second, &around]);
    b.activation(format!("{name}.act"), &sum, RELU)
}

/// A transposed convolution of 3x3x3 taps: to twice the grid, or to the same.
fn transposed(
    b: &mut Builder,
    name: String,
    input: &str,
    out_channels: usize,
    finer: bool,
    bias: bool,
) -> String {
    let kind = LayerKind::ConvTranspose3d {
        out_channels,
        kernel: [3; 3],
        stride: if finer { [2; 3] } else { [1; 3] },
        crop: if finer { [[1, 0]; 3] } else { [[1, 1]; 3] },
        bias,
        activation: ActivationKind::None,
    };
    b.push(name, &[input], kind)
}
