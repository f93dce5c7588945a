//! Maximum pooling in three dimensions and its backward.

use super::{grid, pooled, rows, spatial, with};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId,
    batch_pieces, element_kernel, expect_inputs, sample_range,
};
use crate::tensor::{HostTensor, TensorDesc};

/// `max_pool3d`: maximum over windows, output extent floor((in + 2 * padding - kernel) / stride) + 1 as in
/// PyTorch; padded voxels never win.
///
/// Input: x `[N, C, D, H, W]`. Output: y `[N, C, D', H', W']`.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool3d {
    /// Extents of a window in voxels.
    pub kernel: [usize; 3],
    /// Steps between windows in voxels.
    pub stride: [usize; 3],
    /// Voxels of minus infinity around the input; at most half the kernel.
    pub padding: [usize; 3],
}

impl MaxPool3d {
    /// Windows of 2 x 2 x 2 side by side.
    pub const HALVE: Self = Self { kernel: [2; 3], stride: [2; 3], padding: [0; 3] };

    fn halves(&self) -> bool {
        self.kernel == [2; 3] && self.stride == [2; 3] && self.padding == [0; 3]
    }

    fn variants(&self) -> Vec<&'static str> {
        if self.halves() { vec!["k2", "naive"] } else { vec!["naive"] }
    }

    /// Description of the output for an input `ix` of the operator `name`.
    fn output(&self, name: &'static str, inputs: &[TensorDesc], ix: usize) -> Result<TensorDesc, OpError> {
        pooled(name, &inputs[ix], self.kernel, self.stride, self.padding)
    }

    fn params(&self, params: Params) -> Params {
        params
            .extents("window", with(self.kernel, 0))
            .extents("stride", with(self.stride, 0))
            .extents("padding", with(self.padding, 0))
    }

    /// Indices in x of the first maximum of each window, in order of the outputs.
    fn first_maxima(&self, x: &HostTensor, out: &TensorDesc) -> Vec<usize> {
        let [_, _, n_d, n_h, n_w] = x.desc.ncdhw().expect("infer accepted N C D H W");
        let [batch, channels, out_d, out_h, out_w] = out.ncdhw().expect("pooling keeps the rank");
        let mut found = Vec::with_capacity(out.len());
        // Extent of the window of output `o` within an axis of extent `n`.
        let clip = |axis: usize, o: usize, n: usize| {
            let first = o * self.stride[axis];
            let end = (first + self.kernel[axis] - self.padding[axis]).min(n);
            first.saturating_sub(self.padding[axis])..end
        };
        for row in 0..batch * channels {
            for (o_d, o_h, o_w) in grid(out_d, out_h, out_w) {
                let mut best: Option<usize> = None;
                for d in clip(0, o_d, n_d) {
                    for h in clip(1, o_h, n_h) {
                        for w in clip(2, o_w, n_w) {
                            let at = ((row * n_d + d) * n_h + h) * n_w + w;
                            if best.is_none_or(|b| x.data[at] > x.data[b]) {
                                best = Some(at);
                            }
                        }
                    }
                }
                found.push(best.expect("padding of at most half a window leaves a voxel in each"));
            }
        }
        found
    }
}

/// Name, attributes, shape of x and whether it is for timing only, of both operators' cases.
const CASES: [(&str, MaxPool3d, [usize; 5], bool); 8] = [
    ("halve, odd, batch of 2", MaxPool3d::HALVE, [2, 3, 5, 7, 9], false),
    ("halve, even", MaxPool3d::HALVE, [1, 2, 4, 6, 8], false),
    (
        "overlapping, padded",
        MaxPool3d { kernel: [3; 3], stride: [2; 3], padding: [1; 3] },
        [2, 2, 5, 6, 7],
        false,
    ),
    (
        "anisotropic",
        MaxPool3d { kernel: [1, 2, 3], stride: [1, 2, 1], padding: [0, 1, 1] },
        [1, 2, 4, 5, 6],
        false,
    ),
    ("gaps", MaxPool3d { kernel: [1, 2, 2], stride: [2, 3, 3], padding: [0; 3] }, [1, 2, 5, 8, 7], false),
    (
        "axes of extent 1",
        MaxPool3d { kernel: [1, 1, 2], stride: [2, 1, 2], padding: [0; 3] },
        [3, 2, 1, 1, 5],
        false,
    ),
    ("large", MaxPool3d::HALVE, [1, 16, 96, 128, 160], true),
    ("deep", MaxPool3d::HALVE, [1, 32, 48, 64, 64], true),
];

/// Registry entry of [`MaxPool3d`].
pub static MAX_POOL3D: OpDef = OpDef {
    name: "max_pool3d",
    summary: "maximum over windows",
    shaders: &["pool/max_pool3d.wgsl", "pool/max_pool3d_k2.wgsl"],
    cases: || {
        let case = |(name, op, shape, bench): (&str, MaxPool3d, [usize; 5], bool)| {
            let inputs = vec![(TensorDesc::f32(&shape), Fill::Distinct)];
            let case = Case::new(name, op, inputs).differentiable(&[0]);
            if bench { case.bench_only() } else { case }
        };
        CASES.into_iter().map(case).collect()
    },
};

