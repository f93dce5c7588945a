//! What nnU-Net's plans say, as a description.

use serde_json::Value;

use crate::model::builder::Builder;
use crate::model::description::*;

/// The slope below 0 that PyTorch's leaky ReLU has unless told otherwise.
const USUAL_SLOPE: f32 = 0.01;

/// Plans of a U-Net.
#[derive(Debug)]
struct Architecture {
    /// Blocks in the encoder that go round their convolutions.
    residual: bool,
    features: Vec<usize>,
    kernels: Vec<[usize; 3]>,
    strides: Vec<[usize; 3]>,
    /// Convolutions, or residual blocks, of each level of the encoder.
    encoder: Vec<usize>,
    /// Convolutions of each level of the decoder, the coarsest first.
    decoder: Vec<usize>,
    bias: bool,
    eps: f32,
    affine: bool,
    activation: ActivationKind,
}

fn entry<'a>(object: &'a Value, key: &str) -> Result<&'a Value, String> {
    object.get(key).ok_or_else(|| format!("has plans without '{key}'"))
}

fn fitting<T: serde::de::DeserializeOwned>(value: &Value, key: &str) -> Result<T, String> {
    serde_json::from_value(value.clone())
        .map_err(|e| format!("has plans with {key} {value}, which does not fit: {e}"))
}

fn text<'a>(object: &'a Value, key: &str) -> Result<&'a str, String> {
    entry(object, key)?.as_str().ok_or_else(|| format!("has plans whose '{key}' is no text"))
}

/// What an entry says of each of `count` levels: a value for each, or one for all.
fn levels<T: serde::de::DeserializeOwned + Clone>(
    object: &Value,
    key: &str,
    count: usize,
) -> Result<Vec<T>, String> {
    let value = entry(object, key)?;
    let all: Vec<T> = match value {
        Value::Number(_) => vec![fitting(value, key)?; count],
        _ => fitting(value, key)?,
    };
    match all.len() == count {
        true => Ok(all),
        false => Err(format!("has plans with {} values of '{key}' for {count} levels", all.len())),
    }
}

/// What an entry says of the axes at each level: three numbers for each, or one for all axes of a level.
fn axes_of_levels(object: &Value, key: &str, count: usize) -> Result<Vec<[usize; 3]>, String> {
    levels::<Value>(object, key, count)?
        .iter()
        .map(|value| match value.as_u64() {
            Some(all) => Ok([usize::try_from(all).map_err(|e| e.to_string())?; 3]),
            None => fitting(value, key),
        })
        .collect()
}

impl Architecture {
    /// That of a configuration of the plans, as nnU-Net has written it since version 2.4 or before.
    fn of(configuration: &Value) -> Result<Self, String> {
        let Some(architecture) = configuration.get("architecture") else {
            return Self::of_old(configuration);
        };
        let residual = is_residual(text(architecture, "network_class_name")?)?;
        let given = entry(architecture, "arch_kwargs")?;
        let count: usize = fitting(entry(given, "n_stages")?, "n_stages")?;
        if !(2..=16).contains(&count) {
            return Err(format!("has plans with {count} levels; 2 to 16 are possible"));
        }
        let class = |key: &str, known: &str| match text(given, key)?.rsplit('.').next() {
            Some(name) if name == known => Ok(()),
            _ => Err(format!("has plans with {key} {}; only {known} is known here", given[key])),
        };
        class("conv_op", "Conv3d")?;
        class("norm_op", "InstanceNorm3d")?;
        for key in ["bottleneck_channels", "stochastic_depth_p", "squeeze_excitation", "nonlin_first"] {
            let absent =
                |value: &Value| *value == Value::Null || *value == false || value.as_f64() == Some(0.0);
            if given.get(key).is_some_and(|value| !absent(value)) {
                return Err(format!("has plans with {key} {}, which is not known here", given[key]));
            }
        }
        let norm = &given["norm_op_kwargs"];
        let slope = &given["nonlin_kwargs"]["negative_slope"];
        let activation = match text(given, "nonlin")?.rsplit('.').next() {
            Some("LeakyReLU") if slope.is_null() => ActivationKind::LeakyRelu(USUAL_SLOPE),
            Some("LeakyReLU") => ActivationKind::LeakyRelu(fitting(slope, "negative_slope")?),
            Some("ReLU") => ActivationKind::Relu,
            _ => {
                return Err(format!(
                    "has plans with nonlin {}; LeakyReLU and ReLU are known here",
                    given["nonlin"]
                ));
            }
        };
        let encoder = if residual { "n_blocks_per_stage" } else { "n_conv_per_stage" };
        Ok(Self {
            residual,
            features: levels(given, "features_per_stage", count)?,
            kernels: axes_of_levels(given, "kernel_sizes", count)?,
            strides: axes_of_levels(given, "strides", count)?,
            encoder: levels(given, encoder, count)?,
            decoder: levels(given, "n_conv_per_stage_decoder", count - 1)?,
            bias: given.get("conv_bias").and_then(Value::as_bool).unwrap_or(false),
            eps: norm.get("eps").map_or(Ok(1e-5), |eps| fitting(eps, "eps"))?,
            // PyTorch's instance norm has none unless told so.
            affine: norm.get("affine").and_then(Value::as_bool).unwrap_or(false),
            activation,
        })
    }

