//! Trephine: brain extraction of 3D MRI on any GPU, with hand-written WGSL kernels.
//!
//! Layers, arrows pointing down only: `pipeline` → `model` → [`graph`] → [`ops`] → [`gpu`] →
//! [`tensor`]; `volume` stands beside them without a GPU.
#![warn(missing_docs)]

pub mod gpu;
pub mod graph;
pub mod ops;
pub mod pipeline;
pub mod tensor;
