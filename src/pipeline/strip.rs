//! Brain extraction of one head: bias field, network grid, network, native grid, mask.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use glam::DVec3;
use serde::Serialize;

use super::PipelineError;
use super::bias::{
    FitRegion, N4Error, N4Fit, N4Options, RegionTensors, correct_bias, divide_by_fit, divide_in_place, n4,
};
use super::opinion::{Member, Opinion};
use super::place::head::{Head, SCALP_MM, SEARCH_MM};
use super::place::slabs::slabs;
use super::place::source::Source;
use super::plausibility::Signals;
use super::postprocess::{BrainMask, THRESHOLD};
use super::stopwatch::Stopwatch;
use super::window::Window;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{Tuning, run_op1};
use crate::model::{GridSpec, Model, ModelError};
use crate::ops::elementwise::{Add, Scale};
use crate::tensor::{DType, Xyz};
use crate::volume::{Grid, Volume};

/// Whether the bias field is corrected before the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub enum N4Choice {
    /// As the network was trained.
    #[default]
    AsModel,
    /// Not at all.
    Off,
    /// With these settings, on every voxel that they accept.
    On(N4Options),
    /// For the network inside the head, without its scalp; for [`Stripped::corrected`] anew inside the brain, on
    /// voxels of about 3 mm.
    TwoPass,
}

/// What to compute for a head.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StripOptions {
    /// Moves the mask's border outward by this many mm (inward when negative).
    pub border_mm: f64,
    /// Bias correction before the network.
    pub n4: N4Choice,
    /// Average over the mirrored head, also where the model does not ask for it, and over grids moved by half a voxel: five
    /// times the work for a steadier border.
    pub tta: bool,
    /// Return the signed distance to the border.
    #[serde(skip)]
    pub distance: bool,
    /// Return the probability.
    #[serde(skip)]
    pub probability: bool,
    /// Return the bias field and the corrected image; corrects with the defaults when `n4` would not.
    pub corrected: bool,
}