    fn of_old(configuration: &Value) -> Result<Self, String> {
        let strides: Vec<[usize; 3]> =
            fitting(entry(configuration, "pool_op_kernel_sizes")?, "pool_op_kernel_sizes")?;
        let count = strides.len();
        let number = |key: &str| -> Result<usize, String> { fitting(entry(configuration, key)?, key) };
        let (base, most) = (number("UNet_base_num_features")?, number("unet_max_num_features")?);
        if !(2..=16).contains(&count) || base > most {
            return Err(format!(
                "has plans with {count} levels of {base} to {most} features, which do not fit"
            ));
        }
        Ok(Self {
            residual: is_residual(text(configuration, "UNet_class_name")?)?,
            features: (0..count).map(|level| most.min(base << level)).collect(),
            kernels: axes_of_levels(configuration, "conv_kernel_sizes", count)?,
            strides,
            encoder: levels(configuration, "n_conv_per_stage_encoder", count)?,
            decoder: levels(configuration, "n_conv_per_stage_decoder", count - 1)?,
            bias: true,
            eps: 1e-5,
            affine: true,
            activation: ActivationKind::LeakyRelu(USUAL_SLOPE),
        })
    }

    /// Layers and output, named as the tensors of nnU-Net's checkpoints.
    fn layers(&self, channels: usize) -> Result<(Vec<Layer>, String), String> {
        for (level, (kernel, stride)) in self.kernels.iter().zip(&self.strides).enumerate() {
            if kernel.iter().any(|n| n % 2 == 0) || stride.contains(&0) {
                return Err(format!(
                    "has plans with a kernel {kernel:?} and a stride {stride:?} at level {level}"
                ));
            }
        }
        let counts = self.features.iter().chain(&self.encoder).chain(&self.decoder);
        if counts.clone().any(|&n| !(1..=4096).contains(&n)) {
            return Err("has plans with counts of features or blocks that no network has".into());
        }
        let mut b = Builder::default();
        let mut x = "input".to_owned();
        let mut skips = Vec::new();
        if self.residual {
            x = self.conv_norm(
                &mut b,
                "encoder.stem.convs.0",
                &[&x],
                self.features[0],
                [self.kernels[0], [1; 3]],
            );
        }
        let mut read = self.features[0];
        for level in 0..self.features.len() {
            let (features, kernel) = (self.features[level], self.kernels[level]);
            for ix in 0..self.encoder[level] {
                let stride = if ix == 0 { self.strides[level] } else { [1; 3] };
                x = match self.residual {
                    true => {
                        let name = format!("encoder.stages.{level}.blocks.{ix}");
                        self.residual_block(&mut b, &name, &x, [read, features], [kernel, stride])
                    }
                    false => {
                        let name = format!("encoder.stages.{level}.0.convs.{ix}");
                        self.conv_norm(&mut b, &name, &[&x], features, [kernel, stride])
                    }
                };
                read = features;
            }
            skips.push(x.clone());
        }
        skips.pop();
        for (ix, level) in (0..self.features.len() - 1).rev().enumerate() {
            // A finer level's grid is the coarser one's, split as the encoder joined it.
            let stride = self.strides[level + 1];
            let up = LayerKind::ConvTranspose3d {
                out_channels: self.features[level],
                kernel: stride,
                stride,
                crop: [[0; 2]; 3],
                bias: self.bias,
                activation: ActivationKind::None,
            };
            x = b.push(format!("decoder.transpconvs.{ix}"), &[&x], up);
            let mut inputs = vec![x, skips.pop().expect("a skip for each finer level")];
            for conv in 0..self.decoder[ix] {
                let read: Vec<&str> = inputs.iter().map(String::as_str).collect();
                let name = format!("decoder.stages.{ix}.convs.{conv}");
                inputs = vec![self.conv_norm(
                    &mut b,
                    &name,
                    &read,
                    self.features[level],
                    [self.kernels[level], [1; 3]],
                )];
            }
            x = inputs.swap_remove(0);
        }
        let output = b.conv(self.output(), &[&x], channels, [1; 3], true);
        Ok((b.layers, output))
    }

