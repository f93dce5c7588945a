//! The only layer that names `wgpu`: adapters, shader assembly, kernels, buffers, recording, timestamps.

mod adapter;
mod dispatch;
mod dump;
mod excerpt;
mod kernel;
mod launch;
mod recording;
mod shader;
mod transfer;

pub use adapter::{AdapterSummary, Caps, DeviceClass, list_adapters};
pub use dispatch::{Binding, Dispatch, KernelKey, Lowered, Params, Scalar, Slot};
pub use dump::dump_kernel;
pub use kernel::{Kernel, Reflection};
pub use recording::KernelTime;
pub(crate) use recording::Prepared;
pub use shader::{AssembledShader, Replacement, SHADERS, assemble, validate};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thiserror::Error;

use crate::tensor::DType;

/// What can go wrong between a kernel's source and its result.
#[derive(Debug, Error)]
pub enum GpuError {
    /// No adapter at all.
    #[error(
        "no GPU adapter found; install a Vulkan driver (on Debian and Ubuntu: \
         apt-get install mesa-vulkan-drivers libvulkan1, which also runs without a GPU)"
    )]
    NoAdapter,
    /// `--device` named something that is not there.
    #[error("no device matches '{wanted}'; `trephine devices` lists: {available}")]
    NoSuchDevice {
        /// What the user asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The driver refused to open the adapter.
    #[error("cannot open {adapter}: {reason}")]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// A shader is missing, does not parse or does not validate.
    #[error("shader {path}: {reason}")]
    Shader {
        /// Path below `shaders/`.
        path: String,
        /// File, line and reason.
        reason: String,
    },
    /// A dispatch does not fit its kernel.
    #[error("kernel {path}: {reason}")]
    Mismatch {
        /// Path below `shaders/`.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// A buffer is larger than the adapter binds.
    #[error(
        "{what} needs {bytes} bytes in one binding, {adapter} allows {limit}; use a smaller grid or batch"
    )]
    BindingTooLarge {
        /// Which tensor.
        what: String,
        /// Its size.
        bytes: u64,
        /// The adapter's limit.
        limit: u64,
        /// The adapter's name.
        adapter: String,
    },
    /// Half precision on an adapter without it.
    #[error("{adapter} does not compute in half precision (f16); use f32, or another --device")]
    NoHalfPrecision {
        /// The adapter's name.
        adapter: String,
    },
    /// The device ran out of memory.
    #[error("out of GPU memory: {0}; use a smaller grid or batch, or another --device")]
    OutOfMemory(String),
    /// A translation of a kernel that cannot be written.
    #[error("{}: cannot be written ({source}); name another folder", file.display())]
    Dump {
        /// The file.
        file: std::path::PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Work that was still not done after [`Gpu::set_limit`]. The device goes on with it: it can neither be stopped
    /// nor used for anything else, and closing it waits.
    #[error(
        "did not end within {} s; the device cannot be stopped and may stay busy until the driver resets it",
        limit.as_secs_f64()
    )]
    DidNotEnd {
        /// How long it was waited for.
        limit: Duration,
    },
    /// Validation or device loss during execution.
    #[error("GPU error: {0}")]
    Execution(String),
}

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Number or part of the name of an adapter (`--device`); `None` picks the best.
    pub device: Option<String>,
    /// Keep naga's bounds checks in the kernels (tests do).
    pub checked: bool,
}

/// Bytes of the device's tensors: now, and at most since the last [`Gpu::reset_peak_bytes`].
#[derive(Debug, Default)]
struct Usage {
    now: AtomicU64,
    most: AtomicU64,
    /// Buffers of tensors that are gone, for tensors of the same size: a new buffer of a volume's size costs as much as
    /// a pass over it, in page faults and zeroes.
    spare: Mutex<Vec<wgpu::Buffer>>,
}

/// Least bytes of a buffer that is kept.
const LEAST_SPARE: u64 = 1 << 20;
/// Most buffers that are kept: more would save little and hold memory.
const MOST_SPARE: usize = 2;

/// A buffer that is counted while it lives.
#[derive(Debug)]
pub(crate) struct CountedBuffer {
    buffer: wgpu::Buffer,
    usage: Arc<Usage>,
}

impl CountedBuffer {
    fn new(buffer: wgpu::Buffer, usage: &Arc<Usage>) -> Arc<Self> {
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
    buffer: Arc<CountedBuffer>,
    /// First byte in the buffer.
    offset: u64,
    /// Shape and element type.
    pub desc: crate::tensor::TensorDesc,
}

impl GpuTensor {
    /// The tensor described by `desc` that starts `offset` bytes further on in the same buffer.
    pub(crate) fn view(&self, offset: u64, desc: crate::tensor::TensorDesc) -> Self {
        Self { buffer: Arc::clone(&self.buffer), offset: self.offset + offset, desc }
    }
}

/// What stands in for an embedded shader file, and whether it runs without bounds checks.
struct Substitute {
    replacement: Replacement,
    trusted: bool,
}

/// An open device with its compiled kernels.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Name, driver and type of the adapter.
    pub summary: AdapterSummary,
    /// What kernels may rely on.
    pub caps: Caps,
    checked: bool,
    kernels: Mutex<HashMap<KernelKey, Arc<Kernel>>>,
    replacements: Mutex<HashMap<String, Substitute>>,
    submissions: AtomicU64,
    usage: Arc<Usage>,
    staging: transfer::Staging,
    /// Times of launches, while somebody wants them.
    profile: Mutex<Option<recording::Profile>>,
    /// How long to wait for the device.
    limit: Mutex<Option<Duration>>,
    stuck: AtomicBool,
    errors: Arc<Mutex<Option<GpuError>>>,
}

