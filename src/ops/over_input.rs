//! Operators that write their output over their first input, which nobody reads after them: half the memory.

use std::sync::Arc;

use super::{Cost, OpError, Operator, Precision};
use crate::gpu::{Caps, Lowered, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// An operator of which [`Operator::takes_place`] is true, its first output in the place of its first input. No gradient flows
/// through it.
#[derive(Clone, Debug)]
pub struct OverInput(Arc<dyn Operator>);

impl OverInput {
    /// The operator in place; `None` where its kernels cannot.
    pub fn new(op: Arc<dyn Operator>) -> Option<Self> {
        (op.takes_place() && op.in_place().is_empty()).then_some(Self(op))
    }
}

impl Operator for OverInput {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        self.0.infer(inputs)
    }

    fn activations(&self) -> usize {
        self.0.activations()
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        self.0.variants(inputs, caps)
    }

    /// A launch that reads the input and writes the output binds the output alone.
    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let mut lowered = self.0.lower(inputs, outputs, caps, variant);
        for dispatch in &mut lowered.dispatches {
            if dispatch.bindings.iter().any(|(_, binding)| binding.slot == Slot::Output(0)) {
                dispatch.bindings.retain(|(_, binding)| binding.slot != Slot::Input(0));
                dispatch.kernel.defines.push(("IN_PLACE", 1));
            }
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        self.0.reference(inputs)
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        self.0.cost(inputs, outputs)
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        self.0.precision(inputs)
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}
