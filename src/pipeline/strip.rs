//! Brain extraction of one head: bias field, network grid, network, native grid, mask.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use glam::DVec3;
use serde::Serialize;

use super::PipelineError;
use super::bias::{
    FitRegion, N4Error, N4Options, RegionTensors, correct_bias, divide_by_fit, divide_in_place, n4,
};
use super::network::{Network, Said};
use super::place::head::{Head, SCALP_MM, SEARCH_MM};
use super::place::placed::PlacedVolume;
use super::place::slabs::{slabs, upload_bindable};
use super::place::view::View;
use super::place::voxels;
use super::plausibility::{Answer, Signals};
use super::postprocess::BrainMask;
use super::window::Window;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{Tuning, run_op1};
use crate::model::{Centre, Description, GridSpec, Model, Readout, Usual, VoxelBox, weights_of_first};
use crate::ops::activation::Activate;
use crate::ops::elementwise::{Add, Scale};
use crate::ops::resample::{AxisOrder, Edge, Interpolation};
use crate::tensor::{DType, Xyz, Zyx};
use crate::volume::{Grid, Volume, components};

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
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// Moves of the network's grid, in voxels, of test-time augmentation: the corners of a tetrahedron, half way to the next
/// voxels.
const TTA_SHIFTS: [DVec3; 4] = [
    DVec3::new(0.5, 0.5, 0.5),
    DVec3::new(0.5, -0.5, -0.5),
    DVec3::new(-0.5, 0.5, -0.5),
    DVec3::new(-0.5, -0.5, 0.5),
];

/// Logit of voxels outside the network's grid: certainly not brain.
const OUTSIDE_LOGIT: f32 = -20.0;
/// Voxel size that the two passes of N4 work on.
const TWO_PASS_MM: f64 = 3.0;

/// Longest edge of an image, in mm, below which no head fits in: a newborn's is about 115 mm long.
const LEAST_EXTENT_MM: f64 = 60.0;
/// Middle one of the edges, in mm, above which an image is no scan of a person: bores are 600 to 700 mm wide, and a whole
/// body is longer along one axis only.
const MOST_EXTENT_MM: f64 = 800.0;

/// A network compiled for a device, ready for any number of heads, one at a time.
///
/// The network has one set of buffers, so stripping borrows it mutably: threads either take turns or have a `Stripper`
/// each, and what comes back shares nothing with it.
pub struct Stripper {
    gpu: Arc<Gpu>,
    network: Network,
    /// The network that looks for the brain first.
    first: Option<Network>,
    usual: Option<Usual>,
}

/// Wall time of stages, each waited for so that it is charged for its own work.
struct Stopwatch<'a> {
    gpu: &'a Gpu,
    begun: Instant,
    seconds: Vec<(&'static str, f64)>,
}

