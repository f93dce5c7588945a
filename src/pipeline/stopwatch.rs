//! How long the stages of a head take.

use std::time::Instant;

use super::PipelineError;
use crate::gpu::Gpu;

/// Wall time of stages, each waited for so that it is charged for its own work.
pub(super) struct Stopwatch<'a> {
    gpu: &'a Gpu,
    begun: Instant,
    /// Of the stages so far.
    pub seconds: Vec<(&'static str, f64)>,
}

impl<'a> Stopwatch<'a> {
    pub fn start(gpu: &'a Gpu) -> Self {
        Self { gpu, begun: Instant::now(), seconds: Vec::new() }
    }

    /// A stage ends here.
    pub async fn lap(&mut self, stage: &'static str) -> Result<(), PipelineError> {
        self.gpu.wait().await?;
        let seconds = self.begun.elapsed().as_secs_f64();
        match self.seconds.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += seconds,
            None => self.seconds.push((stage, seconds)),
        }
        self.begun = Instant::now();
        Ok(())
    }
}
