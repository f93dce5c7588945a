//! `trephine n4`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::files::{Input, check_folder, check_outputs};
use super::{FrameOptions, Outcome, Session, about, usage};
use crate::gpu::{Gpu, GpuTensor};
use crate::pipeline::PipelineError;
use crate::pipeline::bias::{N4Level, N4Options, correct, n4};
use crate::pipeline::grid::PlacedVolume;
use crate::volume::image::{self, FrameChoice};
use crate::volume::{Problem, Volume};

/// Correct the bias field of an image (N4)
///
/// Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 29(6), 2010. Options given by hand go
/// before those of --preset.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine n4 -i head.nii.gz -o head_n4.nii.gz\n  trephine n4 -i head.nii.gz -x head_mask.nii.gz -o head_n4.nii.gz -b head_field.nii.gz"
)]
pub(super) struct Options {
    /// Image to correct
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Corrected image, float32
    #[arg(short, long, value_name = "FILE", required_unless_present = "field")]
    output: Option<PathBuf>,
    /// Fit the field inside this mask (any label but 0 counts) [default: every voxel above 0]
    #[arg(short = 'x', long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Write the multiplicative bias field: corrected = input / field
    #[arg(short = 'b', long = "bias", value_name = "FILE")]
    field: Option<PathBuf>,
    /// Estimate from every N-th voxel along each axis [default: 4]
    #[arg(long, value_name = "N")]
    shrink: Option<usize>,
    /// Most iterations of each resolution level [default: 50,50,50,50]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    iterations: Option<Vec<usize>>,
    /// A level ends when the field changes by no more than this; 0 runs all iterations [default: 1e-3]
    #[arg(long, value_name = "VALUE")]
    tolerance: Option<f32>,
    /// Settings of other programs
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    #[command(flatten)]
    frames: FrameOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// Shrink 3, iterations 20,10,10,5, no convergence test
    Article,
    /// Shrink 4, iterations 50,50,50,50, no convergence test
    Ants,
    /// No shrinking, iterations 50,50,50,50, tolerance 1e-3
    Sitk,
}

impl Options {
    fn settings(&self) -> anyhow::Result<N4Options> {
        let preset = match self.preset {
            None => N4Options::default(),
            Some(Preset::Article) => N4Options::article(),
            Some(Preset::Ants) => N4Options::ants(),
            Some(Preset::Sitk) => N4Options::sitk(),
        };
        let settings = N4Options {
            shrink: self.shrink.unwrap_or(preset.shrink),
            iterations: self.iterations.clone().unwrap_or(preset.iterations),
            tolerance: self.tolerance.unwrap_or(preset.tolerance),
            ..preset
        };
        if settings.shrink == 0 {
            return Err(usage("--shrink must be at least 1"));
        }
        if settings.iterations.contains(&0) {
            return Err(usage("--iterations must be at least 1 in every level"));
        }
        if settings.tolerance.is_nan() || settings.tolerance < 0.0 {
            return Err(usage("--tolerance must not be negative"));
        }
        Ok(settings)
    }

    /// The mask as labels, checked against the image.
    fn read_mask(&self, image: &Volume, session: &Session) -> anyhow::Result<Option<Volume>> {
        let Some(path) = &self.mask else { return Ok(None) };
        let mask = image::read(path, FrameChoice::Only)?;
        mask.warnings().iter().for_each(|warning| session.terminal.warning(path, warning));
        if mask.shape() != image.shape {
            return Err(Problem::Grid { a: mask.shape(), b: image.shape }.at(path).into());
        }
        let mut mask = mask.frame_f32(0)?;
        mask.data.iter_mut().for_each(|v| *v = f32::from(u8::from(*v != 0.0 && v.is_finite())));
        if mask.data.iter().all(|&v| v == 0.0) {
            bail!("{}: is empty; a mask needs labels other than 0", path.display());
        }
        Ok(Some(mask))
    }

    pub fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        let settings = self.settings()?;
        let outputs: Vec<_> =
            [&self.output, &self.field].into_iter().flatten().map(PathBuf::as_path).collect();
        let inputs: Vec<_> =
            [Some(&self.input), self.mask.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
        check_outputs(&outputs, &inputs)?;
        outputs.iter().try_for_each(|path| check_folder(path))?;
        let input = Input::read(&self.input, self.frames.into())?;
        input.warnings.iter().for_each(|warning| session.terminal.warning(&self.input, warning));
        let mask = self.read_mask(&input.first, session)?;
        if mask.is_none() {
            let used = if settings.keep_nonpositive {
                "every voxel, the background too"
            } else {
                "every voxel above 0"
            };
            session.terminal.note(&format!(
                "no mask: the field is fitted to {used}; a mask of the brain (-x) makes it more accurate there"
            ));
        }
        let gpu = session.gpu()?;
        let begun = Instant::now();
        let about = |error: PipelineError| about(&self.input, &error);
        let mask = mask.map(|mask| upload(&gpu, &mask)).transpose().map_err(about)?;
        let (mut corrected, mut field, mut levels) = (Vec::new(), Vec::new(), Vec::new());
        for frame in 0..input.image.frames() {
            let volume = input.volume(frame)?;
            let result =
                run_frame(&gpu, &volume, mask.as_ref(), &settings, self.field.is_some()).map_err(about)?;
            corrected.extend(result.corrected);
            field.extend(result.field);
            levels.push(result.levels);
        }
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(path) = &self.output {
            image::write_like(path, &input.image, &corrected)?;
        }
        if let Some(path) = &self.field {
            image::write_like(path, &input.image, &field)?;
        }
        for levels in &levels {
            let text: Vec<String> = levels.iter().map(|l| l.iterations.to_string()).collect();
            session.terminal.note(&format!(
                "{}: iterations {} in {seconds:.1} s",
                self.input.display(),
                text.join(", ")
            ));
        }
        let levels: Vec<Vec<_>> = levels
            .iter()
            .map(|frame| {
                frame
                    .iter()
                    .map(|l| json!({ "iterations": l.iterations, "convergence": l.convergence }))
                    .collect()
            })
            .collect();
        session.terminal.json(&json!({
            "adapter": gpu.summary,
            "output": self.output,
            "field": self.field,
            "levels": levels,
            "seconds": seconds,
        }))?;
        Ok(Outcome::Done)
    }
}

fn upload(gpu: &Gpu, volume: &Volume) -> Result<GpuTensor, PipelineError> {
    Ok(PlacedVolume::upload(gpu, volume)?.tensor)
}

/// What becomes of one volume.
struct Frame {
    corrected: Vec<f32>,
    /// Multiplicative; empty unless wanted.
    field: Vec<f32>,
    levels: Vec<N4Level>,
}

fn run_frame(
    gpu: &Arc<Gpu>,
    volume: &Volume,
    mask: Option<&GpuTensor>,
    settings: &N4Options,
    field: bool,
) -> Result<Frame, PipelineError> {
    let tensor = upload(gpu, volume)?;
    let result = n4(gpu, &tensor, mask, settings)?;
    let corrected = gpu.download(&correct(gpu, &tensor, &result.log_field)?)?;
    let log_field: Vec<f32> = if field { gpu.download(&result.log_field)? } else { Vec::new() };
    Ok(Frame { corrected, field: log_field.into_iter().map(f32::exp).collect(), levels: result.levels })
}
