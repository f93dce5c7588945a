//! Networks of Keras: `.h5` files of versions 2 and 3 that hold a whole model, and `.keras` archives.
//!
//! Both hold the layers as JSON and the weights as HDF5. Channels come last there, and kernels are stored from the last axis of
//! ours to the first but for their extents. A layer that has none here is refused by its name.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use hdf5_reader::Hdf5File;
use hdf5_reader::group::Group;
use serde_json::Value;

use super::{Assembly, Network};
use crate::model::ModelError;
use crate::model::description::*;

const HDF5: &[u8] = b"\x89HDF\r\n\x1a\n";
/// Largest member of an archive that is read, in bytes.
const MOST_BYTES: u64 = 4 << 30;

/// Whether a file is one of Keras', by its name or its first bytes.
pub fn is_keras(bytes: &[u8], file: &str) -> bool {
    bytes.starts_with(HDF5) || file.to_ascii_lowercase().ends_with(".keras")
}

/// Reads the network of a file of Keras; `file` names it in errors.
///
/// # Errors
/// A damaged file, one of weights alone, a layer that has none here, a graph that is no network of one image.
pub fn read(bytes: &[u8], file: &str) -> Result<Network, ModelError> {
    let fail = |reason: String| ModelError::Weights { file: file.to_owned(), reason };
    let content = if bytes.starts_with(HDF5) { Content::of_hdf5(bytes) } else { Content::of_archive(bytes) };
    content.and_then(|content| content.network()).map_err(fail)
}

type Numbers = (Vec<usize>, Vec<f32>);

struct Content {
    /// The layers.
    config: Value,
    weights: Hdf5File,
    /// Whether weights lie under the layers' names; otherwise under those of their classes, counted.
    by_name: bool,
}

fn damaged(e: impl std::fmt::Display) -> String {
    format!("is damaged ({e}); get it again")
}

impl Content {
    fn of_hdf5(bytes: &[u8]) -> Result<Self, String> {
        let weights = Hdf5File::from_bytes(bytes).map_err(damaged)?;
        let root = weights.root_group().map_err(damaged)?;
        let config = root.attribute("model_config").map_err(|_| {
            "holds no layers, as files of weights alone; save the whole model (`model.save`), or its weights as \
             safetensors with a --description"
        })?;
        let config = serde_json::from_str(&config.read_string().map_err(damaged)?).map_err(damaged)?;
        Ok(Self { config, weights, by_name: true })
    }

    fn of_archive(bytes: &[u8]) -> Result<Self, String> {
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        let mut member = |name: &str| -> Result<Vec<u8>, String> {
            let file = archive.by_name(name).map_err(|e| damaged(format!("{name}: {e}")))?;
            let mut content = Vec::new();
            file.take(MOST_BYTES).read_to_end(&mut content).map_err(damaged)?;
            Ok(content)
        };
        let config = serde_json::from_slice(&member("config.json")?).map_err(damaged)?;
        let weights = Hdf5File::from_vec(member("model.weights.h5")?).map_err(damaged)?;
        Ok(Self { config, weights, by_name: false })
    }

    fn network(&self) -> Result<Network, String> {
        let kind = self.config["class_name"].as_str().unwrap_or_default();
        let sequential = match kind {
            "Functional" | "Model" => false,
            "Sequential" => true,
            _ => {
                return Err(format!(
                    "is a model of the class '{kind}'; Functional and Sequential ones are known here"
                ));
            }
        };
        let layers = self.config["config"]["layers"].as_array().ok_or("lists no layers")?;
        let mut reader = Reader {
            content: self,
            assembly: Assembly::default(),
            counts: HashMap::new(),
            whole_levels: false,
        };
        let mut previous: Option<String> = None;
        for layer in layers {
            let name = layer["config"]["name"].as_str().ok_or("has a layer without a name")?;
            let class = layer["class_name"].as_str().unwrap_or_default();
            let reads = match (sequential, &previous) {
                (true, previous) => previous.iter().cloned().collect(),
                (false, _) => {
                    sources(&layer["inbound_nodes"]).map_err(|reason| format!("layer '{name}' {reason}"))?
                }
            };
            let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
            // A Sequential model may begin without a layer for its input.
            if sequential && previous.is_none() && class != "InputLayer" {
                reader.assembly.values.insert("input".into(), vec!["input".into()]);
                reader.layer(name, class, &layer["config"], &["input"])
            } else {
                reader.layer(name, class, &layer["config"], &reads)
            }
            .map_err(|reason| format!("layer '{name}' ({class}) {reason}"))?;
            previous = Some(name.to_owned());
        }
        let output = match (sequential, &self.config["config"]["output_layers"]) {
            (true, _) => previous,
            (false, outputs) => match &sources_of(outputs)[..] {
                [output] => Some(output.clone()),
                outputs => return Err(format!("has the outputs {}; one is possible", outputs.join(", "))),
            },
        };
        reader.assembly.network(&output.ok_or("has no layers")?, reader.whole_levels)
    }
}

