//! Synthetic heads: label maps that are deformed, painted and scanned at random, on the device.
//!
//! `tissue` says which label is which tissue, `map` keeps a map with the distances that anatomy is varied by. A head is a
//! function of (seed, sample): `contrast` draws what tissues look like, `anatomy` what becomes of the head, `scanner` where
//! and how it is scanned; `ops/synth` does the work by voxel. After Billot et al., Medical Image Analysis 86 (2023), and
//! Hoopes et al., NeuroImage 260 (2022).

mod anatomy;
pub mod config;
pub mod contrast;
mod head;
pub mod list;
pub mod map;
pub mod scanner;
pub mod tissue;

pub use config::Synthesis;
pub use head::SyntheticHead;
pub use map::LabelMap;
