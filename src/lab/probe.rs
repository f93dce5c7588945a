//! Parts of a convolution that the f64 reference can compute where the whole would take minutes: the values that a
//! few outputs have by definition, from the part of the real inputs that they depend on.

use std::any::Any;
use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::ops::Operator;
use crate::ops::conv::{Conv3d, Conv3dGradInput, Conv3dGradWeight, ConvTranspose3d, Window};
use crate::tensor::{HostTensor, TensorDesc};

/// A few outputs: flat index in the whole output, and value.
pub(super) type Sampled = Vec<(usize, f64)>;

/// Voxels of a patch of outputs along each axis.
const PATCH: [usize; 3] = [2, 4, 12];
/// Multiplications that all samples may take.
const WORK: f64 = 3e8;

/// Samples of the first output of `op` on these inputs (what the device has, as f32); `None` for operators without
/// such parts.
pub(super) fn sample(
    op: &dyn Operator,
    descs: &[TensorDesc],
    inputs: &[Vec<f32>],
    output: &TensorDesc,
    rng: &mut ChaCha8Rng,
) -> Option<Sampled> {
    let whole = Whole { descs, inputs, output };
    let any = op as &dyn Any;
    if let Some(conv) = any.downcast_ref::<Conv3d>() {
        return same_extents(&descs[0], output, &conv.window).then(|| convolution(&whole, conv, rng));
    }
    if let Some(grad) = any.downcast_ref::<Conv3dGradInput>() {
        return same_extents(&descs[0], output, &grad.window).then(|| grad_input(&whole, grad, rng));
    }
    if let Some(grad) = any.downcast_ref::<Conv3dGradWeight>() {
        return Some(grad_weight(&whole, grad, rng));
    }
    any.downcast_ref::<ConvTranspose3d>().map(|conv| transposed(&whole, conv, rng))
}

/// An operator's inputs and the shape of its output.
struct Whole<'a> {
    descs: &'a [TensorDesc],
    inputs: &'a [Vec<f32>],
    output: &'a TensorDesc,
}

impl Whole<'_> {
    /// The part of an input within these ranges by axis.
    fn cut(&self, input: usize, ranges: &[Range<usize>]) -> HostTensor {
        let desc = &self.descs[input];
        let shape: Vec<usize> = ranges.iter().map(Range::len).collect();
        let mut part = HostTensor::zeros(desc.with_shape(&shape));
        let parts = part.desc.clone();
        for (ix, value) in part.data.iter_mut().enumerate() {
            let at = coordinates(&parts, ix);
            let from: Vec<usize> = at.iter().zip(ranges).map(|(a, range)| a + range.start).collect();
            *value = f64::from(self.inputs[input][flat(desc, &from)]);
        }
        part
    }

    fn everything(&self, input: usize) -> Vec<Range<usize>> {
        self.descs[input].shape.iter().map(|&n| 0..n).collect()
    }
}

fn coordinates(desc: &TensorDesc, mut ix: usize) -> Vec<usize> {
    let mut at = vec![0; desc.shape.len()];
    for (axis, &n) in desc.shape.iter().enumerate().rev() {
        at[axis] = ix % n;
        ix /= n;
    }
    at
}

fn flat(desc: &TensorDesc, at: &[usize]) -> usize {
    desc.shape.iter().zip(at).fold(0, |ix, (n, a)| ix * n + a)
}

/// Whether output and input voxels correspond one to one, so that a patch of one needs a patch of the other.
fn same_extents(input: &TensorDesc, output: &TensorDesc, window: &Window) -> bool {
    window.stride == [1; 3] && input.shape[2..] == output.shape[2..]
}

/// Patches of outputs: first and last corner, where padding counts, and some in between.
fn patches(extents: &[usize], count: usize, rng: &mut ChaCha8Rng) -> Vec<[Range<usize>; 3]> {
    (0..count)
        .map(|ix| {
            std::array::from_fn(|axis| {
                let size = PATCH[axis].min(extents[axis]);
                let room = extents[axis] - size;
                let start = match ix {
                    0 => 0,
                    1 => room,
                    _ => rng.random_range(0..=room),
                };
                start..start + size
            })
        })
        .collect()
}

/// A patch with all voxels that a kernel reaches from it.
fn with_reach(patch: &[Range<usize>; 3], extents: &[usize], reach: [usize; 3]) -> [Range<usize>; 3] {
    std::array::from_fn(|axis| {
        let Range { start, end } = patch[axis];
        start.saturating_sub(reach[axis])..(end + reach[axis]).min(extents[axis])
    })
}

