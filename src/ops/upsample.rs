//! Resampling of activations to a finer (or any other) grid, and its transpose.

use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, Stored, ValueId,
    batch_pieces, expect_inputs, expect_ncdhw, sample_range,
};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// How values between the input's grid points arise. Coordinates follow PyTorch's `interpolate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpsampleMode {
    /// The input at floor(o * in / out).
    Nearest,
    /// Linear along each axis, clamped at the border.
    Trilinear {
        /// The centres of the corner voxels coincide, instead of the edges of the grids.
        align_corners: bool,
    },
}

/// The grid to resample to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpsampleTo {
    /// The input's extents times these factors.
    Scale([usize; 3]),
    /// These extents, larger or smaller than the input's.
    Size([usize; 3]),
}

/// Largest extent of an axis: source coordinates are exact in 32-bit integers up to 2 * in * out.
const MAX_EXTENT: usize = 1 << 14;

/// `upsample`: x on another grid over the same field of view.
///
/// Input: x `[N, C, D, H, W]`. Output: y `[N, C, D', H', W']`.
#[derive(Debug, Clone, Copy)]
pub struct Upsample {
    /// Interpolation.
    pub mode: UpsampleMode,
    /// Extents of the output.
    pub to: UpsampleTo,
}

/// `upsample_grad`: transpose of [`Upsample`], the gradient by its input.
///
/// Input: dy `[N, C, D', H', W']`. Output: dx `[N, C, D, H, W]`.
#[derive(Debug, Clone, Copy)]
pub struct UpsampleGrad {
    /// The forward's interpolation.
    pub mode: UpsampleMode,
    /// Extents `[D, H, W]` of the forward's input.
    pub size: [usize; 3],
}

fn size_of(desc: &TensorDesc) -> [usize; 3] {
    [desc.shape[2], desc.shape[3], desc.shape[4]]
}

fn check_size(name: &'static str, inputs: &[TensorDesc], size: [usize; 3]) -> Result<(), OpError> {
    if size.iter().chain(&inputs[0].shape[2..]).all(|n| (1..=MAX_EXTENT).contains(n)) {
        Ok(())
    } else {
        Err(OpError::new(name, inputs, format!("extents, here to {size:?}, must be 1 to {MAX_EXTENT}")))
    }
}

/// For each output index of an axis, the inputs it mixes with their weights.
fn axis_weights(mode: UpsampleMode, n_in: usize, n_out: usize) -> Vec<Vec<(usize, f64)>> {
    (0..n_out)
        .map(|o| {
            let (n_in_f, n_out_f, o_f) = (n_in as f64, n_out as f64, o as f64);
            let source = match mode {
                UpsampleMode::Nearest => return vec![(o * n_in / n_out, 1.0)],
                UpsampleMode::Trilinear { align_corners: true } => {
                    o_f * (n_in_f - 1.0) / (n_out_f - 1.0).max(1.0)
                }
                UpsampleMode::Trilinear { align_corners: false } => (o_f + 0.5) * n_in_f / n_out_f - 0.5,
            };
            let source = source.clamp(0.0, n_in_f - 1.0);
            let low = source.floor();
            let high = (low as usize + 1).min(n_in - 1);
            vec![(low as usize, 1.0 - (source - low)), (high, source - low)]
        })
        .collect()
}

/// Calls `term(input index, output index, weight)` for each non-trivial entry of the linear map between
/// tensors of the shapes `x` and `y`.
fn for_each_weight(
    mode: UpsampleMode,
    x: &TensorDesc,
    y: &TensorDesc,
    mut term: impl FnMut(usize, usize, f64),
) {
    let ([n_d, n_h, n_w], [out_d, out_h, out_w]) = (size_of(x), size_of(y));
    let weights_d = axis_weights(mode, n_d, out_d);
    let weights_h = axis_weights(mode, n_h, out_h);
    let weights_w = axis_weights(mode, n_w, out_w);
    for out in 0..y.len() {
        let (o_w, o_h) = (out % out_w, out / out_w % out_h);
        let (o_d, row) = (out / out_w / out_h % out_d, out / out_w / out_h / out_d);
        for &(d, weight_d) in &weights_d[o_d] {
            for &(h, weight_h) in &weights_h[o_h] {
                for &(w, weight_w) in &weights_w[o_w] {
                    let at = ((row * n_d + d) * n_h + h) * n_w + w;
                    term(at, out, weight_d * weight_h * weight_w);
                }
            }
        }
    }
}

