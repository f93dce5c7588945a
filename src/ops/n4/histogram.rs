//! `n4_histogram`: the histogram of the voxels that count.

use super::status::{EXTENT, LEAST, STATUS};
use super::voxels::{SOME_OUTSIDE, counts, expect_shape, expect_volume};
use crate::gpu::{Caps, DeviceClass, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{Case, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs};
use crate::tensor::{HostTensor, TensorDesc};

/// Most bins that the histogram kernels hold.
pub const MAX_BINS: usize = 256;

/// Workgroups of `n4/histogram.wgsl`: enough for a large GPU, few enough that summing their partial
/// results costs nothing.
const HISTOGRAM_GROUPS: usize = 128;
/// Voxels that a workgroup of `n4/histogram.wgsl` takes in a turn.
const HISTOGRAM_BATCH: usize = 15 * 256;
/// Fewest workgroups of `n4/histogram_private.wgsl` on a large image: enough for the cores of a processor.
const PRIVATE_GROUPS: usize = 32;
/// Most voxels that a workgroup of `n4/histogram_private.wgsl` counts: of the fours that an invocation takes, the most
/// below 4,096.
const PRIVATE_MOST: usize = 4092 * 16;

/// Refuses a number of bins that the kernels do not hold.
pub(super) fn expect_bins(name: &'static str, inputs: &[TensorDesc], bins: usize) -> Result<(), OpError> {
    if (2..=MAX_BINS).contains(&bins) {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("{bins} bins; 2 to {MAX_BINS} are possible")))
    }
}

/// Splits a histogram position into its lower bin and the fraction of the upper one.
pub(super) fn bin_of(value: f64, status: &HostTensor, bins: usize) -> (usize, f64) {
    let top = (bins - 1) as f64;
    let c = ((value - status.data[LEAST]) / status.data[EXTENT] * top).clamp(0.0, top);
    let j = (c as usize).min(bins - 2);
    (j, c - j as f64)
}

/// `n4_histogram`: `(v, status) -> histogram [bins]`: each masked voxel split linearly between the
/// two bins round it, of `bins` from the least to the greatest value.
#[derive(Debug, Clone)]
pub struct ParzenHistogram {
    /// Number of bins, at most [`MAX_BINS`].
    pub bins: usize,
}

/// Registry entry of [`ParzenHistogram`].
pub static HISTOGRAM: OpDef = OpDef {
    name: "n4_histogram",
    summary: "masked histogram with a triangular Parzen kernel",
    shaders: &["n4/histogram.wgsl", "n4/histogram_private.wgsl", "n4/histogram_sum.wgsl"],
    cases: || {
        let case = |name, bins, shape: &[usize], fill| {
            let status = (TensorDesc::f32(&[STATUS]), Fill::Uniform(0.5, 2.0));
            Case::new(name, ParzenHistogram { bins }, vec![(TensorDesc::f32(shape), fill), status])
        };
        let uniform = Fill::Uniform(0.0, 4.0);
        vec![
            case("odd", 200, &[7, 9, 11], uniform),
            case("some outside", 200, &[7, 9, 11], SOME_OUTSIDE),
            case("several batches", 256, &[17, 31, 37], uniform),
            case("two bins", 2, &[1, 3, 5], uniform),
            // Position 100.996 of 0 to 199: every counter of the variant for processors comes to its limit.
            Case::new(
                "one value in as many voxels as 32 workgroups count",
                ParzenHistogram { bins: 200 },
                vec![
                    (TensorDesc::f32(&[64, 32, 1023]), Fill::Values(&[0.507_518])),
                    (TensorDesc::f32(&[STATUS]), Fill::Values(&[0.0, 1.0])),
                ],
            ),
            case("shrunken head", 200, &[64, 85, 85], uniform).bench_only(),
            case("head", 200, &[192, 256, 256], uniform).bench_only(),
        ]
    },
};

impl Operator for ParzenHistogram {
    fn name(&self) -> &'static str {
        "n4_histogram"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        expect_volume(self.name(), inputs, 0)?;
        expect_shape(self.name(), inputs, 1, &[STATUS])?;
        expect_bins(self.name(), inputs, self.bins)?;
        Ok(vec![TensorDesc::f32(&[self.bins])])
    }

    fn variants(&self, _: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        match caps.class {
            DeviceClass::Software => vec!["private", "atomic"],
            _ => vec!["atomic", "private"],
        }
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, variant: &str) -> Lowered {
        let n = inputs[0].len();
        let (path, groups) = if variant == "private" {
            let groups = n.div_ceil(PRIVATE_MOST).max(PRIVATE_GROUPS).min(n.div_ceil(HISTOGRAM_BATCH));
            ("n4/histogram_private.wgsl", groups)
        } else {
            ("n4/histogram.wgsl", n.div_ceil(HISTOGRAM_BATCH).min(HISTOGRAM_GROUPS))
        };
        let mut lowered = Lowered::default();
        let partials = lowered.scratch((groups * self.bins * 4) as u64);
        lowered.push(
            Dispatch::new(KernelKey::new(path))
                .bind("v", Slot::Input(0))
                .bind("status", Slot::Input(1))
                .bind("partials", partials)
                .params(Params::new().u32("n", n).u32("bins", self.bins))
                .grid([groups, 1, 1]),
        );
        lowered.push(
            Dispatch::new(KernelKey::new("n4/histogram_sum.wgsl"))
                .bind("partials", partials)
                .bind("histogram", Slot::Output(0))
                .params(Params::new().u32("n_partials", groups).u32("bins", self.bins))
                .grid([self.bins.div_ceil(FLAT), 1, 1]),
        );
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut histogram = HostTensor::zeros(TensorDesc::f32(&[self.bins]));
        for &value in &inputs[0].data {
            if counts(value) {
                let (j, fraction) = bin_of(value, inputs[1], self.bins);
                histogram.data[j] += 1.0 - fraction;
                histogram.data[j + 1] += fraction;
            }
        }
        vec![histogram]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // Fixed point: each voxel is off by at most 2^-9, which is at most 2^-8 of a bin that two half
        // voxels fill.
        Precision { reduction: 1, epsilon: 2f64.powi(-11) }
    }
}