    /// The layer that answers at the finest level; those at coarser ones served training.
    fn output(&self) -> String {
        format!("decoder.seg_layers.{}", self.features.len() - 2)
    }

    fn conv(
        &self,
        b: &mut Builder,
        name: &str,
        inputs: &[&str],
        out_channels: usize,
        [kernel, stride]: [[usize; 3]; 2],
        bias: bool,
    ) -> String {
        let kind = LayerKind::Conv3d {
            out_channels,
            kernel,
            stride,
            dilation: [1; 3],
            padding: Some(kernel.map(|n| [(n - 1) / 2; 2])),
            bias,
            activation: ActivationKind::None,
        };
        b.push(format!("{name}.conv"), inputs, kind)
    }

    fn norm(&self, b: &mut Builder, name: &str, input: &str, activation: ActivationKind) -> String {
        let kind = LayerKind::InstanceNorm { eps: self.eps, affine: self.affine, activation };
        b.push(format!("{name}.norm"), &[input], kind)
    }

    fn conv_norm(
        &self,
        b: &mut Builder,
        name: &str,
        inputs: &[&str],
        features: usize,
        window: [[usize; 3]; 2],
    ) -> String {
        let conv = self.conv(b, name, inputs, features, window, self.bias);
        self.norm(b, name, &conv, self.activation)
    }

    /// Two convolutions, and round them the input: averaged where they halve it, through a convolution of one tap where they
    /// change the number of channels.
    fn residual_block(
        &self,
        b: &mut Builder,
        name: &str,
        input: &str,
        [read, features]: [usize; 2],
        [kernel, stride]: [[usize; 3]; 2],
    ) -> String {
        let first = self.conv_norm(b, &format!("{name}.conv1"), &[input], features, [kernel, stride]);
        let second = format!("{name}.conv2");
        let conv = self.conv(b, &second, &[&first], features, [kernel, [1; 3]], self.bias);
        let inner = self.norm(b, &second, &conv, ActivationKind::None);
        let mut around = input.to_owned();
        let mut ops = 0;
        if stride != [1; 3] {
            let pool = LayerKind::AvgPool3d { kernel: stride, stride };
            around = b.push(format!("{name}.skip.{ops}"), &[&around], pool);
            ops += 1;
        }
        if read != features {
            let skip = format!("{name}.skip.{ops}");
            let conv = self.conv(b, &skip, &[&around], features, [[1; 3]; 2], false);
            around = self.norm(b, &skip, &conv, ActivationKind::None);
        }
        let sum = b.add(format!("{name}.add"), [&inner, &around]);
        b.activation(format!("{name}.nonlin2"), &sum, self.activation)
    }
}

fn is_residual(class: &str) -> Result<bool, String> {
    match class.rsplit('.').next() {
        Some("PlainConvUNet") => Ok(false),
        Some("ResidualEncoderUNet") => Ok(true),
        _ => Err(format!(
            "has plans of the network {class}; PlainConvUNet and ResidualEncoderUNet are known here; convert its weights \
             with --description"
        )),
    }
}

/// A configuration of the plans by name, with what it inherits from others.
fn configuration(plans: &Value, name: &str) -> Result<Value, String> {
    let configurations = entry(plans, "configurations")?;
    let mut merged = serde_json::Map::new();
    let mut next = name.to_owned();
    for _ in 0..8 {
        let this = configurations.get(&next).and_then(Value::as_object);
        let this = this.ok_or_else(|| format!("has plans without the configuration '{next}'"))?;
        for (key, value) in this {
            merged.entry(key.clone()).or_insert_with(|| value.clone());
        }
        match this.get("inherits_from").and_then(Value::as_str) {
            Some(parent) => next = parent.to_owned(),
            None => return Ok(Value::Object(merged)),
        }
    }
    Err(format!("has plans whose configuration '{name}' inherits from itself"))
}

