//! Networks of ONNX files as layers and weights.
//!
//! A file holds a graph of operators and their weights; what the network sees of a head it does not say. An operator that has no
//! layer here, or is told something that its layer does not know, is refused by its name and its node's.

use std::collections::HashMap;

use prost::Message;

use super::proto::{self, Graph, Node, Tensor};
use super::{Assembly, Network};
use crate::model::ModelError;
use crate::model::description::*;

/// Whether a file is one of ONNX's, by its name.
pub fn is_onnx(file: &str) -> bool {
    file.to_ascii_lowercase().ends_with(".onnx")
}

/// Reads the network of an ONNX file; `file` names it in errors.
///
/// # Errors
/// A damaged file, an operator without a layer here, a graph that is no network of one image.
pub fn read(bytes: &[u8], file: &str) -> Result<Network, ModelError> {
    let fail = |reason: String| ModelError::Weights { file: file.to_owned(), reason };
    let model =
        proto::Model::decode(bytes).map_err(|e| fail(format!("is no ONNX file ({e}); get it again")))?;
    if let Some(set) = model.opset_import.iter().find(|set| !matches!(set.domain.as_str(), "" | "ai.onnx")) {
        log::warn!("{file}: names operators of '{}', version {}, beside ONNX's own", set.domain, set.version);
    }
    let graph = model.graph.ok_or_else(|| fail("holds no graph".into()))?;
    Reader::of(&graph).and_then(|reader| reader.network(&graph)).map_err(fail)
}

/// A tensor's shape and values.
type Numbers = (Vec<usize>, Vec<f32>);

struct Reader {
    assembly: Assembly,
    /// Weights and constants by their names.
    numbers: HashMap<String, Numbers>,
}

/// A node's attributes.
struct Told<'a>(&'a Node);

impl Told<'_> {
    fn find(&self, name: &str) -> Option<&proto::Attribute> {
        self.0.attribute.iter().find(|attribute| attribute.name == name)
    }

    fn float(&self, name: &str, usual: f32) -> f32 {
        self.find(name).map_or(usual, |attribute| attribute.f)
    }

    fn int(&self, name: &str, usual: i64) -> i64 {
        self.find(name).map_or(usual, |attribute| attribute.i)
    }

    fn text(&self, name: &str, usual: &str) -> String {
        self.find(name)
            .map_or_else(|| usual.to_owned(), |attribute| String::from_utf8_lossy(&attribute.s).into_owned())
    }

    /// A number for each of three axes, or twice as many.
    fn axes<const N: usize>(&self, name: &str, usual: Option<usize>) -> Result<[usize; N], String> {
        let given = match (self.find(name), usual) {
            (Some(attribute), _) => attribute.ints.iter().map(|&n| usize::try_from(n).ok()).collect(),
            (None, Some(usual)) => Some(vec![usual; N]),
            (None, None) => None,
        };
        given
            .and_then(|given: Vec<usize>| given.try_into().ok())
            .ok_or_else(|| format!("has no '{name}' of {N} numbers; volumes have three axes"))
    }

    /// Planes before and after each axis.
    fn pads(&self) -> Result<[[usize; 2]; 3], String> {
        let [d, h, w, after_d, after_h, after_w] = self.axes("pads", Some(0))?;
        Ok([[d, after_d], [h, after_h], [w, after_w]])
    }

    /// Refuses an attribute of another value than the only one that is known here.
    fn only(&self, name: &str, known: i64) -> Result<(), String> {
        match self.int(name, known) {
            given if given == known => Ok(()),
            given => Err(format!("has {name} {given}; only {known} is known here")),
        }
    }
}

impl Reader {
    fn of(graph: &Graph) -> Result<Self, String> {
        let mut numbers = HashMap::new();
        for tensor in &graph.initializer {
            numbers.insert(tensor.name.clone(), numbers_of(tensor)?);
        }
        let inputs: Vec<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
        let images: Vec<&str> = inputs.into_iter().filter(|name| !numbers.contains_key(*name)).collect();
        let [image] = images[..] else {
            return Err(format!("has the inputs {}; networks see one image here", images.join(", ")));
        };
        let mut assembly = Assembly::default();
        assembly.values.insert(image.to_owned(), vec!["input".into()]);
        Ok(Self { assembly, numbers })
    }

