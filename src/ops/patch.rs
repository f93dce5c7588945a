//! Patches of a volume, put together again.

use super::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs, expect_volume};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// `add_patch`: adds a patch to a volume at a place, weighted along each axis, in place.
///
/// Inputs: y `[D, H, W]`, x `[d, h, w]`, weights `[d + h + w]` along the axes, one after the other. Output: y.
#[derive(Debug, Clone, Copy)]
pub struct AddPatch {
    /// The patch's first voxel in the volume.
    pub at: [usize; 3],
}

/// Registry entry of [`AddPatch`].
pub static ADD_PATCH: OpDef = OpDef {
    name: "add_patch",
    summary: "adds a patch to a volume, weighted along each axis, in place",
    shaders: &["patch/add_patch.wgsl"],
    cases: || {
        let case = |name, shape: [usize; 3], patch: [usize; 3], at| {
            let normal = |shape: &[usize]| (TensorDesc::f32(shape), Fill::Normal(1.0));
            let inputs = vec![normal(&shape), normal(&patch), normal(&[patch.iter().sum()])];
            Case::new(name, AddPatch { at }, inputs)
        };
        vec![
            case("inside", [7, 9, 11], [3, 4, 5], [2, 5, 3]),
            case("at the ends", [7, 9, 11], [7, 4, 1], [0, 5, 10]),
            case("all of it", [5, 1, 3], [5, 1, 3], [0; 3]),
        ]
    },
};

impl Operator for AddPatch {
    fn name(&self) -> &'static str {
        "add_patch"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 3)?;
        let [volume, patch] = [0, 1].map(|ix| expect_volume(self.name(), inputs, ix));
        let (volume, patch) = (volume?, patch?);
        if (0..3).any(|axis| self.at[axis] + patch[axis] > volume[axis]) {
            let reason = format!("a patch of {patch:?} at {:?} exceeds the volume of {volume:?}", self.at);
            return Err(OpError::new(self.name(), inputs, reason));
        }
        let weights = TensorDesc::f32(&[patch.iter().sum()]);
        if inputs[2] != weights {
            return Err(OpError::new(self.name(), inputs, format!("input 2 must be {weights:?}")));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let extents = |ix: usize, last: usize| {
            let [d, h, w] = expect_volume(self.name(), inputs, ix).expect("infer accepted the inputs");
            [d, h, w, last]
        };
        let n = inputs[1].len();
        let [d, h, w] = self.at;
        Lowered::one(
            Dispatch::new(KernelKey::new("patch/add_patch.wgsl"))
                .bind("y", Slot::Output(0))
                .bind("x", Slot::Input(1))
                .bind("weights", Slot::Input(2))
                .params(
                    Params::new()
                        .extents("patch_shape", extents(1, n))
                        .extents("shape", extents(0, 0))
                        .extents("at", [d, h, w, 0]),
                )
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [y, x, weights] = inputs else { unreachable!("the shape rule asks for three inputs") };
        let extents = |ix: usize| {
            expect_volume(self.name(), &[y.desc.clone(), x.desc.clone()], ix)
                .expect("infer accepted the inputs")
        };
        let ([_, n_h, n_w], [d, h, w]) = (extents(0), extents(1));
        let mut sum = (*y).clone();
        for (ix, value) in x.data.iter().enumerate() {
            let [i, j, k] = [ix / (h * w), ix / w % h, ix % w];
            let to = ((i + self.at[0]) * n_h + j + self.at[1]) * n_w + k + self.at[2];
            sum.data[to] += weights.data[i] * weights.data[d + j] * weights.data[d + h + k] * value;
        }
        vec![sum]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let voxels = inputs[1].len() as f64;
        Cost { flops: 4.0 * voxels, bytes: 12.0 * voxels }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(4)
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}
