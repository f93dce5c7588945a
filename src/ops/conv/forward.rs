//! `conv3d` with one or two inputs.
//!
//! A second input stands for the second half of a channel concatenation: `conv3d(x1, x2, w)` equals
//! `conv3d(concat(x1, x2), w)` without the concatenated tensor, which may exceed a storage binding.

use super::forms::{Coop, SHADERS, direct_variants, lower_pass};
use super::grad_input::Conv3dGradInput;
use super::grad_weight::Conv3dGradWeight;
use super::pass::{Packing, Pass};
use super::window::{Window, conv_cost, for_each_tap, spatial};
use super::winograd;
use crate::gpu::{Caps, DeviceClass, Lowered, Slot};
use crate::ops::activation::Activation;
use crate::ops::reduction::SumChannels;
use crate::ops::{
    Case, Cost, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId, expect_ncdhw,
};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// `conv3d`: `y[n,co,o] = act(bias[co] + Σ x[n,ci,o·stride + k·dilation − pad] · weight[co,ci,k])`.
///
/// Inputs: x `[N, C1, D, H, W]`, with `two_inputs` x2 `[N, C2, D, H, W]`, weight `[c_out, C1 (+ C2), kd, kh,
/// kw]` (PyTorch's layout), with `bias` a vector `[c_out]`. Output `[N, c_out, OD, OH, OW]`.
#[derive(Debug, Clone)]
pub struct Conv3d {
    /// Stride, dilation and padding.
    pub window: Window,
    /// Whether a second input follows the first.
    pub two_inputs: bool,
    /// Whether a bias is the last input.
    pub bias: bool,
    /// Activation fused into the kernel. Inference only: its backward is refused.
    pub activation: Activation,
}

impl Conv3d {
    /// A plain convolution of one input.
    pub fn new(window: Window, bias: bool) -> Self {
        Self { window, two_inputs: false, bias, activation: Activation::None }
    }

    fn sources(&self) -> usize {
        1 + usize::from(self.two_inputs)
    }

    /// First channel of each source and number of channels of all.
    fn channels(&self, inputs: &[TensorDesc]) -> (Vec<usize>, usize) {
        let mut first = Vec::new();
        let mut total = 0;
        for x in &inputs[..self.sources()] {
            first.push(total);
            total += x.shape[1];
        }
        (first, total)
    }
}

/// Registry entry of [`Conv3d`].
pub static CONV3D: OpDef = OpDef {
    name: "conv3d",
    summary: "3D convolution of one or two inputs, fused bias and (leaky) ReLU",
    shaders: SHADERS.split_at(2).1,
    cases: conv3d_cases,
};

