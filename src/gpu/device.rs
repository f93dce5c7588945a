//! An open device: its kernels, its tensors, and the errors that its driver reports.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::adapter::{self, AdapterSummary, Caps};
use super::buffer::{CountedBuffer, GpuTensor, NoRoom, STAGING_BYTES, Staging, Standing, Usage};
use super::completion::{Completion, Poller};
use super::dispatch::KernelKey;
use super::error::GpuError;
use super::kernel::Kernel;
use super::profile::Profile;
use super::shader::Replacement;
use crate::tensor::{DType, TensorDesc};

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Number or part of the name of an adapter (`--device`); `None` picks the best.
    pub device: Option<String>,
    /// Keep naga's bounds checks in the kernels (tests do).
    pub checked: bool,
    /// Most bytes that a kernel shall bind at once, where that is less than the adapter's own limit: larger tensors go in
    /// pieces.
    pub max_binding: Option<u64>,
    /// Most bytes that all buffers together may take (`--max-memory`).
    pub ceiling: Option<u64>,
    /// Bytes that the device is made to believe it has: for trying what happens when they do not suffice.
    pub memory: Option<u64>,
}

/// Pieces of a volume that are on the device together: some four of a step of the work on it, and two of those before that are
/// kept.
const PIECES_AT_ONCE: u64 = 6;
/// Pieces are no smaller than this part of the ceiling, since below 4 MiB they take less for transfers.
const LEAST_PIECE: u64 = 20;

/// What stands in for an embedded shader file, and whether it runs without bounds checks.
struct Substitute {
    replacement: Replacement,
    trusted: bool,
}

/// An open device with its compiled kernels.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// Name, driver and type of the adapter.
    pub summary: AdapterSummary,
    /// The adapters that [`GpuOptions::device`] names as well, by a part of the name that they share.
    pub also_named: Vec<AdapterSummary>,
    /// What kernels may rely on.
    pub(crate) caps: Caps,
    checked: bool,
    asked_ceiling: Option<u64>,
    kernels: Mutex<HashMap<KernelKey, Arc<Kernel>>>,
    replacements: Mutex<HashMap<String, Substitute>>,
    pub(super) submissions: AtomicU64,
    pub(super) usage: Arc<Usage>,
    pub(super) staging: Staging,
    /// Times of launches, while somebody wants them.
    pub(super) profile: Mutex<Option<Profile>>,
    poller: Poller,
    /// When each call of the driver, and each wait for the device, began that has not ended.
    calls: Mutex<Vec<Instant>>,
    unanswered: Mutex<Vec<Unanswered>>,
    errors: Arc<Mutex<Option<GpuError>>>,
    lost: Arc<Mutex<Option<String>>>,
}

/// Work that the driver has not said yet whether it accepts, in words, and its answer: native drivers say at once.
type Unanswered = (String, Answer);
#[cfg(not(target_family = "wasm"))]
type Answer = Pin<Box<dyn Future<Output = Option<wgpu::Error>> + Send>>;
#[cfg(target_family = "wasm")]
type Answer = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

/// A call of the driver, or a wait for the device, while it lasts.
struct Busy<'a> {
    calls: &'a Mutex<Vec<Instant>>,
    since: Instant,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut calls = self.calls.lock().expect("no panic while held");
        if let Some(at) = calls.iter().position(|since| *since == self.since) {
            calls.remove(at);
        }
    }
}