/// How far a kernel reaches to either side, at most.
fn reach(window: &Window, kernel: &[usize]) -> [usize; 3] {
    std::array::from_fn(|axis| window.dilation[axis] * (kernel[axis] - 1))
}

/// Channels `start..` of `n`, as many as the work allows.
fn some_channels(n: usize, work_of_one: f64, rng: &mut ChaCha8Rng) -> Range<usize> {
    let count = ((WORK / 4.0 / work_of_one) as usize).clamp(1, n);
    let start = rng.random_range(0..=n - count);
    start..start + count
}

/// What the outputs of `part`, computed on `region` for channels from `first` on, say about the outputs in `patch`.
fn collect(
    sampled: &mut Sampled,
    part: &HostTensor,
    whole: &TensorDesc,
    sample: usize,
    first: usize,
    region: &[Range<usize>; 3],
    patch: &[Range<usize>; 3],
) {
    for (ix, &value) in part.data.iter().enumerate() {
        let at = coordinates(&part.desc, ix);
        let voxel: [usize; 3] = std::array::from_fn(|axis| at[axis + 2] + region[axis].start);
        if (0..3).all(|axis| patch[axis].contains(&voxel[axis])) {
            let [d, h, w] = voxel;
            sampled.push((flat(whole, &[sample, at[1] + first, d, h, w]), value));
        }
    }
}

fn convolution(whole: &Whole<'_>, conv: &Conv3d, rng: &mut ChaCha8Rng) -> Sampled {
    let sources = 1 + usize::from(conv.two_inputs);
    let weight = &whole.descs[sources];
    let extents = &whole.output.shape[2..];
    let reach = reach(&conv.window, &weight.shape[2..]);
    let work = weight.len() as f64 / weight.shape[0] as f64
        * (0..3).map(|a| (PATCH[a] + 2 * reach[a]) as f64).product::<f64>();
    let mut sampled = Sampled::new();
    for patch in patches(extents, 4, rng) {
        let region = with_reach(&patch, extents, reach);
        let n = rng.random_range(0..whole.output.shape[0]);
        let channels = some_channels(weight.shape[0], work, rng);
        let mut inputs: Vec<HostTensor> = (0..sources)
            .map(|source| {
                let mut ranges = vec![n..n + 1, 0..whole.descs[source].shape[1]];
                ranges.extend(region.clone());
                whole.cut(source, &ranges)
            })
            .collect();
        let mut ranges = whole.everything(sources);
        ranges[0] = channels.clone();
        inputs.push(whole.cut(sources, &ranges));
        if conv.bias {
            inputs.push(whole.cut(sources + 1, std::slice::from_ref(&channels)));
        }
        let part = conv.reference(&inputs.iter().collect::<Vec<_>>()).swap_remove(0);
        collect(&mut sampled, &part, whole.output, n, channels.start, &region, &patch);
    }
    sampled
}

fn grad_input(whole: &Whole<'_>, grad: &Conv3dGradInput, rng: &mut ChaCha8Rng) -> Sampled {
    let weight = &whole.descs[1];
    let extents = &whole.output.shape[2..];
    let reach = reach(&grad.window, &weight.shape[2..]);
    let work = weight.len() as f64 / weight.shape[1] as f64
        * (0..3).map(|a| (PATCH[a] + 2 * reach[a]) as f64).product::<f64>();
    let mut sampled = Sampled::new();
    for patch in patches(extents, 4, rng) {
        let region = with_reach(&patch, extents, reach);
        let n = rng.random_range(0..whole.output.shape[0]);
        let channels = some_channels(grad.channels.len(), work, rng);
        let first = grad.channels.start + channels.start;
        let op = Conv3dGradInput {
            window: grad.window,
            input: region.clone().map(|range| range.len()),
            channels: first..first + channels.len(),
        };
        let mut ranges = vec![n..n + 1, 0..whole.descs[0].shape[1]];
        ranges.extend(region.clone());
        let (dy, weights) = (whole.cut(0, &ranges), whole.cut(1, &whole.everything(1)));
        let part = op.reference(&[&dy, &weights]).swap_remove(0);
        collect(&mut sampled, &part, whole.output, n, channels.start, &region, &patch);
    }
    sampled
}

