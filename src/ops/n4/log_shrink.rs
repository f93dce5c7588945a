//! `n4_log_shrink`: the volume that N4 works on.

use super::voxels::{LEAST_COUNTED, OUTSIDE, expect_shape, expect_volume};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, expect_inputs};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// `n4_log_shrink`: `(volume[, mask u32][, confidence]) -> (v, weight)`: strided pick, logarithm and mask in
/// one. Inputs `[D, H, W]`, told apart by their types; outputs `[max(1, D/f), max(1, H/f), max(1, W/f)]`, with
/// the padding counted in D, H and W. The weight is the confidence, or 1, where the voxel counts, else 0 with
/// [`OUTSIDE`] as v.
#[derive(Debug, Clone)]
pub struct LogShrink {
    /// Keeps every factor-th voxel along each axis.
    pub factor: [usize; 3],
    /// Voxels outside the mask that are thought before and after the volume, along each axis.
    pub padding: [[usize; 2]; 3],
    /// First voxel along each axis of the padded volume; `None` takes ITK's.
    pub offset: Option<[usize; 3]>,
    /// Values <= 0 stay in the mask as they are (ITK) instead of leaving it.
    pub keep_nonpositive: bool,
}

impl LogShrink {
    /// First voxel that `itk::ShrinkImageFilter` picks from `n`: the picked grid is centred on the other.
    pub fn itk_offset(n: usize, factor: usize) -> usize {
        (n - factor * ((n / factor).max(1) - 1)) / 2
    }

    /// Output shape, and first voxel of the padded volume.
    pub(crate) fn geometry(&self, shape: &[usize]) -> ([usize; 3], [usize; 3]) {
        let padded = self.padded(shape);
        let out = std::array::from_fn(|a| (padded[a] / self.factor[a]).max(1));
        let centred = std::array::from_fn(|a| Self::itk_offset(padded[a], self.factor[a]).min(padded[a] - 1));
        (out, self.offset.unwrap_or(centred))
    }

    fn padded(&self, shape: &[usize]) -> [usize; 3] {
        std::array::from_fn(|a| shape[a] + self.padding[a][0] + self.padding[a][1])
    }

    /// Positions of the mask and of the confidence among the inputs.
    fn regions(inputs: &[TensorDesc]) -> [Option<usize>; 2] {
        [DType::U32, DType::F32].map(|dtype| (1..inputs.len()).find(|&ix| inputs[ix].dtype == dtype))
    }
}

/// Registry entry of [`LogShrink`].
pub static LOG_SHRINK: OpDef = OpDef {
    name: "n4_log_shrink",
    summary: "every f-th voxel, in the log domain, with the weight it counts with",
    shaders: &["n4/log_shrink.wgsl"],
    cases: || {
        let volume = |shape: &[usize]| (TensorDesc::f32(shape), Fill::Normal(50.0));
        let mask = |shape: &[usize]| (TensorDesc::u32(shape), Fill::Integer(3));
        let confidence = |shape: &[usize]| {
            (TensorDesc::f32(shape), Fill::Values(&[0.5, 1.0, 0.0, 2.5, f32::NAN, -1.0, f32::INFINITY]))
        };
        let op = |factor, keep_nonpositive| LogShrink {
            factor,
            padding: [[0; 2]; 3],
            offset: None,
            keep_nonpositive,
        };
        vec![
            Case::new("no mask", op([3; 3], false), vec![volume(&[11, 13, 17])]),
            Case::new("raw non-positive values", op([2, 1, 3], true), vec![volume(&[5, 4, 7])]),
            Case::new(
                "mask, thinner than the factor",
                op([4; 3], false),
                vec![volume(&[3, 9, 10]), mask(&[3, 9, 10])],
            ),
            Case::new("confidence", op([1; 3], false), vec![volume(&[4, 5, 6]), confidence(&[4, 5, 6])]),
            Case::new(
                "mask, confidence, padding, raw values, given offset",
                LogShrink {
                    factor: [2, 2, 1],
                    padding: [[3, 1], [0, 2], [2, 0]],
                    offset: Some([0, 1, 0]),
                    keep_nonpositive: true,
                },
                vec![volume(&[4, 5, 6]), mask(&[4, 5, 6]), confidence(&[4, 5, 6])],
            ),
            Case::new("head", op([3; 3], false), vec![volume(&[192, 256, 256])]).bench_only(),
        ]
    },
};