/// The layers that a layer reads.
fn sources(nodes: &Value) -> Result<Vec<String>, String> {
    match nodes.as_array().map(Vec::as_slice) {
        None | Some([]) => Ok(Vec::new()),
        Some([node]) => Ok(sources_of(node)),
        Some(_) => Err("is used several times with the same weights, which is not known here".into()),
    }
}

/// Names of layers in what Keras says of a node: `[name, node, output, ...]` in version 2, the same as a `keras_history` somewhere
/// within in version 3.
fn sources_of(node: &Value) -> Vec<String> {
    match node {
        Value::Array(items) => match (items.first(), items.get(1)) {
            (Some(Value::String(name)), Some(Value::Number(_))) => vec![name.clone()],
            _ => items.iter().flat_map(sources_of).collect(),
        },
        Value::Object(entries) => match entries.get("keras_history") {
            Some(history) => sources_of(history),
            None => entries.values().flat_map(sources_of).collect(),
        },
        _ => Vec::new(),
    }
}

struct Reader<'a> {
    content: &'a Content,
    assembly: Assembly,
    /// How many layers of each class there were.
    counts: HashMap<String, usize>,
    whole_levels: bool,
}

/// What a layer is told.
struct Told<'a>(&'a Value);

impl Told<'_> {
    /// A number for each axis, or one for all.
    fn axes(&self, key: &str) -> Result<[usize; 3], String> {
        let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        let given = &self.0[key];
        let axes = match given.as_array() {
            Some(axes) => {
                axes.iter().map(number).collect::<Option<Vec<_>>>().and_then(|axes| axes.try_into().ok())
            }
            None => number(given).map(|n| [n; 3]),
        };
        axes.ok_or_else(|| format!("has {key} {given}; three numbers are expected"))
    }

    /// Refuses an entry that is neither absent nor one of these values.
    fn only(&self, key: &str, known: &[Value]) -> Result<(), String> {
        match self.0.get(key) {
            Some(value) if !value.is_null() && !known.contains(value) => {
                Err(format!("has {key} {value}, which is not known here"))
            }
            _ => Ok(()),
        }
    }

    fn same_padding(&self) -> Result<bool, String> {
        match self.0["padding"].as_str() {
            Some("same") => Ok(true),
            Some("valid") => Ok(false),
            _ => Err(format!("has padding {}", self.0["padding"])),
        }
    }
}

