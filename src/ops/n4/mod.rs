//! N4 bias-field correction (Tustison et al., IEEE TMI 29(6), 2010): the kernels of one iteration.
//!
//! The voxels lie on a grid, so ITK's fit of a B-spline to scattered data factorises exactly into one
//! contraction an axis: for the update `delta` the weights are B³/ΣB², for its normaliser `omega` B², for
//! the field B. They are inputs of `[n, 4]`: row i holds the weights of voxel i for the four control points
//! from [`span_of`] on ([`BasisPower`] makes them).
//!
//! Volumes are f32 `[D, H, W]`. In `v`, the image's logarithm less the field, voxels that do not count hold
//! [`OUTSIDE`], so that no kernel of an iteration reads a mask; `weight` is 0 there, else a confidence.
//! `status` is f32 `[8]`: least masked value, extent (greatest - least),
//! voxels in the mask, convergence measure, 1 once the level is done, iterations of the level, two spares.

mod field;
mod histogram;
mod lattice;
mod log_shrink;
mod sharpen;
mod status;
mod voxels;

pub use field::{APPLY, Apply, FIELD_UPDATE, FieldUpdate};
pub use histogram::{HISTOGRAM, MAX_BINS, ParzenHistogram};
pub use lattice::{
    BasisPower, CONTRACT, Contract, EVALUATE, Evaluate, LATTICE_UPDATE, LatticeUpdate, RESIDUAL_CONTRACT,
    ResidualContract, span_of,
};
pub use log_shrink::{LOG_SHRINK, LogShrink};
pub use sharpen::{SHARPEN, Sharpen, padded_bins};
pub use status::{CONVERGENCE, DONE, EXTENT, ITERATIONS, LEAST, MASKED_RANGE, MaskedRange, STATUS, VOXELS};
pub use voxels::{LEAST_COUNTED, OUTSIDE};
