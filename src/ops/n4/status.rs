//! The status of a level of N4, which stays on the device, and `n4_range`, which begins it.

use super::voxels::{OUTSIDE, SOME_OUTSIDE, counts, expect_volume, lines};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{Case, FLAT, Fill, OpDef, OpError, Operator, expect_inputs};
use crate::tensor::{HostTensor, TensorDesc};

/// Elements of the status tensor.
pub const STATUS: usize = 8;
/// Field of the status: least value in the mask.
pub const LEAST: usize = 0;
/// Field of the status: greatest less least value in the mask.
pub const EXTENT: usize = 1;
/// Field of the status: voxels in the mask.
pub const VOXELS: usize = 2;
/// Field of the status: convergence measure of the last iteration.
pub const CONVERGENCE: usize = 3;
/// Field of the status: 1 once the convergence measure has been at most the tolerance.
pub const DONE: usize = 4;
/// Field of the status: iterations of this level so far.
pub const ITERATIONS: usize = 5;
/// The dispatch that turns the columns' partial results into the status.
pub(super) fn status_dispatch(
    partials: Slot,
    status: Slot,
    columns: usize,
    tolerance: Option<f32>,
) -> Dispatch {
    let mut key = KernelKey::new("n4/status.wgsl");
    if tolerance.is_none() {
        key = key.define("START", 1);
    }
    Dispatch::new(key)
        .bind("partials", partials)
        .bind("status", status)
        .params(Params::new().u32("columns", columns).f32("tolerance", tolerance.unwrap_or(0.0)))
}

/// `n4_range`: `v -> status`: the status of a level that has not begun.
#[derive(Debug, Clone)]
pub struct MaskedRange;

/// Registry entry of [`MaskedRange`].
pub static MASKED_RANGE: OpDef = OpDef {
    name: "n4_range",
    summary: "masked minimum, extent and voxel count as the status of a new N4 level",
    shaders: &["n4/range.wgsl", "n4/status.wgsl"],
    cases: || {
        let case =
            |name, shape: &[usize], fill| Case::new(name, MaskedRange, vec![(TensorDesc::f32(shape), fill)]);
        vec![
            case("odd", &[5, 7, 9], SOME_OUTSIDE),
            case("more columns than invocations", &[2, 19, 31], SOME_OUTSIDE),
            case("every voxel counts", &[4, 3, 5], Fill::Normal(2.0)),
            case("one voxel", &[1, 1, 1], Fill::Normal(2.0)),
            case("empty mask", &[3, 2, 2], Fill::Values(&[OUTSIDE])),
        ]
    },
};

impl Operator for MaskedRange {
    fn name(&self) -> &'static str {
        "n4_range"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        expect_volume(self.name(), inputs, 0)?;
        Ok(vec![TensorDesc::f32(&[STATUS])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let (_, d, columns) = lines(&inputs[0].shape, 0);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch(columns as u64 * 5 * 4);
        lowered.push(
            Dispatch::new(KernelKey::new("n4/range.wgsl"))
                .bind("v", Slot::Input(0))
                .bind("partials", partials)
                .params(Params::new().u32("d", d).u32("columns", columns))
                .flat(columns, FLAT),
        );
        lowered.push(status_dispatch(partials, Slot::Output(0), columns, None));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut status = HostTensor::zeros(TensorDesc::f32(&[STATUS]));
        status.data[CONVERGENCE] = f32::MAX as f64;
        masked_range(&inputs[0].data, &mut status);
        vec![status]
    }

    fn records(&self) -> &'static [usize] {
        &[0]
    }
}

/// Writes least value, extent and number of the voxels that count.
pub(super) fn masked_range(v: &[f64], status: &mut HostTensor) {
    let inside: Vec<f64> = v.iter().copied().filter(|&v| counts(v)).collect();
    let least = inside.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = inside.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let empty = inside.is_empty();
    status.data[LEAST] = if empty { 0.0 } else { least };
    status.data[EXTENT] = if empty { 0.0 } else { greatest - least };
    status.data[VOXELS] = inside.len() as f64;
}
