//! Pooling over windows in three dimensions: `max_pool3d`, `avg_pool3d` and their gradients.

mod avg;
mod max;

pub use avg::{AVG_POOL3D, AVG_POOL3D_GRAD, AvgPool3d, AvgPool3dGrad};
pub use max::{MAX_POOL3D, MAX_POOL3D_GRAD, MaxPool3d, MaxPool3dGrad};

use super::{OpError, expect_ncdhw};
use crate::tensor::TensorDesc;

/// Description of the pooled `x` of the operator `name`, extents floor((in + 2 * padding - kernel) / stride) + 1 as in PyTorch.
fn pooled(
    name: &'static str,
    x: &TensorDesc,
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: [usize; 3],
) -> Result<TensorDesc, OpError> {
    let inputs = std::slice::from_ref(x);
    let shape = expect_ncdhw(name, inputs, 0)?;
    let mut out = shape.to_vec();
    for axis in 0..3 {
        let (window, step, pad) = (kernel[axis], stride[axis], padding[axis]);
        if window == 0 || step == 0 || 2 * pad > window {
            let reason = format!(
                "windows of {kernel:?} at steps of {stride:?}, padded by {padding:?}: needs positive windows and strides, \
                 padding <= kernel / 2"
            );
            return Err(OpError::new(name, inputs, reason));
        }
        let padded = shape[2 + axis] + 2 * pad;
        if padded < window {
            let reason = format!("a window of {window} exceeds the padded extent {padded}");
            return Err(OpError::new(name, inputs, reason));
        }
        out[2 + axis] = (padded - window) / step + 1;
    }
    Ok(x.with_shape(&out))
}

fn grid(n_d: usize, n_h: usize, n_w: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..n_d * n_h * n_w).map(move |i| (i / n_w / n_h, i / n_w % n_h, i % n_w))
}

fn with([d, h, w]: [usize; 3], last: usize) -> [usize; 4] {
    [d, h, w, last]
}

/// The last three extents, and one more number: a kernel's `vec4`.
fn spatial(desc: &TensorDesc, last: usize) -> [usize; 4] {
    with([desc.shape[2], desc.shape[3], desc.shape[4]], last)
}

/// Channels of all samples of a piece of the batch.
fn rows(desc: &TensorDesc, piece: &std::ops::Range<usize>) -> usize {
    piece.len() * desc.shape[1]
}
