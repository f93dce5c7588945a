//! Losses of a binary segmentation and their gradients by the logits, and the overlap counts from which
//! Dice and IoU follow. Targets may be soft (area fractions); a voxel whose target is negative is not judged: it counts
//! in no sum and has no gradient.
//!
//! All take logits `z` and targets `y` in [0, 1], both `[N, 1, D, H, W]`, with p = sigmoid(z); the losses may take weights of the
//! same shape as a last input, of which every term of a sum over voxels is multiplied by its own.

use std::ops::Range;

use super::reduction::{CHAIN, CHUNK, SUM_ROWS, sum_rows};
use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId,
    batch_pieces, expect_inputs, expect_ncdhw, sample_range,
};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// Relative error of a sigmoid: WGSL grants `exp` 3 + 2|x| ulp, and software Vulkan uses 5.5.
const SIGMOID_EPSILON: f64 = 8.0 * f32::EPSILON as f64;

/// A loss: inputs `z`, `y` and perhaps weights, `[N, 1, D, H, W]`; outputs the loss `[1]` and the sums `[rows, 4]` that the
/// gradient needs: sum p y, sum p, sum y and the sum of the pointwise loss. Rows are the samples when
/// `per_sample` is set, else there is one row for the whole batch. Only the first output has a gradient.
#[derive(Debug, Clone, PartialEq)]
pub enum Loss {
    /// `soft_dice_loss`: 1 - (2 I + smooth) / (U + smooth), with I = sum p y and U = sum p + sum y
    /// (Milletari et al. 2016 without the squares).
    SoftDice {
        /// Added to both sides of the fraction, in voxels; positive, so that an empty pair is a match.
        smooth: f32,
        /// Mean of the samples' losses instead of one fraction for the batch.
        per_sample: bool,
    },
    /// `bce_loss`: mean of -y log p - (1-y) log(1-p).
    Bce,
    /// `focal_loss`: mean of -alpha y (1-p)^gamma log p - (1-alpha) (1-y) p^gamma log(1-p), which for
    /// hard targets is the loss of Lin et al. 2017.
    Focal {
        /// Exponent that quiets the voxels already right; 0 gives a weighted cross-entropy.
        gamma: f32,
        /// Weight of the foreground, in [0, 1].
        alpha: f32,
    },
    /// `dice_bce_loss`: `dice_weight` times the soft Dice loss plus `bce_weight` times the
    /// cross-entropy, in one pass over the voxels.
    DiceBce {
        /// As in [`Loss::SoftDice`].
        smooth: f32,
        /// As in [`Loss::SoftDice`].
        per_sample: bool,
        /// Weight of the Dice loss.
        dice_weight: f32,
        /// Weight of the cross-entropy.
        bce_weight: f32,
    },
}

/// The pointwise part of a loss.
#[derive(Clone, Copy, PartialEq)]
enum Pointwise {
    None,
    Bce,
    Focal { gamma: f64, alpha: f64 },
}

/// Every loss as a weighted sum of a Dice part and a pointwise part.
struct Terms {
    dice_weight: f64,
    smooth: f64,
    per_sample: bool,
    pointwise: Pointwise,
    pointwise_weight: f64,
}

impl Terms {
    fn rows(&self, batch: usize) -> usize {
        if self.per_sample { batch } else { 1 }
    }

    fn focal(&self) -> (f64, f64) {
        match self.pointwise {
            Pointwise::Focal { gamma, alpha } => (gamma, alpha),
            Pointwise::None | Pointwise::Bce => (0.0, 0.0),
        }
    }

    fn key(&self, path: &'static str) -> KernelKey {
        KernelKey::new(path)
            .define("DICE", u32::from(self.dice_weight != 0.0))
            .define("BCE", u32::from(self.pointwise == Pointwise::Bce))
            .define("FOCAL", u32::from(matches!(self.pointwise, Pointwise::Focal { .. })))
    }
}

