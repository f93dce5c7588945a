//! Trephine: brain extraction of 3D MRI on any GPU, with hand-written WGSL kernels.
//!
//! Layers, arrows pointing down only: [`cli`] → [`pipeline`] → [`model`] → [`graph`] → [`ops`] → [`gpu`] →
//! [`tensor`]; [`volume`] stands beside them without a GPU.
#![warn(missing_docs)]

pub mod cli;
pub mod gpu;
pub mod graph;
pub mod model;
pub mod ops;
pub mod pipeline;
pub mod tensor;
pub mod volume;