impl Stopwatch<'_> {
    async fn lap(&mut self, stage: &'static str) -> Result<(), PipelineError> {
        self.gpu.wait().await?;
        self.seconds.push((stage, self.begun.elapsed().as_secs_f64()));
        self.begun = Instant::now();
        Ok(())
    }
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
        let Description { first, .. } = &model.description;
        let first = match first {
            None => None,
            Some(first) => {
                Some(Network::new(gpu, first, &weights_of_first(&model.tensors), dtype, tuning).await?)
            }
        };
        let network = Network::new(gpu, &model.description, &model.tensors, dtype, tuning).await?;
        Ok(Self { gpu: Arc::clone(gpu), network, first, usual: model.card.usual })
    }

    /// What the network sees of a head.
    fn spec(&self) -> &GridSpec {
        &self.network.description().input
    }

    /// Bytes of GPU buffers that the network holds; one whose grid depends on the volume holds none before its first.
    pub fn network_bytes(&self) -> u64 {
        self.network.bytes() + self.first.as_ref().map_or(0, Network::bytes)
    }

    /// Extracts the brain. The network sees the volume through its [`Window`], so that neither the level of its background,
    /// nor padding, nor a few voxels far too bright or too dark change the mask; voxels that are not finite count as
    /// background. Of a volume larger than the device binds, the network
    /// sees the means of blocks of 2x2x2 voxels, and the mask is made in slabs; a warning says so.
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
        let mut watch = Stopwatch { gpu, begun: Instant::now(), seconds: Vec::new() };
        let (placed, halvings) = upload_bindable(gpu, volume, &window).await?;
        watch.lap("upload").await?;
        let mut warnings = Vec::new();
        if halvings > 0 {
            warnings.push(format!(
                "the volume exceeds the {} MiB that {} binds at once: the network saw the means of blocks of \
                 {block}x{block}x{block} voxels, and the processor cleaned the mask; another --device may take it whole",
                gpu.caps.max_binding >> 20,
                gpu.summary.name,
                block = 1 << halvings
            ));
        }

        let n4_options = self.n4_options(options, Xyz(placed.grid().voxel_size().to_array()))?;
        let two_pass = options.n4 == N4Choice::TwoPass;
        let mut fit = None;
        if let Some(n4_options) = n4_options {
            let head = match two_pass {
                true => Head::find(gpu, &placed.averaged_over(gpu, DVec3::splat(SEARCH_MM)).await?).await?,
                false => None,
            };
            let inner_head = match head {
                Some(head) => Some(head.mask_on(gpu, &placed.grid(), placed.axes, SCALP_MM).await?),
                None => None,
            };
            let region = RegionTensors { mask: inner_head.as_ref(), confidence: None };
            match n4(&self.gpu, &placed.tensor, region, &n4_options).await {
                Ok(result) => {
                    divide_in_place(gpu, &placed.tensor, &result.log_field)?;
                    let padding = Zyx(n4_options.padding.0.map(|ends| ends.map(|voxels| voxels << halvings)));
                    fit = Some((result.fit, padding));
                }
                // Nobody asked for it by name, and the network copes with a bias field.
                Err(error @ (N4Error::TooFewVoxels { .. } | N4Error::Constant))
                    if options.n4 == N4Choice::AsModel && !options.corrected =>
                {
                    warnings.push(format!("the bias field was left as it is: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
            watch.lap("n4").await?;
        }

        let (logits, answer) = self.logits(&placed, options.tta, &mut watch).await?;
        // Volumes on the device are freed as soon as nobody needs them.
        drop(placed);
        let native = Grid::of(volume);
        let mut probability = options.probability.then(Vec::new);
        let mut brain = BrainMask::on(&native);
        for planes in slabs(gpu, native.shape) {
            let slab = self.probability_on(&logits, &native.planes(&planes))?;
            if let Some(probability) = &mut probability {
                probability.append(&mut gpu.download(&slab).await?);
            }
            brain.add(gpu, slab).await?;
        }
        drop(logits);
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
        warnings.extend(signals.doubts(self.usual).iter().map(ToString::to_string));
        Ok(Stripped {
            mask,
            probability,
            distance_mm,
            bias,
            corrected,
            brain_ml,
            seconds: watch.seconds,
            score: signals.score(self.usual),
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
            N4Choice::AsModel => model_n4(self.spec())?,
            N4Choice::Off => None,
        };
        Ok(chosen.or_else(|| options.corrected.then(N4Options::default)))
    }

    /// What the network says of a volume, on its own grid or on several: on the device, and, of the first, for the judgement of
    /// the result.
    async fn logits(
        &mut self,
        volume: &PlacedVolume,
        tta: bool,
        watch: &mut Stopwatch<'_>,
    ) -> Result<(Vec<PlacedVolume>, Answer), PipelineError> {
        let gpu = Arc::clone(&self.gpu);
        let spec = self.spec().clone();
        let mut brain = None;
        let mut levels = None;
        if let Some(network) = &mut self.first {
            let view = View::new(&gpu, volume, &network.description().input).await?;
            let said = network.ask(&view, None).await?;
            brain = brain_ranges(&view.grid(), &said, volume, &spec)?;
            levels = Some(said.levels);
            watch.lap("first network").await?;
        }
        let levels = levels.as_ref();
        let network = &mut self.network;
        let mut view = View::over(&gpu, volume, &spec, brain).await?;
        watch.lap("resample").await?;
        let mut first = network.ask(&view, levels).await?;
        let mut cut = view.suspects(&first.seen, |ix| first.logits[ix] > 0.0);
        // Asked again with the volume going on beyond the faces that seem to cut the brain, until it reaches all of them.
        while cut.any() {
            let further = view.clone().beyond(cut);
            let beyond = network.ask(&further, levels).await?;
            let reached = cut.and(further.reached(|ix| beyond.logits[ix] > 0.0));
            if reached == cut {
                (view, first) = (further, beyond);
                break;
            }
            cut = reached;
        }
        let place = |tensor, grid: &Grid| PlacedVolume { tensor, affine: grid.affine, axes: AxisOrder::Xyz };
        let Said { seen, logits, input, tensor, .. } = first;
        let mut answer = Answer { grid: view.grid(), seen, logits, mirrored: None };
        let mut all = vec![place(tensor, &answer.grid)];
        if tta || spec.mirror {
            let (mean, mirrored) = network.with_mirror_image(&input, &all[0].tensor).await?;
            answer.logits = gpu.download(&mean).await?;
            answer.mirrored = Some(gpu.download(&mirrored).await?);
            all[0].tensor = mean;
        }
        for shift in TTA_SHIFTS.into_iter().filter(|_| tta) {
            let view = view.clone().shifted(shift);
            let (_, input, _) = network.input_of(&view, levels)?;
            let tensor = network.pass(&input).await?;
            all.push(place(network.with_mirror_image(&input, &tensor).await?.0, &view.grid()));
        }
        watch.lap("network").await?;
        Ok((all, answer))
    }

    /// Sigmoid of the mean of logits, interpolated on a volume's own grid, or some planes of it.
    fn probability_on(&self, logits: &[PlacedVolume], native: &Grid) -> Result<GpuTensor, PipelineError> {
        let gpu = &*self.gpu;
        let on_native = |logits: &PlacedVolume| -> Result<GpuTensor, PipelineError> {
            let interpolation = match self.spec().readout {
                Readout::Linear => Interpolation::Linear,
                Readout::Nearest => Interpolation::Nearest,
            };
            let mut op = logits.resample_op(native, AxisOrder::Zyx, interpolation);
            op.edge = Edge::Clamp;
            op.outside = OUTSIDE_LOGIT;
            Ok(run_op1(gpu, &op, &[&logits.tensor])?)
        };
        let (first, further) = logits.split_first().expect("a network answers once at least");
        let mut mean = on_native(first)?;
        for logits in further {
            mean = run_op1(gpu, &Add, &[&mean, &on_native(logits)?])?;
        }
        if !further.is_empty() {
            mean = run_op1(gpu, &Scale { factor: 1.0 / logits.len() as f32 }, &[&mean])?;
        }
        Ok(run_op1(gpu, &Activate::Sigmoid, &[&mean])?)
    }
}

impl StripOptions {
    /// Whether the field is fitted once more, inside the brain.
    fn fits_in_brain(&self) -> bool {
        self.n4 == N4Choice::TwoPass && self.corrected
    }
}

/// The voxels of a volume, turned to the axes of a network, that its grid is laid over: round the brain that the first network
/// found. `None` where the grid lies elsewhere.
fn brain_ranges(
    grid: &Grid,
    said: &Said,
    volume: &PlacedVolume,
    spec: &GridSpec,
) -> Result<Option<voxels::Ranges>, PipelineError> {
    let Centre::Voxels { of: VoxelBox::Brain { margin, least }, .. } = spec.centre else { return Ok(None) };
    let mask: Vec<u8> = said.logits.iter().map(|&logit| u8::from(logit > 0.0)).collect();
    // The network's grids have their last axis fastest.
    let Xyz([x, y, z]) = grid.shape;
    let largest = components::largest(&mask, Xyz([z, y, x])).expect("a mask has as many voxels as its grid");
    let turned = voxels::turned(&volume.grid(), spec.axes);
    let ranges = voxels::around(&turned, grid, &largest, margin, least);
    Ok(Some(ranges.ok_or(PipelineError::NoBrain)?))
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