impl Loss {
    fn terms(&self) -> Terms {
        // Without a Dice part its fraction is (0 + 0) / (0 + 1).
        let none = Terms {
            dice_weight: 0.0,
            smooth: 1.0,
            per_sample: false,
            pointwise: Pointwise::None,
            pointwise_weight: 0.0,
        };
        match *self {
            Loss::SoftDice { smooth, per_sample } => {
                Terms { dice_weight: 1.0, smooth: smooth as f64, per_sample, ..none }
            }
            Loss::Bce => Terms { pointwise: Pointwise::Bce, pointwise_weight: 1.0, ..none },
            Loss::Focal { gamma, alpha } => Terms {
                pointwise: Pointwise::Focal { gamma: gamma as f64, alpha: alpha as f64 },
                pointwise_weight: 1.0,
                ..none
            },
            Loss::DiceBce { smooth, per_sample, dice_weight, bce_weight } => Terms {
                dice_weight: dice_weight as f64,
                smooth: smooth as f64,
                per_sample,
                pointwise: Pointwise::Bce,
                pointwise_weight: bce_weight as f64,
            },
        }
    }

    fn grad_name(&self) -> &'static str {
        match self {
            Loss::SoftDice { .. } => "soft_dice_loss_grad",
            Loss::Bce => "bce_loss_grad",
            Loss::Focal { .. } => "focal_loss_grad",
            Loss::DiceBce { .. } => "dice_bce_loss_grad",
        }
    }

    /// Checks attributes and the shapes of logits, targets and weights, which follow `others` inputs where there are any;
    /// returns the batch size.
    fn check(&self, name: &'static str, inputs: &[TensorDesc], others: usize) -> Result<usize, OpError> {
        expect_weights(name, inputs, others)?;
        let terms = self.terms();
        let (gamma, alpha) = terms.focal();
        let positive = terms.smooth > 0.0;
        if !positive {
            return Err(OpError::new(name, inputs, "smooth must be positive"));
        }
        if !(gamma >= 0.0 && (0.0..=1.0).contains(&alpha)) {
            return Err(OpError::new(name, inputs, "gamma must be at least 0 and alpha within [0, 1]"));
        }
        expect_logits(name, inputs)
    }
}

/// Checks that `n` inputs are there, and after them weights like the first one or none.
pub(super) fn expect_weights(name: &'static str, inputs: &[TensorDesc], n: usize) -> Result<(), OpError> {
    match inputs.get(n) {
        Some(weights) if *weights != inputs[0] => {
            Err(OpError::new(name, inputs, "logits and weights differ in shape"))
        }
        Some(_) => expect_inputs(name, inputs, n + 1),
        None => expect_inputs(name, inputs, n),
    }
}

/// Binds the weights to a kernel of a loss, where input `n` is there; its constant `WEIGHTED` says whether.
pub(super) fn bind_weights(
    dispatch: Dispatch,
    inputs: &[TensorDesc],
    n: usize,
    piece: &Range<usize>,
) -> Dispatch {
    match inputs.get(n) {
        Some(weights) => dispatch.bind_range("weight", Slot::Input(n), sample_range(weights, piece)),
        None => dispatch,
    }
}

/// Weights of voxels, all 1 where input `n` is not there.
pub(super) fn weights<'a>(inputs: &[&'a HostTensor], n: usize) -> impl Fn(usize) -> f64 + use<'a> {
    let weights = inputs.get(n).copied();
    move |ix| weights.map_or(1.0, |weights| weights.data[ix])
}

/// Checks logits and targets, the first two inputs; returns the batch size.
fn expect_logits(name: &'static str, inputs: &[TensorDesc]) -> Result<usize, OpError> {
    let [batch, channels, ..] = expect_ncdhw(name, inputs, 0)?;
    if channels != 1 {
        return Err(OpError::new(name, inputs, "logits must have one channel"));
    }
    if inputs[0] != inputs[1] {
        return Err(OpError::new(name, inputs, "logits and targets differ in shape"));
    }
    Ok(batch)
}