    fn network(mut self, graph: &Graph) -> Result<Network, String> {
        let [output] = &graph.output[..] else {
            let names: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
            return Err(format!(
                "has the outputs {}; a network that extracts brains has one",
                names.join(", ")
            ));
        };
        for (ix, node) in graph.node.iter().enumerate() {
            self.node(ix, node).map_err(|reason| format!("{}: {reason}", named(node)))?;
        }
        self.assembly.network(&output.name, false)
    }

    /// The numbers that a node's input stands for; `None` where it has none.
    fn numbers_at(&self, node: &Node, ix: usize) -> Result<Option<Numbers>, String> {
        match node.input.get(ix).map(String::as_str) {
            None | Some("") => Ok(None),
            Some(name) => match self.numbers.get(name) {
                Some(numbers) => Ok(Some(numbers.clone())),
                _ => Err(format!(
                    "reads '{name}' where numbers of the file are expected; save the network with its weights folded in"
                )),
            },
        }
    }

    /// Takes a node's numbers for a tensor of its layer.
    fn take(&mut self, layer: &str, part: &str, node: &Node, ix: usize) -> Result<Vec<usize>, String> {
        let (shape, values) = self.numbers_at(node, ix)?.ok_or_else(|| format!("lacks its {part}"))?;
        self.assembly.tensors.insert(format!("{layer}.{part}"), (shape.clone(), values));
        Ok(shape)
    }

