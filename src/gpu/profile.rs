//! Times of launches.

use super::buffer::GpuTensor;

/// GPU time of one launch.
#[derive(Clone, Debug)]
pub struct KernelTime {
    /// The node it belongs to.
    pub node: String,
    /// The kernel's file.
    pub kernel: &'static str,
    /// When it began, in seconds after the first launch did.
    pub begin: f64,
    /// Duration in seconds, from GPU timestamps.
    pub seconds: f64,
}

/// The submissions that are timed, as they are collected.
pub(super) type Profile = Vec<StampedLaunches>;

/// Launches whose begin and end the device writes down.
#[derive(Debug)]
pub(super) struct StampedLaunches {
    /// Node and kernel of each.
    pub launches: Vec<(String, &'static str)>,
    /// The GPU's clock before and after each, as two words of 32 bits, the lower first.
    pub stamps: Vec<GpuTensor>,
}