/// log(1 + exp(x)).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn logistic(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

fn dice_cases(make: fn(bool) -> Loss) -> Vec<Case> {
    cases_for(&[make(false), make(true)])
}

fn cases_for(losses: &[Loss]) -> Vec<Case> {
    let mut cases = Vec::new();
    for loss in losses {
        let rows = if loss.terms().per_sample { "per sample" } else { "whole batch" };
        let mut add = |name: &str, shape: &[usize], targets: Fill| {
            let desc = TensorDesc::f32(shape);
            let mut inputs = vec![(desc.clone(), Fill::Normal(3.0)), (desc.clone(), targets)];
            inputs.extend((name == "weighted").then_some((desc, Fill::Uniform(0.0, 2.0))));
            cases.push(Case::new(&format!("{name}, {rows}"), loss.clone(), inputs).differentiable(&[0]));
        };
        add("odd, soft targets", &[2, 1, 5, 7, 9], Fill::Uniform(0.0, 1.0));
        add("one voxel", &[3, 1, 1, 1, 1], Fill::Binary(0.5));
        add("a third of the voxels not judged", &[2, 1, 5, 7, 9], Fill::Uniform(-0.5, 1.0));
        add("no voxel judged", &[1, 1, 3, 5, 2], Fill::Uniform(-1.0, -0.5));
        add("several workgroups, hard targets", &[2, 1, 17, 19, 23], Fill::Binary(0.3));
        add("weighted", &[2, 1, 5, 7, 9], Fill::Uniform(-0.2, 1.0));
        let desc = TensorDesc::f32(&[1, 1, 96, 128, 160]);
        let inputs = vec![(desc.clone(), Fill::Normal(3.0)), (desc, Fill::Binary(0.2))];
        cases.push(Case::new(&format!("2 mm head, {rows}"), loss.clone(), inputs).bench_only());
    }
    cases
}

fn grad_cases(losses: &[Loss]) -> Vec<Case> {
    let mut cases = Vec::new();
    for loss in losses {
        let rows = if loss.terms().per_sample { "per sample" } else { "whole batch" };
        for (name, shape, least, bench) in [
            ("odd", [3, 1, 5, 7, 9], 0.0, false),
            ("one voxel", [2, 1, 1, 1, 1], 0.0, false),
            ("a third of the voxels not judged", [2, 1, 4, 3, 7], -0.5, false),
            ("weighted", [2, 1, 3, 5, 4], 0.0, false),
            ("2 mm head", [1, 1, 96, 128, 160], 0.0, true),
        ] {
            let desc = TensorDesc::f32(&shape);
            let n = loss.terms().rows(shape[0]);
            let mut inputs = vec![
                (desc.clone(), Fill::Normal(3.0)),
                (desc.clone(), Fill::Uniform(least, 1.0)),
                (TensorDesc::f32(&[n, 4]), Fill::Uniform(50.0, 100.0)),
                (TensorDesc::f32(&[1]), Fill::Uniform(0.5, 2.0)),
            ];
            inputs.extend((name == "weighted").then_some((desc, Fill::Uniform(0.0, 2.0))));
            let case = Case::new(&format!("{name}, {rows}"), LossGrad(loss.clone()), inputs);
            cases.push(if bench { case.bench_only() } else { case });
        }
    }
    cases
}

const FORWARD_SHADERS: &[&str] = &["loss/partials.wgsl", SUM_ROWS, "loss/finish.wgsl"];
const GRAD_SHADERS: &[&str] = &["loss/grad.wgsl"];

fn soft_dice(per_sample: bool) -> Loss {
    Loss::SoftDice { smooth: 1.0, per_sample }
}

fn dice_bce(per_sample: bool) -> Loss {
    Loss::DiceBce { smooth: 1.0, per_sample, dice_weight: 0.75, bce_weight: 1.5 }
}