impl Operator for MaxPool3d {
    fn name(&self) -> &'static str {
        "max_pool3d"
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        Ok(vec![self.output(self.name(), inputs, 0)?])
    }

    fn variants(&self, _: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        MaxPool3d::variants(self)
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let (x, y) = (&inputs[0], &outputs[0]);
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[x, y], caps) {
            let rows = rows(x, &piece);
            let n = rows * y.voxels();
            let params =
                Params::new().extents("in_shape", spatial(x, rows)).extents("out_shape", spatial(y, n));
            let (path, params) = match variant {
                "k2" => ("pool/max_pool3d_k2.wgsl", params),
                _ => ("pool/max_pool3d.wgsl", self.params(params)),
            };
            lowered.push(
                Dispatch::new(element_kernel(path, x))
                    .bind_range("x", Slot::Input(0), sample_range(x, &piece))
                    .bind_range("y", Slot::Output(0), sample_range(y, &piece))
                    .params(params)
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
        let grad = MaxPool3dGrad { pool: *self };
        Ok(vec![Some(graph.apply(Box::new(grad), &[io.inputs[0], dy])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let out = self.output(self.name(), &[inputs[0].desc.clone()], 0).expect("infer accepted the input");
        let data = self.first_maxima(inputs[0], &out).into_iter().map(|at| inputs[0].data[at]).collect();
        vec![HostTensor::new(out, data)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let window: usize = self.kernel.iter().product();
        let bytes = (inputs[0].bytes() + outputs[0].bytes()) as f64;
        Cost { flops: (outputs[0].len() * window) as f64, bytes }
    }
}

/// `max_pool3d_grad`: gradient of [`MaxPool3d`] by its input: each window's dy goes to its first maximum in
/// the order d, h, w.
///
/// Inputs: x `[N, C, D, H, W]`, dy as the pooled tensor. Output: dx as x.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool3dGrad {
    /// The forward's attributes.
    pub pool: MaxPool3d,
}

/// Registry entry of [`MaxPool3dGrad`].
pub static MAX_POOL3D_GRAD: OpDef = OpDef {
    name: "max_pool3d_grad",
    summary: "gradient of max_pool3d by its input",
    shaders: &["pool/max_pool3d_grad.wgsl", "pool/max_pool3d_grad_k2.wgsl"],
    cases: || {
        let case = |(name, pool, shape, bench): (&str, MaxPool3d, [usize; 5], bool)| {
            let x = TensorDesc::f32(&shape);
            let dy = pool.output("max_pool3d", std::slice::from_ref(&x), 0).expect("the shapes fit");
            // Few distinct values, so that most windows have ties.
            let inputs = vec![(x, Fill::Integer(3)), (dy, Fill::Normal(1.0))];
            let case = Case::new(name, MaxPool3dGrad { pool }, inputs);
            if bench { case.bench_only() } else { case }
        };
        CASES.into_iter().map(case).collect()
    },
};

impl Operator for MaxPool3dGrad {
    fn name(&self) -> &'static str {
        "max_pool3d_grad"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        let dy = self.pool.output(self.name(), inputs, 0)?;
        if inputs[1] != dy {
            return Err(OpError::new(self.name(), inputs, format!("input 1 must be {dy:?}")));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn variants(&self, _: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        self.pool.variants()
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        let (x, dy) = (&inputs[0], &inputs[1]);
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[x, dy], caps) {
            let rows = rows(x, &piece);
            let out_shape = spatial(dy, rows);
            let (path, params, invocations) = if variant == "k2" {
                let cells = [x.shape[2], x.shape[3], x.shape[4]].map(|n| n.div_ceil(2));
                let n = rows * cells.iter().product::<usize>();
                let params =
                    Params::new().extents("in_shape", spatial(x, rows)).extents("cells", with(cells, n));
                ("pool/max_pool3d_grad_k2.wgsl", params, n)
            } else {
                let n = rows * x.voxels();
                let params = self.pool.params(Params::new().extents("in_shape", spatial(x, n)));
                ("pool/max_pool3d_grad.wgsl", params, n)
            };
            lowered.push(
                Dispatch::new(KernelKey::new(path))
                    .bind_range("x", Slot::Input(0), sample_range(x, &piece))
                    .bind_range("dy", Slot::Input(1), sample_range(dy, &piece))
                    .bind_range("dx", Slot::Output(0), sample_range(x, &piece))
                    .params(params.extents("out_shape", out_shape))
                    .flat(invocations, FLAT),
            );
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut dx = HostTensor::zeros(inputs[0].desc.clone());
        let maxima = self.pool.first_maxima(inputs[0], &inputs[1].desc);
        for (at, dy) in maxima.into_iter().zip(&inputs[1].data) {
            dx.data[at] += dy;
        }
        vec![dx]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let window: usize = self.pool.kernel.iter().product();
        let bytes = (2 * inputs[0].bytes() + inputs[1].bytes()) as f64;
        Cost { flops: (inputs[1].len() * window) as f64, bytes }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        let windows = |axis: usize| self.pool.kernel[axis].div_ceil(self.pool.stride[axis]);
        Precision::sum_of((0..3).map(windows).product())
    }
}
