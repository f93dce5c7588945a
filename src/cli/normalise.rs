//! `trephine normalise`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use trephine::pipeline::normalise::{Method, normalise};
use trephine::pipeline::place::slabs;
use trephine::volume::image;

use super::files::{Input, append, check_folder, check_outputs};
use super::json::named;
use super::{FrameOptions, Outcome, Session, about, interval, usage};

/// Bring the intensities of an image to a common scale
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine normalise -i head.nii.gz -o head_z.nii.gz --method zscore\n  trephine normalise -i head.nii.gz -o head_255.nii.gz --method minmax --range 0,255"
)]
pub(super) struct Options {
    /// Image to normalise
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Normalised image, float32, on the input's grid
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How
    #[arg(long)]
    method: Name,
    /// What the lower and upper end become, for minmax and percentile
    #[arg(long, value_name = "LOW,HIGH", default_value = "0,1", value_parser = interval, allow_hyphen_values = true)]
    range: [f64; 2],
    /// Lower and upper percentile, for percentile; values beyond are clipped
    #[arg(long, value_name = "LOW,HIGH", default_value = "1,99.5", value_parser = interval)]
    percentiles: [f64; 2],
    /// Take mean and deviation over voxels above this only, for zscore (0: leaves out a black background)
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    above: Option<f32>,
    #[command(flatten)]
    frames: FrameOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Mean 0 and standard deviation 1
    Zscore,
    /// Smallest and largest value to the ends of --range
    Minmax,
    /// The --percentiles to the ends of --range
    Percentile,
}

impl Options {
    fn method(&self) -> anyhow::Result<Method> {
        let [low, high] = self.range.map(|v| v as f32);
        if self.above.is_some() && self.method != Name::Zscore {
            return Err(usage("--above belongs to --method zscore"));
        }
        Ok(match self.method {
            Name::Zscore => Method::ZScore { above: self.above },
            Name::Minmax => Method::MinMax { low, high },
            Name::Percentile => {
                if !self.percentiles.iter().all(|p| (0.0..=100.0).contains(p)) {
                    return Err(usage("--percentiles must lie between 0 and 100"));
                }
                Method::Percentiles { quantiles: self.percentiles.map(|p| p / 100.0), low, high }
            }
        })
    }

    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        let method = self.method()?;
        check_outputs(&[&self.output], &[&self.input])?;
        check_folder(&self.output)?;
        let input = Input::read(&self.input, self.frames.into())?;
        input.warnings.iter().for_each(|warning| session.terminal.warning(&self.input, warning));
        let gpu = session.gpu().await?;
        let mut data = Vec::new();
        for frame in 0..input.image.frames() {
            let volume = input.volume(frame)?;
            if frame == 0 && slabs::slabs(&gpu, volume.shape).len() > 1 {
                session.terminal.note(&format!(
                    "{}: exceeds what the device binds at once; its statistics are computed on the processor",
                    self.input.display()
                ));
            }
            let normalised = normalise(&gpu, &volume, &method).await;
            append(&mut data, normalised.map_err(|e| about(&self.input, &e.into()))?);
        }
        image::write_like(&self.output, &input.image, &data)?;
        session.terminal.note(&format!("wrote {}", self.output.display()));
        session.terminal.json(&json!({ "adapter": gpu.summary, "output": named(&self.output) }))?;
        Ok(Outcome::Done)
    }
}
