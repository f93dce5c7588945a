//! Tensors on the device: buffers that are counted while they live and kept for the next of their size.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::completion::Completion;
use crate::tensor::TensorDesc;

/// Bytes of the device's tensors: now, and at most since somebody last started over.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub now: AtomicU64,
    pub most: AtomicU64,
    /// Buffers of tensors that are gone, for tensors of the same size: a new buffer of a volume's size costs as much as
    /// a pass over it, in page faults and zeroes.
    pub spare: Mutex<Vec<wgpu::Buffer>>,
}

/// Least bytes of a buffer that is kept.
const LEAST_SPARE: u64 = 1 << 20;
/// Most buffers that are kept: more would save little and hold memory.
const MOST_SPARE: usize = 2;

/// A buffer that is counted while it lives.
#[derive(Debug)]
pub(super) struct CountedBuffer {
    buffer: wgpu::Buffer,
    usage: Arc<Usage>,
}

impl CountedBuffer {
    pub fn new(buffer: wgpu::Buffer, usage: &Arc<Usage>) -> Arc<Self> {
        let now = usage.now.fetch_add(buffer.size(), Ordering::Relaxed) + buffer.size();
        usage.most.fetch_max(now, Ordering::Relaxed);
        Arc::new(Self { buffer, usage: Arc::clone(usage) })
    }
}

impl Drop for CountedBuffer {
    fn drop(&mut self) {
        self.usage.now.fetch_sub(self.buffer.size(), Ordering::Relaxed);
        if self.buffer.size() >= LEAST_SPARE
            && let Ok(mut spare) = self.usage.spare.lock()
            && spare.len() < MOST_SPARE
        {
            spare.push(self.buffer.clone());
        }
    }
}

impl std::ops::Deref for CountedBuffer {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

/// A tensor that lives on the GPU. Cloning shares the buffer.
#[derive(Clone, Debug)]
pub struct GpuTensor {
    pub(super) buffer: Arc<CountedBuffer>,
    /// First byte in the buffer.
    pub(super) offset: u64,
    /// Shape and element type.
    pub desc: TensorDesc,
}

impl GpuTensor {
    /// The tensor described by `desc` that starts `offset` bytes further on in the same buffer.
    pub(crate) fn view(&self, offset: u64, desc: TensorDesc) -> Self {
        Self { buffer: Arc::clone(&self.buffer), offset: self.offset + offset, desc }
    }
}

/// Small buffers that both the host and the device see, kept from transfer to transfer.
#[derive(Default)]
pub(super) struct Staging {
    /// To the device: each is mapped once the submission that reads it is done.
    pub up: Mutex<VecDeque<InFlight>>,
    /// From the device: none is in use.
    pub down: Mutex<Vec<wgpu::Buffer>>,
}

/// A small buffer that a submission copies from or to, until it is mapped again.
pub(super) struct InFlight {
    pub buffer: wgpu::Buffer,
    pub submission: wgpu::SubmissionIndex,
    /// The mapping.
    pub mapped: Completion,
}
