//! `constant`: a tensor of one value, and the launch that clears what kernels add to.

use super::case::{Case, OpDef};
use super::operator::{OpError, Operator, expect_inputs};
use super::pieces::FLAT;
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

const FILL: &str = "constant/fill.wgsl";

/// Sets `n` elements of a slot to `value` (bit pattern for integer tensors): clears accumulators.
pub fn fill_dispatch(slot: Slot, n: usize, bits: u32) -> Dispatch {
    Dispatch::new(KernelKey::new(FILL))
        .bind("y", slot)
        .params(Params::new().u32("n", n).bits("bits", bits))
        .flat(n, FLAT)
}

/// `constant`: a tensor of one value.
#[derive(Debug, Clone)]
pub struct Constant {
    /// Shape of the output.
    pub desc: TensorDesc,
    /// The value.
    pub value: f32,
}

/// Registry entry of [`Constant`].
pub static CONSTANT: OpDef = OpDef {
    name: "constant",
    summary: "tensor of one value",
    shaders: &[FILL],
    cases: || {
        vec![Case::new("odd size", Constant { desc: TensorDesc::f32(&[3, 7, 11]), value: -2.5 }, vec![])]
    },
};

impl Operator for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("constant", inputs, 0)?;
        Ok(vec![self.desc.clone()])
    }

    fn lower(&self, _: &[TensorDesc], outputs: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        Lowered::one(fill_dispatch(Slot::Output(0), outputs[0].len(), self.value.to_bits()))
    }

    fn reference(&self, _: &[&HostTensor]) -> Vec<HostTensor> {
        vec![HostTensor::new(self.desc.clone(), vec![self.value as f64; self.desc.len()])]
    }
}