/// `(n_in, a, b, q)` of an axis for `shaders/lib/resample_axis.wgsl`.
fn axis_params(align_corners: bool, n_in: usize, n_out: usize) -> [u32; 4] {
    let [n_in, n_out] = [n_in, n_out].map(|n| i32::try_from(n).expect("`infer` refuses larger extents"));
    let [a, b, q] =
        if align_corners { [n_in - 1, 0, (n_out - 1).max(1)] } else { [2 * n_in, n_in - n_out, 2 * n_out] };
    [n_in, a, b, q].map(i32::cast_unsigned)
}

/// Parameters of both kernels of a mode, for tensors `x` and `y` of the forward, of which the latter counts `stored`; `in_last`
/// and `out_last` are the last components of the extents.
fn params(
    mode: UpsampleMode,
    x: &TensorDesc,
    y: &TensorDesc,
    [in_last, out_last]: [usize; 2],
    stored: Stored,
) -> Params {
    let ([in_d, in_h, in_w], [out_d, out_h, out_w]) = (size_of(x), size_of(y));
    let params = Params::new()
        .extents("in_shape", [in_d, in_h, in_w, in_last])
        .extents("out_shape", [out_d, out_h, out_w / stored.elements(), out_last]);
    let UpsampleMode::Trilinear { align_corners } = mode else { return params };
    let (size_in, size_out) = (size_of(x), size_of(y));
    ["axis_d", "axis_h", "axis_w"].into_iter().enumerate().fold(params, |params, (ix, name)| {
        params.u32x4(name, axis_params(align_corners, size_in[ix], size_out[ix]))
    })
}

const LINEAR: UpsampleMode = UpsampleMode::Trilinear { align_corners: false };
const ALIGNED: UpsampleMode = UpsampleMode::Trilinear { align_corners: true };

/// Name, attributes, shape of x and whether it is for timing only, of both operators' cases.
const CASES: [(&str, UpsampleMode, UpsampleTo, [usize; 5], bool); 17] = [
    ("nearest to size, fours", UpsampleMode::Nearest, UpsampleTo::Size([4, 3, 12]), [2, 2, 5, 2, 7], false),
    ("linear to size, fours", LINEAR, UpsampleTo::Size([4, 3, 20]), [2, 2, 5, 2, 9], false),
    ("aligned to size, fours", ALIGNED, UpsampleTo::Size([3, 5, 16]), [1, 3, 2, 4, 11], false),
    ("linear from one column", LINEAR, UpsampleTo::Size([3, 5, 8]), [1, 3, 2, 4, 1], false),
    ("nearest twice", UpsampleMode::Nearest, UpsampleTo::Scale([2; 3]), [2, 3, 3, 5, 4], false),
    ("nearest by 1, 2, 3", UpsampleMode::Nearest, UpsampleTo::Scale([1, 2, 3]), [1, 2, 3, 1, 4], false),
    ("nearest to size", UpsampleMode::Nearest, UpsampleTo::Size([7, 3, 5]), [1, 2, 5, 4, 5], false),
    ("linear twice", LINEAR, UpsampleTo::Scale([2; 3]), [2, 3, 3, 5, 4], false),
    ("linear by 1, 2, 3", LINEAR, UpsampleTo::Scale([1, 2, 3]), [1, 2, 3, 1, 4], false),
    ("linear to size", LINEAR, UpsampleTo::Size([7, 3, 8]), [1, 2, 5, 7, 5], false),
    ("linear, much smaller", LINEAR, UpsampleTo::Size([2, 1, 3]), [1, 1, 9, 8, 11], false),
    ("aligned twice", ALIGNED, UpsampleTo::Scale([2; 3]), [2, 3, 3, 5, 4], false),
    ("aligned, axes of extent 1", ALIGNED, UpsampleTo::Scale([2, 1, 3]), [1, 2, 1, 1, 4], false),
    ("aligned to size", ALIGNED, UpsampleTo::Size([7, 3, 1]), [1, 2, 5, 7, 5], false),
    ("nearest large", UpsampleMode::Nearest, UpsampleTo::Scale([2; 3]), [1, 16, 48, 64, 80], true),
    ("linear large", LINEAR, UpsampleTo::Scale([2; 3]), [1, 16, 48, 64, 80], true),
    ("linear deep", LINEAR, UpsampleTo::Scale([2; 3]), [1, 32, 24, 32, 32], true),
];