/// The cases that `of` makes of the usual focal loss, and of another.
fn focal_cases(of: fn(&[Loss]) -> Vec<Case>) -> Vec<Case> {
    let mut cases = of(&[Loss::Focal { gamma: 2.0, alpha: 0.25 }]);
    for mut case in of(&[Loss::Focal { gamma: 1.5, alpha: 0.75 }]) {
        case.name += ", gamma 1.5";
        cases.push(case);
    }
    cases
}

/// Registry entry of [`Loss::SoftDice`].
pub static SOFT_DICE_LOSS: OpDef = OpDef {
    name: "soft_dice_loss",
    summary: "1 - (2 sum py + s) / (sum p + sum y + s), p = sigmoid(z)",
    shaders: FORWARD_SHADERS,
    cases: || dice_cases(soft_dice),
};

/// Registry entry of the gradient of [`Loss::SoftDice`].
pub static SOFT_DICE_LOSS_GRAD: OpDef = OpDef {
    name: "soft_dice_loss_grad",
    summary: "gradient of soft_dice_loss by the logits",
    shaders: GRAD_SHADERS,
    cases: || grad_cases(&[soft_dice(false), soft_dice(true)]),
};

/// Registry entry of [`Loss::Bce`].
pub static BCE_LOSS: OpDef = OpDef {
    name: "bce_loss",
    summary: "mean binary cross-entropy of logits",
    shaders: FORWARD_SHADERS,
    cases: || cases_for(&[Loss::Bce]),
};

/// Registry entry of the gradient of [`Loss::Bce`].
pub static BCE_LOSS_GRAD: OpDef = OpDef {
    name: "bce_loss_grad",
    summary: "gradient of bce_loss by the logits",
    shaders: GRAD_SHADERS,
    cases: || grad_cases(&[Loss::Bce]),
};

/// Registry entry of [`Loss::Focal`].
pub static FOCAL_LOSS: OpDef = OpDef {
    name: "focal_loss",
    summary: "mean focal loss of logits",
    shaders: FORWARD_SHADERS,
    cases: || focal_cases(cases_for),
};

/// Registry entry of the gradient of [`Loss::Focal`].
pub static FOCAL_LOSS_GRAD: OpDef = OpDef {
    name: "focal_loss_grad",
    summary: "gradient of focal_loss by the logits",
    shaders: GRAD_SHADERS,
    cases: || focal_cases(grad_cases),
};

/// Registry entry of [`Loss::DiceBce`].
pub static DICE_BCE_LOSS: OpDef = OpDef {
    name: "dice_bce_loss",
    summary: "weighted sum of soft Dice loss and binary cross-entropy",
    shaders: FORWARD_SHADERS,
    cases: || dice_cases(dice_bce),
};

/// Registry entry of the gradient of [`Loss::DiceBce`].
pub static DICE_BCE_LOSS_GRAD: OpDef = OpDef {
    name: "dice_bce_loss_grad",
    summary: "gradient of dice_bce_loss by the logits",
    shaders: GRAD_SHADERS,
    cases: || grad_cases(&[dice_bce(false), dice_bce(true)]),
};