/// Results for a head; arrays are on its own grid, x fastest, as [`Volume`] stores them.
#[derive(Clone, Debug)]
pub struct Stripped {
    /// 1 in the brain, 0 elsewhere.
    pub mask: Vec<u8>,
    /// Probability of brain, when asked for.
    pub probability: Option<Vec<f32>>,
    /// Signed distance in mm to the border of `mask`, negative inside, when asked for.
    pub distance_mm: Option<Vec<f32>>,
    /// Multiplicative bias field, when asked for; with [`N4Choice::TwoPass`] that of the second pass.
    pub bias: Option<Vec<f32>>,
    /// Input divided by the bias field, when asked for.
    pub corrected: Option<Vec<f32>>,
    /// Volume of the mask in mL.
    pub brain_ml: f64,
    /// Wall time of each stage in order.
    pub seconds: Vec<(&'static str, f64)>,
    /// What the mask was judged by.
    pub signals: Signals,
    /// How plausible the mask is, 0 to 1 (see [`Signals::score`]).
    pub score: f64,
    /// Of several models: the part of the voxels that any of them marks and not all do.
    pub disagreement: Option<f64>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// Voxel size that the two passes of N4 work on.
const TWO_PASS_MM: f64 = 3.0;

/// Longest edge of an image, in mm, below which no head fits in: a newborn's is about 115 mm long.
const LEAST_EXTENT_MM: f64 = 60.0;
/// Middle one of the edges, in mm, above which an image is no scan of a person: bores are 600 to 700 mm wide, and a whole
/// body is longer along one axis only.
const MOST_EXTENT_MM: f64 = 800.0;

/// A model compiled for a device, or several, ready for any number of heads, one at a time.
///
/// A network has one set of buffers, so stripping borrows it mutably: threads either take turns or have a `Stripper`
/// each, and what comes back shares nothing with it.
pub struct Stripper {
    gpu: Arc<Gpu>,
    /// One model, or several whose mean probability counts.
    members: Vec<Member>,
}

impl Stripper {
    /// Folds and compiles a model.
    ///
    /// # Errors
    /// Weights that do not fit the network, or a device with too little memory.
    pub async fn new(gpu: &Arc<Gpu>, model: &Model) -> Result<Self, PipelineError> {
        Self::tuned(gpu, model, DType::F32, &Arc::default()).await
    }

    /// As [`Stripper::new`], with the network's activations in `dtype` and the kernel variants that measured fastest.
    ///
    /// # Errors
    /// As [`Stripper::new`], and half precision on an adapter without it.
    pub async fn tuned(
        gpu: &Arc<Gpu>,
        model: &Model,
        dtype: DType,
        tuning: &Arc<Tuning>,
    ) -> Result<Self, PipelineError> {
        Self::of_several(gpu, std::slice::from_ref(model), dtype, tuning).await
    }

    /// As [`Stripper::tuned`], of several models: the mean of their probabilities counts, and the first one's answer is what
    /// the mask is judged by.
    ///
    /// # Errors
    /// As [`Stripper::tuned`], and models that were trained behind different bias corrections.
    ///
    /// # Panics
    /// Without a model.
    pub async fn of_several(
        gpu: &Arc<Gpu>,
        models: &[Model],
        dtype: DType,
        tuning: &Arc<Tuning>,
    ) -> Result<Self, PipelineError> {
        assert!(!models.is_empty(), "someone has to look at the head");
        let mut members = Vec::new();
        for model in models {
            members.push(Member::new(gpu, model, dtype, tuning).await?);
        }
        Ok(Self { gpu: Arc::clone(gpu), members })
    }

    /// The driver's words when the device is lost (see [`Gpu::lost`]): nothing more can be stripped on it.
    pub fn lost(&self) -> Option<String> {
        self.gpu.lost()
    }

    /// Most bytes that the device's buffers have held.
    pub fn peak_bytes(&self) -> u64 {
        self.gpu.peak_bytes()
    }

    /// What the device's buffers would have taken when it last had too little memory for one more.
    pub fn refused_bytes(&self) -> u64 {
        self.gpu.refused_bytes()
    }

    /// The ceiling for the device's buffers, where it is lower than asked for since the device has too little memory.
    pub fn lowered_ceiling(&self) -> Option<u64> {
        self.gpu.lowered_ceiling()
    }

    /// Bytes of GPU buffers that the networks hold; one whose grid depends on the volume holds none before its first,
    /// and one that runs in pieces none between volumes.
    pub fn network_bytes(&self) -> u64 {
        self.members.iter().map(Member::bytes).sum()
    }

    /// Extracts the brain. The network sees the volume through its [`Window`], so that neither the level of its background,
    /// nor padding, nor a few voxels far too bright or too dark change the mask; voxels that are not finite count as
    /// background. Of a volume larger than the device binds, or than its ceiling leaves room for, slabs go to the device one
    /// after the other, with the same result.
    ///
    /// # Errors
    /// No brain found, a bias field that cannot be fitted, or a failing device.
    pub async fn strip(
        &mut self,
        volume: &Volume,
        options: &StripOptions,
    ) -> Result<Stripped, PipelineError> {
        // A network marks something even in a constant image.
        let Ok(window) = Window::of(volume) else { return Err(PipelineError::NoBrain) };
        check_field_of_view(volume)?;
        let gpu = Arc::clone(&self.gpu);
        let gpu = &*gpu;
        let mut watch = Stopwatch::start(gpu);
        let mut source = Source::of(gpu, volume, &window).await?;
        watch.lap("upload").await?;
        let mut warnings = Vec::new();
        let n4_options = self.n4_options(options, Xyz(volume.voxel_size().to_array()))?;
        let two_pass = options.n4 == N4Choice::TwoPass;
        let mut fit = None;
        if let Some(n4_options) = n4_options {
            match corrected(&self.gpu, &mut source, two_pass, &n4_options).await {
                Ok(done) => fit = Some((done, n4_options.padding)),
                // Nobody asked for it by name, and the network copes with a bias field.
                Err(error @ PipelineError::N4(N4Error::TooFewVoxels { .. } | N4Error::Constant))
                    if options.n4 == N4Choice::AsModel && !options.corrected =>
                {
                    warnings.push(format!("the bias field was left as it is: {error}"));
                }
                Err(error) => return Err(error),
            }
            watch.lap("n4").await?;
        }

        let mut opinions = Vec::new();
        for member in &mut self.members {
            opinions.push(member.opinion(&source, options.tta, &mut watch).await?);
        }
        // Volumes on the device are freed as soon as nobody needs them.
        drop(source);
        let native = Grid::of(volume);
        let mut probability = options.probability.then(Vec::new);
        let mut brain = BrainMask::on(&native);
        let mut overlap = Overlap::default();
        for planes in slabs(gpu, native.shape) {
            let slab = mean_probability(gpu, &opinions, &native, &planes, &mut overlap).await?;
            if let Some(probability) = &mut probability {
                probability.append(&mut gpu.download(&slab).await?);
            }
            brain.add(gpu, slab).await?;
        }
        // What the mask is judged by.
        let answer = opinions.swap_remove(0).answer;
        drop(opinions);
        watch.lap("to native grid").await?;
        let brain = brain.cleaned(gpu).await?;
        let labels = match options.fits_in_brain() {
            true => Some(brain.labels(gpu).await?),
            false => None,
        };
        let border_mm = options.border_mm;
        let found = border_mm < 0.0 && brain.values(gpu).await?.contains(&1);
        let brain = brain.with_border(gpu, border_mm)?;
        let mask = brain.values(gpu).await?;
        if !mask.contains(&1) {
            return Err(if found { PipelineError::Border { border_mm } } else { PipelineError::NoBrain });
        }
        watch.lap("mask").await?;
        let mut distance_mm = None;
        if options.distance {
            distance_mm = Some(brain.distance_mm(gpu).await?);
            watch.lap("distance").await?;
        }
        drop(brain);
        if let Some(labels) = labels {
            let second = N4Options { keep_nonpositive: false, ..N4Options::article() }
                .shrunken_to(TWO_PASS_MM, Xyz(volume.voxel_size().to_array()));
            let region = FitRegion { mask: Some(&labels), ..FitRegion::default() };
            let done = correct_bias(&self.gpu, window.through(volume), region, &second, false).await?;
            fit = Some((done.fit, second.padding));
            watch.lap("n4 in the brain").await?;
        }
        let (mut bias, mut corrected) = (None, None);
        if let (true, Some((fit, padding))) = (options.corrected, fit) {
            let mut volume = Cow::Borrowed(volume);
            if !volume.data.iter().all(|v| v.is_finite()) {
                volume.to_mut().replace_non_finite();
            }
            let (values, log_field) = divide_by_fit(gpu, &volume, &fit, padding, true).await?;
            (corrected, bias) = (Some(values), exponentials(log_field));
            watch.lap("divide by the field").await?;
        }
        let voxels = mask.iter().filter(|&&v| v != 0).count();
        let brain_ml = voxels as f64 * volume.voxel_volume_ml();
        let signals = Signals::measure(&answer, volume, brain_ml);
        let usual = self.members[0].usual;
        warnings.extend(signals.doubts(usual).iter().map(ToString::to_string));
        Ok(Stripped {
            mask,
            probability,
            distance_mm,
            bias,
            corrected,
            brain_ml,
            seconds: watch.seconds,
            score: signals.score(usual),
            disagreement: overlap.disagreement(),
            signals,
            warnings,
        })
    }

    /// How the bias field is corrected before the network sees a volume with such voxels.
    fn n4_options(
        &self,
        options: &StripOptions,
        voxel_mm: Xyz<f64>,
    ) -> Result<Option<N4Options>, PipelineError> {
        let chosen = match &options.n4 {
            N4Choice::On(n4_options) => Some(n4_options.clone()),
            N4Choice::TwoPass => Some(N4Options::default().shrunken_to(TWO_PASS_MM, voxel_mm)),
            N4Choice::AsModel => {
                let spec = self.members[0].spec();
                if self.members.iter().any(|member| member.spec().n4 != spec.n4) {
                    let reason =
                        "were trained behind different bias corrections; choose one with --n4, or --no-n4";
                    return Err(
                        ModelError::Weights { file: "the models".into(), reason: reason.into() }.into()
                    );
                }
                model_n4(spec)?
            }
            N4Choice::Off => None,
        };
        Ok(chosen.or_else(|| options.corrected.then(N4Options::default)))
    }
}

impl StripOptions {
    /// Whether the field is fitted once more, inside the brain.
    fn fits_in_brain(&self) -> bool {
        self.n4 == N4Choice::TwoPass && self.corrected
    }
}

/// How many voxels several models mark.
#[derive(Default)]
struct Overlap {
    all: usize,
    any: usize,
}

impl Overlap {
    /// Counts the voxels of one more slab, of which each model gives the probability.
    fn add(&mut self, opinions: &[Vec<f32>]) {
        for ix in 0..opinions[0].len() {
            let marks = opinions.iter().filter(|probability| probability[ix] > THRESHOLD).count();
            self.all += usize::from(marks == opinions.len());
            self.any += usize::from(marks > 0);
        }
    }

    fn disagreement(&self) -> Option<f64> {
        (self.any > 0).then(|| 1.0 - self.all as f64 / self.any as f64)
    }
}

/// The mean of the probabilities that models give to the voxels of these planes of a volume's own grid.
async fn mean_probability(
    gpu: &Gpu,
    opinions: &[Opinion],
    native: &Grid,
    planes: &Range<usize>,
    overlap: &mut Overlap,
) -> Result<GpuTensor, PipelineError> {
    let mut mean = opinions[0].probability_on(gpu, native, planes)?;
    let [_, others @ ..] = opinions else { return Ok(mean) };
    if others.is_empty() {
        return Ok(mean);
    }
    let mut each = vec![gpu.download(&mean).await?];
    for opinion in others {
        let probability = opinion.probability_on(gpu, native, planes)?;
        each.push(gpu.download(&probability).await?);
        mean = run_op1(gpu, &Add, &[&mean, &probability])?;
    }
    overlap.add(&each);
    Ok(run_op1(gpu, &Scale { factor: 1.0 / opinions.len() as f32 }, &[&mean])?)
}

/// Divides a volume by its bias field, fitted inside the head or everywhere.
async fn corrected(
    gpu: &Arc<Gpu>,
    source: &mut Source<'_>,
    in_head: bool,
    options: &N4Options,
) -> Result<N4Fit, PipelineError> {
    match source {
        Source::Device(placed) => {
            let mut inner_head = None;
            if in_head {
                let searched = Source::Device(placed.averaged_over(gpu, DVec3::splat(SEARCH_MM)).await?);
                if let Some(head) = Head::find(gpu, &searched).await? {
                    inner_head = Some(head.mask_on(gpu, &placed.grid(), placed.axes, SCALP_MM).await?);
                }
            }
            let region = RegionTensors { mask: inner_head.as_ref(), confidence: None };
            let result = n4(gpu, &placed.tensor, region, options).await?;
            divide_in_place(gpu, &placed.tensor, &result.log_field)?;
            Ok(result.fit)
        }
        Source::Memory { volume, .. } => {
            let region = FitRegion { head_less_mm: in_head.then_some(SCALP_MM), ..FitRegion::default() };
            let done = correct_bias(gpu, Cow::Borrowed(&***volume), region, options, false).await?;
            let Volume { shape, affine, .. } = ***volume;
            *volume = Arc::new(Cow::Owned(Volume { shape, affine, data: done.values }));
            Ok(done.fit)
        }
    }
}

/// Refuses an image whose edges are those of no head: its voxel size is wrong, or the unit that it is in.
fn check_field_of_view(volume: &Volume) -> Result<(), PipelineError> {
    let voxel_mm = volume.voxel_size().to_array();
    let extent_mm = [0, 1, 2].map(|axis| volume.shape[axis] as f64 * voxel_mm[axis]);
    let mut sorted = extent_mm;
    sorted.sort_by(f64::total_cmp);
    let too_small = sorted[2] < LEAST_EXTENT_MM;
    if too_small || sorted[1] > MOST_EXTENT_MM {
        return Err(PipelineError::FieldOfView { extent_mm, voxel_mm, too_small });
    }
    Ok(())
}

fn exponentials(logarithms: Option<Vec<f32>>) -> Option<Vec<f32>> {
    logarithms.map(|values| values.into_iter().map(f32::exp).collect())
}

/// The bias correction that a network was trained with.
pub(super) fn model_n4(spec: &GridSpec) -> Result<Option<N4Options>, PipelineError> {
    match spec.n4.as_deref() {
        None => Ok(None),
        Some("default") => Ok(Some(N4Options::default())),
        Some("article") => Ok(Some(N4Options::article())),
        Some("ants") => Ok(Some(N4Options::ants())),
        Some("sitk") => Ok(Some(N4Options::sitk())),
        Some(other) => Err(crate::model::ModelError::Weights {
            file: "the model".into(),
            reason: format!("asks for the unknown bias correction '{other}'; use a newer Trephine"),
        }
        .into()),
    }
}