/// Registry entry of [`Upsample`].
pub static UPSAMPLE: OpDef = OpDef {
    name: "upsample",
    summary: "nearest or trilinear resampling to a grid over the same field of view",
    shaders: &["upsample/nearest.wgsl", "upsample/trilinear.wgsl"],
    cases: || {
        let case = |(name, mode, to, shape, bench): (&str, _, _, [usize; 5], bool)| {
            let inputs = vec![(TensorDesc::f32(&shape), Fill::Normal(1.0))];
            let case = Case::new(name, Upsample { mode, to }, inputs).differentiable(&[0]);
            if bench { case.bench_only() } else { case }
        };
        CASES.into_iter().map(case).collect()
    },
};

impl Operator for Upsample {
    fn name(&self) -> &'static str {
        "upsample"
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        let [batch, channels, d, h, w] = expect_ncdhw(self.name(), inputs, 0)?;
        let [d, h, w] = match self.to {
            UpsampleTo::Scale(factor) => [d * factor[0], h * factor[1], w * factor[2]],
            UpsampleTo::Size(size) => size,
        };
        check_size(self.name(), inputs, [d, h, w])?;
        Ok(vec![inputs[0].with_shape(&[batch, channels, d, h, w])])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        let (n_in, n_out) = match (inputs[0].shape[4], self.to) {
            (w, UpsampleTo::Scale(factor)) => (w, w * factor[2]),
            (w, UpsampleTo::Size(size)) => (w, size[2]),
        };
        // Four outputs read a row of few columns.
        let near = match self.mode {
            UpsampleMode::Nearest => n_in <= n_out,
            UpsampleMode::Trilinear { align_corners } => {
                let [_, a, _, q] = axis_params(align_corners, n_in, n_out);
                3 * a <= 2 * q
            }
        };
        if near { Stored::variants(n_out) } else { vec!["scalar"] }
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let (x, y) = (&inputs[0], &outputs[0]);
        let stored = Stored::of(variant);
        let path = match self.mode {
            UpsampleMode::Nearest => "upsample/nearest.wgsl",
            UpsampleMode::Trilinear { .. } => "upsample/trilinear.wgsl",
        };
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[x, y], caps) {
            let rows = piece.len() * x.shape[1];
            let n = rows * y.voxels() / stored.elements();
            lowered.push(
                Dispatch::new(stored.kernel(path, x, caps))
                    .bind_range("x", Slot::Input(0), sample_range(x, &piece))
                    .bind_range("y", Slot::Output(0), sample_range(y, &piece))
                    .params(params(self.mode, x, y, [rows, n], stored))
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
        let size = size_of(graph.desc(io.inputs[0]));
        let grad = UpsampleGrad { mode: self.mode, size };
        Ok(vec![Some(graph.apply(Box::new(grad), &[dy])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let x = inputs[0];
        let desc = self.infer(std::slice::from_ref(&x.desc)).expect("the graph accepted the input").remove(0);
        let mut y = HostTensor::zeros(desc.clone());
        for_each_weight(self.mode, &x.desc, &desc, |at, out, weight| y.data[out] += weight * x.data[at]);
        vec![y]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let flops = match self.mode {
            UpsampleMode::Nearest => 0.0,
            UpsampleMode::Trilinear { .. } => 14.0 * outputs[0].len() as f64,
        };
        Cost { flops, bytes: (inputs[0].bytes() + outputs[0].bytes()) as f64 }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(8)
    }
}

/// Registry entry of [`UpsampleGrad`].
pub static UPSAMPLE_GRAD: OpDef = OpDef {
    name: "upsample_grad",
    summary: "transpose of upsample",
    shaders: &["upsample/nearest_grad.wgsl", "upsample/trilinear_grad.wgsl"],
    cases: || {
        let case = |(name, mode, to, shape, bench): (&str, _, _, [usize; 5], bool)| {
            let x = TensorDesc::f32(&shape);
            let forward = Upsample { mode, to };
            let dy = forward.infer(std::slice::from_ref(&x)).expect("the shapes fit").remove(0);
            let op = UpsampleGrad { mode, size: size_of(&x) };
            let case = Case::new(name, op, vec![(dy, Fill::Normal(1.0))]).differentiable(&[0]);
            if bench { case.bench_only() } else { case }
        };
        CASES.into_iter().map(case).collect()
    },
};

impl Operator for UpsampleGrad {
    fn name(&self) -> &'static str {
        "upsample_grad"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        let [batch, channels, ..] = expect_ncdhw(self.name(), inputs, 0)?;
        check_size(self.name(), inputs, self.size)?;
        let [d, h, w] = self.size;
        Ok(vec![TensorDesc::f32(&[batch, channels, d, h, w])])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let (dy, dx) = (&inputs[0], &outputs[0]);
        let path = match self.mode {
            UpsampleMode::Nearest => "upsample/nearest_grad.wgsl",
            UpsampleMode::Trilinear { .. } => "upsample/trilinear_grad.wgsl",
        };
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[dy, dx], caps) {
            let rows = piece.len() * dy.shape[1];
            let n = rows * dx.voxels();
            lowered.push(
                Dispatch::new(KernelKey::new(path))
                    .bind_range("dy", Slot::Input(0), sample_range(dy, &piece))
                    .bind_range("dx", Slot::Output(0), sample_range(dx, &piece))
                    .params(params(self.mode, dx, dy, [n, rows], Stored::ONE))
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
        let Some(grad) = io.grad_outputs[0] else { return Ok(vec![None]) };
        // The transpose of the transpose.
        let forward = Upsample { mode: self.mode, to: UpsampleTo::Size(size_of(graph.desc(io.inputs[0]))) };
        Ok(vec![Some(graph.apply(Box::new(forward), &[grad])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let dy = inputs[0];
        let desc =
            self.infer(std::slice::from_ref(&dy.desc)).expect("the graph accepted the input").remove(0);
        let mut dx = HostTensor::zeros(desc.clone());
        for_each_weight(self.mode, &desc, &dy.desc, |at, out, weight| dx.data[at] += weight * dy.data[out]);
        vec![dx]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let terms = match self.mode {
            UpsampleMode::Nearest => 1.0,
            UpsampleMode::Trilinear { .. } => 16.0,
        };
        let bytes = (inputs[0].bytes() + outputs[0].bytes()) as f64;
        Cost { flops: terms * inputs[0].len() as f64, bytes }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        // An input point reaches outputs within 1 of it: 2 * out / in along each axis, and more at borders.
        let terms = |axis: usize| 2 * inputs[0].shape[2 + axis].div_ceil(self.size[axis]) + 1;
        Precision::sum_of((0..3).map(terms).product())
    }
}
