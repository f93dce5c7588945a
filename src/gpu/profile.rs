//! Times of launches.

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

/// Times of launches as they are collected.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// The GPU's clock when the first launch began.
    pub origin: Option<u64>,
    pub times: Vec<KernelTime>,
}
