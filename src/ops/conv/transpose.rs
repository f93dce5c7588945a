//! `conv_transpose3d`: the adjoint of a strided convolution, used for learned upsampling.

use super::forms::{SHADERS, lower_transposed, transposed_variants};
use super::forward::Conv3d;
use super::grad_weight::Conv3dGradWeight;
use super::pass::{Packing, Pass};
use super::window::{Window, conv_cost, for_each_tap, spatial};
use super::winograd;
use crate::gpu::{Caps, Lowered, Slot};
use crate::ops::activation::Activation;
use crate::ops::reduction::SumChannels;
use crate::ops::{
    Case, Cost, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId, expect_inputs,
    expect_ncdhw,
};
use crate::tensor::{HostTensor, TensorDesc};

/// `conv_transpose3d`:
/// `y[n,co,o] = act(bias[co] + Σ_{i·stride + k·dilation − crop = o} x[n,ci,i] · weight[ci,co,k])`.
///
/// Inputs: x `[N, c_in, D, H, W]`, weight `[c_in, c_out, kd, kh, kw]` (PyTorch's layout), with `bias` a vector
/// `[c_out]`. Output extent of an axis: (D − 1)·stride + dilation·(k − 1) + 1 − crop before − crop after.
/// `window.padding` is what is cropped; Keras' "same" for kernel 3 and stride 2 crops `[0, 1]`.
#[derive(Debug, Clone)]
pub struct ConvTranspose3d {
    /// Stride, dilation and cropping.
    pub window: Window,
    /// Whether a bias is the last input.
    pub bias: bool,
    /// Activation fused into the kernel. Inference only: its backward is refused.
    pub activation: Activation,
}

impl ConvTranspose3d {
    /// Stride 2, output twice the input: kernel 2, or kernel 3 with the last plane cropped as Keras does.
    pub fn double(kernel: usize, bias: bool) -> Self {
        let window = Window { stride: [2; 3], dilation: [1; 3], padding: [[0, kernel - 2]; 3] };
        Self { window, bias, activation: Activation::None }
    }

    fn output(&self, input: [usize; 3], kernel: [usize; 3]) -> Option<[usize; 3]> {
        let mut out = [0; 3];
        for a in 0..3 {
            let full = (input[a] - 1) * self.window.stride[a] + self.window.dilation[a] * (kernel[a] - 1) + 1;
            let crop: usize = self.window.padding[a].iter().sum();
            out[a] = full.checked_sub(crop).filter(|&n| n > 0)?;
        }
        Some(out)
    }
}

/// Registry entry of [`ConvTranspose3d`].
pub static CONV_TRANSPOSE3D: OpDef = OpDef {
    name: "conv_transpose3d",
    summary: "transposed 3D convolution (learned upsampling)",
    shaders: SHADERS.split_at(SHADERS.len() - 2).0,
    cases: || {
        let case = |name: &str, x: [usize; 5], c_out, kernel: [usize; 3], op: ConvTranspose3d| {
            let mut inputs = vec![
                (TensorDesc::f32(&x), Fill::Normal(1.0)),
                (TensorDesc::f32(&[x[1], c_out, kernel[0], kernel[1], kernel[2]]), Fill::Normal(0.3)),
            ];
            if op.bias {
                inputs.push((TensorDesc::f32(&[c_out]), Fill::Normal(1.0)));
            }
            let all: Vec<usize> = (0..inputs.len()).collect();
            let case = Case::new(name, op.clone(), inputs);
            if op.activation == Activation::None { case.differentiable(&all) } else { case }
        };
        let general = |stride, dilation, padding| ConvTranspose3d {
            window: Window::symmetric(stride, dilation, padding),
            bias: true,
            activation: Activation::None,
        };
        vec![
            case("kernel 3, Keras same", [2, 5, 3, 4, 5], 6, [3; 3], ConvTranspose3d::double(3, true)),
            case("kernel 3, nothing cropped", [1, 2, 1, 3, 2], 5, [3; 3], general([2; 3], [1; 3], [0; 3])),
            case("kernel 2", [2, 3, 2, 3, 5], 7, [2; 3], ConvTranspose3d::double(2, true)),
            case("kernel 3, padding 1", [1, 2, 3, 2, 4], 3, [3; 3], general([2; 3], [1; 3], [1; 3])),
            case(
                "kernel 3, first plane cropped",
                [2, 3, 3, 2, 5],
                6,
                [3; 3],
                ConvTranspose3d {
                    window: Window { padding: [[1, 0]; 3], ..general([2; 3], [1; 3], [0; 3]).window },
                    ..general([2; 3], [1; 3], [0; 3])
                },
            ),
            case("stride 1", [2, 5, 3, 4, 6], 9, [3; 3], general([1; 3], [1; 3], [1; 3])),
            case("stride 1 by axis", [1, 2, 3, 4, 3], 3, [2, 3, 1], general([1; 3], [1, 2, 1], [1, 0, 0])),
            case("by axis", [1, 2, 3, 2, 3], 3, [2, 3, 1], general([3, 1, 2], [1, 2, 1], [1, 0, 0])),
            case(
                "fused relu",
                [1, 3, 2, 3, 2],
                4,
                [3; 3],
                ConvTranspose3d { activation: Activation::Relu, ..ConvTranspose3d::double(3, true) },
            ),
            case(
                "32 to 16, to the 2 mm grid",
                [1, 32, 48, 64, 80],
                16,
                [3; 3],
                ConvTranspose3d::double(3, false),
            )
            .bench_only(),
        ]
    },
};

