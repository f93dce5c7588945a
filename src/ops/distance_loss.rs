//! The loss of networks that answer with a signed distance, and its gradient.

use super::loss::{bind_weights, expect_weights, weights};
use super::reduction::{CHAIN, CHUNK, SUM_ROWS, sum_rows};
use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId,
    batch_pieces, expect_ncdhw, sample_range,
};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// `distance_loss`: mean of h(e), half a square up to 1 mm and a line beyond it (Huber 1964). Inputs `[N, 1, D, H, W]`: logits z and
/// signed distances d to the brain's border in mm, and the fractions y of brain that have this border; z is to become -d, which is
/// positive in the brain. Further than `clip_mm` from the border any z is right that is at least as far on the same side, since
/// how far off a voxel of the scalp lies is nobody's question: there e is what z lacks. As in the other losses, a voxel whose
/// fraction is negative is not judged, and weights may be a last input. Output: `[1]`.
#[derive(Debug, Clone)]
pub struct DistanceLoss {
    /// Distance from which on only the side counts, in mm; positive.
    pub clip_mm: f32,
}

impl DistanceLoss {
    /// z less what it is to be; 0 where that is not known.
    fn error(&self, z: f64, d: f64, y: f64) -> f64 {
        let clip = f64::from(self.clip_mm);
        let lacks = |inward: f64| inward.min(clip) - clip;
        match () {
            () if y < 0.0 => 0.0,
            () if d <= -clip => lacks(z),
            () if d >= clip => -lacks(-z),
            () => z + d,
        }
    }

    fn check(&self, name: &'static str, inputs: &[TensorDesc], others: usize) -> Result<(), OpError> {
        expect_weights(name, inputs, others)?;
        let [_, channels, ..] = expect_ncdhw(name, inputs, 0)?;
        if channels != 1 || inputs[..3].iter().any(|desc| *desc != inputs[0]) {
            return Err(OpError::new(
                name,
                inputs,
                "needs logits, distances and fractions of one channel and one shape",
            ));
        }
        let positive = self.clip_mm > 0.0;
        if !positive {
            return Err(OpError::new(name, inputs, "clip_mm must be positive"));
        }
        Ok(())
    }
}

/// Shapes, and how far distances spread, in mm.
const CASES: [(&str, [usize; 5], f32, bool); 5] = [
    ("odd, batch of 2", [2, 1, 5, 7, 9], 4.0, false),
    ("one voxel", [3, 1, 1, 1, 1], 4.0, false),
    ("weighted", [2, 1, 4, 3, 7], 8.0, false),
    ("several workgroups, mostly far off", [2, 1, 17, 19, 23], 40.0, false),
    ("2 mm head", [1, 1, 96, 128, 160], 20.0, true),
];

fn cases(make: fn(Vec<(TensorDesc, Fill)>) -> Case) -> Vec<Case> {
    CASES
        .iter()
        .map(|(name, shape, spread, bench)| {
            let desc = TensorDesc::f32(shape);
            let mut case = make(vec![
                (desc.clone(), Fill::Normal(4.0)),
                (desc.clone(), Fill::Normal(*spread)),
                (desc.clone(), Fill::Uniform(-0.3, 1.0)),
            ]);
            case.inputs.extend((*name == "weighted").then_some((desc, Fill::Uniform(0.0, 2.0))));
            case.name = (*name).to_owned();
            if *bench { case.bench_only() } else { case }
        })
        .collect()
}

/// Registry entry of [`DistanceLoss`].
pub static DISTANCE_LOSS: OpDef = OpDef {
    name: "distance_loss",
    summary: "mean Huber loss of logits in mm and clipped signed distances",
    shaders: &["loss/distance_partials.wgsl", SUM_ROWS],
    cases: || cases(|inputs| Case::new("", DistanceLoss { clip_mm: 6.0 }, inputs).differentiable(&[0])),
};

