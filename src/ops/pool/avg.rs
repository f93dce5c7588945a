//! Average pooling in three dimensions and its backward.

use super::{grid, pooled, rows, spatial, with};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId,
    batch_pieces, element_kernel, expect_inputs, expect_ncdhw, sample_range,
};
use crate::tensor::{HostTensor, TensorDesc};

/// `avg_pool3d`: mean over windows, output extent floor((in - kernel) / stride) + 1 as in PyTorch.
///
/// Input: x `[N, C, D, H, W]`. Output: y `[N, C, D', H', W']`.
#[derive(Debug, Clone, Copy)]
pub struct AvgPool3d {
    /// Extents of a window in voxels.
    pub kernel: [usize; 3],
    /// Steps between windows in voxels.
    pub stride: [usize; 3],
}

impl AvgPool3d {
    /// Description of the output for an input of the operator `name`.
    fn output(&self, name: &'static str, x: &TensorDesc) -> Result<TensorDesc, OpError> {
        pooled(name, x, self.kernel, self.stride, [0; 3])
    }

    fn voxels(&self) -> usize {
        self.kernel.iter().product()
    }

    fn params(&self, params: Params) -> Params {
        params.extents("window", with(self.kernel, self.voxels())).extents("stride", with(self.stride, 0))
    }

    /// Calls `pair` with the elements of x and of y that belong together, in the order of y.
    fn for_each(&self, x: &TensorDesc, y: &TensorDesc, mut pair: impl FnMut(usize, usize)) {
        let [batch, channels, n_d, n_h, n_w] = x.ncdhw().expect("infer accepted N C D H W");
        let [_, _, out_d, out_h, out_w] = y.ncdhw().expect("pooling keeps the rank");
        let [k_d, k_h, k_w] = self.kernel;
        let [s_d, s_h, s_w] = self.stride;
        let mut out = 0;
        for row in 0..batch * channels {
            for (o_d, o_h, o_w) in grid(out_d, out_h, out_w) {
                for (d, h, w) in grid(k_d, k_h, k_w) {
                    let line = (row * n_d + o_d * s_d + d) * n_h + o_h * s_h + h;
                    pair(line * n_w + o_w * s_w + w, out);
                }
                out += 1;
            }
        }
    }
}

/// Name, attributes and shape of x of both operators' cases.
const CASES: [(&str, AvgPool3d, [usize; 5]); 5] = [
    ("halve, odd, batch of 2", AvgPool3d { kernel: [2; 3], stride: [2; 3] }, [2, 3, 5, 7, 9]),
    ("in plane", AvgPool3d { kernel: [1, 2, 2], stride: [1, 2, 2] }, [1, 2, 3, 6, 8]),
    ("overlapping", AvgPool3d { kernel: [3, 2, 3], stride: [2, 1, 2] }, [1, 2, 5, 6, 7]),
    ("gaps", AvgPool3d { kernel: [1, 2, 2], stride: [2, 3, 3] }, [1, 2, 5, 8, 7]),
    ("axes of extent 1", AvgPool3d { kernel: [1, 1, 2], stride: [2, 1, 2] }, [3, 2, 1, 1, 5]),
];

/// Registry entry of [`AvgPool3d`].
pub static AVG_POOL3D: OpDef = OpDef {
    name: "avg_pool3d",
    summary: "mean over windows",
    shaders: &["pool/avg_pool3d.wgsl"],
    cases: || {
        let case = |(name, op, shape): (&str, AvgPool3d, [usize; 5])| {
            Case::new(name, op, vec![(TensorDesc::f32(&shape), Fill::Normal(1.0))]).differentiable(&[0])
        };
        CASES.into_iter().map(case).collect()
    },
};