    fn node(&mut self, ix: usize, node: &Node) -> Result<(), String> {
        let told = Told(node);
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(format!("is an operator of '{}', which has no layer here", node.domain));
        }
        let result = node.output.first().cloned().ok_or("has no output")?;
        let reads: Vec<&str> = node.input.iter().map(String::as_str).collect();
        let [read, ..] = reads[..] else {
            if node.op_type != "Constant" {
                return Err("reads nothing".into());
            }
            let tensor = told.find("value").and_then(|value| value.t.as_ref());
            self.numbers.insert(result, numbers_of(tensor.ok_or("holds no tensor")?)?);
            return Ok(());
        };
        let activation = |activation| LayerKind::Activation { activation };
        let name = self.name(ix, node);
        let kind = match node.op_type.as_str() {
            "Identity" | "Dropout" => return self.assembly.join(&[read], result),
            "Concat" if told.int("axis", 0) != 1 => return Err("does not join channels".into()),
            "Concat" => return self.assembly.join(&reads, result),
            "Sigmoid" => return self.assembly.end(read, result, AnswerKind::Logit),
            // Of a softmax, where that is what it reads.
            "ArgMax" if self.assembly.ends.contains_key(read) => {
                let layer = self.assembly.values[read].clone();
                self.assembly.values.insert(result.clone(), layer);
                self.assembly.ends.insert(result, AnswerKind::TwoClasses);
                return Ok(());
            }
            "Softmax" | "ArgMax" => {
                let axis = told.int("axis", if node.op_type == "ArgMax" { 0 } else { -1 });
                if axis != 1 && axis != -4 {
                    return Err(format!("runs along axis {axis}; classes are channels, axis 1"));
                }
                return self.assembly.end(read, result, AnswerKind::TwoClasses);
            }
            "Add" => return self.assembly.push(name, &reads, LayerKind::Add, result),
            "Conv" => self.conv(&name, node)?,
            "ConvTranspose" => self.conv_transpose(&name, node)?,
            "BatchNormalization" => {
                told.only("training_mode", 0)?;
                for (ix, part) in ["weight", "bias", "running_mean", "running_var"].into_iter().enumerate() {
                    self.take(&name, part, node, ix + 1)?;
                }
                LayerKind::BatchNorm {
                    eps: told.float("epsilon", 1e-5),
                    momentum: 1.0 - told.float("momentum", 0.9),
                    activation: ActivationKind::None,
                }
            }
            "InstanceNormalization" => {
                self.take(&name, "weight", node, 1)?;
                self.take(&name, "bias", node, 2)?;
                let (eps, activation) = (told.float("epsilon", 1e-5), ActivationKind::None);
                LayerKind::InstanceNorm { eps, affine: true, activation }
            }
            "Relu" => activation(ActivationKind::Relu),
            "LeakyRelu" => activation(ActivationKind::LeakyRelu(told.float("alpha", 0.01))),
            "Gelu" => match told.text("approximate", "none").as_str() {
                "none" => activation(ActivationKind::Gelu),
                "tanh" => activation(ActivationKind::GeluTanh),
                other => return Err(format!("approximates by '{other}'")),
            },
            "MaxPool" => {
                told.only("ceil_mode", 0)?;
                known_padding(&told)?;
                if told.axes::<3>("dilations", Some(1))? != [1; 3] {
                    return Err("takes maxima over voxels that lie apart".into());
                }
                let pads = told.pads()?;
                if pads.iter().any(|[before, after]| before != after) {
                    return Err(format!("pads one side more than the other ({pads:?})"));
                }
                LayerKind::MaxPool3d {
                    kernel: told.axes("kernel_shape", None)?,
                    stride: told.axes("strides", Some(1))?,
                    padding: pads.map(|[before, _]| before),
                }
            }
            "AveragePool" => {
                told.only("ceil_mode", 0)?;
                known_padding(&told)?;
                if told.pads()? != [[0; 2]; 3] {
                    return Err("averages over padding".into());
                }
                LayerKind::AvgPool3d {
                    kernel: told.axes("kernel_shape", None)?,
                    stride: told.axes("strides", Some(1))?,
                }
            }
            "Resize" | "Upsample" => self.resize(node)?,
            _ => return Err("has no layer here; docs/networks.md lists those that there are".into()),
        };
        self.assembly.push(name, &[read], kind, result)
    }

    /// A layer's name: that of its weights, or else its node's, as a path with points, or its number where both are none or taken.
    fn name(&self, ix: usize, node: &Node) -> String {
        let weights = node.input.get(1).and_then(|input| input.strip_suffix(".weight"));
        let path = node.name.trim_matches('/').replace('/', ".");
        let free = |name: &&str| {
            !name.is_empty()
                && *name != "input"
                && self.assembly.layers.iter().all(|layer| layer.name != *name)
        };
        let name = weights.into_iter().chain([path.as_str()]).find(free).map(str::to_owned);
        name.unwrap_or_else(|| format!("{}_{ix}", node.op_type.to_lowercase()))
    }

    /// Takes the weights of a convolution, and its bias where it has one; the shape of the former.
    fn weights(&mut self, name: &str, node: &Node) -> Result<([usize; 5], bool), String> {
        let shape = self.take(name, "weight", node, 1)?;
        let shape = <[usize; 5]>::try_from(shape).map_err(|shape| {
            format!("has weights of the shape {shape:?}; those of a convolution in 3D have five axes")
        })?;
        let bias = node.input.get(2).is_some_and(|input| !input.is_empty());
        if bias {
            self.take(name, "bias", node, 2)?;
        }
        Ok((shape, bias))
    }

    fn conv(&mut self, name: &str, node: &Node) -> Result<LayerKind, String> {
        let told = Told(node);
        told.only("group", 1)?;
        let ([out_channels, _, kernel @ ..], bias) = self.weights(name, node)?;
        let stride = told.axes("strides", Some(1))?;
        let padding = match told.text("auto_pad", "NOTSET").as_str() {
            "NOTSET" => Some(told.pads()?),
            "VALID" => Some([[0; 2]; 3]),
            "SAME_UPPER" if stride == [1; 3] => None,
            other => return Err(format!("pads by '{other}'")),
        };
        Ok(LayerKind::Conv3d {
            out_channels,
            kernel,
            stride,
            dilation: told.axes("dilations", Some(1))?,
            padding,
            bias,
            activation: ActivationKind::None,
        })
    }

    fn conv_transpose(&mut self, name: &str, node: &Node) -> Result<LayerKind, String> {
        let told = Told(node);
        told.only("group", 1)?;
        known_padding(&told)?;
        if told.find("output_shape").is_some() || told.axes::<3>("dilations", Some(1))? != [1; 3] {
            return Err("has an output_shape or dilations, which are not known here".into());
        }
        let ([_, out_channels, kernel @ ..], bias) = self.weights(name, node)?;
        let longer: [usize; 3] = told.axes("output_padding", Some(0))?;
        let mut crop = told.pads()?;
        for (axis, [_, after]) in crop.iter_mut().enumerate() {
            *after = (after.checked_sub(longer[axis]))
                .ok_or_else(|| format!("has an output_padding of {longer:?} beyond its pads"))?;
        }
        Ok(LayerKind::ConvTranspose3d {
            out_channels,
            kernel,
            stride: told.axes("strides", Some(1))?,
            crop,
            bias,
            activation: ActivationKind::None,
        })
    }

    /// Values on a grid a whole number of times as fine.
    fn resize(&self, node: &Node) -> Result<LayerKind, String> {
        let told = Told(node);
        let scales = match node.op_type.as_str() {
            "Upsample" => self.numbers_at(node, 1)?,
            _ => self.numbers_at(node, 2)?,
        };
        let (_, scales) =
            scales.ok_or("has no scales; save the network with upsampling by a factor, not to a size")?;
        let whole =
            |scale: &f32| (scale.fract() == 0.0 && (1.0..=64.0).contains(scale)).then_some(*scale as usize);
        let factors: Option<Vec<usize>> = scales.iter().map(whole).collect();
        let Some([1, 1, d, h, w]) = factors.as_deref() else {
            return Err(format!("has the scales {scales:?}; whole numbers along three axes are known here"));
        };
        let usual = if node.op_type == "Upsample" { "asymmetric" } else { "half_pixel" };
        let place = told.text("coordinate_transformation_mode", usual);
        let rounding = told
            .text("nearest_mode", if node.op_type == "Upsample" { "floor" } else { "round_prefer_floor" });
        // Of a factor that is a whole number, each of these finds the voxel that the finer one lies in.
        let mode = match (told.text("mode", "nearest").as_str(), place.as_str(), rounding.as_str()) {
            ("nearest", "asymmetric", "floor") => UpsampleKind::Nearest,
            ("nearest", "half_pixel", "round_prefer_floor" | "round_prefer_ceil") => UpsampleKind::Nearest,
            ("linear" | "trilinear", "half_pixel" | "pytorch_half_pixel", _) => UpsampleKind::Trilinear,
            ("linear" | "trilinear", "align_corners", _) => UpsampleKind::TrilinearAligned,
            (mode, place, _) => {
                return Err(format!("samples by '{mode}' at '{place}', which is not known here"));
            }
        };
        Ok(LayerKind::Upsample { factor: [*d, *h, *w], mode })
    }
}

