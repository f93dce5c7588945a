//! Synthesis of heads from label maps: `label_paint` makes of a map what a scanner would see, `scan_faults` spoils it as
//! scanners do. Everything random is a function of a seed and a voxel (`lib/random.wgsl`).

mod faults;
mod paint;

pub use faults::{SCAN_FAULTS, ScanFaults};
pub use paint::{ENVELOPE_STEPS, LABEL_PAINT, LabelPaint, QUARTERS, pack_word};
