//! What lowerings share: batches and samples in pieces that fit a binding, and the size of a workgroup.

use std::ops::Range;

use crate::gpu::{Caps, KernelKey};
use crate::tensor::{DType, TensorDesc};

/// Invocations in a workgroup of the flat kernels: a multiple of every subgroup size, and large enough
/// to hide latency without exceeding the 256 that WebGPU guarantees.
pub const FLAT: usize = 64;

/// Splits a batch so that every binding stays within the adapter's limit: the whole batch in one piece
/// when all `tensors` (each `[N, ...]`) fit, else one sample a piece. Kernels see a piece as a batch of
/// its own; bind it with [`sample_range`].
pub fn batch_pieces(tensors: &[&TensorDesc], caps: &Caps) -> Vec<Range<usize>> {
    let batch = tensors.iter().map(|d| d.shape[0]).max().unwrap_or(1);
    let aligned = tensors.iter().all(|d| sample_bytes(d).is_multiple_of(caps.offset_alignment));
    if !aligned || tensors.iter().all(|d| d.bytes() <= caps.max_binding) {
        return std::iter::once(0..batch).collect();
    }
    (0..batch).map(|n| n..n + 1).collect()
}

pub(crate) fn sample_bytes(desc: &TensorDesc) -> u64 {
    (desc.len() / desc.shape[0].max(1)) as u64 * desc.dtype.bytes()
}

/// Bytes of the samples `piece` of a tensor `[N, ...]`, to the end of a 32-bit word.
pub fn sample_range(desc: &TensorDesc, piece: &Range<usize>) -> Range<u64> {
    let bytes = sample_bytes(desc);
    piece.start as u64 * bytes..(piece.end as u64 * bytes).next_multiple_of(4)
}

/// Channels of one sample that a kernel sees in one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planes {
    /// The bytes to bind.
    pub bytes: Range<u64>,
    /// Number of the first channel in the binding, counted over samples.
    pub first_plane: usize,
    /// The channels of the sample.
    pub channels: Range<usize>,
}

/// Splits sample `n` of a tensor `[N, C, ...]` by channels so that every binding stays within the adapter's limit: all
/// channels in one where the tensor or the sample fits.
pub fn sample_planes(desc: &TensorDesc, n: usize, caps: &Caps) -> Vec<Planes> {
    let channels = desc.shape[1];
    let sample = sample_bytes(desc);
    let plane = sample / channels.max(1) as u64;
    let fits = |bytes: u64| bytes <= caps.max_binding;
    let aligned = |bytes: u64| bytes.is_multiple_of(caps.offset_alignment);
    if fits(desc.bytes()) || !aligned(sample) || !(fits(sample) || (fits(plane) && aligned(plane))) {
        let whole = Planes { bytes: 0..desc.bytes(), first_plane: n * channels, channels: 0..channels };
        return vec![whole];
    }
    let most = ((caps.max_binding / plane.max(1)) as usize).min(channels);
    let base = n as u64 * sample;
    (0..channels)
        .step_by(most)
        .map(|first| {
            let last = (first + most).min(channels);
            let bytes = base + first as u64 * plane..(base + last as u64 * plane).next_multiple_of(4);
            Planes { bytes, first_plane: 0, channels: first..last }
        })
        .collect()
}

/// The kernel in `path`, for activations of this element type (`lib/element.wgsl`).
pub(crate) fn element_kernel(path: &'static str, activations: &TensorDesc) -> KernelKey {
    KernelKey::new(path).define("F16", (activations.dtype == DType::F16).into())
}

/// How many elements an invocation of a kernel of `lib/stored.wgsl` takes: four that follow each other, where all that
/// the kernel takes in one run divides by four, so that a GPU moves 16 bytes at a time; or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    four: bool,
}

impl Stored {
    /// One element.
    pub(crate) const ONE: Self = Self { four: false };

    /// The legal variants where runs hold `run` elements.
    pub(crate) fn variants(run: usize) -> Vec<&'static str> {
        if run.is_multiple_of(4) { vec!["x4", "scalar"] } else { vec!["scalar"] }
    }

    /// What a variant means.
    pub(crate) fn of(variant: &str) -> Self {
        Self { four: variant == "x4" }
    }

    /// Elements in one.
    pub(crate) fn elements(self) -> usize {
        if self.four { 4 } else { 1 }
    }

    /// The kernel in `path`, for tensors of this element type.
    pub(crate) fn kernel(self, path: &'static str, tensor: &TensorDesc, caps: &Caps) -> KernelKey {
        let wide = self.four && caps.wide && tensor.dtype != DType::F16;
        element_kernel(path, tensor).define("X4", self.four.into()).define("WIDE", wide.into())
    }
}
