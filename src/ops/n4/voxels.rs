//! Volumes in the log domain as N4's kernels see them: which voxels count, and their columns along z.

use crate::gpu::{Caps, DeviceClass};
use crate::ops::{Fill, OpError};
use crate::tensor::TensorDesc;

/// What voxels hold that do not count; every value below [`LEAST_COUNTED`] means the same.
pub const OUTSIDE: f32 = -3e38;
/// Least value that counts.
pub const LEAST_COUNTED: f32 = -1e30;
/// Values of which some do not count.
pub(super) const SOME_OUTSIDE: Fill =
    Fill::Values(&[1.5, OUTSIDE, 0.25, 3.0, 2.75, OUTSIDE, OUTSIDE, 1.125, 0.875, 2.25, 3.875, 1.75, 0.5]);

/// Whether a voxel counts.
pub(super) fn counts(v: f64) -> bool {
    v >= f64::from(LEAST_COUNTED)
}

/// The extents of a volume `[D, H, W]`, or an error naming the operator.
pub(super) fn expect_volume(
    name: &'static str,
    inputs: &[TensorDesc],
    ix: usize,
) -> Result<[usize; 3], OpError> {
    <[usize; 3]>::try_from(inputs[ix].shape.as_slice())
        .ok()
        .filter(|shape| shape.iter().all(|&n| n > 0))
        .ok_or_else(|| OpError::new(name, inputs, format!("input {ix} must be D H W without an empty axis")))
}

/// Refuses an input of another shape.
pub(super) fn expect_shape(
    name: &'static str,
    inputs: &[TensorDesc],
    ix: usize,
    shape: &[usize],
) -> Result<(), OpError> {
    if inputs[ix].shape == shape {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("input {ix} must be {shape:?}")))
    }
}

/// Lines along `axis`: how many lie outside it, its extent, and the distance between its elements.
pub(super) fn lines(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// The variants of the kernels that walk along z, and the neighbouring columns that an invocation takes in each: a
/// processor fetches a cache line for any of them.
const COLUMN_VARIANTS: [(&str, usize); 3] =
    [("one column", 1), ("eight columns", 8), ("sixteen columns", 16)];
/// Fewest invocations that keep the cores of a processor busy.
const BUSY: usize = 256;

/// The variants for a volume of so many columns, preferred first.
pub(super) fn column_variants(caps: &Caps, columns: usize) -> Vec<&'static str> {
    let [one, eight, sixteen] = COLUMN_VARIANTS.map(|(name, _)| name);
    match caps.class {
        DeviceClass::Software if columns >= 16 * BUSY => vec![sixteen, eight, one],
        DeviceClass::Software => vec![eight, sixteen, one],
        _ => vec![one, eight, sixteen],
    }
}

pub(super) fn columns_of(variant: &str) -> usize {
    COLUMN_VARIANTS.iter().find(|(name, _)| *name == variant).map_or(1, |&(_, columns)| columns)
}
