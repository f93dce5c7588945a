//! Training a network on heads with masks.
//!
//! [`TrainConfig`](config::TrainConfig) says what a run does, and [`TrainRun`](run::TrainRun) does it: the loader reads
//! heads ahead, each is sampled with a draw of the augmentation, and every epoch ends with validation and a checkpoint.

pub mod augment;
pub mod checkpoint;
mod compact;
pub mod config;
pub mod data;
pub mod head;
pub mod loader;
pub mod log;
mod parent;
pub mod run;
pub mod synthetic;
mod validate;
