//! `conv3d_grad_weight`: the gradient of a convolution by its weights.

use super::pass::{
    WINOGRAD_HW_CORRELATE, WINOGRAD_HW_EXPAND, WINOGRAD_HW_INPUT, WINOGRAD_HW_WEIGHT, shape_params,
    window_params,
};
use super::window::{Window, conv_cost, for_each_tap, spatial};
use super::winograd::{self, WINOGRAD_HW};
use crate::gpu::{Caps, DeviceClass, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::reduction::{SUM_CHUNKS, sum_chunks};
use crate::ops::{
    Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, batch_pieces, expect_inputs, expect_ncdhw,
    sample_range,
};
use crate::tensor::{HostTensor, TensorDesc};

const CHANNELS_LAST: &str = "conv3d/channels_last.wgsl";
const GRAD_WEIGHT: &str = "conv3d/grad_weight.wgsl";
const GRAD_WEIGHT_NAIVE: &str = "conv3d/grad_weight_naive.wgsl";

/// `conv3d_grad_weight`: dweight `[c_out, C1 (+ C2), kd, kh, kw]` from x (and x2) and dy.
#[derive(Debug, Clone)]
pub struct Conv3dGradWeight {
    /// The convolution's window.
    pub window: Window,
    /// Whether a second input follows the first.
    pub two_inputs: bool,
    /// Extents of the kernel.
    pub kernel: [usize; 3],
}

/// Registry entry of [`Conv3dGradWeight`].
pub static CONV3D_GRAD_WEIGHT: OpDef = OpDef {
    name: "conv3d_grad_weight",
    summary: "gradient of conv3d by its weights; deterministic split reduction",
    shaders: &[
        CHANNELS_LAST,
        GRAD_WEIGHT,
        GRAD_WEIGHT_NAIVE,
        SUM_CHUNKS,
        WINOGRAD_HW_INPUT,
        WINOGRAD_HW_EXPAND,
        WINOGRAD_HW_CORRELATE,
        WINOGRAD_HW_WEIGHT,
    ],
    cases: || {
        let case = |name: &str, window: Window, kernel, x: [usize; 5], c2: usize, dy: [usize; 5]| {
            let op = Conv3dGradWeight { window, two_inputs: c2 > 0, kernel };
            let mut inputs = vec![(TensorDesc::f32(&x), Fill::Normal(1.0))];
            if c2 > 0 {
                inputs.push((TensorDesc::f32(&[x[0], c2, x[2], x[3], x[4]]), Fill::Normal(1.0)));
            }
            inputs.push((TensorDesc::f32(&dy), Fill::Normal(1.0)));
            Case::new(name, op, inputs)
        };
        let same = Window::same([3; 3]);
        let strided = Window::symmetric([2; 3], [1; 3], [1; 3]);
        let mixed = Window::symmetric([1, 2, 1], [2, 1, 1], [2, 1, 0]);
        vec![
            case("odd sizes", same, [3; 3], [2, 5, 3, 6, 9], 0, [2, 6, 3, 6, 9]),
            case("18 channels out", same, [3; 3], [1, 3, 4, 5, 2], 0, [1, 18, 4, 5, 2]),
            case("rows of 8", same, [3; 3], [1, 2, 2, 3, 8], 0, [1, 9, 2, 3, 8]),
            case("width 1", same, [3; 3], [1, 2, 3, 4, 1], 0, [1, 3, 3, 4, 1]),
            case("two inputs", same, [3; 3], [1, 3, 4, 2, 5], 6, [1, 4, 4, 2, 5]),
            case("pointwise", Window::same([1; 3]), [1; 3], [2, 7, 3, 4, 5], 0, [2, 5, 3, 4, 5]),
            case("even kernel", Window::same([1, 1, 2]), [1, 1, 2], [2, 4, 3, 5, 6], 0, [2, 1, 3, 5, 6]),
            case("stride 2", strided, [3; 3], [2, 3, 7, 6, 9], 0, [2, 5, 4, 3, 5]),
            case("stride and dilation", mixed, [3, 3, 3], [1, 2, 5, 7, 6], 0, [1, 3, 5, 4, 4]),
            case("32 to 32, 4 mm grid", same, [3; 3], [1, 32, 48, 64, 64], 0, [1, 32, 48, 64, 64])
                .bench_only(),
        ]
    },
};

/// Largest size of the partial sums, in bytes.
const MAX_PARTIAL_BYTES: usize = 32 << 20;

/// Vectors of 4 output channels that an invocation of `split` sums at once.
fn groups_of(c_out: usize) -> usize {
    [1, 2, 4][usize::from(c_out > 4) + usize::from(c_out > 8)]
}

impl Conv3dGradWeight {
    fn sources(&self) -> usize {
        1 + usize::from(self.two_inputs)
    }

    fn geometry(&self, x: &TensorDesc, dy: &TensorDesc) -> Params {
        let [kd, kh, kw] = self.kernel;
        let params = shape_params(x.shape[1], dy.shape[1], spatial(&x.shape), spatial(&dy.shape));
        window_params(params, &self.window, self.window.padding_before())
            .u32("kd", kd)
            .u32("kh", kh)
            .u32("kw", kw)
    }

    /// Whether a binding holds the copies that `split` makes, their channels last and filled up to whole vectors.
    fn split_fits(&self, inputs: &[TensorDesc], caps: &Caps) -> bool {
        let samples = batch_pieces(&inputs.iter().collect::<Vec<_>>(), caps)[0].len();
        let (x, dy) = inputs.split_at(self.sources());
        let of_dy = dy[0].shape[1].div_ceil(4 * groups_of(dy[0].shape[1])) * groups_of(dy[0].shape[1]);
        let x = x.iter().map(|x| (x, x.shape[1].div_ceil(4)));
        x.chain([(&dy[0], of_dy)])
            .all(|(tensor, quads)| (samples * tensor.voxels() * quads) as u64 * 16 <= caps.max_binding)
    }

    fn lower_split(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps) -> Lowered {
        let mut lowered = Lowered::default();
        let sources = self.sources();
        let dy = &inputs[sources];
        let c_out = dy.shape[1];
        let row_channels = outputs[0].shape[1];
        let weights = outputs[0].len();
        let pieces = {
            let tensors: Vec<&TensorDesc> = inputs.iter().collect();
            batch_pieces(&tensors, caps)
        };
        let groups = groups_of(c_out);
        let channel_tiles = c_out.div_ceil(4 * groups);
        let slide = self.window.is_dense() && self.kernel[2] == 3;
        // Enough chunks to fill the device, few enough that the partial sums stay small.
        let rows = pieces[0].len() * dy.shape[2] * dy.shape[3];
        let lanes = row_channels * self.kernel[0] * self.kernel[1];
        let wanted = match caps.class {
            DeviceClass::Software => 64,
            _ => 2048,
        };
        let chunks = (wanted / (channel_tiles * lanes.div_ceil(FLAT)).max(1))
            .min(MAX_PARTIAL_BYTES / (weights * 4 * pieces.len()))
            .clamp(1, rows);
        let rows_per_chunk = rows.div_ceil(chunks);
        let chunks = rows.div_ceil(rows_per_chunk);
        let sums = lowered.scratch((weights * chunks * pieces.len()) as u64 * 4);
        let transposed_bytes =
            |x: &TensorDesc, quads: usize| (pieces[0].len() * x.voxels() * quads) as u64 * 16;
        let dy_quads = channel_tiles * groups;
        let x_quads = |source: usize| inputs[source].shape[1].div_ceil(4);
        let dy_last = lowered.scratch(transposed_bytes(dy, dy_quads));
        let x_last: Vec<Slot> =
            (0..sources).map(|s| lowered.scratch(transposed_bytes(&inputs[s], x_quads(s)))).collect();
        // A processor's compiler spills what it unrolls.
        let steps: &[usize] = if caps.class == DeviceClass::Software { &[1] } else { &[4, 2, 1] };
        let step = steps.iter().copied().find(|&step| dy.shape[4].is_multiple_of(step));
        let step = step.expect("every extent is a multiple of 1");
        for (ix, piece) in pieces.iter().enumerate() {
            let mut transpose = |slot: Slot, desc: &TensorDesc, quads: usize, to: Slot| {
                let params = Params::new()
                    .u32("channels", desc.shape[1])
                    .u32("volume", desc.voxels())
                    .u32("quads", quads);
                let mut dispatch = Dispatch::new(KernelKey::new(CHANNELS_LAST))
                    .bind_range("x", slot, sample_range(desc, piece))
                    .bind("y", to)
                    .params(params)
                    .flat(desc.voxels(), FLAT);
                dispatch = dispatch.layers(piece.len() * quads.div_ceil(4));
                lowered.push(dispatch);
            };
            transpose(Slot::Input(sources), dy, dy_quads, dy_last);
            for (source, &to) in x_last.iter().enumerate() {
                transpose(Slot::Input(source), &inputs[source], x_quads(source), to);
            }
            let mut first_channel = 0;
            for (source, &from) in x_last.iter().enumerate() {
                let x = &inputs[source];
                let pairs = x.shape[1] * self.kernel[0] * self.kernel[1];
                let params = self
                    .geometry(x, dy)
                    .u32("batch", piece.len())
                    .u32("rows_per_chunk", rows_per_chunk)
                    .u32("first_chunk", ix * chunks)
                    .u32("row_channels", row_channels)
                    .u32("first_channel", first_channel)
                    .u32("weights", weights);
                let key = KernelKey::new(GRAD_WEIGHT)
                    .count("GROUPS", groups)
                    .define("WIDE2", (groups >= 2).into())
                    .define("WIDE4", (groups >= 4).into())
                    .define("SLIDE", slide.into())
                    .count("STEP", step);
                lowered.push(
                    Dispatch::new(key)
                        .bind("x", from)
                        .bind("dy", dy_last)
                        .bind("sums", sums)
                        .params(params)
                        .grid([pairs.div_ceil(FLAT), channel_tiles, chunks]),
                );
                first_channel += x.shape[1];
            }
        }
        lowered.push(sum_chunks(sums, Slot::Output(0), [chunks * pieces.len(), weights]));
        lowered
    }

    /// What was measured on which adapter stands in docs/kernels.md.
    fn prefers_winograd(&self, inputs: &[TensorDesc], caps: &Caps) -> bool {
        let dy = &inputs[self.sources()];
        // A lane takes 4 channels: 16 of them leave the wider vectors of AVX-512 mostly empty.
        let fewest = if caps.lanes().is_some_and(|lanes| lanes <= 8) { 16 } else { 32 };
        caps.class == DeviceClass::Software
            && dy.shape[1].min(inputs[0].shape[1]) >= fewest
            && winograd::windows(spatial(&dy.shape)) >= 128
    }

    fn lower_winograd(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps) -> Lowered {
        let mut lowered = Lowered::default();
        let sources = self.sources();
        let pad = self.window.padding_before();
        let mut first = 0;
        for (source, x) in inputs[..sources].iter().enumerate() {
            winograd::lower_grad_weight(
                &mut lowered,
                (Slot::Input(source), x),
                (Slot::Input(sources), &inputs[sources]),
                (Slot::Output(0), outputs[0].shape[1], first),
                (self.kernel[0], pad),
                caps,
            );
            first += x.shape[1];
        }
        lowered
    }

    fn lower_naive(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps) -> Lowered {
        let mut lowered = Lowered::default();
        let sources = self.sources();
        let dy = &inputs[sources];
        let mut first_channel = 0;
        for (source, x) in inputs[..sources].iter().enumerate() {
            for (ix, piece) in batch_pieces(&[x, dy], caps).iter().enumerate() {
                let params = self
                    .geometry(x, dy)
                    .u32("batch", piece.len())
                    .u32("row_channels", outputs[0].shape[1])
                    .u32("first_channel", first_channel);
                let weights = dy.shape[1] * x.shape[1] * self.kernel.iter().product::<usize>();
                lowered.push(
                    Dispatch::new(KernelKey::new(GRAD_WEIGHT_NAIVE).define("ACCUMULATE", (ix > 0).into()))
                        .bind_range("x", Slot::Input(source), sample_range(x, piece))
                        .bind_range("dy", Slot::Input(sources), sample_range(dy, piece))
                        .bind("dweight", Slot::Output(0))
                        .params(params)
                        .flat(weights, FLAT),
                );
            }
            first_channel += x.shape[1];
        }
        lowered
    }
}

impl Operator for Conv3dGradWeight {
    fn name(&self) -> &'static str {
        "conv3d_grad_weight"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let sources = self.sources();
        expect_inputs("conv3d_grad_weight", inputs, sources + 1)?;
        let fail = |reason: &str| OpError::new("conv3d_grad_weight", inputs, reason);
        let x = expect_ncdhw("conv3d_grad_weight", inputs, 0)?;
        let dy = expect_ncdhw("conv3d_grad_weight", inputs, sources)?;
        let mut c_in = x[1];
        if self.two_inputs {
            let x2 = expect_ncdhw("conv3d_grad_weight", inputs, 1)?;
            if x2[0] != x[0] || x2[2..] != x[2..] {
                return Err(fail("the two inputs differ in batch or extents"));
            }
            c_in += x2[1];
        }
        if dy[0] != x[0] || self.window.output(spatial(&x), self.kernel) != Some(spatial(&dy)) {
            return Err(fail("dy does not have the extents of the convolution's output"));
        }
        let [kd, kh, kw] = self.kernel;
        Ok(vec![TensorDesc::f32(&[dy[1], c_in, kd, kh, kw])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        let mut variants = vec!["naive"];
        if self.split_fits(inputs, caps) {
            variants.insert(0, "split");
        }
        if self.window.is_dense() && self.kernel[1..] == [3; 2] {
            let last = variants.len() - 1;
            variants.insert(if self.prefers_winograd(inputs, caps) { 0 } else { last }, WINOGRAD_HW);
        }
        winograd::retain_bindable(&mut variants, &inputs.iter().collect::<Vec<_>>(), caps);
        variants
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        match variant {
            "split" => self.lower_split(inputs, outputs, caps),
            WINOGRAD_HW => self.lower_winograd(inputs, outputs, caps),
            _ => self.lower_naive(inputs, outputs, caps),
        }
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        let mut dw = HostTensor::zeros(self.infer(&descs).expect("shapes were inferred before")[0].clone());
        let sources = self.sources();
        let dy = inputs[sources];
        let (c_out, total) = (dw.desc.shape[0], dw.desc.shape[1]);
        let mut first = 0;
        for x in &inputs[..sources] {
            let c_in = x.desc.shape[1];
            for_each_tap(
                &self.window,
                &x.desc.shape,
                &dy.desc.shape,
                self.kernel,
                |n, i, o, tap, volumes| {
                    for co in 0..c_out {
                        for ci in 0..c_in {
                            dw.data[(co * total + first + ci) * volumes.taps + tap] += x.data
                                [(n * c_in + ci) * volumes.input + i]
                                * dy.data[(n * c_out + co) * volumes.output + o];
                        }
                    }
                },
            );
            first += c_in;
        }
        vec![dw]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let dy = &inputs[self.sources()];
        let per_voxel: usize = outputs[0].len();
        conv_cost(per_voxel * dy.shape[0] * dy.voxels(), inputs, outputs)
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        let dy = &inputs[self.sources()];
        Precision::sum_of(dy.shape[0] * dy.voxels())
    }
}
