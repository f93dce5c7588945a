//! `trephine n4`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::json;
use trephine::pipeline::PipelineError;
use trephine::pipeline::bias::{FitRegion, N4Fit, N4Options, correct_bias, divide_by_field};
use trephine::pipeline::place::head::SCALP_MM;
use trephine::tensor::Xyz;
use trephine::volume::companion;
use trephine::volume::image::{self, Image};

use super::files::{Input, append, check_folder, check_outputs};
use super::json::named;
use super::{FrameOptions, Outcome, Session, about, triple, usage};

/// Correct the bias field of an image (N4)
///
/// Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 29(6), 2010. Options given by hand go
/// before those of --preset. Lists of three follow the axes of the file: x, y, z.
///
/// Without a mask the field is fitted to the head without its outer 15 mm, found by threshold and morphology
/// (--auto-mask); the presets, as the programs they follow, take every voxel.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine n4 -i head.nii.gz -o head_n4.nii.gz\n  trephine n4 -i head.nii.gz -x head_mask.nii.gz -o head_n4.nii.gz -b head_field.nii.gz\n  trephine n4 -i thick_slices.nii.gz -o corrected.nii.gz --shrink 4,4,1 --spline-distance 150\n  trephine n4 -i head.nii.gz --apply-field head_field.nii.gz -o head_n4.nii.gz"
)]
pub(super) struct Options {
    /// Image to correct
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Corrected image, float32
    #[arg(short, long, value_name = "FILE", required_unless_present = "field")]
    output: Option<PathBuf>,
    /// Write the multiplicative bias field: corrected = input / field
    #[arg(short = 'b', long = "bias", value_name = "FILE")]
    field: Option<PathBuf>,
    /// Divide by a field that was saved with -b instead of estimating one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["field", "Region", "Fit"], requires = "output")]
    apply_field: Option<PathBuf>,
    #[command(flatten)]
    region: RegionOptions,
    #[command(flatten)]
    fit: FitOptions,
    #[command(flatten)]
    frames: FrameOptions,
}

/// Where the field is fitted.
#[derive(Debug, Args)]
#[group(id = "Region", multiple = true)]
#[command(next_help_heading = "Where the field is fitted")]
struct RegionOptions {
    /// Fit the field inside this mask (any label but 0 counts)
    #[arg(short = 'x', long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Take only this label of the mask
    #[arg(long, value_name = "LABEL", requires = "mask")]
    mask_label: Option<f64>,
    /// How much each voxel counts; those of 0 and below are left out
    #[arg(short, long, value_name = "FILE")]
    weight: Option<PathBuf>,
    /// Region to fit to without a mask [default: inner-head; with --preset or --weight: none]
    #[arg(long, value_name = "REGION", conflicts_with = "mask")]
    auto_mask: Option<AutoMask>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AutoMask {
    /// The head, by Otsu's threshold, closed and filled
    Head,
    /// The head without its outer 15 mm
    InnerHead,
    /// Every voxel above 0; with the presets article and sitk every voxel, as those programs do
    None,
}

/// Where more than this share of a mask or head is not positive, the image is not what logarithms are for. In 25 public
/// heads at most 0.6% of the inner head is (air and flow voids stored as 0), in a CT in Hounsfield units 67%.
const MANY_LEFT_OUT: f64 = 0.05;

/// How the field is fitted.
#[derive(Debug, Args)]
#[group(id = "Fit", multiple = true)]
#[command(next_help_heading = "How the field is fitted")]
struct FitOptions {
    /// Estimate from every N-th voxel along each axis, or along x, y and z [default: 4]
    #[arg(long, value_name = "N|X,Y,Z", value_parser = triple::<usize>)]
    shrink: Option<[usize; 3]>,
    /// Most iterations of each fitting level; each level doubles the spline's knots [default: 50,50,50,50]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    iterations: Option<Vec<usize>>,
    /// A level ends when the field changes by no more than this; 0 runs all iterations [default: 1e-3]
    #[arg(long, value_name = "VALUE")]
    tolerance: Option<f32>,
    /// Bins of the histogram [default: 200]
    #[arg(long, value_name = "N")]
    bins: Option<usize>,
    /// Full width at half maximum of the bias field's Gaussian, in log intensity [default: 0.15]
    #[arg(long, value_name = "VALUE")]
    fwhm: Option<f32>,
    /// Noise of the Wiener filter that sharpens the histogram [default: 0.01]
    #[arg(long, value_name = "VALUE")]
    noise: Option<f32>,
    /// Control points of the first level along each axis, or along x, y and z [default: 4]
    #[arg(long, value_name = "N|X,Y,Z", value_parser = triple::<usize>)]
    control_points: Option<[usize; 3]>,
    /// Knots of the first level every MM instead; the spline's domain grows to a multiple of it, as in ANTs
    #[arg(long, value_name = "MM", conflicts_with = "control_points")]
    spline_distance: Option<f64>,
    /// Settings of other programs
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Preset {
    /// Shrink 3, iterations 20,10,10,5, no convergence test, no mask
    Article,
    /// Shrink 4, iterations 50,50,50,50, no convergence test
    Ants,
    /// No shrinking, iterations 50,50,50,50, tolerance 1e-3
    Sitk,
}

impl Preset {
    pub(super) fn settings(self) -> N4Options {
        match self {
            Self::Article => N4Options::article(),
            Self::Ants => N4Options::ants(),
            Self::Sitk => N4Options::sitk(),
        }
    }
}

impl FitOptions {
    fn settings(&self) -> anyhow::Result<N4Options> {
        let preset = self.preset.map_or_else(N4Options::default, Preset::settings);
        let settings = N4Options {
            shrink: self.shrink.map_or(preset.shrink, |xyz| Xyz(xyz).into()),
            iterations: self.iterations.clone().unwrap_or(preset.iterations),
            tolerance: self.tolerance.unwrap_or(preset.tolerance),
            bins: self.bins.unwrap_or(preset.bins),
            fwhm: self.fwhm.unwrap_or(preset.fwhm),
            noise: self.noise.unwrap_or(preset.noise),
            control_points: self.control_points.map_or(preset.control_points, |xyz| Xyz(xyz).into()),
            ..preset
        };
        settings.validate().map_err(|error| usage(error.to_string()))?;
        if self.spline_distance.is_some_and(|mm| !(mm > 0.0 && mm.is_finite())) {
            return Err(usage("--spline-distance must be a positive number of mm"));
        }
        Ok(settings)
    }
}

/// A weight or a field, on the image's grid.
fn read_values(path: &Path, image: &Image, session: &Session) -> anyhow::Result<Vec<f32>> {
    let values = companion::read_values(path, image)?;
    values.warnings.iter().for_each(|warning| session.terminal.warning(path, warning));
    Ok(values.data)
}

impl RegionOptions {
    /// The mask as 0 and 1, on the image's grid.
    fn read_mask(&self, image: &Image, session: &Session) -> anyhow::Result<Option<Vec<u32>>> {
        let Some(path) = &self.mask else { return Ok(None) };
        let mask = companion::read_mask(path, image, self.mask_label)?;
        mask.warnings.iter().for_each(|warning| session.terminal.warning(path, warning));
        Ok(Some(mask.voxels.into_iter().map(u32::from).collect()))
    }