impl Gpu {
    /// Opens an adapter: discrete before integrated before software unless `options.device` says which.
    ///
    /// # Errors
    /// When no adapter is found, none matches, or the driver refuses.
    pub async fn open(options: &GpuOptions) -> Result<Self, GpuError> {
        let (adapter, summary, also_named) = adapter::choose(options.device.as_deref()).await?;
        let (device, queue, mut caps) = adapter::request_device(&adapter, &summary).await?;
        let poller = Poller::start(device.clone())?;
        caps.max_binding = options.max_binding.map_or(caps.max_binding, |bytes| bytes.min(caps.max_binding));
        let errors = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&errors);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let error = GpuError::of(error, "earlier work");
            log::debug!("{error}");
            if let Ok(mut slot) = sink.lock() {
                slot.get_or_insert(error);
            }
        }));
        let lost = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, words| {
            log::debug!("device lost ({reason:?}): {words}");
            if let Ok(mut slot) = sink.lock() {
                slot.get_or_insert(words);
            }
        });
        Ok(Self {
            device,
            queue,
            summary,
            also_named,
            caps,
            checked: options.checked,
            asked_ceiling: options.ceiling,
            kernels: Mutex::default(),
            replacements: Mutex::default(),
            submissions: AtomicU64::new(0),
            usage: Arc::new(Usage::new(options.ceiling, options.memory)),
            staging: Staging::default(),
            profile: Mutex::default(),
            poller,
            calls: Mutex::default(),
            unanswered: Mutex::default(),
            errors,
            lost,
        })
    }

    /// What kernels may rely on.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// The driver's words when the device is lost: its driver has reset it, or it is gone. Nothing that it holds can be read
    /// any more, and all further work fails; another [`Gpu::open`] may succeed.
    pub fn lost(&self) -> Option<String> {
        self.lost.lock().expect("no panic while held").clone()
    }

    /// Loses the device, as a driver does that resets it: for trying what happens then.
    pub fn lose(&self) {
        self.lost.lock().expect("no panic while held").get_or_insert_with(|| "given up".to_owned());
        self.device.destroy();
    }

    /// Refuses tensors of an element type that the adapter does not compute in.
    ///
    /// # Errors
    /// Half precision where kernels may not use it.
    pub fn require(&self, dtype: DType) -> Result<(), GpuError> {
        if dtype == DType::F16 && !self.caps.f16 {
            return Err(GpuError::NoHalfPrecision { adapter: self.summary.name.clone() });
        }
        Ok(())
    }

    /// Puts `source` in place of the shader file `path` for kernels compiled from now on. They keep naga's bounds checks.
    /// The file need not exist: an operator outside of this crate brings its kernels in this way.
    pub fn replace_shader(&self, path: &str, source: String) {
        self.substitute(path, Replacement { file: path.to_owned(), source }, false);
    }

    /// As [`Gpu::replace_shader`], with the file that errors name. `trusted` leaves out the bounds checks where
    /// this device leaves them out: only for a source whose results have been checked.
    pub fn substitute(&self, path: &str, replacement: Replacement, trusted: bool) {
        let substitute = Substitute { replacement, trusted };
        self.replacements.lock().expect("no panic while held").insert(path.to_owned(), substitute);
        self.forget_kernels(path);
    }

    /// Undoes [`Gpu::substitute`].
    pub fn restore_shader(&self, path: &str) {
        self.replacements.lock().expect("no panic while held").remove(path);
        self.forget_kernels(path);
    }

    fn forget_kernels(&self, path: &str) {
        self.kernels.lock().expect("no panic while held").retain(|key, _| key.path != path);
    }

    /// Number of submissions to the device's queue so far.
    pub fn submissions(&self) -> u64 {
        self.submissions.load(Ordering::Relaxed)
    }

    /// Most bytes that buffers have held at a time since the last [`Gpu::reset_peak_bytes`].
    pub fn peak_bytes(&self) -> u64 {
        self.usage.most()
    }

    /// Starts [`Gpu::peak_bytes`] over from what buffers hold now.
    pub fn reset_peak_bytes(&self) {
        self.usage.reset_most();
    }

    /// Most bytes that buffers may take, where that is limited.
    pub fn ceiling(&self) -> Option<u64> {
        self.usage.ceiling()
    }

    /// Limits what buffers may take (further).
    pub fn lower_ceiling(&self, bytes: u64) {
        self.usage.lower_ceiling(bytes);
    }

    /// The ceiling, where that is not the one that the device was opened with.
    pub fn lowered_ceiling(&self) -> Option<u64> {
        self.ceiling().filter(|_| self.ceiling() != self.asked_ceiling)
    }

    /// What all buffers would have taken when the device last had too little memory for one more.
    pub fn refused_bytes(&self) -> u64 {
        self.usage.refused()
    }

    /// Bytes that buffers may take on top of those in use.
    pub fn room(&self) -> u64 {
        self.usage.room()
    }

    /// Most bytes of a piece of a volume: what can be bound, and goes several times below the ceiling, beside what stands.
    pub fn piece_bytes(&self) -> u64 {
        let Some(ceiling) = self.ceiling() else { return self.caps.max_binding };
        let left = ceiling.saturating_sub(self.usage.standing() + STAGING_BYTES);
        self.caps.max_binding.min((left / PIECES_AT_ONCE).max(ceiling / LEAST_PIECE))
    }

    /// Says that so many bytes of buffers stay as long as what is returned does.
    pub(crate) fn standing(&self, bytes: u64) -> Standing {
        Standing::new(&self.usage, bytes)
    }

    /// Submits commands and counts it.
    pub(super) fn submit_commands(
        &self,
        commands: impl IntoIterator<Item = wgpu::CommandBuffer>,
    ) -> wgpu::SubmissionIndex {
        self.submissions.fetch_add(1, Ordering::Relaxed);
        let _busy = self.busy();
        self.queue.submit(commands)
    }

    /// The compiled kernel for `key`, compiled on first use.
    ///
    /// # Errors
    /// When the source does not assemble, parse or compile.
    pub fn kernel(&self, key: &KernelKey) -> Result<Arc<Kernel>, GpuError> {
        if let Some(kernel) = self.kernels.lock().expect("no panic while held").get(key) {
            return Ok(Arc::clone(kernel));
        }
        if key.defines.iter().any(|&(name, value)| name == "F16" && value != 0) {
            self.require(DType::F16)?;
        }
        let kernel = {
            let replacements = self.replacements.lock().expect("no panic while held");
            let substitute = replacements.get(key.path);
            let checked = self.checked || substitute.is_some_and(|s| !s.trusted);
            let replacement = substitute.map(|s| &s.replacement);
            let compile = || Kernel::compile(&self.device, key, replacement, checked);
            let _busy = self.busy();
            Arc::new(self.blaming(|| format!("kernel {}", key.path), compile)??)
        };
        self.kernels.lock().expect("no panic while held").insert(key.clone(), Arc::clone(&kernel));
        Ok(kernel)
    }

    /// Allocates a tensor; its content is zero.
    ///
    /// # Errors
    /// When it exceeds what the adapter binds or has.
    pub fn empty(&self, desc: &TensorDesc) -> Result<GpuTensor, GpuError> {
        let bytes = self.buffer_bytes(desc)?;
        // What nobody asked for again makes room.
        self.usage.clear_spare();
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        };
        let what = || format!("{bytes} bytes for a tensor of {desc} ({})", desc.dtype.name());
        let buffer = self.allocate(what, &descriptor, true)?;
        Ok(GpuTensor { buffer: Arc::new(buffer), offset: 0, desc: desc.clone() })
    }

    /// Makes a buffer: all of them are made here, counted, and held to the ceiling. One that is `kept` may serve others of
    /// its size when it is gone.
    pub(super) fn allocate(
        &self,
        what: impl Fn() -> String,
        descriptor: &wgpu::BufferDescriptor<'_>,
        kept: bool,
    ) -> Result<CountedBuffer, GpuError> {
        match self.usage.make_room(descriptor.size) {
            Ok(()) => {}
            Err(NoRoom::Ceiling(in_use)) => {
                let ceiling = self.ceiling().expect("exceeded just now");
                return Err(GpuError::Ceiling { what: what(), in_use, ceiling });
            }
            Err(NoRoom::Memory) => {
                self.usage.refuse(descriptor.size);
                return Err(GpuError::OutOfMemory(what()));
            }
        }
        let buffer = self.blaming(what, || self.device.create_buffer(descriptor)).inspect_err(|error| {
            if matches!(error, GpuError::OutOfMemory(_)) {
                self.usage.refuse(descriptor.size);
            }
        })?;
        Ok(CountedBuffer::new(buffer, &self.usage, kept))
    }

    /// Gives up the buffers that are kept for tensors to come.
    pub(crate) fn clear_spare(&self) {
        self.usage.clear_spare();
    }

    /// Allocates a tensor that somebody is about to fill: its content is anything.
    ///
    /// # Errors
    /// As [`Gpu::empty`].
    pub fn unfilled(&self, desc: &TensorDesc) -> Result<GpuTensor, GpuError> {
        let bytes = self.buffer_bytes(desc)?;
        match self.usage.take_spare(bytes) {
            Some(buffer) => Ok(GpuTensor { buffer, offset: 0, desc: desc.clone() }),
            None => self.empty(desc),
        }
    }

    /// Size of a tensor's buffer.
    fn buffer_bytes(&self, desc: &TensorDesc) -> Result<u64, GpuError> {
        let bytes = desc.bytes();
        if bytes > self.caps.max_buffer {
            return Err(GpuError::BindingTooLarge {
                what: format!("a tensor of {desc}"),
                bytes,
                limit: self.caps.max_buffer,
                adapter: self.summary.name.clone(),
            });
        }
        Ok(bytes.next_multiple_of(256).max(256))
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// The first error since the last call.
    pub async fn wait(&self) -> Result<(), GpuError> {
        let done = Completion::new();
        let callback = done.callback::<GpuError>();
        self.queue.on_submitted_work_done(move || callback(Ok(())));
        self.until(None, done).await
    }

    /// Waits for the end of a submission, or of all of them.
    pub(super) async fn until(
        &self,
        submission: Option<wgpu::SubmissionIndex>,
        done: Completion,
    ) -> Result<(), GpuError> {
        let _busy = self.busy();
        let outcome = done.awaited(&self.poller, submission).await;
        let unanswered = std::mem::take(&mut *self.unanswered.lock().expect("no panic while held"));
        for (work, answer) in unanswered {
            if let Some(error) = answer.await {
                return Err(GpuError::of(error, &work));
            }
        }
        outcome?;
        self.take_error()
    }

    /// How long the driver has been at a call that may block (compiling, submitting), or somebody has waited for the
    /// device: the longest of those that have not ended. `None` without one. For watching from another thread: nothing
    /// makes a driver give up waiting for a launch that does not end.
    pub fn busy_for(&self) -> Option<Duration> {
        let calls = self.calls.lock().expect("no panic while held");
        calls.iter().min().map(Instant::elapsed)
    }

    /// Counts as a call of the driver while it is held.
    fn busy(&self) -> Busy<'_> {
        let since = Instant::now();
        self.calls.lock().expect("no panic while held").push(since);
        Busy { calls: &self.calls, since }
    }

    /// Does work on the device and blames its errors on it, by the name that `what` gives it: neither on other threads'
    /// work nor on whoever looks next. Costs no waiting: an answer that a browser gives later is raised, with the same
    /// name, by the next that waits for the device.
    pub(super) fn blaming<T>(
        &self,
        what: impl Fn() -> String,
        work: impl FnOnce() -> T,
    ) -> Result<T, GpuError> {
        let kinds =
            [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation];
        let scopes = kinds.map(|kind| self.device.push_error_scope(kind));
        let result = work();
        let mut first = None;
        for scope in scopes.into_iter().rev() {
            let mut answer: Answer = Box::pin(scope.pop());
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(error)) => drop(first.get_or_insert(error)),
                Poll::Pending => {
                    self.unanswered.lock().expect("no panic while held").push((what(), answer));
                }
            }
        }
        match first {
            Some(error) => Err(GpuError::of(error, &what())),
            None => Ok(result),
        }
    }

    /// The first error that no work of its own thread was blamed for, such as the loss of the device.
    pub(super) fn take_error(&self) -> Result<(), GpuError> {
        match self.errors.lock().expect("no panic while held").take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