type ConvCase = (&'static str, [usize; 5], usize, usize, [usize; 3], Window, bool, Activation);

fn conv3d_cases() -> Vec<Case> {
    let same = Window::same;
    let table: Vec<ConvCase> = vec![
        ("odd sizes", [2, 5, 3, 6, 9], 0, 6, [3, 3, 3], same([3, 3, 3]), true, Activation::None),
        ("20 channels out", [1, 3, 4, 5, 7], 0, 20, [3, 3, 3], same([3, 3, 3]), true, Activation::None),
        (
            "wider than a tile of every kernel",
            [1, 3, 5, 5, 37],
            0,
            70,
            [3, 3, 3],
            same([3, 3, 3]),
            true,
            Activation::LeakyRelu(0.1),
        ),
        ("all extents 1", [1, 1, 1, 1, 1], 0, 1, [3, 3, 3], same([3, 3, 3]), true, Activation::None),
        ("pointwise", [2, 6, 3, 4, 5], 0, 7, [1, 1, 1], same([1, 1, 1]), true, Activation::None),
        ("two inputs", [2, 3, 4, 3, 6], 4, 9, [3, 3, 3], same([3, 3, 3]), true, Activation::None),
        ("many channels in", [1, 35, 3, 5, 6], 17, 12, [3, 3, 3], same([3, 3, 3]), true, Activation::Relu),
        ("even kernel pads after", [2, 4, 3, 5, 6], 0, 1, [1, 1, 2], same([1, 1, 2]), true, Activation::None),
        (
            "one channel out",
            [2, 3, 4, 5, 9],
            2,
            1,
            [3, 3, 3],
            same([3, 3, 3]),
            true,
            Activation::LeakyRelu(0.2),
        ),
        ("kernel 7 5 3", [1, 2, 5, 6, 7], 0, 3, [7, 5, 3], same([7, 5, 3]), false, Activation::None),
        (
            "stride 2",
            [2, 3, 7, 6, 9],
            0,
            5,
            [3, 3, 3],
            Window::symmetric([2; 3], [1; 3], [1; 3]),
            true,
            Activation::None,
        ),
        (
            "stride 2, kernel 7, one channel in",
            [1, 1, 9, 7, 21],
            0,
            18,
            [7; 3],
            Window::symmetric([2; 3], [1; 3], [3; 3]),
            false,
            Activation::None,
        ),
        (
            "stride 2, one tap",
            [2, 5, 5, 4, 11],
            0,
            9,
            [1; 3],
            Window::symmetric([2; 3], [1; 3], [0; 3]),
            false,
            Activation::Relu,
        ),
        (
            "dilation 5, two inputs",
            [1, 3, 7, 12, 13],
            2,
            5,
            [3; 3],
            Window::symmetric([1; 3], [5; 3], [5; 3]),
            true,
            Activation::None,
        ),
        (
            "stride and dilation by axis",
            [1, 2, 9, 8, 11],
            0,
            4,
            [3, 2, 3],
            Window::symmetric([1, 2, 3], [2, 1, 3], [2, 0, 1]),
            false,
            Activation::None,
        ),
        (
            "no padding",
            [1, 2, 4, 5, 6],
            0,
            3,
            [3, 3, 3],
            Window::symmetric([1; 3], [1; 3], [0; 3]),
            true,
            Activation::None,
        ),
        (
            "fused leaky relu, two inputs",
            [1, 2, 3, 4, 6],
            3,
            5,
            [3, 3, 3],
            same([3, 3, 3]),
            true,
            Activation::LeakyRelu(0.01),
        ),
    ];
    let build = |(name, shape, c2, c_out, kernel, window, bias, slope): ConvCase| {
        let op = Conv3d { window, two_inputs: c2 > 0, bias, activation: slope };
        let c_in = shape[1] + c2;
        let mut inputs = vec![(TensorDesc::f32(&shape), Fill::Normal(1.0))];
        if c2 > 0 {
            inputs.push((TensorDesc::f32(&[shape[0], c2, shape[2], shape[3], shape[4]]), Fill::Normal(1.0)));
        }
        inputs.push((TensorDesc::f32(&[c_out, c_in, kernel[0], kernel[1], kernel[2]]), Fill::Normal(0.3)));
        if bias {
            inputs.push((TensorDesc::f32(&[c_out]), Fill::Normal(1.0)));
        }
        let all: Vec<usize> = (0..inputs.len()).collect();
        let case = Case::new(name, op, inputs);
        if slope == Activation::None { case.differentiable(&all) } else { case }
    };
    let mut cases: Vec<Case> = table.into_iter().map(build).collect();
    for (name, shape, c2, c_out) in [
        ("1 to 16, 2 mm grid", [1, 1, 96, 128, 160], 0, 16),
        ("16+16 to 16, 2 mm grid", [1, 16, 96, 128, 160], 16, 16),
        ("64 to 64, 4 mm grid", [1, 64, 48, 64, 80], 0, 64),
        ("16+16 to 16, 4 mm grid", [1, 16, 48, 64, 64], 16, 16),
    ] {
        cases.push(
            build((name, shape, c2, c_out, [3; 3], same([3; 3]), false, Activation::None)).bench_only(),
        );
    }
    let (halved, window) = ([1, 21, 80, 80, 64], Window::symmetric([2; 3], [1; 3], [1; 3]));
    let strided = ("21 to 42, stride 2", halved, 0, 42, [3; 3], window, true, Activation::None);
    cases.push(build(strided).bench_only());
    let last = [1, 1, 2];
    let head = ("16 to 1, 2 mm grid", [1, 16, 96, 128, 160], 0, 1, last, same(last), true, Activation::None);
    cases.push(build(head).bench_only());
    cases
}

impl Operator for Conv3d {
    fn name(&self) -> &'static str {
        "conv3d"
    }

    fn activations(&self) -> usize {
        self.sources()
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let fail = |reason: String| OpError::new("conv3d", inputs, reason);
        let expected = self.sources() + 1 + usize::from(self.bias);
        if inputs.len() != expected {
            return Err(fail(format!("expects {expected} inputs, got {}", inputs.len())));
        }
        let x = expect_ncdhw("conv3d", inputs, 0)?;
        if self.two_inputs {
            let x2 = expect_ncdhw("conv3d", inputs, 1)?;
            if x2[0] != x[0] || x2[2..] != x[2..] {
                return Err(fail("the two inputs differ in batch or extents".into()));
            }
        }
        let w = expect_ncdhw("conv3d", inputs, self.sources())?;
        let (_, total) = self.channels(inputs);
        if w[1] != total {
            return Err(fail(format!("the weights read {} channels, the inputs have {total}", w[1])));
        }
        if self.bias && inputs[self.sources() + 1].shape != [w[0]] {
            return Err(fail(format!("the bias must have shape [{}]", w[0])));
        }
        if !self.window.is_legal() {
            return Err(fail("stride and dilation are 1 to 2^24, the padding at most that".into()));
        }
        let out = self
            .window
            .output(spatial(&x), spatial(&w))
            .ok_or_else(|| fail("the kernel exceeds the padded input".into()))?;
        Ok(vec![inputs[0].with_shape(&[x[0], w[0], out[0], out[1], out[2]])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        let weight = &inputs[self.sources()].shape;
        let kernel = spatial(weight);
        let output = self.window.output(spatial(&inputs[0].shape), kernel).unwrap_or_default();
        let mut variants =
            direct_variants(&self.window, kernel, [inputs[0].shape[1], weight[0]], output, caps);
        let coop = Coop::of(caps).filter(|coop| coop.takes(&self.window, kernel));
        if let (DType::F16, Some(_)) = (inputs[0].dtype, coop) {
            // Rounds of few channels multiply mostly zeros; and where matrices are computed on the CPU, they are slow.
            let filled = inputs[..self.sources()].iter().all(|x| x.shape[1] >= 8) && weight[0] >= 8;
            let first = filled && caps.class != DeviceClass::Software;
            variants.insert(if first { 0 } else { variants.len() - 1 }, "coop");
        }
        let sources = inputs[..self.sources()].iter();
        let y = self.infer(inputs).unwrap_or_default();
        winograd::retain_bindable(&mut variants, &sources.chain(&y).collect::<Vec<_>>(), caps);
        variants
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let mut lowered = Lowered::default();
        let sources = self.sources();
        let weight = &inputs[sources];
        let (first, total) = self.channels(inputs);
        let at_once = winograd::takes_both(variant, [total, weight.shape[0]], weight.shape[2]);
        let step = if at_once { sources } else { 1 };
        for source in (0..sources).step_by(step) {
            let last = source + step == sources;
            let packing = Packing {
                n_out: weight.shape[0],
                n_in: inputs[source..source + step].iter().map(|x| x.shape[1]).sum(),
                kernel: spatial(&weight.shape),
                row_channels: total,
                first: first[source],
                swap: false,
                flip: false,
            };
            lower_pass(
                &mut lowered,
                &Pass {
                    x: (Slot::Input(source), &inputs[source]),
                    x2: (step == 2).then(|| (Slot::Input(source + 1), &inputs[source + 1])),
                    y: (Slot::Output(0), &outputs[0]),
                    weight: (Slot::Input(sources), packing),
                    bias: (last && self.bias).then_some(Slot::Input(sources + 1)),
                    window: self.window,
                    pad: self.window.padding_before(),
                    negative_slope: if last { self.activation.negative_slope() } else { 1.0 },
                    accumulate: source > 0,
                },
                caps,
                variant,
            );
        }
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
            return Err(OpError::new(
                "conv3d",
                &descs,
                "a fused activation has no backward; use an operator of its own",
            ));
        }
        let sources = self.sources();
        let (first, _) = self.channels(&descs);
        for source in 0..sources {
            if io.needs[source] {
                let channels = first[source]..first[source] + descs[source].shape[1];
                let op =
                    Conv3dGradInput { window: self.window, input: spatial(&descs[source].shape), channels };
                grads[source] = Some(graph.apply(Box::new(op), &[dy, io.inputs[sources]])?[0]);
            }
        }
        if io.needs[sources] {
            let op = Conv3dGradWeight {
                window: self.window,
                two_inputs: self.two_inputs,
                kernel: spatial(&descs[sources].shape),
            };
            let mut inputs = io.inputs[..sources].to_vec();
            inputs.push(dy);
            grads[sources] = Some(graph.apply(Box::new(op), &inputs)?[0]);
        }
        if self.bias && io.needs[sources + 1] {
            grads[sources + 1] = Some(graph.apply(Box::new(SumChannels), &[dy])?[0]);
        }
        Ok(grads)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        let mut y = HostTensor::zeros(self.infer(&descs).expect("shapes were inferred before")[0].clone());
        let sources = self.sources();
        let (first, total) = self.channels(&descs);
        let w = inputs[sources];
        let kernel = spatial(&w.desc.shape);
        for (source, x) in inputs[..sources].iter().enumerate() {
            for_each_tap(
                &self.window,
                &x.desc.shape,
                &y.desc.shape.clone(),
                kernel,
                |n, i, o, tap, volumes| {
                    for co in 0..w.desc.shape[0] {
                        for ci in 0..x.desc.shape[1] {
                            let weight = w.data[(co * total + first[source] + ci) * volumes.taps + tap];
                            let value = x.data[(n * x.desc.shape[1] + ci) * volumes.input + i];
                            y.data[(n * w.desc.shape[0] + co) * volumes.output + o] += weight * value;
                        }
                    }
                },
            );
        }
        let volume = y.desc.voxels();
        for (ix, value) in y.data.iter_mut().enumerate() {
            if self.bias {
                *value += inputs[sources + 1].data[ix / volume % w.desc.shape[0]];
            }
            *value = self.activation.apply(*value);
        }
        vec![y]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let per_output: usize = inputs[self.sources()].shape[1..].iter().product();
        conv_cost(per_output * outputs[0].len(), inputs, outputs)
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[self.sources()].shape[1..].iter().product())
    }
}