/// Two pairs of channels, over all samples and voxels.
fn grad_weight(whole: &Whole<'_>, grad: &Conv3dGradWeight, rng: &mut ChaCha8Rng) -> Sampled {
    let sources = 1 + usize::from(grad.two_inputs);
    let mut sampled = Sampled::new();
    for _ in 0..2 {
        let mut one_channel = |input: usize| {
            let channel = rng.random_range(0..whole.descs[input].shape[1]);
            let mut ranges = whole.everything(input);
            ranges[1] = channel..channel + 1;
            (channel, whole.cut(input, &ranges))
        };
        let parts: Vec<(usize, HostTensor)> = (0..=sources).map(&mut one_channel).collect();
        let tensors: Vec<&HostTensor> = parts.iter().map(|(_, tensor)| tensor).collect();
        let dweight = grad.reference(&tensors).swap_remove(0);
        let taps: usize = grad.kernel.iter().product();
        let (row_channels, c_out) = (whole.output.shape[1], parts[sources].0);
        let mut first = 0;
        for (source, (channel, _)) in parts[..sources].iter().enumerate() {
            for tap in 0..taps {
                let to = (c_out * row_channels + first + channel) * taps + tap;
                sampled.push((to, dweight.data[source * taps + tap]));
            }
            first += whole.descs[source].shape[1];
        }
    }
    sampled
}

/// One output channel of one sample.
fn transposed(whole: &Whole<'_>, conv: &ConvTranspose3d, rng: &mut ChaCha8Rng) -> Sampled {
    let n = rng.random_range(0..whole.output.shape[0]);
    let channel = rng.random_range(0..whole.output.shape[1]);
    let mut x = whole.everything(0);
    x[0] = n..n + 1;
    let mut weight = whole.everything(1);
    weight[1] = channel..channel + 1;
    let mut inputs = vec![whole.cut(0, &x), whole.cut(1, &weight)];
    if conv.bias {
        inputs.push(whole.cut(2, std::slice::from_ref(&(channel..channel + 1))));
    }
    let part = conv.reference(&inputs.iter().collect::<Vec<_>>()).swap_remove(0);
    let start = (n * whole.output.shape[1] + channel) * whole.output.voxels();
    part.data.iter().enumerate().map(|(ix, &value)| (start + ix, value)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::SeedableRng;

    use super::*;
    use crate::ops::Fill;
    use crate::ops::activation::Activation;

    /// Samples of an operator, against its whole reference.
    fn compare(op: Arc<dyn Operator>, shapes: &[&[usize]]) {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let tensors: Vec<HostTensor> =
            shapes.iter().map(|shape| Fill::Normal(1.0).sample(&mut rng, &TensorDesc::f32(shape))).collect();
        let descs: Vec<TensorDesc> = tensors.iter().map(|t| t.desc.clone()).collect();
        let inputs: Vec<Vec<f32>> =
            tensors.iter().map(|t| t.data.iter().map(|&v| v as f32).collect()).collect();
        let want = op.reference(&tensors.iter().collect::<Vec<_>>()).swap_remove(0);
        let sampled = sample(op.as_ref(), &descs, &inputs, &want.desc, &mut rng).expect("has parts");
        assert!(sampled.len() > 20, "{op:?}: {} samples", sampled.len());
        for (ix, value) in sampled {
            let error = (value - want.data[ix]).abs();
            assert!(error <= 1e-9 * want.data[ix].abs().max(1.0), "{op:?}: output {ix} is {value}");
        }
    }

    #[test]
    fn parts_equal_the_whole() {
        let window = Window::same([3; 3]);
        let conv = Conv3d { window, two_inputs: true, bias: true, activation: Activation::Relu };
        compare(Arc::new(conv), &[&[2, 3, 5, 9, 31], &[2, 2, 5, 9, 31], &[4, 5, 3, 3, 3], &[4]]);
        let even = Conv3d::new(Window::same([1, 1, 2]), false);
        compare(Arc::new(even), &[&[1, 3, 5, 9, 31], &[4, 3, 1, 1, 2]]);
        let grad = Conv3dGradInput { window, input: [5, 9, 31], channels: 1..4 };
        compare(Arc::new(grad), &[&[2, 3, 5, 9, 31], &[3, 5, 3, 3, 3]]);
        let grad = Conv3dGradWeight { window, two_inputs: true, kernel: [3; 3] };
        compare(Arc::new(grad), &[&[2, 3, 4, 5, 6], &[2, 2, 4, 5, 6], &[2, 4, 4, 5, 6]]);
        let up = ConvTranspose3d::double(3, true);
        compare(Arc::new(up), &[&[2, 3, 3, 4, 5], &[3, 4, 3, 3, 3], &[4]]);
    }
}
