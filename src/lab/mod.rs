//! The laboratory: operators, networks and pipelines, checked against their references and timed against the
//! adapter's own roofline.
//!
//! [`subject`] says what is timed, `check` compares it with the f64 reference, [`timing`] takes the samples,
//! [`peak`] measures the roofline, `report` is what comes out. `foreign` compiles for GPUs that are not there, and `listing` reads
//! the machine code.

mod check;
mod compare;
mod error;
#[cfg(target_os = "linux")]
mod foreign;
mod html;
#[cfg(target_os = "linux")]
mod listing;
mod measure;
mod network;
mod own;
pub mod peak;
mod pipelines;
mod probe;
mod report;
pub mod subject;
pub mod timing;
mod trace;
pub mod tune;
mod watchdog;

pub use compare::{Change, compare};
pub use error::LabError;
#[cfg(target_os = "linux")]
pub use foreign::{CompiledKernel, compile_for};
pub use html::write_html;
pub use measure::{LIMIT_S, Measured, OWN_LIMIT_S, Plan, Settings, Variants, distinct, measure};
pub use network::{NetworkBench, NetworkDirection, NetworkResult, measure_network};
pub use own::{Place, UserShader};
pub use pipelines::{N4Measurement, measure_n4, resample_subjects};
pub use report::{
    Adapter, Error, Failure, FailureKind, KernelShare, NodeShare, Report, Row, Stage, Total, Versions,
};
pub use watchdog::Watchdog;
