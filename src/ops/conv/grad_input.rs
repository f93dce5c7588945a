//! `conv3d_grad_input`: the gradient of a convolution by its input.

use std::ops::Range;

use super::forms::{SHADERS, lower_transposed, transposed_variants};
use super::pass::{Packing, Pass};
use super::window::{Window, conv_cost, for_each_tap, spatial};
use super::winograd;
use crate::gpu::{Caps, Lowered, Slot};
use crate::ops::{Case, Cost, Fill, OpDef, OpError, Operator, Precision, expect_inputs, expect_ncdhw};
use crate::tensor::{HostTensor, TensorDesc};

/// `conv3d_grad_input`: dx from dy `[N, c_out, OD, OH, OW]` and weight `[c_out, C, kd, kh, kw]`, for the
/// channels `channels` of the convolution's (concatenated) input: `[N, channels, D, H, W]`.
#[derive(Debug, Clone)]
pub struct Conv3dGradInput {
    /// The convolution's window.
    pub window: Window,
    /// Extents of the convolution's input.
    pub input: [usize; 3],
    /// Channels of the concatenated input that this gradient is for.
    pub channels: Range<usize>,
}

/// Registry entry of [`Conv3dGradInput`].
pub static CONV3D_GRAD_INPUT: OpDef = OpDef {
    name: "conv3d_grad_input",
    summary: "gradient of conv3d by its input",
    shaders: SHADERS.split_at(SHADERS.len() - 2).0,
    cases: || {
        let case = |name: &str, window: Window, input, dy: [usize; 5], weight: [usize; 5], channels| {
            Case::new(
                name,
                Conv3dGradInput { window, input, channels },
                vec![
                    (TensorDesc::f32(&dy), Fill::Normal(1.0)),
                    (TensorDesc::f32(&weight), Fill::Normal(0.3)),
                ],
            )
        };
        let same = Window::same([3; 3]);
        let strided = Window::symmetric([2; 3], [1; 3], [1; 3]);
        let dilated = Window::symmetric([1; 3], [2; 3], [2; 3]);
        vec![
            case("odd sizes", same, [3, 5, 7], [2, 4, 3, 5, 7], [4, 6, 3, 3, 3], 0..6),
            case("second of two inputs", same, [3, 2, 5], [1, 4, 3, 2, 5], [4, 9, 3, 3, 3], 4..9),
            case("even kernel", Window::same([1, 1, 2]), [3, 5, 6], [2, 1, 3, 5, 6], [1, 4, 1, 1, 2], 0..4),
            case("stride 2", strided, [7, 6, 9], [2, 3, 4, 3, 5], [3, 5, 3, 3, 3], 0..5),
            case("stride 2, even extents", strided, [8, 6, 10], [1, 3, 4, 3, 5], [3, 9, 3, 3, 3], 2..9),
            case("dilation 2", dilated, [5, 6, 7], [1, 3, 5, 6, 7], [3, 2, 3, 3, 3], 0..2),
            case("32 to 32, 4 mm grid", same, [48, 64, 64], [1, 32, 48, 64, 64], [32, 32, 3, 3, 3], 0..32)
                .bench_only(),
        ]
    },
};

impl Operator for Conv3dGradInput {
    fn name(&self) -> &'static str {
        "conv3d_grad_input"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("conv3d_grad_input", inputs, 2)?;
        let fail = |reason: &str| OpError::new("conv3d_grad_input", inputs, reason);
        let dy = expect_ncdhw("conv3d_grad_input", inputs, 0)?;
        let w = expect_ncdhw("conv3d_grad_input", inputs, 1)?;
        if dy[1] != w[0] || self.channels.end > w[1] || self.channels.is_empty() {
            return Err(fail("channels of dy, weight and attribute disagree"));
        }
        if self.window.output(self.input, spatial(&w)) != Some(spatial(&dy)) {
            return Err(fail("dy does not have the extents of the convolution's output"));
        }
        let [d, h, w] = self.input;
        Ok(vec![TensorDesc::f32(&[dy[0], self.channels.len(), d, h, w])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        let channels = [inputs[0].shape[1], self.channels.len()];
        let kernel = spatial(&inputs[1].shape);
        let mut variants = transposed_variants(&self.window, kernel, channels, self.input, caps);
        let dx = self.infer(inputs).unwrap_or_default();
        winograd::retain_bindable(&mut variants, &inputs[..1].iter().chain(&dx).collect::<Vec<_>>(), caps);
        variants
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let mut lowered = Lowered::default();
        let packing = Packing {
            n_out: self.channels.len(),
            n_in: inputs[0].shape[1],
            kernel: spatial(&inputs[1].shape),
            row_channels: inputs[1].shape[1],
            first: self.channels.start,
            swap: true,
            flip: false,
        };
        let pass = Pass {
            x: (Slot::Input(0), &inputs[0]),
            x2: None,
            y: (Slot::Output(0), &outputs[0]),
            weight: (Slot::Input(1), packing),
            bias: None,
            window: self.window,
            pad: self.window.padding_before(),
            negative_slope: 1.0,
            accumulate: false,
        };
        lower_transposed(&mut lowered, pass, caps, variant);
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (dy, w) = (inputs[0], inputs[1]);
        let [d, h, width] = self.input;
        let count = self.channels.len();
        let mut dx = HostTensor::zeros(TensorDesc::f32(&[dy.desc.shape[0], count, d, h, width]));
        let shape = dx.desc.shape.clone();
        let kernel = spatial(&w.desc.shape);
        for_each_tap(&self.window, &shape, &dy.desc.shape, kernel, |n, i, o, tap, volumes| {
            for co in 0..w.desc.shape[0] {
                for (c, ci) in self.channels.clone().enumerate() {
                    let weight = w.data[(co * w.desc.shape[1] + ci) * volumes.taps + tap];
                    dx.data[(n * count + c) * volumes.input + i] +=
                        weight * dy.data[(n * w.desc.shape[0] + co) * volumes.output + o];
                }
            }
        });
        vec![dx]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let taps: usize = inputs[1].shape[2..].iter().product();
        conv_cost(inputs[0].len() * self.channels.len() * taps, inputs, outputs)
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[0].shape[1] * inputs[1].shape[2..].iter().product::<usize>())
    }
}
