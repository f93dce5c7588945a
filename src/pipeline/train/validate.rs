//! Validation: the trained weights on whole heads without augmentation.

use std::collections::HashMap;
use std::sync::Arc;

use super::data::LabelledHead;
use super::loader::{HeadCache, Loader};
use super::log::EpochRow;
use crate::gpu::Gpu;
use crate::graph::{Executor, ExecutorOptions};
use crate::model::{Description, GridSpec, LossKind, Mode, TrainingGraph, build};
use crate::ops::ValueId;
use crate::ops::loss::OverlapCounts;
use crate::pipeline::PipelineError;
use crate::tensor::{DType, TensorDesc};

/// Overlap counts of [`OverlapCounts`] as metrics: Dice, IoU, soft IoU.
pub(super) fn metrics_of(counts: &[f32]) -> [f64; 3] {
    let c: Vec<f64> = counts.iter().map(|&v| v as f64).collect();
    let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 1.0 };
    [ratio(2.0 * c[0], c[1] + c[2]), ratio(c[0], c[1] + c[2] - c[0]), ratio(c[3], c[4] + c[5] - c[3])]
}

/// The inference graph on the trained weights (their averages where kept), sharing their buffers.
pub(super) struct Validator<'a> {
    gpu: &'a Arc<Gpu>,
    pub(super) executor: Executor,
    input: ValueId,
    target: ValueId,
    loss: ValueId,
    counts: ValueId,
}

impl<'a> Validator<'a> {
    pub(super) fn new(
        gpu: &'a Arc<Gpu>,
        description: &Description,
        training: &TrainingGraph,
        trained: &Executor,
        loss: LossKind,
    ) -> Result<Self, PipelineError> {
        let description = description.answering(false).expect("every network says what is brain");
        let network = build(&description, 1, description.input.shape, Mode::Inference(DType::F32))?;
        let mut graph = network.graph;
        let [d, h, w] = description.input.shape;
        let target = graph.input("target", TensorDesc::f32(&[1, 1, d, h, w]));
        let loss = graph.apply(loss.operator(), &[network.logits, target])?[0];
        let counts = graph.apply1(OverlapCounts { threshold: 0.5 }, &[network.logits, target])?;
        graph.mark_output(loss);
        graph.mark_output(counts);
        let mut shared = HashMap::new();
        for (name, &value) in &training.persistent {
            if let Some(own) = graph.find(name) {
                let source = training.persistent.get(&format!("ema.{name}")).copied().unwrap_or(value);
                shared.insert(own, trained.tensor(source).clone());
            }
        }
        let executor = Executor::new(gpu, graph, ExecutorOptions { shared, ..ExecutorOptions::default() })?;
        Ok(Self { gpu, executor, input: network.input, target, loss, counts })
    }

    /// Puts the means over `heads` into a row.
    pub(super) async fn validate(
        &self,
        heads: &[LabelledHead],
        spec: &GridSpec,
        cache: &HeadCache,
        row: &mut EpochRow,
    ) -> Result<(), PipelineError> {
        // Without a margin: what the network is judged by is what it sees in use.
        let mut loader = Loader::start(self.gpu, heads.to_vec(), spec, false, cache);
        while let Some(head) = loader.next().await {
            let [x, y] = head?.plain(self.gpu, spec).await?;
            self.gpu.copy(&x, self.executor.tensor(self.input), 0)?;
            self.gpu.copy(&y, self.executor.tensor(self.target), 0)?;
            self.executor.run()?;
            loader.get_ready(1).await;
            let n = heads.len() as f64;
            row.validation_loss += self.executor.read::<f32>(self.loss).await?[0] as f64 / n;
            let [dice, iou, soft_iou] = metrics_of(&self.executor.read::<f32>(self.counts).await?);
            row.validation_dice += dice / n;
            row.validation_iou += iou / n;
            row.validation_soft_iou += soft_iou / n;
        }
        Ok(())
    }
}
