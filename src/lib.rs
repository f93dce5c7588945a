//! Trephine: brain extraction of 3D MRI on any GPU, with hand-written WGSL kernels.
//!
//! Layers, arrows pointing down only: `cli` → `lab` → [`pipeline`] → [`model`] → [`graph`] → [`ops`] → [`gpu`] →
//! [`tensor`]; [`volume`] stands beside them without a GPU. `cli`, the command line, is behind the feature of that
//! name, and `lab`, which times kernels, behind the feature `bench`.
#![warn(missing_docs)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod gpu;
pub mod graph;
#[cfg(feature = "bench")]
pub mod lab;
pub mod model;
pub mod ops;
pub mod pipeline;
pub mod tensor;
pub mod volume;
