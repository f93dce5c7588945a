//! What the commands do, without a terminal.

pub mod intensity;
pub mod postprocess;