impl Operator for AvgPool3d {
    fn name(&self) -> &'static str {
        "avg_pool3d"
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        Ok(vec![self.output(self.name(), &inputs[0])?])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let (x, y) = (&inputs[0], &outputs[0]);
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[x, y], caps) {
            let n = rows(x, &piece) * y.voxels();
            let params = Params::new().extents("in_shape", spatial(x, 0)).extents("out_shape", spatial(y, n));
            lowered.push(
                Dispatch::new(element_kernel("pool/avg_pool3d.wgsl", x))
                    .bind_range("x", Slot::Input(0), sample_range(x, &piece))
                    .bind_range("y", Slot::Output(0), sample_range(y, &piece))
                    .params(self.params(params))
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
        let [d, h, w] = graph.desc(io.inputs[0]).shape[2..] else { unreachable!("infer accepted N C D H W") };
        let grad = AvgPool3dGrad { pool: *self, extents: [d, h, w] };
        Ok(vec![Some(graph.apply(Box::new(grad), &[dy])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let x = inputs[0];
        let mut y = HostTensor::zeros(self.output(self.name(), &x.desc).expect("infer accepted the input"));
        let desc = y.desc.clone();
        self.for_each(&x.desc, &desc, |from, to| y.data[to] += x.data[from] / self.voxels() as f64);
        vec![y]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = (inputs[0].bytes() + outputs[0].bytes()) as f64;
        Cost { flops: (outputs[0].len() * self.voxels()) as f64, bytes }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(self.voxels())
    }
}

/// `avg_pool3d_grad`: gradient of [`AvgPool3d`] by its input.
///
/// Input: dy as the pooled tensor. Output: dx `[N, C, D, H, W]`.
#[derive(Debug, Clone, Copy)]
pub struct AvgPool3dGrad {
    /// The forward's attributes.
    pub pool: AvgPool3d,
    /// Extents of the forward's input, which its output alone does not tell.
    pub extents: [usize; 3],
}

/// Registry entry of [`AvgPool3dGrad`].
pub static AVG_POOL3D_GRAD: OpDef = OpDef {
    name: "avg_pool3d_grad",
    summary: "gradient of avg_pool3d by its input",
    shaders: &["pool/avg_pool3d_grad.wgsl"],
    cases: || {
        let case = |(name, pool, shape): (&str, AvgPool3d, [usize; 5])| {
            let dy = pool.output("avg_pool3d", &TensorDesc::f32(&shape)).expect("the shapes fit");
            let [_, _, d, h, w] = shape;
            Case::new(name, AvgPool3dGrad { pool, extents: [d, h, w] }, vec![(dy, Fill::Normal(1.0))])
        };
        CASES.into_iter().map(case).collect()
    },
};

impl Operator for AvgPool3dGrad {
    fn name(&self) -> &'static str {
        "avg_pool3d_grad"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        let [n, c, ..] = expect_ncdhw(self.name(), inputs, 0)?;
        let [d, h, w] = self.extents;
        let x = inputs[0].with_shape(&[n, c, d, h, w]);
        let dy = self.pool.output(self.name(), &x)?;
        if inputs[0] != dy {
            return Err(OpError::new(self.name(), inputs, format!("input 0 must be {dy:?}")));
        }
        Ok(vec![x])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let (dy, dx) = (&inputs[0], &outputs[0]);
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[dy, dx], caps) {
            let n = rows(dx, &piece) * dx.voxels();
            let params =
                Params::new().extents("in_shape", spatial(dx, n)).extents("out_shape", spatial(dy, 0));
            lowered.push(
                Dispatch::new(KernelKey::new("pool/avg_pool3d_grad.wgsl"))
                    .bind_range("dy", Slot::Input(0), sample_range(dy, &piece))
                    .bind_range("dx", Slot::Output(0), sample_range(dx, &piece))
                    .params(self.pool.params(params))
                    .flat(n, FLAT),
            );
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let dy = inputs[0];
        let out =
            self.infer(std::slice::from_ref(&dy.desc)).expect("infer accepted the input").swap_remove(0);
        let mut dx = HostTensor::zeros(out.clone());
        let voxels = self.pool.voxels() as f64;
        self.pool.for_each(&out, &dy.desc, |to, from| dx.data[to] += dy.data[from] / voxels);
        vec![dx]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = (inputs[0].bytes() + outputs[0].bytes()) as f64;
        Cost { flops: (inputs[0].len() * self.pool.voxels()) as f64, bytes }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        let windows = |axis: usize| self.pool.kernel[axis].div_ceil(self.pool.stride[axis]);
        Precision::sum_of((0..3).map(windows).product())
    }
}