impl Operator for Loss {
    fn name(&self) -> &'static str {
        match self {
            Loss::SoftDice { .. } => "soft_dice_loss",
            Loss::Bce => "bce_loss",
            Loss::Focal { .. } => "focal_loss",
            Loss::DiceBce { .. } => "dice_bce_loss",
        }
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let batch = self.check(self.name(), inputs, 2)?;
        Ok(vec![TensorDesc::f32(&[1]), TensorDesc::f32(&[self.terms().rows(batch), 4])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let terms = self.terms();
        let (gamma, alpha) = terms.focal();
        let batch = inputs[0].shape[0];
        let voxels = inputs[0].voxels();
        let groups = voxels.div_ceil(CHUNK);
        let rows = terms.rows(batch);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch((batch * groups * 16) as u64);
        for piece in batch_pieces(&[&inputs[0], &inputs[1]], caps) {
            let key = terms.key("loss/partials.wgsl").count("CHUNK", CHUNK);
            let weighted = u32::from(inputs.len() > 2);
            lowered.push(bind_weights(
                Dispatch::new(key.define("WEIGHTED", weighted))
                    .bind_range("z", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("y", Slot::Input(1), sample_range(&inputs[1], &piece))
                    .bind("partials", partials)
                    .params(
                        Params::new()
                            .u32("voxels", voxels)
                            .u32("groups", groups)
                            .u32("first_sample", piece.start)
                            .f32("gamma", gamma as f32)
                            .f32("alpha", alpha as f32),
                    )
                    .grid([groups, piece.len(), 1]),
                inputs,
                2,
                &piece,
            ));
        }
        // Without per-sample rows the partials of all samples are one row.
        lowered.push(sum_rows(partials, Slot::Output(1), [rows, batch * groups / rows, 4], false));
        lowered.push(
            Dispatch::new(KernelKey::new("loss/finish.wgsl"))
                .bind("sums", Slot::Output(1))
                .bind("loss", Slot::Output(0))
                .params(
                    Params::new()
                        .u32("rows", rows)
                        .f32("smooth_term", terms.smooth as f32)
                        .f32("dice_factor", (terms.dice_weight / rows as f64) as f32)
                        .f32("pointwise_factor", (terms.pointwise_weight / inputs[0].len() as f64) as f32),
                ),
        );
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let mut gradients = vec![None; io.inputs.len()];
        if let Some(dloss) = io.grad_outputs[0] {
            let mut inputs = vec![io.inputs[0], io.inputs[1], io.outputs[1], dloss];
            inputs.extend(io.inputs.get(2));
            gradients[0] = Some(graph.apply(Box::new(LossGrad(self.clone())), &inputs)?[0]);
        }
        Ok(gradients)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let terms = self.terms();
        let [z, y] = [inputs[0], inputs[1]];
        let rows = terms.rows(z.desc.shape[0]);
        let row_len = z.data.len() / rows;
        let weight = weights(inputs, 2);
        let mut sums = HostTensor::zeros(TensorDesc::f32(&[rows, 4]));
        for (ix, (&z, &y)) in z.data.iter().zip(&y.data).enumerate().filter(|(_, (_, y))| **y >= 0.0) {
            let row = &mut sums.data[ix / row_len * 4..][..4];
            let (p, w) = (logistic(z), weight(ix));
            if terms.dice_weight != 0.0 {
                row[0] += w * p * y;
                row[1] += w * p;
                row[2] += w * y;
            }
            row[3] += w * match terms.pointwise {
                Pointwise::None => 0.0,
                Pointwise::Bce => y * softplus(-z) + (1.0 - y) * softplus(z),
                Pointwise::Focal { gamma, alpha } => {
                    alpha * y * (1.0 - p).powf(gamma) * softplus(-z)
                        + (1.0 - alpha) * (1.0 - y) * p.powf(gamma) * softplus(z)
                }
            };
        }
        let mut loss = 0.0;
        for row in sums.data.chunks_exact(4) {
            let dice = 1.0 - (2.0 * row[0] + terms.smooth) / (row[1] + row[2] + terms.smooth);
            loss += terms.dice_weight * dice / rows as f64;
            loss += terms.pointwise_weight * row[3] / z.data.len() as f64;
        }
        vec![HostTensor::new(TensorDesc::f32(&[1]), vec![loss]), sums]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 30.0 * n, bytes: 8.0 * n }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision { reduction: inputs[0].len().min(CHAIN), epsilon: SIGMOID_EPSILON }
    }
}

/// Gradient of a [`Loss`] by its logits. Inputs: `z`, `y` `[N, 1, D, H, W]`, the sums `[rows, 4]` that the
/// loss put out, the gradient by the loss `[1]`, and the weights if it had any. Output: the gradient by `z`.
#[derive(Debug, Clone)]
pub struct LossGrad(
    /// The loss.
    pub Loss,
);

impl Operator for LossGrad {
    fn name(&self) -> &'static str {
        self.0.grad_name()
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let batch = self.0.check(self.name(), inputs, 4)?;
        let sums = TensorDesc::f32(&[self.0.terms().rows(batch), 4]);
        if inputs[2] != sums || inputs[3] != TensorDesc::f32(&[1]) {
            return Err(OpError::new(self.name(), inputs, format!("needs sums {sums:?} and a scalar")));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let terms = self.0.terms();
        let (gamma, alpha) = terms.focal();
        let batch = inputs[0].shape[0];
        let voxels = inputs[0].voxels();
        let rows = terms.rows(batch);
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0], &inputs[1], &outputs[0]], caps) {
            let n = piece.len() * voxels;
            let weighted = u32::from(inputs.len() > 4);
            lowered.push(bind_weights(
                Dispatch::new(terms.key("loss/grad.wgsl").define("WEIGHTED", weighted))
                    .bind_range("z", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("y", Slot::Input(1), sample_range(&inputs[1], &piece))
                    .bind("sums", Slot::Input(2))
                    .bind("dloss", Slot::Input(3))
                    .bind_range("dz", Slot::Output(0), sample_range(&outputs[0], &piece))
                    .params(
                        Params::new()
                            .u32("n", n)
                            .u32("row_len", if terms.per_sample { voxels } else { n })
                            .u32("first_row", if terms.per_sample { piece.start } else { 0 })
                            .f32("smooth_term", terms.smooth as f32)
                            .f32("dice_factor", (terms.dice_weight / rows as f64) as f32)
                            .f32("pointwise_factor", (terms.pointwise_weight / inputs[0].len() as f64) as f32)
                            .f32("gamma", gamma as f32)
                            .f32("alpha", alpha as f32),
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
        let terms = self.0.terms();
        let [z, y, sums, dloss] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let rows = terms.rows(z.desc.shape[0]);
        let row_len = z.data.len() / rows;
        let weight = weights(inputs, 4);
        let data = z.data.iter().zip(&y.data).enumerate().map(|(ix, (&z, &y))| {
            if y < 0.0 {
                return 0.0;
            }
            let row = &sums.data[ix / row_len * 4..][..4];
            let p = logistic(z);
            let q = logistic(-z);
            let (i, u) = (2.0 * row[0] + terms.smooth, row[1] + row[2] + terms.smooth);
            let dice = -(2.0 * y * u - i) / (u * u) * p * q;
            let pointwise = match terms.pointwise {
                Pointwise::None => 0.0,
                Pointwise::Bce => p - y,
                Pointwise::Focal { gamma, alpha } => {
                    (1.0 - alpha) * (1.0 - y) * p.powf(gamma) * (p + gamma * q * softplus(z))
                        - alpha * y * q.powf(gamma) * (q + gamma * p * softplus(-z))
                }
            };
            let dice_part = terms.dice_weight / rows as f64 * dice;
            let pointwise_part = terms.pointwise_weight / inputs[0].data.len() as f64 * pointwise;
            dloss.data[0] * weight(ix) * (dice_part + pointwise_part)
        });
        vec![HostTensor::new(z.desc.clone(), data.collect())]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 30.0 * n, bytes: 12.0 * n }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision { reduction: 1, epsilon: SIGMOID_EPSILON }
    }
}

/// `overlap_counts`: what Dice and IoU are made of, per sample. Inputs as for the losses. Output
/// `[N, 6]` f32: voxels with hard p and hard y, with hard p, with hard y; sum of p y, of p, of y, where
/// hard p is p >= `threshold` and hard y is y >= 0.5. Counts are exact up to 2^24 voxels.
///
/// With a row `(a, b, c, i, p, y)`: Dice = 2a / (b + c), IoU = a / (b + c - a), soft IoU = i / (p + y - i).
#[derive(Debug, Clone)]
pub struct OverlapCounts {
    /// Threshold on the probability, within (0, 1).
    pub threshold: f32,
}

impl OverlapCounts {
    /// The logit of the threshold: p >= t is z >= log(t / (1 - t)).
    fn cutoff(&self) -> f32 {
        let t = self.threshold as f64;
        (t / (1.0 - t)).ln() as f32
    }
}

/// Registry entry of [`OverlapCounts`].
pub static OVERLAP_COUNTS: OpDef = OpDef {
    name: "overlap_counts",
    summary: "hard and soft overlap of logits and targets, per sample",
    shaders: &["loss/overlap.wgsl", SUM_ROWS],
    cases: || {
        let case = |name: &str, shape: &[usize], threshold: f32, targets: Fill| {
            let desc = TensorDesc::f32(shape);
            let inputs = vec![(desc.clone(), Fill::Normal(3.0)), (desc, targets)];
            Case::new(name, OverlapCounts { threshold }, inputs)
        };
        vec![
            case("odd, soft targets", &[2, 1, 5, 7, 9], 0.5, Fill::Uniform(0.0, 1.0)),
            case("one voxel", &[3, 1, 1, 1, 1], 0.5, Fill::Binary(0.5)),
            case("a third of the voxels not judged", &[2, 1, 5, 7, 9], 0.5, Fill::Uniform(-0.5, 1.0)),
            case("several workgroups, other threshold", &[2, 1, 17, 19, 23], 0.3, Fill::Binary(0.3)),
            case("2 mm head", &[1, 1, 96, 128, 160], 0.5, Fill::Binary(0.2)).bench_only(),
        ]
    },
};

impl Operator for OverlapCounts {
    fn name(&self) -> &'static str {
        "overlap_counts"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("overlap_counts", inputs, 2)?;
        let batch = expect_logits("overlap_counts", inputs)?;
        if !(self.threshold > 0.0 && self.threshold < 1.0) {
            return Err(OpError::new("overlap_counts", inputs, "the threshold must lie within (0, 1)"));
        }
        Ok(vec![TensorDesc::f32(&[batch, 6])])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let batch = inputs[0].shape[0];
        let voxels = inputs[0].voxels();
        let groups = voxels.div_ceil(CHUNK);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch((batch * groups * 24) as u64);
        for piece in batch_pieces(&[&inputs[0], &inputs[1]], caps) {
            lowered.push(
                Dispatch::new(KernelKey::new("loss/overlap.wgsl").count("CHUNK", CHUNK))
                    .bind_range("z", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind_range("y", Slot::Input(1), sample_range(&inputs[1], &piece))
                    .bind("partials", partials)
                    .params(
                        Params::new()
                            .u32("voxels", voxels)
                            .u32("groups", groups)
                            .u32("first_sample", piece.start)
                            .f32("cutoff", self.cutoff()),
                    )
                    .grid([groups, piece.len(), 1]),
            );
        }
        lowered.push(sum_rows(partials, Slot::Output(0), [batch, groups, 6], false));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [z, y] = [inputs[0], inputs[1]];
        let batch = z.desc.shape[0];
        let mut counts = HostTensor::zeros(TensorDesc::f32(&[batch, 6]));
        for (ix, (&z, &y)) in z.data.iter().zip(&y.data).enumerate().filter(|(_, (_, y))| **y >= 0.0) {
            let p = logistic(z);
            let hard_p = f64::from(u8::from(z >= self.cutoff() as f64));
            let hard_y = f64::from(u8::from(y >= 0.5));
            let row = &mut counts.data[ix / (inputs[0].data.len() / batch) * 6..][..6];
            for (sum, term) in row.iter_mut().zip([hard_p * hard_y, hard_p, hard_y, p * y, p, y]) {
                *sum += term;
            }
        }
        vec![counts]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 15.0 * n, bytes: 8.0 * n }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision { reduction: inputs[0].len().min(CHAIN), epsilon: SIGMOID_EPSILON }
    }
}
