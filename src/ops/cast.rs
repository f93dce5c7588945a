//! `cast`: another element type.

use super::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, batch_pieces, expect_inputs, sample_range};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// `cast`: y = x as f32 or f16, rounded to a neighbouring number. No gradient flows through it: half precision is
/// for inference.
///
/// Input: x of any rank, f32 or f16. Output: y of the same shape. Magnitudes above 65,504 have no f16.
#[derive(Debug, Clone)]
pub struct Cast {
    /// Element type of the output: f32 or f16.
    pub to: DType,
}

const CAST_SHADER: &str = "elementwise/cast.wgsl";

/// Registry entry of [`Cast`].
pub static CAST: OpDef = OpDef {
    name: "cast",
    summary: "the same values as f32 or f16",
    shaders: &[CAST_SHADER],
    cases: || {
        let case = |name: &str, to: DType, shape: &[usize]| {
            Case::new(name, Cast { to }, vec![(TensorDesc::f32(shape), Fill::Normal(2.0))])
        };
        vec![
            case("odd, to f16", DType::F16, &[1, 3, 5, 7, 9]),
            case("odd, to f32", DType::F32, &[3, 1, 5, 7, 9]),
            case("one element, to f16", DType::F16, &[1]),
            case("large, to f16", DType::F16, &[1, 16, 96, 128, 160]).bench_only(),
        ]
    },
};

impl Operator for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("cast", inputs, 1)?;
        if [self.to, inputs[0].dtype].contains(&DType::U32) {
            return Err(OpError::new(
                "cast",
                inputs,
                format!("to {} is between f32 and f16", self.to.name()),
            ));
        }
        if inputs[0].is_empty() {
            return Err(OpError::new("cast", inputs, "empty tensor"));
        }
        Ok(vec![TensorDesc { dtype: self.to, ..inputs[0].clone() }])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let (x, y) = (&inputs[0], &outputs[0]);
        let (from, to) = (x.dtype == DType::F16, y.dtype == DType::F16);
        let key = KernelKey::new(CAST_SHADER)
            .define("F16", (from || to).into())
            .define("FROM_F16", from.into())
            .define("TO_F16", to.into());
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[x, y], caps) {
            let n = piece.len() * x.len() / x.shape[0];
            lowered.push(
                Dispatch::new(key.clone())
                    .bind_range("x", Slot::Input(0), sample_range(x, &piece))
                    .bind_range("y", Slot::Output(0), sample_range(y, &piece))
                    .params(Params::new().u32("n", n))
                    .flat(n, FLAT),
            );
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let desc = TensorDesc { dtype: self.to, ..inputs[0].desc.clone() };
        vec![HostTensor::new(desc, inputs[0].data.clone())]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        Cost { flops: 0.0, bytes: (inputs[0].bytes() + outputs[0].bytes()) as f64 }
    }
}