/// What the network's last layer says, and how many channels it has.
fn answer(dataset: &Value) -> Result<(AnswerKind, usize), String> {
    let labels = dataset.get("labels").and_then(Value::as_object);
    let labels = labels.ok_or("has a dataset without labels")?;
    let marked: Vec<(&String, &Value)> = labels
        .iter()
        .filter(|(name, value)| {
            let values = value.as_array().map_or(std::slice::from_ref(*value), Vec::as_slice);
            name.as_str() != "ignore" && values.iter().any(|v| v.as_u64() != Some(0))
        })
        .collect();
    let regions = labels.values().any(|value| value.as_array().is_some_and(|values| values.len() > 1));
    match (&marked[..], regions) {
        ([_], true) => Ok((AnswerKind::Logit, 1)),
        ([(_, value)], false) if value.as_u64() == Some(1) || *value == &serde_json::json!([1]) => {
            Ok((AnswerKind::TwoClasses, 2))
        }
        _ => {
            let names: Vec<&str> = marked.iter().map(|(name, _)| name.as_str()).collect();
            Err(format!(
                "tells {} apart from the background; a network that extracts brains marks one thing, with the label 1",
                names.join(", ")
            ))
        }
    }
}

/// The network of a configuration, with its pre- and post-processing, of images that were stored along these axes.
///
/// # Errors
/// Plans of another kind, in words.
pub(super) fn describe(
    plans: &Value,
    dataset: &Value,
    name: &str,
    mirror_axes: [bool; 3],
    stored: AxisCodes,
) -> Result<Description, String> {
    let plan = configuration(plans, name)?;
    let images = dataset.get("channel_names").or_else(|| dataset.get("modality")).and_then(Value::as_object);
    if let Some(images) = images.filter(|images| images.len() != 1) {
        let names: Vec<String> = images.values().map(ToString::to_string).collect();
        return Err(format!(
            "sees {} images at once ({}); networks see one here",
            images.len(),
            names.join(", ")
        ));
    }
    if plan.get("previous_stage").is_some_and(|stage| !stage.is_null()) {
        return Err("is the second stage of a cascade, which is not known here".into());
    }
    let schemes: Vec<String> = fitting(entry(&plan, "normalization_schemes")?, "normalization_schemes")?;
    if schemes != ["ZScoreNormalization"] {
        return Err(format!(
            "brings intensities to scale by {}; ZScoreNormalization is known here",
            schemes.join(", ")
        ));
    }
    let [masked]: [bool; 1] = fitting(entry(&plan, "use_mask_for_norm")?, "use_mask_for_norm")?;
    let order =
        |key: &str, usual: u64| plan.get(key).and_then(|given| given["order"].as_u64()).unwrap_or(usual);
    let resampling =
        plan.get("resampling_fn_data").and_then(Value::as_str).unwrap_or("resample_data_or_seg_to_shape");
    let sampling = match (resampling, order("resampling_fn_data_kwargs", 3)) {
        ("resample_data_or_seg_to_shape", 0) => Sampling::Nearest,
        ("resample_data_or_seg_to_shape", 1) | ("resample_torch_fornnunet", _) => Sampling::Linear,
        ("resample_data_or_seg_to_shape", 3) => Sampling::Cubic,
        (function, order) => {
            return Err(format!("samples images by {function} of order {order}, which is not known here"));
        }
    };
    let patch: [usize; 3] = fitting(entry(&plan, "patch_size")?, "patch_size")?;
    let transposed: [usize; 3] = fitting(entry(plans, "transpose_forward")?, "transpose_forward")?;
    // nnU-Net's arrays run along the last axis of a stored image first.
    let codes: Vec<char> = String::from(stored).chars().rev().collect();
    let axes: Option<String> = transposed.iter().map(|&axis| codes.get(axis)).collect();
    let architecture = Architecture::of(&plan)?;
    let (answer, channels) = answer(dataset)?;
    let (layers, output) = architecture.layers(channels)?;
    Ok(Description {
        name: plans.get("dataset_name").and_then(Value::as_str).unwrap_or("nnunet").to_owned(),
        input: GridSpec {
            shape: patch,
            voxel_mm: fitting(entry(&plan, "spacing")?, "spacing")?,
            centre: Centre::Voxels {
                of: VoxelBox::Content,
                fit: Fit::Padded { multiple: 1, most: None, both_sides: true, after_scaling: true },
            },
            axes: AxisCodes::try_from(axes.unwrap_or_default())
                .map_err(|_| format!("has plans with transpose_forward {transposed:?}"))?,
            sampling,
            intensity: Intensity::ZScoreOfVoxels { masked },
            n4: None,
            patches: Some(Patches { step: 0.5, deviation: 0.125 }),
            mirror: false,
            mirror_axes,
            readout: match order("resampling_fn_probabilities_kwargs", 1) {
                0 => Readout::Nearest,
                _ => Readout::Linear,
            },
        },
        layers,
        output,
        answer,
        no_csf: None,
        first: None,
        folds: 1,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plans() -> Value {
        json!({
            "dataset_name": "Dataset001_Brain",
            "transpose_forward": [0, 1, 2],
            "configurations": {
                "3d_fullres": {
                    "patch_size": [32, 48, 16],
                    "spacing": [3.0, 1.0, 1.0],
                    "normalization_schemes": ["ZScoreNormalization"],
                    "use_mask_for_norm": [true],
                    "UNet_class_name": "PlainConvUNet",
                    "UNet_base_num_features": 32,
                    "unet_max_num_features": 100,
                    "n_conv_per_stage_encoder": [2, 2, 2],
                    "n_conv_per_stage_decoder": [2, 2],
                    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
                    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
                },
                "3d_small": {"inherits_from": "3d_fullres", "patch_size": [16, 16, 16]}
            }
        })
    }

    fn dataset() -> Value {
        json!({"channel_names": {"0": "T1w"}, "labels": {"background": 0, "brain": 1}})
    }

    fn described(plans: &Value, dataset: &Value, name: &str) -> Result<Description, String> {
        describe(plans, dataset, name, [true; 3], AxisCodes::RAS)
    }

    #[test]
    fn plans_of_either_kind_say_the_same() {
        let old = described(&plans(), &dataset(), "3d_fullres").expect("is known");
        let mut new = plans();
        new["configurations"]["3d_fullres"]["architecture"] = json!({
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3, "features_per_stage": [32, 64, 100], "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[1, 3, 3], [3, 3, 3], 3], "strides": [1, [1, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": 2, "n_conv_per_stage_decoder": [2, 2], "conv_bias": true,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": true}, "dropout_op": null,
                "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}
            }
        });
        assert_eq!(described(&new, &dataset(), "3d_fullres").expect("is known"), old);
        assert_eq!(old.multiple(), Ok([2, 4, 4]));
        assert_eq!(old.output, "decoder.seg_layers.1");
        let small = described(&plans(), &dataset(), "3d_small").expect("inherits");
        assert_eq!((small.input.shape, &small.layers), ([16; 3], &old.layers));
    }

    #[test]
    fn axes_are_those_of_stored_images_from_behind() {
        let mut turned = plans();
        turned["transpose_forward"] = json!([1, 0, 2]);
        for (plans, stored, want) in
            [(plans(), "RAS", "SAR"), (plans(), "LPI", "IPL"), (turned, "RAS", "ASR")]
        {
            let stored = AxisCodes::try_from(stored.to_owned()).expect("three axes");
            let network = describe(&plans, &dataset(), "3d_fullres", [false; 3], stored).expect("is known");
            assert_eq!(String::from(network.input.axes), want);
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let refused = |path: &[&str], value: Value| -> String {
            let mut both = json!({"plans": plans(), "dataset": dataset()});
            let place = path.iter().fold(&mut both, |at, key| &mut at[*key]);
            *place = value;
            described(&both["plans"], &both["dataset"], "3d_fullres").expect_err("is refused")
        };
        let plan = ["plans", "configurations", "3d_fullres"];
        let of = |key: &'static str| [plan.as_slice(), &[key]].concat();
        for (path, value, words) in [
            (of("UNet_class_name"), json!("PrimusM"), "network PrimusM"),
            (of("normalization_schemes"), json!(["CTNormalization"]), "by CTNormalization"),
            (of("previous_stage"), json!("3d_lowres"), "cascade"),
            (of("patch_size"), json!([512, 512]), "patch_size"),
            (of("conv_kernel_sizes"), json!([[2, 3, 3], [3, 3, 3], [3, 3, 3]]), "kernel [2, 3, 3]"),
            (
                of("n_conv_per_stage_decoder"),
                json!([2]),
                "1 values of 'n_conv_per_stage_decoder' for 2 levels",
            ),
            (of("resampling_fn_data"), json!("none"), "samples images by none"),
            (of("inherits_from"), json!("3d_fullres"), "inherits from itself"),
            (vec!["dataset", "labels"], json!({"background": 0, "a": 1, "b": 2}), "tells a, b apart"),
            (vec!["dataset", "channel_names"], json!({"0": "T1w", "1": "T2w"}), "2 images"),
            (vec!["plans", "transpose_forward"], json!([0, 0, 2]), "transpose_forward"),
        ] {
            let error = refused(&path, value);
            assert!(error.contains(words), "{error}");
        }
        let regions = json!({"channel_names": {"0": "T1w"}, "labels": {"background": 0, "brain": [1, 2]}});
        let network = described(&plans(), &regions, "3d_fullres").expect("one region");
        assert_eq!(network.answer, AnswerKind::Logit);
    }
}