impl Operator for LogShrink {
    fn name(&self) -> &'static str {
        "n4_log_shrink"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let name = self.name();
        let regions = Self::regions(inputs);
        expect_inputs(name, inputs, 1 + regions.iter().flatten().count())?;
        let shape = expect_volume(name, inputs, 0)?;
        for ix in regions.into_iter().flatten() {
            expect_shape(name, inputs, ix, &shape)?;
        }
        if self.factor.contains(&0) {
            return Err(OpError::new(name, inputs, "the factors must be at least 1"));
        }
        let (out, offset) = self.geometry(&shape);
        let padded = self.padded(&shape);
        if (0..3).any(|a| offset[a] + self.factor[a] * (out[a] - 1) >= padded[a]) {
            return Err(OpError::new(name, inputs, format!("offset {offset:?} leaves the volume")));
        }
        Ok(vec![TensorDesc::f32(&out); 2])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let shape = &inputs[0].shape;
        let (out, offset) = self.geometry(shape);
        let n = outputs[0].len();
        let [mask, confidence] = Self::regions(inputs);
        let mut key = KernelKey::new("n4/log_shrink.wgsl");
        for (define, wanted) in [
            ("HAS_MASK", mask.is_some()),
            ("HAS_CONFIDENCE", confidence.is_some()),
            ("KEEP_NONPOSITIVE", self.keep_nonpositive),
        ] {
            if wanted {
                key = key.define(define, 1);
            }
        }
        let mut params = Params::new().u32("n", n).u32("h", out[1]).u32("w", out[2]);
        let names = [
            ["in_z", "factor_z", "offset_z", "before_z"],
            ["in_y", "factor_y", "offset_y", "before_y"],
            ["in_x", "factor_x", "offset_x", "before_x"],
        ];
        for (a, [extent, factor, first, before]) in names.into_iter().enumerate() {
            params = params
                .u32(extent, shape[a])
                .u32(factor, self.factor[a])
                .u32(first, offset[a])
                .u32(before, self.padding[a][0]);
        }
        let mut dispatch = Dispatch::new(key)
            .bind("volume", Slot::Input(0))
            .bind("v", Slot::Output(0))
            .bind("weight", Slot::Output(1))
            .params(params)
            .flat(n, FLAT);
        for (binding, input) in [("mask", mask), ("confidence", confidence)] {
            if let Some(ix) = input {
                dispatch = dispatch.bind(binding, Slot::Input(ix));
            }
        }
        Lowered::one(dispatch)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let shape = &inputs[0].desc.shape;
        let (out, offset) = self.geometry(shape);
        let descs: Vec<TensorDesc> = inputs.iter().map(|input| input.desc.clone()).collect();
        let [mask, confidence] = Self::regions(&descs);
        let mut weight = HostTensor::zeros(TensorDesc::f32(&out));
        let mut v = HostTensor::new(TensorDesc::f32(&out), vec![f64::from(OUTSIDE); weight.data.len()]);
        for to in 0..v.data.len() {
            let at = [to / (out[1] * out[2]), to / out[2] % out[1], to % out[2]];
            let padded: [usize; 3] = std::array::from_fn(|a| offset[a] + self.factor[a] * at[a]);
            if (0..3).any(|a| !(self.padding[a][0]..self.padding[a][0] + shape[a]).contains(&padded[a])) {
                continue;
            }
            let [iz, iy, ix] = std::array::from_fn(|a| padded[a] - self.padding[a][0]);
            let from = (iz * shape[1] + iy) * shape[2] + ix;
            let value = inputs[0].data[from];
            let labelled = mask.is_none_or(|ix| inputs[ix].data[from] != 0.0);
            let trust = confidence.map_or(1.0, |ix| inputs[ix].data[from]);
            if labelled
                && value.is_finite()
                && trust.is_finite()
                && trust > 0.0
                && (value > 0.0 || self.keep_nonpositive)
                && value >= f64::from(LEAST_COUNTED)
            {
                v.data[to] = if value > 0.0 { value.ln() } else { value };
                weight.data[to] = trust;
            }
        }
        vec![v, weight]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        // Of the inputs, what is picked.
        let values = outputs[0].len() * (inputs.len() + outputs.len());
        Cost { flops: outputs[0].len() as f64, bytes: 4.0 * values as f64 }
    }
}
