//! What can go wrong between a kernel's source and its result.

use thiserror::Error;

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
    /// A buffer that does not go below the ceiling.
    #[error(
        "{what}: {} MiB of the device's buffers are in use, and the ceiling is {} MiB; raise --max-memory",
        in_use >> 20, ceiling >> 20
    )]
    Ceiling {
        /// The buffer.
        what: String,
        /// Bytes of all others.
        in_use: u64,
        /// Most bytes of all.
        ceiling: u64,
    },
    /// A translation of a kernel that cannot be written.
    #[error("{}: cannot be written ({source}); name another folder", file.display())]
    Dump {
        /// The file.
        file: std::path::PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Validation or device loss during execution: what the device was at, and the driver's words.
    #[error("GPU error: {0}")]
    Execution(String),
}

impl GpuError {
    /// An error that the device reports, with the work that it is about.
    pub(super) fn of(error: wgpu::Error, work: &str) -> Self {
        match error {
            wgpu::Error::OutOfMemory { source } => Self::OutOfMemory(format!("{work}: {source}")),
            other => Self::Execution(format!("{work}: {other}")),
        }
    }
}