impl Reader<'_> {
    fn layer(&mut self, name: &str, class: &str, config: &Value, reads: &[&str]) -> Result<(), String> {
        let told = Told(config);
        told.only("data_format", &["channels_last".into()])?;
        let value = name.to_owned();
        let read = match (reads.first(), class) {
            (_, "InputLayer") => {
                let shape = config.get("batch_shape").or_else(|| config.get("batch_input_shape"));
                if shape
                    .and_then(|shape| shape.as_array())
                    .is_some_and(|shape| shape.get(4) != Some(&1.into()))
                {
                    return Err(format!(
                        "has the shape {}; volumes of one channel are seen here",
                        shape.unwrap_or(&Value::Null)
                    ));
                }
                self.assembly.values.insert(value, vec!["input".into()]);
                return Ok(());
            }
            (Some(read), _) => *read,
            (None, _) => return Err("reads nothing".into()),
        };
        let mut activation = Value::Null;
        let kind = match class {
            "Conv3D" => {
                told.only("groups", &[1.into()])?;
                activation = config["activation"].clone();
                self.conv(name, &told)?
            }
            "Conv3DTranspose" => {
                told.only("output_padding", &[])?;
                activation = config["activation"].clone();
                self.conv_transpose(name, &told)?
            }
            "BatchNormalization" => {
                let all = Value::from(true);
                told.only("center", std::slice::from_ref(&all))?;
                told.only("scale", std::slice::from_ref(&all))?;
                told.only("axis", &[4.into(), (-1).into(), vec![4].into()])?;
                let parts = ["gamma", "beta", "moving_mean", "moving_variance"];
                for (part, tensor) in parts.into_iter().zip(["weight", "bias", "running_mean", "running_var"])
                {
                    let numbers = self.weight(name, "batch_normalization", &parts, part)?;
                    self.assembly.tensors.insert(format!("{name}.{tensor}"), numbers);
                }
                *self.counts.entry("batch_normalization".into()).or_default() += 1;
                LayerKind::BatchNorm {
                    eps: config["epsilon"].as_f64().unwrap_or(1e-3) as f32,
                    momentum: 1.0 - config["momentum"].as_f64().unwrap_or(0.99) as f32,
                    activation: ActivationKind::None,
                }
            }
            "Activation" => {
                let activation = &config["activation"];
                return self.activation(name.to_owned(), read, activation, value);
            }
            "ReLU" => {
                told.only("max_value", &[])?;
                told.only("negative_slope", &[0.0.into(), 0.into()])?;
                told.only("threshold", &[0.0.into(), 0.into()])?;
                LayerKind::Activation { activation: ActivationKind::Relu }
            }
            "LeakyReLU" => {
                let slope = config.get("negative_slope").or_else(|| config.get("alpha"));
                let slope =
                    slope.map_or(Some(0.3), |slope| slope.as_f64().or_else(|| slope["value"].as_f64()));
                let slope = slope.ok_or("has a slope that is no number")?;
                LayerKind::Activation { activation: ActivationKind::LeakyRelu(slope as f32) }
            }
            "MaxPooling3D" | "AveragePooling3D" => {
                let kernel = told.axes("pool_size")?;
                let stride = if config["strides"].is_null() { kernel } else { told.axes("strides")? };
                if told.same_padding()? {
                    if kernel != stride {
                        return Err("pads windows that overlap, which is not known here".into());
                    }
                    self.whole_levels = true;
                }
                match class {
                    "MaxPooling3D" => LayerKind::MaxPool3d { kernel, stride, padding: [0; 3] },
                    _ => LayerKind::AvgPool3d { kernel, stride },
                }
            }
            "UpSampling3D" => LayerKind::Upsample { factor: told.axes("size")?, mode: UpsampleKind::Nearest },
            "Dropout" | "SpatialDropout3D" => {
                LayerKind::Dropout { rate: config["rate"].as_f64().unwrap_or(0.0) as f32 }
            }
            "Concatenate" => {
                told.only("axis", &[4.into(), (-1).into()])?;
                return self.assembly.join(reads, value);
            }
            "Add" => return self.assembly.push(name.to_owned(), reads, LayerKind::Add, value),
            _ => return Err("has none here; docs/networks.md lists those that there are".into()),
        };
        if activation.is_null() || activation == "linear" {
            return self.assembly.push(name.to_owned(), &[read], kind, value);
        }
        let inner = format!("{name} before its activation");
        self.assembly.push(name.to_owned(), &[read], kind, inner.clone())?;
        self.activation(format!("{name}.activation"), &inner, &activation, value)
    }

    fn activation(
        &mut self,
        name: String,
        read: &str,
        activation: &Value,
        value: String,
    ) -> Result<(), String> {
        match activation.as_str() {
            Some("linear") => self.assembly.join(&[read], value),
            Some("relu") => {
                let kind = LayerKind::Activation { activation: ActivationKind::Relu };
                self.assembly.push(name, &[read], kind, value)
            }
            Some("sigmoid") => self.assembly.end(read, value, AnswerKind::Logit),
            Some("softmax") => self.assembly.end(read, value, AnswerKind::TwoClasses),
            _ => Err(format!("has the activation {activation}, which is not known here")),
        }
    }

    fn conv(&mut self, name: &str, told: &Told<'_>) -> Result<LayerKind, String> {
        let ([out_channels, ..], kernel, bias) = self.kernel(name, "conv3d", told)?;
        let (stride, dilation) = (told.axes("strides")?, told.axes("dilation_rate")?);
        let same = told.same_padding()?;
        self.whole_levels |= same && stride != [1; 3];
        // On extents that strides divide, Keras pads what a window exceeds its stride by, the odd plane behind.
        let padding = [0, 1, 2].map(|axis| {
            let reach = (kernel[axis].max(1) - 1) * dilation[axis] + 1;
            let total = if same { reach.saturating_sub(stride[axis]) } else { 0 };
            [total / 2, total - total / 2]
        });
        let (padding, activation) = (Some(padding), ActivationKind::None);
        Ok(LayerKind::Conv3d { out_channels, kernel, stride, dilation, padding, bias, activation })
    }

    fn conv_transpose(&mut self, name: &str, told: &Told<'_>) -> Result<LayerKind, String> {
        told.only("dilation_rate", &[vec![1; 3].into(), 1.into()])?;
        let ([_, out_channels, ..], kernel, bias) = self.kernel(name, "conv3d_transpose", told)?;
        let stride = told.axes("strides")?;
        if (0..3).any(|axis| kernel[axis] < stride[axis]) {
            return Err(format!(
                "has a stride {stride:?} beyond its kernel {kernel:?}, which is not known here"
            ));
        }
        let same = told.same_padding()?;
        let crop = [0, 1, 2].map(|axis| {
            let total = if same { kernel[axis] - stride[axis] } else { 0 };
            [total / 2, total - total / 2]
        });
        let activation = ActivationKind::None;
        Ok(LayerKind::ConvTranspose3d { out_channels, kernel, stride, crop, bias, activation })
    }

    /// Takes kernel and bias of a convolution: the kernel's shape as ours, its extents, and whether there is a bias.
    fn kernel(
        &mut self,
        name: &str,
        class: &str,
        told: &Told<'_>,
    ) -> Result<([usize; 5], [usize; 3], bool), String> {
        let bias = told.0["use_bias"].as_bool().unwrap_or(true);
        let parts = if bias { &["kernel", "bias"][..] } else { &["kernel"] };
        let (shape, values) = self.weight(name, class, parts, "kernel")?;
        let [kd, kh, kw, a, b] = shape[..] else {
            return Err(format!("has a kernel of the shape {shape:?}; five axes are expected"));
        };
        // [taps, a, b] to [b, a, taps].
        let taps = kd * kh * kw;
        let turned: Vec<f32> = (0..values.len())
            .map(|ix| {
                let (rest, tap) = (ix / taps, ix % taps);
                values[(tap * a + rest % a) * b + rest / a]
            })
            .collect();
        let ours = [b, a, kd, kh, kw];
        self.assembly.tensors.insert(format!("{name}.weight"), (ours.to_vec(), turned));
        if bias {
            let numbers = self.weight(name, class, parts, "bias")?;
            self.assembly.tensors.insert(format!("{name}.bias"), numbers);
        }
        *self.counts.entry(class.to_owned()).or_default() += 1;
        Ok((ours, [kd, kh, kw], bias))
    }

    /// A tensor of a layer, one of these parts.
    fn weight(&self, name: &str, class: &str, parts: &[&str], part: &str) -> Result<Numbers, String> {
        let file = &self.content.weights;
        let lacking = || format!("lacks its {part} in the file");
        let dataset = if self.content.by_name {
            let group = file.group(&format!("model_weights/{name}")).map_err(|_| lacking())?;
            find(&group, part, 0).ok_or_else(lacking)?
        } else {
            let count = self.counts.get(class).copied().unwrap_or(0);
            let layer = if count == 0 { class.to_owned() } else { format!("{class}_{count}") };
            let number = parts.iter().position(|other| *other == part).expect("it is one of them");
            file.dataset(&format!("layers/{layer}/vars/{number}")).map_err(|_| lacking())?
        };
        let shape = dataset.shape().iter().map(|&n| n as usize).collect();
        let values = match dataset.read_array::<f32>() {
            Ok(values) => values.into_iter().collect(),
            Err(_) => {
                let values = dataset
                    .read_array::<f64>()
                    .map_err(|e| format!("has a {part} that cannot be read: {e}"))?;
                values.into_iter().map(|value| value as f32).collect()
            }
        };
        Ok((shape, values))
    }
}