impl Gpu {
    /// Opens an adapter: discrete before integrated before software unless `options.device` says which.
    ///
    /// # Errors
    /// When no adapter is found, none matches, or the driver refuses.
    pub fn open(options: &GpuOptions) -> Result<Self, GpuError> {
        let (adapter, summary) = adapter::choose(options.device.as_deref())?;
        let (device, queue, caps) = adapter::request_device(&adapter, &summary)?;
        let errors = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&errors);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let error = match error {
                wgpu::Error::OutOfMemory { source } => GpuError::OutOfMemory(source.to_string()),
                other => GpuError::Execution(other.to_string()),
            };
            log::debug!("{error}");
            if let Ok(mut slot) = sink.lock() {
                slot.get_or_insert(error);
            }
        }));
        Ok(Self {
            device,
            queue,
            summary,
            caps,
            checked: options.checked,
            kernels: Mutex::default(),
            replacements: Mutex::default(),
            submissions: AtomicU64::new(0),
            usage: Arc::default(),
            staging: transfer::Staging::default(),
            profile: Mutex::default(),
            limit: Mutex::default(),
            stuck: AtomicBool::new(false),
            errors,
        })
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

    /// Puts `source` in place of the shader file `path` for kernels compiled from now on. They keep naga's
    /// bounds checks.
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

    /// Most bytes that tensors have held at a time since the last [`Gpu::reset_peak_bytes`].
    pub fn peak_bytes(&self) -> u64 {
        self.usage.most.load(Ordering::Relaxed)
    }

    /// Starts [`Gpu::peak_bytes`] over from what tensors hold now.
    pub fn reset_peak_bytes(&self) {
        self.usage.most.store(self.usage.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Runs `work` with a timestamp round every launch, and returns their times too: none when the adapter has no
    /// timestamps.
    pub fn profiled<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<KernelTime>) {
        let times = || self.profile.lock().expect("no panic while held");
        *times() = self.caps.timestamps.then(recording::Profile::default);
        let result = work();
        let measured = times().take().unwrap_or_default();
        (result, measured.times)
    }

    /// Submits commands and counts it.
    fn submit_commands(
        &self,
        commands: impl IntoIterator<Item = wgpu::CommandBuffer>,
    ) -> wgpu::SubmissionIndex {
        self.submissions.fetch_add(1, Ordering::Relaxed);
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
            Arc::new(Kernel::compile(&self.device, key, replacement, checked)?)
        };
        self.take_error()?;
        self.kernels.lock().expect("no panic while held").insert(key.clone(), Arc::clone(&kernel));
        Ok(kernel)
    }

    /// Allocates a tensor; its content is zero.
    ///
    /// # Errors
    /// When it exceeds what the adapter binds or has.
    pub fn empty(&self, desc: &crate::tensor::TensorDesc) -> Result<GpuTensor, GpuError> {
        let bytes = self.buffer_bytes(desc)?;
        // What nobody asked for again makes room.
        self.usage.spare.lock().expect("no panic while held").clear();
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        self.take_error()?;
        Ok(self.tensor_in(buffer, desc))
    }

    /// Allocates a tensor that somebody is about to fill: its content is anything.
    ///
    /// # Errors
    /// As [`Gpu::empty`].
    pub fn unfilled(&self, desc: &crate::tensor::TensorDesc) -> Result<GpuTensor, GpuError> {
        let bytes = self.buffer_bytes(desc)?;
        let kept = {
            let mut spare = self.usage.spare.lock().expect("no panic while held");
            spare.iter().position(|buffer| buffer.size() == bytes).map(|ix| spare.swap_remove(ix))
        };
        match kept {
            Some(buffer) => Ok(self.tensor_in(buffer, desc)),
            None => self.empty(desc),
        }
    }

    fn tensor_in(&self, buffer: wgpu::Buffer, desc: &crate::tensor::TensorDesc) -> GpuTensor {
        GpuTensor { buffer: CountedBuffer::new(buffer, &self.usage), offset: 0, desc: desc.clone() }
    }

    /// Size of a tensor's buffer.
    fn buffer_bytes(&self, desc: &crate::tensor::TensorDesc) -> Result<u64, GpuError> {
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
    /// The first error since the last call, or work that does not end within [`Gpu::set_limit`].
    pub fn wait(&self) -> Result<(), GpuError> {
        self.wait_until(None)
    }

    /// How long every wait for the device may take from now on; `None`, as it is at first, waits for ever.
    pub fn set_limit(&self, limit: Option<Duration>) {
        *self.limit.lock().expect("no panic while held") = limit;
    }

    /// Whether a wait has ended with [`GpuError::DidNotEnd`]: the device is of no more use, and dropping it may block.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Waits until a submission, or all of them, is done.
    fn wait_until(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<(), GpuError> {
        let timeout = *self.limit.lock().expect("no panic while held");
        if let (Some(limit), true) = (timeout, self.is_stuck()) {
            return Err(GpuError::DidNotEnd { limit });
        }
        match (self.device.poll(wgpu::PollType::Wait { submission_index, timeout }), timeout) {
            (Ok(_), _) => self.take_error(),
            (Err(wgpu::PollError::Timeout), Some(limit)) => {
                self.stuck.store(true, Ordering::Relaxed);
                Err(GpuError::DidNotEnd { limit })
            }
            (Err(error), _) => Err(GpuError::Execution(error.to_string())),
        }
    }

    fn take_error(&self) -> Result<(), GpuError> {
        match self.errors.lock().expect("no panic while held").take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
