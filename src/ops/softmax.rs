//! Softmax over the channels and its gradient.

use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId,
    batch_pieces, expect_inputs, expect_ncdhw, sample_range,
};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// Relative error of one exponential: WGSL grants `exp` 3 + 2|x| ulp.
const EXP_EPSILON: f64 = 8.0 * f32::EPSILON as f64;

/// `softmax`: input x `[N, C, D, H, W]`; output, of the same shape, exp(x) divided by its sum over C.
#[derive(Debug, Clone)]
pub struct Softmax;

/// Registry entry of [`Softmax`].
pub static SOFTMAX: OpDef = OpDef {
    name: "softmax",
    summary: "softmax over the channels",
    shaders: &["softmax/softmax.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize], std: f32| {
            let inputs = vec![(TensorDesc::f32(shape), Fill::Normal(std))];
            Case::new(name, Softmax, inputs).differentiable(&[0])
        };
        vec![
            case("odd", &[2, 3, 5, 7, 9], 3.0),
            case("two channels of one voxel", &[3, 2, 1, 1, 1], 1.0),
            case("one channel", &[2, 1, 2, 3, 5], 1.0),
            case("beyond the range of exp", &[1, 5, 3, 4, 2], 200.0),
            case("two channels at 256^3", &[1, 2, 256, 256, 256], 3.0).bench_only(),
        ]
    },
};

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("softmax", inputs, 1)?;
        expect_ncdhw("softmax", inputs, 0)?;
        Ok(inputs.to_vec())
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let voxels = inputs[0].voxels();
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let n = piece.len() * voxels;
            lowered.push(
                Dispatch::new(KernelKey::new("softmax/softmax.wgsl"))
                    .bind_range("x", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("y", Slot::Output(0), sample_range(&outputs[0], &piece))
                    .params(
                        Params::new().u32("n", n).u32("voxels", voxels).u32("channels", inputs[0].shape[1]),
                    )
                    .flat(n, FLAT),
            );
        }
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None]) };
        Ok(vec![Some(graph.apply(Box::new(SoftmaxGrad), &[io.outputs[0], dy])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let x = inputs[0];
        let (channels, voxels) = (x.desc.shape[1], x.desc.voxels());
        let mut y = x.clone();
        for n in 0..x.desc.shape[0] {
            for v in 0..voxels {
                let at = |c: usize| (n * channels + c) * voxels + v;
                let largest = (0..channels).map(|c| x.data[at(c)]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..channels).map(|c| (x.data[at(c)] - largest).exp()).sum();
                for c in 0..channels {
                    y.data[at(c)] = (x.data[at(c)] - largest).exp() / sum;
                }
            }
        }
        vec![y]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 15.0 * n, bytes: 8.0 * n }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision { reduction: inputs[0].shape[1], epsilon: EXP_EPSILON }
    }
}

/// Gradient of [`Softmax`]. Inputs: its output y and the gradient by it, `[N, C, D, H, W]`. Output: the
/// gradient by the input.
#[derive(Debug, Clone)]
pub struct SoftmaxGrad;

/// Registry entry of [`SoftmaxGrad`].
pub static SOFTMAX_GRAD: OpDef = OpDef {
    name: "softmax_grad",
    summary: "gradient of softmax, from its output",
    shaders: &["softmax/softmax_grad.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize]| {
            let desc = TensorDesc::f32(shape);
            let inputs = vec![(desc.clone(), Fill::Uniform(0.0, 1.0)), (desc, Fill::Normal(1.0))];
            Case::new(name, SoftmaxGrad, inputs)
        };
        vec![
            case("odd", &[2, 3, 5, 7, 9]),
            case("two channels of one voxel", &[3, 2, 1, 1, 1]),
            case("two channels at 2 mm", &[1, 2, 96, 128, 160]).bench_only(),
        ]
    },
};

impl Operator for SoftmaxGrad {
    fn name(&self) -> &'static str {
        "softmax_grad"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("softmax_grad", inputs, 2)?;
        expect_ncdhw("softmax_grad", inputs, 0)?;
        if inputs[0] != inputs[1] {
            return Err(OpError::new("softmax_grad", inputs, "shapes differ"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let voxels = inputs[0].voxels();
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let n = piece.len() * voxels;
            lowered.push(
                Dispatch::new(KernelKey::new("softmax/softmax_grad.wgsl"))
                    .bind_range("y", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("dy", Slot::Input(1), sample_range(&inputs[1], &piece))
                    .bind_range("dx", Slot::Output(0), sample_range(&outputs[0], &piece))
                    .params(
                        Params::new().u32("n", n).u32("voxels", voxels).u32("channels", inputs[0].shape[1]),
                    )
                    .flat(n, FLAT),
            );
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [y, dy] = [inputs[0], inputs[1]];
        let (channels, voxels) = (y.desc.shape[1], y.desc.voxels());
        let mut dx = y.clone();
        for n in 0..y.desc.shape[0] {
            for v in 0..voxels {
                let at = |c: usize| (n * channels + c) * voxels + v;
                let dot: f64 = (0..channels).map(|k| y.data[at(k)] * dy.data[at(k)]).sum();
                for c in 0..channels {
                    dx.data[at(c)] = y.data[at(c)] * (dy.data[at(c)] - dot);
                }
            }
        }
        vec![dx]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 4.0 * n, bytes: 12.0 * n }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[0].shape[1] + 1)
    }
}