fn known_padding(told: &Told<'_>) -> Result<(), String> {
    match told.text("auto_pad", "NOTSET").as_str() {
        "NOTSET" => Ok(()),
        other => Err(format!("pads by '{other}'")),
    }
}

fn numbers_of(tensor: &Tensor) -> Result<Numbers, String> {
    tensor.values().map_err(|reason| format!("tensor '{}' {reason}", tensor.name))
}

fn named(node: &Node) -> String {
    format!("node '{}' ({})", node.name, node.op_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> proto::Model {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/every.onnx");
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        proto::Model::decode(&bytes[..]).expect("is an ONNX file")
    }

    /// What reading the network says after a change.
    fn changed(change: impl FnOnce(&mut Graph)) -> Result<Network, String> {
        let mut model = every();
        change(model.graph.as_mut().expect("holds a graph"));
        read(&model.encode_to_vec(), "net.onnx").map_err(|e| e.to_string())
    }

    fn node<'a>(graph: &'a mut Graph, name: &str) -> &'a mut Node {
        graph.node.iter_mut().find(|node| node.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn tell(graph: &mut Graph, name: &str, attribute: &str, ints: &[i64]) {
        let node = node(graph, name);
        let told = node.attribute.iter_mut().find(|told| told.name == attribute).expect("is told");
        (told.i, told.ints) = (ints[0], ints.to_vec());
    }

    #[test]
    fn numbers_of_every_type_are_read() {
        let want = changed(|_| {}).expect("reads").tensors;
        let values = |network: &Network| network.tensors["first.bias"].clone();
        for kind in [1, 10, 11, 16] {
            for raw in [false, true] {
                let got = changed(|graph| {
                    let bias =
                        graph.initializer.iter_mut().find(|t| t.name == "first.bias").expect("is there");
                    let numbers = bias.values().expect("reads").1;
                    *bias = Tensor {
                        dims: vec![4],
                        data_type: kind,
                        name: bias.name.clone(),
                        ..Tensor::default()
                    };
                    for value in numbers {
                        let half = match kind {
                            10 => half::f16::from_f32(value).to_bits(),
                            _ => half::bf16::from_f32(value).to_bits(),
                        };
                        match (kind, raw) {
                            (1, false) => bias.float_data.push(value),
                            (1, true) => bias.raw_data.extend(value.to_le_bytes()),
                            (11, false) => bias.double_data.push(value.into()),
                            (11, true) => bias.raw_data.extend(f64::from(value).to_le_bytes()),
                            (_, false) => bias.int32_data.push(half.into()),
                            (_, true) => bias.raw_data.extend(half.to_le_bytes()),
                        }
                    }
                })
                .expect("reads");
                let tolerance = match kind {
                    10 => 1e-3,
                    16 => 1e-2,
                    _ => 0.0,
                };
                for (got, want) in values(&got).1.iter().zip(&want["first.bias"].1) {
                    assert!((got - want).abs() <= tolerance * want.abs(), "{kind} {raw}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn what_has_no_layer_is_named_with_its_node() {
        let error = |change: fn(&mut Graph)| changed(change).expect_err("is refused");
        for (words, change) in [
            (
                "node '/Relu' (Erf): has no layer",
                (|g| node(g, "/Relu").op_type = "Erf".into()) as fn(&mut Graph),
            ),
            ("node '/wide/Conv' (Conv): has group 3", |g| tell(g, "/wide/Conv", "group", &[3])),
            ("node '/MaxPool' (MaxPool): has ceil_mode 1", |g| tell(g, "/MaxPool", "ceil_mode", &[1])),
            ("pads one side more", |g| tell(g, "/MaxPool", "pads", &[0, 0, 0, 1, 0, 0])),
            ("averages over padding", |g| tell(g, "/AveragePool", "pads", &[1; 6])),
            ("has no 'pads' of 6 numbers", |g| tell(g, "/first/Conv", "pads", &[1; 4])),
            ("beyond its pads", |g| tell(g, "/up/ConvTranspose", "output_padding", &[2; 3])),
            ("does not join channels", |g| tell(g, "/Concat", "axis", &[2])),
            ("runs along axis 2", |g| tell(g, "/Softmax", "axis", &[2])),
            ("reads a concatenation", |g| node(g, "/joined/Conv").op_type = "Relu".into()),
            ("has no scales", |g| node(g, "/Resize").input.truncate(2)),
            ("reads 'nothing'", |g| node(g, "/Relu").input[0] = "nothing".into()),
            ("an operator of 'com.example'", |g| node(g, "/Relu").domain = "com.example".into()),
            ("inputs image, second", |g| g.input.push(proto::Named { name: "second".into() })),
            ("tensor 'first.bias' has 3 values", |g| {
                let bias = g.initializer.iter_mut().find(|t| t.name == "first.bias").expect("is there");
                bias.raw_data.truncate(12);
            }),
            ("lies in another file", |g| g.initializer[0].data_location = 1),
        ] {
            let error = error(change);
            assert!(error.starts_with("net.onnx: ") && error.contains(words), "{words}: {error}");
        }
        let error = read(b"\xff\xff", "net.onnx").expect_err("is none").to_string();
        assert!(error.contains("is no ONNX file"), "{error}");
    }
}
