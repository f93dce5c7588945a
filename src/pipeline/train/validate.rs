//! Validation: the trained weights on whole heads without augmentation, as `strip` asks them.

use std::sync::Arc;

use super::data::LabelledHead;
use super::loader::{HeadCache, Loader};
use super::log::EpochRow;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{Executor, ExecutorOptions, Graph, Tuning};
use crate::model::{LossKind, Model};
use crate::ops::ValueId;
use crate::ops::loss::OverlapCounts;
use crate::pipeline::PipelineError;
use crate::pipeline::network::Network;
use crate::tensor::{DType, TensorDesc};

/// Overlap counts of [`OverlapCounts`] as metrics: Dice, IoU, soft IoU.
pub(super) fn metrics_of(counts: &[f32]) -> [f64; 3] {
    let c: Vec<f64> = counts.iter().map(|&v| v as f64).collect();
    let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 1.0 };
    [ratio(2.0 * c[0], c[1] + c[2]), ratio(c[0], c[1] + c[2] - c[0]), ratio(c[3], c[4] + c[5] - c[3])]
}

/// Loss and overlap of logits and masks of these extents.
struct Judge {
    shape: [usize; 3],
    executor: Executor,
    inputs: [ValueId; 2],
    loss: ValueId,
    counts: ValueId,
}

impl Judge {
    fn new(
        gpu: &Arc<Gpu>,
        shape: [usize; 3],
        voxel_mm: [f64; 3],
        loss: LossKind,
    ) -> Result<Self, PipelineError> {
        let [d, h, w] = shape;
        let mut graph = Graph::new();
        let inputs = ["logits", "target"].map(|name| graph.input(name, TensorDesc::f32(&[1, 1, d, h, w])));
        let loss = loss.apply(&mut graph, inputs[0], inputs[1], None, voxel_mm)?;
        let counts = graph.apply1(OverlapCounts { threshold: 0.5 }, &inputs)?;
        graph.mark_output(loss);
        graph.mark_output(counts);
        let executor = Executor::new(gpu, graph, ExecutorOptions::default())?;
        Ok(Self { shape, executor, inputs, loss, counts })
    }
}

/// Puts the means over `heads` into a row.
///
/// # Errors
/// Heads that cannot be read, or a failing device.
pub(super) async fn validate(
    gpu: &Arc<Gpu>,
    model: &Model,
    tuning: &Arc<Tuning>,
    loss: LossKind,
    heads: &[LabelledHead],
    cache: &HeadCache,
    row: &mut EpochRow,
) -> Result<(), PipelineError> {
    let description = &model.description;
    let spec = &description.input;
    let mut network = Network::new(gpu, description, &model.tensors, DType::F32, tuning).await?;
    // Without a margin: what the network is judged by is what it sees in use.
    let mut loader = Loader::start(gpu, heads.to_vec(), description, false, cache);
    let mut judge: Option<Judge> = None;
    while let Some(head) = loader.next().await {
        let [x, y]: [GpuTensor; 2] = head?.plain(gpu, spec).await?;
        let logits = network.pass(&x).await?;
        let shape = x.desc.shape[..].try_into().expect("a view has three axes");
        if judge.as_ref().is_none_or(|judge| judge.shape != shape) {
            judge = Some(Judge::new(gpu, shape, spec.voxel_mm, loss)?);
        }
        let Judge { executor, inputs, loss, counts, .. } = judge.as_ref().expect("made just now");
        for (tensor, input) in [logits, y].iter().zip(inputs) {
            gpu.copy(tensor, executor.tensor(*input), 0)?;
        }
        executor.run()?;
        loader.get_ready(1).await;
        let n = heads.len() as f64;
        row.validation_loss += executor.read::<f32>(*loss).await?[0] as f64 / n;
        let [dice, iou, soft_iou] = metrics_of(&executor.read::<f32>(*counts).await?);
        row.validation_dice += dice / n;
        row.validation_iou += iou / n;
        row.validation_soft_iou += soft_iou / n;
    }
    Ok(())
}
