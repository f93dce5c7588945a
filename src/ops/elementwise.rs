//! Elementwise arithmetic: `add` (also joins gradients and skips) and `scale`.

use super::{
    Case, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Stored, ValueId, expect_inputs,
};
use crate::gpu::{Caps, Dispatch, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// `add`: y = a + b, shapes equal.
#[derive(Debug, Clone)]
pub struct Add;

/// Registry entry of [`Add`].
pub static ADD: OpDef = OpDef {
    name: "add",
    summary: "y = a + b",
    shaders: &["elementwise/add.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize]| {
            let desc = TensorDesc::f32(shape);
            Case::new(name, Add, vec![(desc.clone(), Fill::Normal(1.0)), (desc, Fill::Normal(1.0))])
        };
        vec![
            case("odd", &[2, 3, 5, 7, 9]).differentiable(&[0, 1]),
            case("fours", &[2, 3, 5, 7, 2]),
            case("in place", &[2, 3, 5, 7, 9]).in_place(),
            case("fours in place", &[2, 3, 5, 7, 2]).in_place(),
            case("large", &[1, 16, 96, 128, 160]).bench_only(),
        ]
    },
};

impl Operator for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn activations(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("add", inputs, 2)?;
        if inputs[0] != inputs[1] {
            return Err(OpError::new("add", inputs, "shapes differ"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].len())
    }

    fn takes_place(&self) -> bool {
        true
    }

    fn lower(&self, _: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let n = outputs[0].len() / stored.elements();
        Lowered::one(
            Dispatch::new(stored.kernel("elementwise/add.wgsl", &outputs[0], caps))
                .bind("a", Slot::Input(0))
                .bind("b", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", n))
                .flat(n, FLAT),
        )
    }

    fn backward(
        &self,
        _: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![io.grad_outputs[0], io.grad_outputs[0]])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let data = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }
}

/// `scale`: y = factor * x.
#[derive(Debug, Clone)]
pub struct Scale {
    /// The factor.
    pub factor: f32,
}

/// Registry entry of [`Scale`].
pub static SCALE: OpDef = OpDef {
    name: "scale",
    summary: "y = factor * x",
    shaders: &["elementwise/scale.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize]| {
            Case::new(name, Scale { factor: -0.75 }, vec![(TensorDesc::f32(shape), Fill::Normal(2.0))])
        };
        vec![case("odd", &[1, 3, 5, 7, 9]).differentiable(&[0]), case("fours", &[1, 3, 5, 4, 9])]
    },
};

impl Operator for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("scale", inputs, 1)?;
        Ok(inputs.to_vec())
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        Stored::variants(inputs[0].len())
    }

    fn lower(&self, _: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let stored = Stored::of(variant);
        let n = outputs[0].len() / stored.elements();
        Lowered::one(
            Dispatch::new(stored.kernel("elementwise/scale.wgsl", &outputs[0], caps))
                .bind("x", Slot::Input(0))
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", n).f32("factor", self.factor))
                .flat(n, FLAT),
        )
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None]) };
        Ok(vec![Some(graph.apply(Box::new(self.clone()), &[dy])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let data = inputs[0].data.iter().map(|v| v * self.factor as f64).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }
}
