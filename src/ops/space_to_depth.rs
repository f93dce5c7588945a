//! Blocks of voxels as channels, and back: a network computes on coarse voxels what it reads and writes on fine ones.

use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, ValueId, batch_pieces,
    element_kernel, expect_inputs, expect_ncdhw, sample_range,
};
use crate::gpu::{Caps, Dispatch, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

const SCALAR: &str = "space_to_depth/scalar.wgsl";
const PAIRS: &str = "space_to_depth/pairs.wgsl";

/// `space_to_depth`: every block of `[fd, fh, fw]` voxels of a channel becomes one voxel of `fd * fh * fw` channels.
///
/// Input: x `[N, C, D * fd, H * fh, W * fw]`. Output: y `[N, C * fd * fh * fw, D, H, W]`, with
/// y(n, ((c * fd + a) * fh + b) * fw + e, d, h, w) = x(n, c, d * fd + a, h * fh + b, w * fw + e): the order of PyTorch's
/// `pixel_unshuffle`, in three dimensions.
#[derive(Debug, Clone, Copy)]
pub struct SpaceToDepth {
    /// Extents `[fd, fh, fw]` of a block.
    pub factor: [usize; 3],
}

/// `depth_to_space`: every voxel of `fd * fh * fw` channels becomes a block of `[fd, fh, fw]` voxels of one channel; the
/// inverse, and the transpose, of [`SpaceToDepth`].
///
/// Input: x `[N, C * fd * fh * fw, D, H, W]`. Output: y `[N, C, D * fd, H * fh, W * fw]`.
#[derive(Debug, Clone, Copy)]
pub struct DepthToSpace {
    /// Extents `[fd, fh, fw]` of a block.
    pub factor: [usize; 3],
}

fn expect_factor(name: &'static str, inputs: &[TensorDesc], factor: [usize; 3]) -> Result<(), OpError> {
    if factor.contains(&0) {
        return Err(OpError::new(name, inputs, format!("blocks of {factor:?} voxels are empty")));
    }
    Ok(())
}

/// Calls `pair(index in the fine tensor, index in the folded one)` for every element.
fn for_each_pair(folded: &TensorDesc, factor: [usize; 3], mut pair: impl FnMut(usize, usize)) {
    let [n, channels, d, h, w] = folded.ncdhw().expect("`infer` has seen the tensor");
    let [fd, fh, fw] = factor;
    let c_fine = channels / (fd * fh * fw);
    let mut fine = 0;
    for plane in 0..n * c_fine {
        for at_d in 0..d * fd {
            for at_h in 0..h * fh {
                for at_w in 0..w * fw {
                    let channel = ((plane * fd + at_d % fd) * fh + at_h % fh) * fw + at_w % fw;
                    pair(fine, ((channel * d + at_d / fd) * h + at_h / fh) * w + at_w / fw);
                    fine += 1;
                }
            }
        }
    }
}

/// Variants for a folded tensor of these extents.
fn variants(folded_w: usize, factor: [usize; 3]) -> Vec<&'static str> {
    if factor[2] == 2 && folded_w.is_multiple_of(4) { vec!["pairs", "scalar"] } else { vec!["scalar"] }
}

/// Launches from x to y, one of which is `folded`.
fn lower(
    [x, y, folded]: [&TensorDesc; 3],
    factor: [usize; 3],
    unfold: bool,
    caps: &Caps,
    variant: &str,
) -> Lowered {
    let (shader, elements) = if variant == "pairs" { (PAIRS, 8) } else { (SCALAR, 1) };
    let key = element_kernel(shader, x).define("UNFOLD", unfold.into());
    let mut lowered = Lowered::default();
    for piece in batch_pieces(&[x, y], caps) {
        let n = piece.len() * (x.len() / x.shape[0]) / elements;
        lowered.push(
            Dispatch::new(key.clone())
                .bind_range("x", Slot::Input(0), sample_range(x, &piece))
                .bind_range("y", Slot::Output(0), sample_range(y, &piece))
                .params(
                    Params::new()
                        .u32("n", n)
                        .u32("d", folded.shape[2])
                        .u32("h", folded.shape[3])
                        .u32("w", folded.shape[4])
                        .u32("block_d", factor[0])
                        .u32("block_h", factor[1])
                        .u32("block_w", factor[2]),
                )
                .flat(n, FLAT),
        );
    }
    lowered
}

/// Name, blocks, shape of the folded tensor and whether it is for timing only, of both operators' cases.
const CASES: [(&str, [usize; 3], [usize; 5], bool); 8] = [
    ("blocks of 2, odd", [2; 3], [2, 24, 3, 5, 7], false),
    ("blocks of 2, a quad", [2; 3], [2, 8, 3, 2, 4], false),
    ("blocks of 2, quads", [2; 3], [1, 16, 2, 5, 12], false),
    ("blocks of 3, 1, 2", [3, 1, 2], [2, 12, 1, 3, 8], false),
    ("blocks of 1, 2, 3", [1, 2, 3], [1, 12, 5, 2, 4], false),
    ("one block", [2; 3], [3, 8, 1, 1, 1], false),
    ("single voxels", [1; 3], [2, 3, 5, 1, 4], false),
    ("a head of 2 mm at 4 mm", [2; 3], [1, 8, 48, 56, 56], true),
];

