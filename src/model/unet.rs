//! Generators of network descriptions.

use super::builder::Builder;
use super::description::*;

/// The article's 3D U-Net as its code builds it, with `filters` channels at the finest of `levels` levels
/// above the bottleneck (the article: 16 and 4, 5,300,257 parameters with the running statistics).
///
/// In that code the second convolution of a block is applied to the block's input, so that the first one
/// drops out of the graph: one convolution a block. The bottleneck calls the block twice.
pub fn article(filters: usize, levels: usize, dropout: f32) -> Description {
    let mut b = Builder::default();
    let block = |b: &mut Builder, name: &str, inputs: &[&str], channels: usize| {
        let conv = b.conv(format!("{name}.conv"), inputs, channels, [3; 3], true);
        let norm = LayerKind::BatchNorm { eps: 1e-3, momentum: 0.01, activation: ActivationKind::Relu };
        b.push(format!("{name}.norm"), &[&conv], norm)
    };
    let drop = |b: &mut Builder, name: String, input: String| {
        if dropout > 0.0 { b.push(name, &[&input], LayerKind::Dropout { rate: dropout }) } else { input }
    };
    let mut skips = Vec::new();
    let mut x = "input".to_owned();
    for level in 1..=levels {
        let skip = block(&mut b, &format!("enc{level}"), &[&x], filters << (level - 1));
        let pooled = b.halve(format!("pool{level}"), &skip);
        x = drop(&mut b, format!("enc{level}.dropout"), pooled);
        skips.push(skip);
    }
    x = block(&mut b, "mid1", &[&x], filters << levels);
    x = block(&mut b, "mid2", &[&x], filters << levels);
    for level in (1..=levels).rev() {
        let channels = filters << (level - 1);
        let up = b.up(format!("up{level}"), &x, channels, 3);
        let relu = LayerKind::Activation { activation: ActivationKind::Relu };
        let up = b.push(format!("up{level}.relu"), &[&up], relu);
        // Dropping elements of the two halves equals dropping elements of their concatenation.
        let up = drop(&mut b, format!("up{level}.dropout"), up);
        let skip = drop(&mut b, format!("skip{level}.dropout"), skips[level - 1].clone());
        x = block(&mut b, &format!("dec{level}"), &[&up, &skip], channels);
    }
    let output = b.conv("out".to_owned(), &[&x], 1, [1, 1, 2], true);
    Description {
        name: "article".to_owned(),
        input: GridSpec {
            shape: [96, 128, 160],
            voxel_mm: [2.0; 3],
            centre: Centre::WorldOrigin,
            sampling: Sampling::Nearest,
            intensity: Intensity::MinMax { high: 255.0 },
            n4: Some("article".to_owned()),
            patches: None,
            mirror: false,
            mirror_axes: [false; 3],
            axes: AxisCodes::RAS,
            readout: Readout::Linear,
        },
        layers: b.layers,
        output,
        answer: AnswerKind::Logit,
        no_csf: None,
        first: None,
        folds: 1,
    }
}

/// Name of the layer beside `layer` that [`add_no_csf`] makes.
pub(super) fn no_csf_twin(layer: &str) -> String {
    format!("{layer}_no_csf")
}

/// Lets a network say of the brain without the CSF round it what it says of the brain: a copy of its last convolution, and of
/// what follows that, reads the same features.
pub fn add_no_csf(description: &mut Description) {
    let output = description.output.clone();
    let mut at = output.clone();
    let mut copies = Vec::new();
    while let Some(layer) = description.layers.iter().find(|layer| layer.name == at) {
        let is_last = matches!(layer.kind, LayerKind::Conv3d { .. });
        let inputs = if is_last {
            layer.inputs.clone()
        } else {
            layer.inputs.iter().map(|name| no_csf_twin(name)).collect()
        };
        copies.push(Layer { name: no_csf_twin(&layer.name), inputs, kind: layer.kind.clone() });
        if is_last {
            break;
        }
        at.clone_from(&layer.inputs[0]);
    }
    description.layers.extend(copies.into_iter().rev());
    description.no_csf = Some(no_csf_twin(&output));
}

/// A residual U-Net: blocks of two convolutions with instance norm and leaky ReLU, a 1x1x1 projection
/// round each block where the channels change, 2x2x2 max pooling and transposed convolutions.
/// `widths` are the channels of each level, finest first. With `fold` above 1, the finest level has voxels `fold` times as
/// large as the input's and the logits': it reads each block of fold³ voxels as channels and writes one channel for each.
pub fn residual_unet(name: &str, widths: &[usize], fold: usize, input: GridSpec) -> Description {
    let leaky = ActivationKind::LeakyRelu(0.01);
    let mut b = Builder::default();
    let block = |b: &mut Builder, name: &str, inputs: &[&str], c_in: usize, channels: usize| {
        let norm = |activation| LayerKind::InstanceNorm { eps: 1e-5, affine: true, activation };
        let conv1 = b.conv(format!("{name}.conv1"), inputs, channels, [3; 3], false);
        let norm1 = b.push(format!("{name}.norm1"), &[&conv1], norm(leaky));
        let conv2 = b.conv(format!("{name}.conv2"), &[&norm1], channels, [3; 3], false);
        let norm2 = b.push(format!("{name}.norm2"), &[&conv2], norm(ActivationKind::None));
        let around = match inputs {
            [only] if c_in == channels => (*only).to_owned(),
            _ => b.conv(format!("{name}.project"), inputs, channels, [1; 3], false),
        };
        let sum = b.push(format!("{name}.add"), &[&norm2, &around], LayerKind::Add);
        b.push(format!("{name}.act"), &[&sum], LayerKind::Activation { activation: leaky })
    };
    let mut skips = Vec::new();
    let mut x = "input".to_owned();
    let mut channels = 1;
    let factor = [fold; 3];
    if fold > 1 {
        x = b.push("to_depth".to_owned(), &[&x], LayerKind::SpaceToDepth { factor });
        channels = fold.pow(3);
    }
    let deepest = widths.len() - 1;
    for (ix, &width) in widths[..deepest].iter().enumerate() {
        let level = ix + 1;
        let skip = block(&mut b, &format!("enc{level}"), &[&x], channels, width);
        x = b.halve(format!("pool{level}"), &skip);
        skips.push(skip);
        channels = width;
    }
    x = block(&mut b, "mid", &[&x], channels, widths[deepest]);
    for (ix, &width) in widths[..deepest].iter().enumerate().rev() {
        let level = ix + 1;
        let up = b.up(format!("up{level}"), &x, width, 2);
        x = block(&mut b, &format!("dec{level}"), &[&up, &skips[ix]], 2 * width, width);
    }
    let mut output = b.conv("head".to_owned(), &[&x], fold.pow(3), [1; 3], true);
    if fold > 1 {
        output = b.push("to_space".to_owned(), &[&output], LayerKind::DepthToSpace { factor });
    }
    Description {
        name: name.to_owned(),
        input,
        layers: b.layers,
        output,
        answer: AnswerKind::Logit,
        no_csf: None,
        first: None,
        folds: 1,
    }
}
