//! The only layer that names `wgpu`: adapters, shader assembly, kernels, buffers, recording, timestamps.

mod adapter;
mod buffer;
mod completion;
mod device;
mod dispatch;
mod dump;
mod error;
mod excerpt;
mod kernel;
mod launch;
mod profile;
#[cfg(all(feature = "bench", target_os = "linux"))]
pub mod radv;
mod recording;
mod shader;
mod transfer;

pub use adapter::{AdapterSummary, Caps, DeviceClass, list_adapters};
pub use buffer::{GpuTensor, Standing};
pub use device::{Gpu, GpuOptions};
pub use dispatch::{Binding, Dispatch, KernelKey, Lowered, Params, Scalar, Slot};
pub use dump::dump_kernel;
pub use error::GpuError;
pub use kernel::{Kernel, Reflection};
pub use profile::KernelTime;
pub(crate) use recording::Prepared;
pub use shader::{AssembledShader, Replacement, SHADERS, assemble, validate};
