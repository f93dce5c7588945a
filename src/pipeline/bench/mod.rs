//! The laboratory: operators, networks and pipelines, checked against their references and timed against the
//! adapter's own roofline.
//!
//! [`subject`] says what is timed, `check` compares it with the f64 reference, [`timing`] takes the samples,
//! [`peak`] measures the roofline, `report` is what comes out.

mod check;
mod compare;
mod html;
mod measure;
mod network;
pub mod peak;
mod pipelines;
mod probe;
mod report;
pub mod subject;
pub mod timing;

pub use compare::{Change, compare};
pub use html::write_html;
pub(crate) use measure::race_variants;
pub use measure::{Settings, UserShader, Variants, distinct, measure, wanted_variants};
pub(crate) use network::training_spec;
pub use network::{NetworkBench, NetworkDirection, NetworkResult, measure_network};
pub use pipelines::{N4Measurement, measure_n4, resample_subjects};
pub use report::{Adapter, Error, Failure, KernelShare, NodeShare, Report, Row, Stage, Total, Versions};