    fn read_weight(&self, image: &Image, session: &Session) -> anyhow::Result<Option<Vec<f32>>> {
        let Some(path) = &self.weight else { return Ok(None) };
        let weight = read_values(path, image, session)?;
        if !weight.iter().any(|v| v.is_finite() && *v > 0.0) {
            bail!("{}: has no positive voxel; a weight of 0 leaves a voxel out", path.display());
        }
        Ok(Some(weight))
    }

    fn auto_mask(&self, preset: Option<Preset>) -> AutoMask {
        let followed = preset.is_some() || self.weight.is_some() || self.mask.is_some();
        self.auto_mask.unwrap_or(if followed { AutoMask::None } else { AutoMask::InnerHead })
    }
}

impl Options {
    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        let mut settings = self.fit.settings()?;
        let outputs: Vec<_> =
            [&self.output, &self.field].into_iter().flatten().map(PathBuf::as_path).collect();
        let companions = [&self.region.mask, &self.region.weight, &self.apply_field];
        let inputs: Vec<_> =
            companions.into_iter().flatten().chain([&self.input]).map(PathBuf::as_path).collect();
        check_outputs(&outputs, &inputs)?;
        outputs.iter().try_for_each(|path| check_folder(path))?;
        let input = Input::read(&self.input, self.frames.into())?;
        input.warnings.iter().for_each(|warning| session.terminal.warning(&self.input, warning));
        if let Some(field) = &self.apply_field {
            return self.apply(field, &input, session).await;
        }
        if let Some(distance_mm) = self.fit.spline_distance {
            let voxel_mm = Xyz(input.image.voxel_size().to_array());
            settings = settings
                .with_spline_distance(distance_mm, input.image.shape(), voxel_mm)
                .and_then(|settings| settings.validate().map(|()| settings))
                .map_err(|error| about(&self.input, &error.into()))?;
        }
        let mask = self.region.read_mask(&input.image, session)?;
        let weight = self.region.read_weight(&input.image, session)?;
        let auto_mask = self.region.auto_mask(self.fit.preset);
        let gpu = session.gpu().await?;
        let begun = Instant::now();
        let about = |error: PipelineError| about(&self.input, &error);
        let region = FitRegion {
            mask: mask.as_deref(),
            confidence: weight.as_deref(),
            head_less_mm: match auto_mask {
                AutoMask::Head => Some(0.0),
                AutoMask::InnerHead => Some(SCALP_MM),
                AutoMask::None => None,
            },
        };
        let voxels = input.image.shape().iter().product();
        let (mut corrected, mut field, mut levels) = (Vec::new(), Vec::new(), Vec::new());
        let mut regions = Vec::new();
        let mut left_out = Vec::new();
        for frame in 0..input.image.frames() {
            let volume = Cow::Owned(input.volume(frame)?);
            let result =
                correct_bias(&gpu, volume, region, &settings, self.field.is_some()).await.map_err(about)?;
            append(&mut corrected, result.values);
            append(&mut field, result.log_field.into_iter().flatten().map(f32::exp).collect());
            regions.push(region_in_words(region, result.head_found, result.fit.voxels, voxels, &settings));
            if let Some(text) = left_out_in_words(&result.fit) {
                session.terminal.warning(&self.input, &text);
            }
            left_out.push(result.fit.left_out);
            levels.push(result.fit.levels);
        }
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(path) = &self.output {
            image::write_like(path, &input.image, &corrected)?;
        }
        if let Some(path) = &self.field {
            image::write_like(path, &input.image, &field)?;
        }
        for (levels, region) in levels.iter().zip(&regions) {
            if let Some(region) = region {
                session.terminal.note(&format!("{}: {region}", self.input.display()));
            }
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
            "output": self.output.as_deref().map(named),
            "field": self.field.as_deref().map(named),
            "region": regions.first(),
            "left_out": left_out,
            "levels": levels,
            "seconds": seconds,
        }))?;
        Ok(Outcome::Done)
    }

    /// Divides by a saved field: no estimate.
    async fn apply(&self, path: &Path, input: &Input, session: &Session) -> anyhow::Result<Outcome> {
        let field = read_values(path, &input.image, session)?;
        if let Some(bad) = field.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
            bail!(
                "{}: holds {bad}; a multiplicative bias field, as -b writes it, is positive everywhere",
                path.display()
            );
        }
        let gpu = session.gpu().await?;
        let begun = Instant::now();
        // Kernels take logarithms, which the host computes more exactly than some adapters.
        let log_field: Vec<f32> = field.iter().map(|v| v.ln()).collect();
        let mut corrected: Vec<f32> = Vec::new();
        for frame in 0..input.image.frames() {
            let divided = divide_by_field(&gpu, &input.volume(frame)?, &log_field).await;
            append(&mut corrected, divided.map_err(|error| about(&self.input, &error))?);
        }
        if let Some(output) = &self.output {
            image::write_like(output, &input.image, &corrected)?;
        }
        session.terminal.json(&json!({
            "adapter": gpu.summary,
            "output": self.output.as_deref().map(named),
            "applied_field": named(path),
            "seconds": begun.elapsed().as_secs_f64(),
        }))?;
        Ok(Outcome::Done)
    }
}

