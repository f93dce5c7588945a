//! Brain extraction (skull stripping) of 3D MRI on any GPU, with hand-written WGSL kernels.
//!
//! ```no_run
//! use std::sync::Arc;
//! use trephine::{Gpu, GpuOptions, StripOptions, Stripper, image, model};
//!
//! # fn main() -> Result<(), trephine::Error> {
//! # pollster::block_on(async {
//! let gpu = Arc::new(Gpu::open(&GpuOptions::default()).await?);
//! let mut stripper = Stripper::new(&gpu, &model::load("default")?).await?;
//! let head = image::read_single("head.nii.gz")?;
//! let stripped = stripper.strip(&head.frame_f32(0)?, &StripOptions::default()).await?;
//! image::write_mask("mask.nii.gz", &head, &stripped.mask)?;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! What waits for the device is a future, and nothing here blocks: whoever has no executor runs it with
//! `pollster::block_on(async { ... })`, as `examples/strip.rs` does. Futures need no runtime and no particular thread.
//!
//! A device ([`Gpu`]) and a network ([`Model`]) make a [`Stripper`], which takes any number of heads ([`Volume`]) and says
//! of each where its brain is ([`Stripped`]), what it doubts included. Files are read and written by [`image`], and
//! written ones keep the header of what they are made from. What else a head goes through stands alone as well: [`n4`]
//! corrects its bias field, [`resample`](resample()) brings it on to another grid, [`pipeline::train`] trains a network on
//! heads with masks, [`pipeline::batch`] strips folders of them. Everything fails with one [`Error`].
//!
//! Beneath lie layers, each using those after it and none before: `lab` → [`pipeline`] → [`model`] → [`graph`] →
//! [`ops`] → [`gpu`] → [`tensor`]; [`volume`] stands beside them without a GPU. `lab`, which times kernels, is behind the
//! feature `bench`; the program, a crate of its own, needs the feature `cli`.
#![warn(missing_docs)]

pub mod gpu;
pub mod graph;
#[cfg(feature = "bench")]
pub mod lab;
pub mod model;
pub mod ops;
pub mod pipeline;
pub mod tensor;
pub mod volume;

pub use glam;

pub use gpu::{Gpu, GpuOptions};
pub use model::Model;
pub use pipeline::PipelineError as Error;
pub use pipeline::bias as n4;
pub use pipeline::resample::{self, resample};
pub use pipeline::strip::{StripOptions, Stripped, Stripper};
pub use volume::{Volume, image};
