//! x
pub mod volume;