fn cases(case: impl Fn(&str, [usize; 3], TensorDesc) -> Case) -> Vec<Case> {
    let all = CASES.iter().map(|(name, factor, folded, bench_only)| {
        let case = case(name, *factor, TensorDesc::f32(folded)).differentiable(&[0]);
        if *bench_only { case.bench_only() } else { case }
    });
    all.collect()
}

/// Registry entry of [`SpaceToDepth`].
pub static SPACE_TO_DEPTH: OpDef = OpDef {
    name: "space_to_depth",
    summary: "blocks of voxels as channels",
    shaders: &[SCALAR, PAIRS],
    cases: || {
        cases(|name, factor, folded| {
            let fine = &DepthToSpace { factor }.infer(&[folded]).expect("the cases fit")[0];
            Case::new(name, SpaceToDepth { factor }, vec![(fine.clone(), Fill::Normal(1.0))])
        })
    },
};

/// Registry entry of [`DepthToSpace`].
pub static DEPTH_TO_SPACE: OpDef = OpDef {
    name: "depth_to_space",
    summary: "channels as blocks of voxels",
    shaders: &[SCALAR, PAIRS],
    cases: || {
        cases(|name, factor, folded| {
            Case::new(name, DepthToSpace { factor }, vec![(folded, Fill::Normal(1.0))])
        })
    },
};

impl Operator for SpaceToDepth {
    fn name(&self) -> &'static str {
        "space_to_depth"
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("space_to_depth", inputs, 1)?;
        let [n, c, d, h, w] = expect_ncdhw("space_to_depth", inputs, 0)?;
        expect_factor("space_to_depth", inputs, self.factor)?;
        let [fd, fh, fw] = self.factor;
        if d % fd != 0 || h % fh != 0 || w % fw != 0 {
            let reason = format!("the extents must be multiples of the blocks' {:?} voxels", self.factor);
            return Err(OpError::new("space_to_depth", inputs, reason));
        }
        let shape = vec![n, c * fd * fh * fw, d / fd, h / fh, w / fw];
        Ok(vec![TensorDesc { shape, ..inputs[0].clone() }])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        variants(inputs[0].shape[4] / self.factor[2], self.factor)
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        lower([&inputs[0], &outputs[0], &outputs[0]], self.factor, false, caps, variant)
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None]) };
        let back = DepthToSpace { factor: self.factor };
        Ok(vec![Some(graph.apply(Box::new(back), &[dy])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let x = inputs[0];
        let desc = self.infer(std::slice::from_ref(&x.desc)).expect("a valid input").remove(0);
        let mut y = vec![0.0; x.data.len()];
        for_each_pair(&desc, self.factor, |fine, folded| y[folded] = x.data[fine]);
        vec![HostTensor::new(desc, y)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        Cost { flops: 0.0, bytes: (inputs[0].bytes() + outputs[0].bytes()) as f64 }
    }
}

impl Operator for DepthToSpace {
    fn name(&self) -> &'static str {
        "depth_to_space"
    }

    fn activations(&self) -> usize {
        1
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("depth_to_space", inputs, 1)?;
        let [n, c, d, h, w] = expect_ncdhw("depth_to_space", inputs, 0)?;
        expect_factor("depth_to_space", inputs, self.factor)?;
        let [fd, fh, fw] = self.factor;
        let block = fd * fh * fw;
        if c % block != 0 {
            let reason =
                format!("the channels must be a multiple of the {block} voxels of a block {:?}", self.factor);
            return Err(OpError::new("depth_to_space", inputs, reason));
        }
        let shape = vec![n, c / block, d * fd, h * fh, w * fw];
        Ok(vec![TensorDesc { shape, ..inputs[0].clone() }])
    }

    fn variants(&self, inputs: &[TensorDesc], _: &Caps) -> Vec<&'static str> {
        variants(inputs[0].shape[4], self.factor)
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, variant: &str) -> Lowered {
        lower([&inputs[0], &outputs[0], &inputs[0]], self.factor, true, caps, variant)
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None]) };
        let back = SpaceToDepth { factor: self.factor };
        Ok(vec![Some(graph.apply(Box::new(back), &[dy])?[0])])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let x = inputs[0];
        let desc = self.infer(std::slice::from_ref(&x.desc)).expect("a valid input").remove(0);
        let mut y = vec![0.0; x.data.len()];
        for_each_pair(&x.desc, self.factor, |fine, folded| y[fine] = x.data[folded]);
        vec![HostTensor::new(desc, y)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        Cost { flops: 0.0, bytes: (inputs[0].bytes() + outputs[0].bytes()) as f64 }
    }
}
