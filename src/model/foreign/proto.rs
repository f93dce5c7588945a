//! ONNX's messages, as far as networks need them: the numbers of its protocol-buffer fields.

use prost::Message;

/// A file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<Opset>,
}

/// A set of operators that a file uses.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Opset {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A network.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<Named>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<Named>,
}

/// The name of a value.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Named {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// An operator at work.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// What an operator is told.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, tag = "2")]
    pub f: f32,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<Tensor>,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
}

/// Numbers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// 1 where the numbers lie in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

impl Tensor {
    /// Its shape and its values in single precision.
    pub fn values(&self) -> Result<(Vec<usize>, Vec<f32>), String> {
        use half::{bf16, f16};
        if self.data_location != 0 {
            return Err("lies in another file; save the network in one".into());
        }
        let shape = (self.dims.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>())
            .ok_or_else(|| format!("has the shape {:?}", self.dims))?;
        let raw = &self.raw_data;
        let halves = || self.int32_data.iter().map(|&bits| bits as u16);
        let values: Vec<f32> = match (self.data_type, raw.is_empty()) {
            (1, true) => self.float_data.clone(),
            (1, false) => raw.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
            (7, true) => self.int64_data.iter().map(|&v| v as f32).collect(),
            (7, false) => {
                raw.chunks_exact(8).map(|b| bytemuck::pod_read_unaligned::<i64>(b) as f32).collect()
            }
            (10, true) => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            (10, false) => {
                raw.chunks_exact(2).map(|b| bytemuck::pod_read_unaligned::<f16>(b).to_f32()).collect()
            }
            (11, true) => self.double_data.iter().map(|&v| v as f32).collect(),
            (11, false) => {
                raw.chunks_exact(8).map(|b| bytemuck::pod_read_unaligned::<f64>(b) as f32).collect()
            }
            (16, true) => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            (16, false) => {
                raw.chunks_exact(2).map(|b| bytemuck::pod_read_unaligned::<bf16>(b).to_f32()).collect()
            }
            (kind, _) => {
                return Err(format!(
                    "holds numbers of ONNX's type {kind}; floats and 64-bit integers are read"
                ));
            }
        };
        let count = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
        match count == Some(values.len()) {
            true => Ok((shape, values)),
            false => Err(format!("has {} values for the shape {shape:?}", values.len())),
        }
    }
}
