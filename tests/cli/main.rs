//! The program as users run it: files in, files out, exit codes, and what it says.

mod accuracy;
mod batch;
mod bids;
mod book;
mod cohort;
mod desk;
#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "../common/dicom.rs"]
mod dicom_files;
mod dropin;
mod evaluate;
mod general;
mod images;
#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "../volume/nii.rs"]
mod nii;
#[path = "../common/program.rs"]
mod program;
mod report;
mod strip;
mod train;