/// What to say of voxels inside the mask or head that no logarithm can be taken of, where they are many.
fn left_out_in_words(fit: &N4Fit) -> Option<String> {
    let share = fit.left_out as f64 / (fit.left_out + fit.voxels).max(1) as f64;
    (share > MANY_LEFT_OUT).then(|| {
        format!(
            "{:.0}% of the voxels that the field should be fitted to are 0 or negative and were left out; N4 works \
             on logarithms, so pass a mask of tissue with -x, or shift the intensities until tissue is positive",
            100.0 * share
        )
    })
}

/// Where the field of a volume was fitted, unless a file said so.
fn region_in_words(
    region: FitRegion,
    head_found: bool,
    fitted: usize,
    voxels: usize,
    settings: &N4Options,
) -> Option<String> {
    if region.mask.is_some() || region.confidence.is_some() && region.head_less_mm.is_none() {
        return None;
    }
    let every =
        if settings.keep_nonpositive { "every voxel, the background too" } else { "every voxel above 0" };
    Some(match region.head_less_mm {
        None => format!("no mask: the field was fitted to {every}"),
        Some(_) if !head_found => {
            format!("no head found by threshold: the field was fitted to {every}")
        }
        Some(mm) => {
            let less = if mm > 0.0 { format!(" less its outer {mm:.0} mm") } else { String::new() };
            let of: usize = settings.shrink.0.iter().product();
            let share = 100.0 * (fitted * of) as f64 / voxels as f64;
            format!(
                "no mask: the field was fitted to the head (Otsu's threshold, closed, filled){less}, {share:.0}% \
                 of the volume; -x names a mask, --auto-mask none takes every voxel"
            )
        }
    })
}
