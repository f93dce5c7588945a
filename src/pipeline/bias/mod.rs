//! N4 bias-field correction: where the field is fitted, the outer loop over resolution levels, and the division.
//!
//! Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 29(6), 2010, as ITK's
//! `N4BiasFieldCorrectionImageFilter` does it. The kernels are operators of [`crate::ops::n4`]; an
//! iteration is eleven launches, without allocation and without reading back, and a submission holds several.

mod correct;
mod error;
mod fit;
mod options;
mod region;

pub use correct::{Corrected, correct_bias, divide_by_field, divide_by_fit, divide_in_place};
#[cfg(feature = "bench")]
pub(crate) use error::factors;
pub use error::{MIN_VOXELS, N4Error};
pub use fit::{N4Fit, N4Level, N4Result, n4};
pub use options::N4Options;
pub use region::{FitRegion, RegionTensors};
