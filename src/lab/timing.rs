//! Timing launches: GPU timestamps where the adapter has them, else wall clock.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::gpu::{Gpu, GpuError, Prepared};

/// What durations were measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The GPU's own clock.
    GpuTimestamps,
    /// The host's clock from submission to completion: includes the driver's overhead.
    WallClock,
}

impl Clock {
    /// The best one that this device has.
    pub fn of(gpu: &Gpu) -> Self {
        if gpu.caps.timestamps { Self::GpuTimestamps } else { Self::WallClock }
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Seconds of samples for each contender.
    pub seconds: f64,
    /// Fewest samples; two of a contender that takes several times its share of seconds.
    pub samples: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { seconds: 1.0, samples: 5 }
    }
}

/// Most samples of a contender.
const MOST_SAMPLES: usize = 200;
/// A sample repeats what it times until it takes this long: the resolution of a GPU's clock may be a microsecond,
/// and waking the device up takes some more.
const SHORTEST_SAMPLE: f64 = 2e-4;

/// What competes: the same work on several copies of its data, each copy a sequence of launches.
pub(crate) type Contender = Vec<Vec<Prepared>>;

/// Times contenders in turn, sample by sample, so that what slows the machine slows them all. Returns the
/// durations of one run of each, in seconds.
///
/// # Errors
/// When a command failed.
pub(crate) async fn race(
    gpu: &Gpu,
    contenders: &[Contender],
    budget: Budget,
) -> Result<Vec<Vec<f64>>, GpuError> {
    let mut runners = Vec::with_capacity(contenders.len());
    for copies in contenders {
        let mut runner = Runner { gpu, copies, next: 0, repeats: 1 };
        // The first run pays for allocation and compilation, and wakes the device up.
        let mut once = runner.sample().await?;
        if once < budget.seconds {
            once = runner.sample().await?;
        }
        runner.repeats = ((SHORTEST_SAMPLE / once.max(1e-9)).ceil() as usize).clamp(1, 256);
        runners.push(runner);
    }
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    let wants_more = |samples: &[f64], repeats: usize| {
        let spent: f64 = samples.iter().sum::<f64>() * repeats as f64;
        let crawls = spent > 5.0 * budget.seconds.max(1.0) && samples.len() > 1;
        let enough = samples.len() >= budget.samples && spent >= budget.seconds;
        !crawls && !enough && samples.len() < MOST_SAMPLES
    };
    loop {
        let mut idle = true;
        for (runner, samples) in runners.iter_mut().zip(&mut samples) {
            if wants_more(samples, runner.repeats) {
                samples.push(runner.sample().await?);
                idle = false;
            }
        }
        if idle {
            return Ok(samples);
        }
    }
}

struct Runner<'a> {
    gpu: &'a Gpu,
    copies: &'a Contender,
    next: usize,
    repeats: usize,
}

impl Runner<'_> {
    /// Seconds of one run.
    async fn sample(&mut self) -> Result<f64, GpuError> {
        let mut launches = Vec::new();
        for _ in 0..self.repeats {
            launches.extend(&self.copies[self.next % self.copies.len()]);
            self.next += 1;
        }
        let total = match self.gpu.submit_passes(std::slice::from_ref(&launches)).await? {
            Some(spans) => spans[0][1] - spans[0][0],
            None => {
                let begun = Instant::now();
                self.gpu.submit(launches)?;
                self.gpu.wait().await?;
                begun.elapsed().as_secs_f64()
            }
        };
        Ok(total / self.repeats as f64)
    }
}
