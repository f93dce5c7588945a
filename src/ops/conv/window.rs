//! Windows of convolutions, and which voxels their taps connect.

use crate::ops::Cost;
use crate::tensor::TensorDesc;

/// Largest step or padding.
const MOST: usize = 1 << 24;
/// Why numbers of a window fit 32 bits with a sign.
pub(super) const IN_BOUNDS: &str = "`infer` refuses windows whose steps or padding exceed 2^24";

/// Stride, dilation and zero padding of a convolution, axes in the order D, H, W.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Step between outputs, in input voxels.
    pub stride: [usize; 3],
    /// Step between taps, in input voxels.
    pub dilation: [usize; 3],
    /// Zeros before and after each axis.
    pub padding: [[usize; 2]; 3],
}

impl Window {
    /// Stride 1, dilation 1, output as large as the input; an even kernel pads one more after than
    /// before, as Keras does.
    pub fn same(kernel: [usize; 3]) -> Self {
        Self { stride: [1; 3], dilation: [1; 3], padding: kernel.map(|k| [(k - 1) / 2, k / 2]) }
    }

    /// The same padding before and after each axis.
    pub fn symmetric(stride: [usize; 3], dilation: [usize; 3], padding: [usize; 3]) -> Self {
        Self { stride, dilation, padding: padding.map(|p| [p, p]) }
    }

    /// Extents of a convolution's output, `None` where the kernel exceeds the padded input.
    pub fn output(&self, input: [usize; 3], kernel: [usize; 3]) -> Option<[usize; 3]> {
        let mut out = [0; 3];
        for a in 0..3 {
            let reach = self.dilation[a] * (kernel[a] - 1) + 1;
            let padded = input[a] + self.padding[a][0] + self.padding[a][1];
            out[a] = padded.checked_sub(reach)? / self.stride[a] + 1;
        }
        Some(out)
    }

    /// Whether every step is at least 1, and steps and padding are small enough for indices of 32 bits.
    pub(super) fn is_legal(&self) -> bool {
        let steps = self.stride.iter().chain(&self.dilation);
        steps.clone().all(|&n| n > 0) && steps.chain(self.padding.as_flattened()).all(|&n| n <= MOST)
    }

    /// Zeros before each axis; for a transposed convolution what is cropped there.
    pub(super) fn padding_before(&self) -> [i32; 3] {
        self.padding.map(|[before, _]| i32::try_from(before).expect(IN_BOUNDS))
    }

    /// Whether every voxel of the input lies below a tap of every window that reaches it.
    pub(super) fn is_dense(&self) -> bool {
        self.stride == [1; 3] && self.dilation == [1; 3]
    }
}

/// Extents `[D, H, W]` of `[N, C, D, H, W]`.
pub(crate) fn spatial(shape: &[usize]) -> [usize; 3] {
    [shape[2], shape[3], shape[4]]
}

/// Work of a convolution, by its multiplications.
pub(crate) fn conv_cost(multiplications: usize, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
    let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
    Cost { flops: 2.0 * multiplications as f64, bytes }
}

/// Element counts that index arithmetic in the references needs.
pub(crate) struct Volumes {
    pub input: usize,
    pub output: usize,
    pub taps: usize,
}

/// Calls `visit(n, input voxel, output voxel, tap, volumes)` for every pair of voxels that a tap of a
/// convolution connects.
pub(crate) fn for_each_tap(
    window: &Window,
    input: &[usize],
    output: &[usize],
    kernel: [usize; 3],
    mut visit: impl FnMut(usize, usize, usize, usize, &Volumes),
) {
    let (i, o) = (spatial(input), spatial(output));
    let volumes =
        Volumes { input: i.iter().product(), output: o.iter().product(), taps: kernel.iter().product() };
    let source = |axis: usize, out: usize, tap: usize| {
        (out * window.stride[axis] + tap * window.dilation[axis])
            .checked_sub(window.padding[axis][0])
            .filter(|&at| at < i[axis])
    };
    for n in 0..input[0] {
        for od in 0..o[0] {
            for oh in 0..o[1] {
                for ow in 0..o[2] {
                    for tap in 0..volumes.taps {
                        let (kd, kh, kw) =
                            (tap / (kernel[1] * kernel[2]), tap / kernel[2] % kernel[1], tap % kernel[2]);
                        if let (Some(id), Some(ih), Some(iw)) =
                            (source(0, od, kd), source(1, oh, kh), source(2, ow, kw))
                        {
                            let at = (id * i[1] + ih) * i[2] + iw;
                            visit(n, at, (od * o[1] + oh) * o[2] + ow, tap, &volumes);
                        }
                    }
                }
            }
        }
    }
}