/// The dataset of a name in a group or those within; version 2 writes `kernel:0`.
fn find(group: &Group, part: &str, level: usize) -> Option<hdf5_reader::Dataset> {
    let (groups, datasets) = group.members().ok()?;
    let own = |name: &str| name.split(':').next() == Some(part);
    let found =
        datasets.into_iter().find(|dataset| own(dataset.name().rsplit('/').next().unwrap_or_default()));
    match found {
        None if level < 8 => groups.iter().find_map(|group| find(group, part, level + 1)),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn every() -> Content {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/every.h5");
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        Content::of_hdf5(&bytes).expect("reads")
    }

    /// What reading the network says after a change of a layer.
    fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Result<Network, String> {
        let mut content = every();
        let layers = content.config["config"]["layers"].as_array_mut().expect("lists layers");
        change(layers.iter_mut().find(|layer| layer["config"]["name"] == name).expect("is there"));
        content.network()
    }

    #[test]
    fn nodes_as_version_2_writes_them_say_the_same() {
        let mut content = every();
        let want = content.network().expect("reads");
        for layer in content.config["config"]["layers"].as_array_mut().expect("lists layers") {
            let nodes: Vec<Value> = sources(&layer["inbound_nodes"])
                .expect("reads")
                .iter()
                .map(|name| json!([name, 0, 0, {}]))
                .collect();
            layer["inbound_nodes"] = if nodes.is_empty() { json!([]) } else { json!([nodes]) };
        }
        let got = content.network().expect("reads");
        assert_eq!((got.layers, got.tensors), (want.layers, want.tensors));
    }

    #[test]
    fn layers_without_nodes_follow_each_other() {
        let mut content = every();
        let layers = content.config["config"]["layers"].as_array().expect("lists layers");
        let named = |name: &str| {
            layers.iter().find(|layer| layer["config"]["name"] == name).expect("is there").clone()
        };
        let kept = ["conv3d", "max_pooling3d", "batch_normalization"].map(named);
        content.config = json!({"class_name": "Sequential", "config": {"layers": kept}});
        let network = content.network().expect("reads");
        let names: Vec<&str> = network.layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names, ["conv3d", "conv3d.activation", "max_pooling3d", "batch_normalization"]);
        assert_eq!(network.layers[0].inputs, ["input"]);
    }

    #[test]
    fn what_has_no_layer_is_named() {
        for (name, key, value, words) in [
            ("conv3d", "groups", json!(3), "layer 'conv3d' (Conv3D) has groups 3"),
            ("conv3d", "data_format", json!("channels_first"), "data_format"),
            ("conv3d", "activation", json!("selu"), "has the activation \"selu\""),
            ("conv3d_1", "padding", json!("causal"), "has padding \"causal\""),
            ("conv3d_1", "name", json!("other"), "lacks its kernel"),
            ("conv3d_transpose", "strides", json!([4, 4, 4]), "beyond its kernel"),
            ("batch_normalization", "scale", json!(false), "has scale false"),
            ("concatenate", "axis", json!(1), "has axis 1"),
            ("input_layer", "batch_shape", json!([null, 8, 8, 8, 2]), "one channel"),
        ] {
            let error = changed(name, |layer| layer["config"][key] = value).expect_err("is refused");
            assert!(error.contains(words), "{words}: {error}");
        }
        let error =
            changed("dropout", |layer| layer["class_name"] = json!("Lambda")).expect_err("is refused");
        assert!(error.starts_with("layer 'dropout' (Lambda) has none here"), "{error}");
        let error = changed("dropout", |layer| {
            let node = layer["inbound_nodes"][0].clone();
            layer["inbound_nodes"] = json!([node, node]);
        })
        .expect_err("is refused");
        assert!(error.contains("used several times"), "{error}");
    }
}
