//! What N4 refuses, and why.

use thiserror::Error;

use crate::gpu::GpuError;
use crate::graph::GraphError;
use crate::tensor::{Xyz, Zyx};

/// Fewest voxels that a field is fitted to.
pub const MIN_VOXELS: usize = 1000;

/// What can go wrong.
#[derive(Debug, Error)]
pub enum N4Error {
    /// An option is out of range.
    #[error("N4: {0}")]
    Options(String),
    /// The volume is not `[D, H, W]`, or mask or confidence do not fit it.
    #[error("N4: {what} has shape {shape:?}{remedy}")]
    Shape {
        /// Volume, mask or confidence.
        what: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// What is expected.
        remedy: String,
    },
    /// The mask is (nearly) empty.
    #[error(
        "N4: only {voxels} voxels to fit the field to after shrinking by {} (at least {MIN_VOXELS} are needed): \
         the mask or the image is empty, or not positive there; a smaller shrink factor keeps more voxels",
        factors(*shrink)
    )]
    TooFewVoxels {
        /// Voxels in the mask.
        voxels: usize,
        /// Shrink factors.
        shrink: Zyx<usize>,
    },
    /// All voxels of the mask have one value.
    #[error("N4: the image has one value throughout the mask: there is no field to estimate")]
    Constant,
    /// The shrunken volume exceeds what the device binds.
    #[error(
        "N4: shrunken by {}, the volume takes {mib} MiB, and {adapter} binds {limit_mib} MiB at once; a larger \
         shrink factor fits",
        factors(*shrink)
    )]
    TooLarge {
        /// Size of the shrunken volume.
        mib: u64,
        /// What the adapter binds.
        limit_mib: u64,
        /// Its name.
        adapter: String,
        /// Shrink factors.
        shrink: Zyx<usize>,
    },
    /// The device refused or failed.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl From<GpuError> for N4Error {
    fn from(error: GpuError) -> Self {
        Self::Graph(error.into())
    }
}

/// One number for three equal factors, else `x,y,z`.
pub(crate) fn factors(factors: Zyx<usize>) -> String {
    let Xyz([x, y, z]) = factors.into();
    if x == y && y == z { x.to_string() } else { format!("{x},{y},{z}") }
}