impl Operator for ConvTranspose3d {
    fn name(&self) -> &'static str {
        "conv_transpose3d"
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("conv_transpose3d", inputs, 2 + usize::from(self.bias))?;
        let fail = |reason: String| OpError::new("conv_transpose3d", inputs, reason);
        let x = expect_ncdhw("conv_transpose3d", inputs, 0)?;
        let w = expect_ncdhw("conv_transpose3d", inputs, 1)?;
        if w[0] != x[1] {
            return Err(fail(format!("the weights read {} channels, the input has {}", w[0], x[1])));
        }
        if self.bias && inputs[2].shape != [w[1]] {
            return Err(fail(format!("the bias must have shape [{}]", w[1])));
        }
        if !self.window.is_legal() {
            return Err(fail("stride and dilation are 1 to 2^24, the padding at most that".into()));
        }
        let out =
            self.output(spatial(&x), spatial(&w)).ok_or_else(|| fail("cropping leaves nothing".into()))?;
        Ok(vec![inputs[0].with_shape(&[x[0], w[1], out[0], out[1], out[2]])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        let [weight_in, weight_out] = [inputs[1].shape[0], inputs[1].shape[1]];
        let kernel = spatial(&inputs[1].shape);
        let output = self.output(spatial(&inputs[0].shape), kernel).unwrap_or_default();
        let mut variants = transposed_variants(&self.window, kernel, [weight_in, weight_out], output, caps);
        let y = self.infer(inputs).unwrap_or_default();
        winograd::retain_bindable(&mut variants, &inputs[..1].iter().chain(&y).collect::<Vec<_>>(), caps);
        variants
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let mut lowered = Lowered::default();
        let (c_in, c_out) = (inputs[1].shape[0], inputs[1].shape[1]);
        let packing = Packing {
            n_out: c_out,
            n_in: c_in,
            kernel: spatial(&inputs[1].shape),
            row_channels: c_out,
            first: 0,
            swap: true,
            flip: false,
        };
        let pass = Pass {
            x: (Slot::Input(0), &inputs[0]),
            x2: None,
            y: (Slot::Output(0), &outputs[0]),
            weight: (Slot::Input(1), packing),
            bias: self.bias.then_some(Slot::Input(2)),
            window: self.window,
            pad: self.window.padding_before(),
            negative_slope: self.activation.negative_slope(),
            accumulate: false,
        };
        lower_transposed(&mut lowered, pass, caps, variant);
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let mut grads = vec![None; io.inputs.len()];
        let Some(dy) = io.grad_outputs[0] else { return Ok(grads) };
        let descs: Vec<TensorDesc> = io.inputs.iter().map(|&v| graph.desc(v).clone()).collect();
        if self.activation != Activation::None {
            let reason = "a fused activation has no backward; use an operator of its own";
            return Err(OpError::new("conv_transpose3d", &descs, reason));
        }
        // The adjoint is the convolution with the same window and weights: [c_in, c_out] reads as [out, in].
        if io.needs[0] {
            let op = Conv3d::new(self.window, false);
            grads[0] = Some(graph.apply(Box::new(op), &[dy, io.inputs[1]])?[0]);
        }
        if io.needs[1] {
            let kernel = spatial(&descs[1].shape);
            let op = Conv3dGradWeight { window: self.window, two_inputs: false, kernel };
            grads[1] = Some(graph.apply(Box::new(op), &[dy, io.inputs[0]])?[0]);
        }
        if self.bias && io.needs[2] {
            grads[2] = Some(graph.apply(Box::new(SumChannels), &[dy])?[0]);
        }
        Ok(grads)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        let (x, w) = (inputs[0], inputs[1]);
        let mut y = HostTensor::zeros(self.infer(&descs).expect("shapes were inferred before")[0].clone());
        let (c_in, c_out) = (w.desc.shape[0], w.desc.shape[1]);
        let shape = y.desc.shape.clone();
        // Taps of the convolution whose adjoint this is: its input is y, its output is x.
        for_each_tap(&self.window, &shape, &x.desc.shape, spatial(&w.desc.shape), |n, o, i, tap, volumes| {
            for ci in 0..c_in {
                for co in 0..c_out {
                    y.data[(n * c_out + co) * volumes.input + o] += x.data
                        [(n * c_in + ci) * volumes.output + i]
                        * w.data[(ci * c_out + co) * volumes.taps + tap];
                }
            }
        });
        let volume = y.desc.voxels();
        for (ix, value) in y.data.iter_mut().enumerate() {
            if self.bias {
                *value += inputs[2].data[ix / volume % c_out];
            }
            *value = self.activation.apply(*value);
        }
        vec![y]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let per_input: usize = inputs[1].shape[1..].iter().product();
        conv_cost(per_input * inputs[0].len(), inputs, outputs)
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[1].shape[0] * inputs[1].shape[2..].iter().product::<usize>())
    }
}