impl Operator for DistanceLoss {
    fn name(&self) -> &'static str {
        "distance_loss"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        self.check(self.name(), inputs, 3)?;
        Ok(vec![TensorDesc::f32(&[1])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let pieces = batch_pieces(&[&inputs[0], &inputs[1], &inputs[2]], caps);
        let voxels = inputs[0].voxels();
        let groups_of = |samples: usize| (samples * voxels).div_ceil(CHUNK);
        let all: usize = pieces.iter().map(|piece| groups_of(piece.len())).sum();
        let mut lowered = Lowered::default();
        let partials = lowered.scratch(all as u64 * 4);
        let mut first = 0;
        for piece in pieces {
            let groups = groups_of(piece.len());
            let key = KernelKey::new("loss/distance_partials.wgsl")
                .define("WEIGHTED", u32::from(inputs.len() > 3))
                .count("CHUNK", CHUNK);
            lowered.push(bind_weights(
                Dispatch::new(key)
                    .bind_range("z", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("d", Slot::Input(1), sample_range(&inputs[1], &piece))
                    .bind_range("y", Slot::Input(2), sample_range(&inputs[2], &piece))
                    .bind("partials", partials)
                    .params(
                        Params::new()
                            .u32("n", piece.len() * voxels)
                            .u32("first_group", first)
                            .f32("clip_mm", self.clip_mm)
                            .f32("factor", (1.0 / inputs[0].len() as f64) as f32),
                    )
                    .grid([groups, 1, 1]),
                inputs,
                3,
                &piece,
            ));
            first += groups;
        }
        lowered.push(sum_rows(partials, Slot::Output(0), [1, all, 1], false));
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let mut gradients = vec![None; io.inputs.len()];
        if let Some(dloss) = io.grad_outputs[0] {
            let mut inputs = vec![io.inputs[0], io.inputs[1], io.inputs[2], dloss];
            inputs.extend(io.inputs.get(3));
            gradients[0] = Some(graph.apply(Box::new(DistanceLossGrad(self.clone())), &inputs)?[0]);
        }
        Ok(gradients)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let weight = weights(inputs, 3);
        let [z, d, y] = [0, 1, 2].map(|input| &inputs[input].data);
        let sum: f64 = (0..z.len())
            .map(|ix| match self.error(z[ix], d[ix], y[ix]).abs() {
                e if e <= 1.0 => weight(ix) * e * e / 2.0,
                e => weight(ix) * (e - 0.5),
            })
            .sum();
        vec![HostTensor::new(TensorDesc::f32(&[1]), vec![sum / inputs[0].data.len() as f64])]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 10.0 * n, bytes: 12.0 * n }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[0].len().min(CHAIN))
    }
}

/// Gradient of a [`DistanceLoss`] by its logits. Inputs: z, d and y `[N, 1, D, H, W]`, the gradient by the loss `[1]`, and the weights
/// if it had any. Output: the gradient by z.
#[derive(Debug, Clone)]
pub struct DistanceLossGrad(
    /// The loss.
    pub DistanceLoss,
);

/// Registry entry of [`DistanceLossGrad`].
pub static DISTANCE_LOSS_GRAD: OpDef = OpDef {
    name: "distance_loss_grad",
    summary: "gradient of distance_loss by the logits",
    shaders: &["loss/distance_grad.wgsl"],
    cases: || {
        cases(|mut inputs| {
            inputs.push((TensorDesc::f32(&[1]), Fill::Uniform(0.5, 2.0)));
            Case::new("", DistanceLossGrad(DistanceLoss { clip_mm: 6.0 }), inputs)
        })
    },
};

impl Operator for DistanceLossGrad {
    fn name(&self) -> &'static str {
        "distance_loss_grad"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        self.0.check(self.name(), inputs, 4)?;
        if inputs[3] != TensorDesc::f32(&[1]) {
            return Err(OpError::new(self.name(), inputs, "the gradient by the loss is a scalar"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0], &inputs[1], &inputs[2], &outputs[0]], caps) {
            let n = piece.len() * inputs[0].voxels();
            let key =
                KernelKey::new("loss/distance_grad.wgsl").define("WEIGHTED", u32::from(inputs.len() > 4));
            lowered.push(bind_weights(
                Dispatch::new(key)
                    .bind_range("z", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("d", Slot::Input(1), sample_range(&inputs[1], &piece))
                    .bind_range("y", Slot::Input(2), sample_range(&inputs[2], &piece))
                    .bind("dloss", Slot::Input(3))
                    .bind_range("dz", Slot::Output(0), sample_range(&outputs[0], &piece))
                    .params(
                        Params::new()
                            .u32("n", n)
                            .f32("clip_mm", self.0.clip_mm)
                            .f32("factor", (1.0 / inputs[0].len() as f64) as f32),
                    )
                    .flat(n, FLAT),
                inputs,
                4,
                &piece,
            ));
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let factor = inputs[3].data[0] / inputs[0].data.len() as f64;
        let weight = weights(inputs, 4);
        let [z, d, y] = [0, 1, 2].map(|input| &inputs[input].data);
        let slope = |ix: usize| self.0.error(z[ix], d[ix], y[ix]).clamp(-1.0, 1.0);
        let data = (0..z.len()).map(|ix| factor * weight(ix) * slope(ix)).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 6.0 * n, bytes: 16.0 * n }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(4)
    }
}
