//! Second stage shared by the deterministic reductions: sums of partial sums.

use crate::gpu::{Dispatch, KernelKey, Params, Slot};

/// Elements that one workgroup of a first stage sums. With 64 invocations no chain of f32 additions is
/// longer than 64 terms, so sums over millions of voxels keep six digits.
pub(super) const CHUNK: usize = 4096;

/// Longest chain of additions in the two stages together, for [`super::Precision`].
pub(super) const CHAIN: usize = 128;

/// File of the kernel.
pub(super) const SUM_ROWS: &str = "reduce/sum_rows.wgsl";

/// Sums `x [rows, terms, lanes]` over the terms into `y [rows, lanes]`, or adds to `y`.
pub(super) fn sum_rows(x: Slot, y: Slot, [rows, terms, lanes]: [usize; 3], accumulate: bool) -> Dispatch {
    Dispatch::new(KernelKey::new(SUM_ROWS).define("ACCUMULATE", u32::from(accumulate)))
        .bind("x", x)
        .bind("y", y)
        .params(Params::new().u32("terms", terms).u32("lanes", lanes))
        .grid([lanes, rows, 1])
}
