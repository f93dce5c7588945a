//! Tensors on the device: buffers that are counted while they live and kept for the next of their size.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::completion::Completion;
use crate::tensor::TensorDesc;

/// Bytes of the device's buffers: now, and at most since somebody last started over.
#[derive(Debug)]
pub(super) struct Usage {
    now: AtomicU64,
    most: AtomicU64,
    /// Most that there may be.
    ceiling: AtomicU64,
    /// Most that the device is made to believe it has.
    memory: u64,
    /// What all would have taken when the device last had too little memory for one more.
    refused: AtomicU64,
    /// Bytes of those in use that stay whatever else is done.
    standing: AtomicU64,
    /// Buffers of tensors that are gone, for tensors of the same size: a new buffer of a volume's size costs as much as
    /// a pass over it, in page faults and zeroes.
    spare: Mutex<Vec<wgpu::Buffer>>,
}

/// Why there is no room for a buffer.
pub(super) enum NoRoom {
    /// It would exceed the ceiling, with so many bytes in use.
    Ceiling(u64),
    /// The device is made to believe that it has no more memory.
    Memory,
}

impl Usage {
    pub fn new(ceiling: Option<u64>, memory: Option<u64>) -> Self {
        Self {
            now: AtomicU64::new(0),
            most: AtomicU64::new(0),
            ceiling: AtomicU64::new(ceiling.unwrap_or(u64::MAX)),
            memory: memory.unwrap_or(u64::MAX),
            refused: AtomicU64::new(0),
            standing: AtomicU64::new(0),
            spare: Mutex::default(),
        }
    }

    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    pub fn reset_most(&self) {
        self.most.store(self.now(), Ordering::Relaxed);
    }

    pub fn ceiling(&self) -> Option<u64> {
        Some(self.ceiling.load(Ordering::Relaxed)).filter(|&bytes| bytes < u64::MAX)
    }

    pub fn lower_ceiling(&self, bytes: u64) {
        self.ceiling.fetch_min(bytes, Ordering::Relaxed);
    }

    pub fn standing(&self) -> u64 {
        self.standing.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The device has too little memory for one more buffer.
    pub fn refuse(&self, bytes: u64) {
        self.refused.store(self.now().saturating_add(bytes), Ordering::Relaxed);
    }

    /// Bytes that buffers may take on top of those in use.
    pub fn room(&self) -> u64 {
        let spare: u64 = self.spare().iter().map(wgpu::Buffer::size).sum();
        self.ceiling.load(Ordering::Relaxed).saturating_sub(self.now() - spare)
    }

    /// Makes room for a new buffer, at the cost of those that are kept.
    pub fn make_room(&self, bytes: u64) -> Result<(), NoRoom> {
        let exceeds = |most: u64| self.now().saturating_add(bytes) > most;
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        if exceeds(ceiling.min(self.memory)) {
            self.clear_spare();
        }
        match () {
            () if exceeds(ceiling) => Err(NoRoom::Ceiling(self.now())),
            () if exceeds(self.memory) => Err(NoRoom::Memory),
            () => Ok(()),
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<wgpu::Buffer>> {
        self.spare.lock().expect("no panic while held")
    }

    pub fn clear_spare(&self) {
        for buffer in self.spare().drain(..) {
            self.now.fetch_sub(buffer.size(), Ordering::Relaxed);
        }
    }

    /// A kept buffer of this size.
    pub fn take_spare(self: &Arc<Self>, bytes: u64) -> Option<Arc<CountedBuffer>> {
        let mut spare = self.spare();
        let ix = spare.iter().position(|buffer| buffer.size() == bytes)?;
        Some(Arc::new(CountedBuffer { buffer: spare.swap_remove(ix), usage: Arc::clone(self), kept: true }))
    }
}

/// Says that so many bytes of buffers stay as long as this does: pieces of volumes are made to go beside them.
#[derive(Debug)]
pub struct Standing {
    usage: Arc<Usage>,
    bytes: u64,
}

impl Standing {
    pub(super) fn new(usage: &Arc<Usage>, bytes: u64) -> Self {
        usage.standing.fetch_add(bytes, Ordering::Relaxed);
        Self { usage: Arc::clone(usage), bytes }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.usage.standing.fetch_sub(self.bytes, Ordering::Relaxed);
    }
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
    /// Whether it is one that others of its size may use later.
    kept: bool,
}

impl CountedBuffer {
    pub fn new(buffer: wgpu::Buffer, usage: &Arc<Usage>, kept: bool) -> Self {
        let now = usage.now.fetch_add(buffer.size(), Ordering::Relaxed) + buffer.size();
        usage.most.fetch_max(now, Ordering::Relaxed);
        Self { buffer, usage: Arc::clone(usage), kept }
    }
}

impl Drop for CountedBuffer {
    fn drop(&mut self) {
        if self.kept
            && self.buffer.size() >= LEAST_SPARE
            && let Ok(mut spare) = self.usage.spare.lock()
            && spare.len() < MOST_SPARE
        {
            spare.push(self.buffer.clone());
        } else {
            self.usage.now.fetch_sub(self.buffer.size(), Ordering::Relaxed);
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

/// Bytes of a buffer for transfers: large enough that a submission costs little beside copying it, small enough for a
/// processor's cache.
pub(super) const PIECE: u64 = 4 << 20;
/// Buffers for transfers each way.
pub(super) const PIECES: usize = 3;

/// Bytes that transfers of large tensors take, both ways.
pub(super) const STAGING_BYTES: u64 = 2 * PIECES as u64 * PIECE;

/// Small buffers that both the host and the device see, kept from transfer to transfer.
#[derive(Default)]
pub(super) struct Staging {
    /// To the device: each is mapped once the submission that reads it is done.
    pub up: Mutex<VecDeque<InFlight>>,
    /// From the device: none is in use.
    pub down: Mutex<Vec<CountedBuffer>>,
}

/// A small buffer that a submission copies from or to, until it is mapped again.
pub(super) struct InFlight {
    pub buffer: CountedBuffer,
    pub submission: wgpu::SubmissionIndex,
    /// The mapping.
    pub mapped: Completion,
}
