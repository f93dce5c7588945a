//! A model's opinion of a head: what its networks say on grids of their own, and that on the head's.

use std::ops::Range;
use std::sync::Arc;

use glam::{DMat4, DVec3};

use super::PipelineError;
use super::network::{Network, Question, Said, thinned};
use super::place::placed::PlacedVolume;
use super::place::source::Source;
use super::place::view::View;
use super::place::voxels;
use super::plausibility::Answer;
use super::stopwatch::Stopwatch;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{Tuning, run_op1};
use crate::model::{Centre, GridSpec, Model, Readout, Sampling, Usual, VoxelBox, weights_of_first};
use crate::ops::activation::Activate;
use crate::ops::elementwise::{Add, Scale};
use crate::ops::resample::{AxisOrder, Edge, Interpolation};
use crate::tensor::{DType, Xyz};
use crate::volume::{Grid, components};

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

/// A model on a device.
pub(super) struct Member {
    gpu: Arc<Gpu>,
    network: Network,
    /// The network that looks for the brain first.
    first: Option<Network>,
    /// How sure it usually is.
    pub usual: Option<Usual>,
}

/// What a model says of a head.
pub(super) struct Opinion {
    /// Logits on the network's own grid, or on several whose mean counts.
    logits: Vec<PlacedVolume>,
    readout: Readout,
    /// Those on the first grid, for the judgement of the result.
    pub answer: Answer,
}

impl Member {
    /// Folds and compiles a model.
    ///
    /// # Errors
    /// Weights that do not fit the network, a device without the type or with too little memory.
    pub async fn new(
        gpu: &Arc<Gpu>,
        model: &Model,
        dtype: DType,
        tuning: &Arc<Tuning>,
    ) -> Result<Self, PipelineError> {
        let first = match &model.description.first {
            None => None,
            Some(first) => {
                Some(Network::new(gpu, first, &weights_of_first(&model.tensors), dtype, tuning).await?)
            }
        };
        let network = Network::new(gpu, &model.description, &model.tensors, dtype, tuning).await?;
        Ok(Self { gpu: Arc::clone(gpu), network, first, usual: model.card.usual })
    }

    /// What the network sees of a head.
    pub fn spec(&self) -> &GridSpec {
        &self.network.description().input
    }

    /// Bytes of GPU buffers that the networks hold.
    pub fn bytes(&self) -> u64 {
        self.network.bytes() + self.first.as_ref().map_or(0, Network::bytes)
    }

    /// What the model says of a volume.
    pub async fn opinion(
        &mut self,
        volume: &Source<'_>,
        tta: bool,
        watch: &mut Stopwatch<'_>,
    ) -> Result<Opinion, PipelineError> {
        let gpu = Arc::clone(&self.gpu);
        let spec = self.spec().clone();
        let mut brain = None;
        let mut levels = None;
        if let Some(network) = &mut self.first {
            let view = View::new(&gpu, volume, &network.description().input).await?;
            let question = Question { mirrored: false, every: [1; 3], alone: true };
            let said = network.ask(&view, None, question).await?;
            let mask = said.logits.iter().map(|&logit| u8::from(logit > 0.0)).collect();
            brain = brain_ranges(&view.grid(), mask, &volume.grid(), &spec)?;
            levels = Some(said.levels);
            watch.lap("first network").await?;
        }
        let levels = levels.as_ref();
        let network = &mut self.network;
        let mut view = View::over(&gpu, volume, &spec, brain).await?;
        watch.lap("resample").await?;
        // A network that knows mirrored heads is asked for those, and no grid is moved.
        let images = tta && spec.mirror_axes.contains(&true);
        let every = judged_every(&spec, &view.grid());
        let alone = !tta && !spec.mirror && spec.sampling != Sampling::Area;
        let question = Question { mirrored: images, every, alone };
        let mut first = network.ask(&view, levels, question).await?;
        let mut cut = view.suspects(&first.seen, |ix| first.logits[ix] > 0.0);
        // Asked again with the volume going on beyond the faces that seem to cut the brain, until it reaches all of them.
        while cut.any() {
            let further = view.clone().beyond(cut);
            let beyond = network.ask(&further, levels, question).await?;
            let reached = cut.and(further.reached(|ix| beyond.logits[ix] > 0.0));
            if reached == cut {
                (view, first) = (further, beyond);
                break;
            }
            cut = reached;
        }
        let place = |tensor, grid: &Grid| PlacedVolume { tensor, affine: grid.affine, axes: AxisOrder::Xyz };
        let Said { seen, logits, input, tensor, .. } = first;
        let mut answer = Answer { grid: every_of(&view.grid(), every), seen, logits, mirrored: None };
        let mut all = vec![place(tensor, &view.grid())];
        if (tta && !images) || spec.mirror {
            let input = input.expect("kept, since the mirror image is asked for");
            let (mean, mirrored) = network.with_mirror_image(&input, &all[0].tensor).await?;
            answer.logits = gpu.download(&thinned(&gpu, mean.clone(), every)?).await?;
            answer.mirrored = Some(gpu.download(&thinned(&gpu, mirrored, every)?).await?);
            all[0].tensor = mean;
        }
        for shift in TTA_SHIFTS.into_iter().filter(|_| tta && !images) {
            let view = view.clone().shifted(shift);
            let (_, input, _) = network.input_of(&view, levels).await?;
            let tensor = network.pass(&input).await?;
            all.push(place(network.with_mirror_image(&input, &tensor).await?.0, &view.grid()));
        }
        watch.lap("network").await?;
        Ok(Opinion { logits: all, readout: spec.readout, answer })
    }
}

impl Opinion {
    /// Sigmoid of the mean of logits, interpolated on these planes of a volume's own grid.
    pub fn probability_on(
        &self,
        gpu: &Gpu,
        native: &Grid,
        planes: &Range<usize>,
    ) -> Result<GpuTensor, PipelineError> {
        let on_native = |logits: &PlacedVolume| -> Result<GpuTensor, PipelineError> {
            let interpolation = match self.readout {
                Readout::Linear => Interpolation::Linear,
                Readout::Nearest => Interpolation::Nearest,
            };
            let mut op = logits.resample_op(native, AxisOrder::Zyx, interpolation).for_planes(planes);
            op.edge = Edge::Clamp;
            op.outside = OUTSIDE_LOGIT;
            Ok(run_op1(gpu, &op, &[&logits.tensor])?)
        };
        let (first, further) = self.logits.split_first().expect("a network answers once at least");
        let mut mean = on_native(first)?;
        for logits in further {
            mean = run_op1(gpu, &Add, &[&mean, &on_native(logits)?])?;
        }
        if !further.is_empty() {
            mean = run_op1(gpu, &Scale { factor: 1.0 / self.logits.len() as f32 }, &[&mean])?;
        }
        Ok(run_op1(gpu, &Activate::Sigmoid, &[&mean])?)
    }
}

/// An answer is judged on voxels of up to this edge: finer ones would take memory and time and say no more.
const JUDGED_MM: f64 = 2.0;

/// Every how many-th voxel along each axis of a network's grid an answer is judged by. Where faces of the field of view may cut the
/// brain, all are looked at.
fn judged_every(spec: &GridSpec, grid: &Grid) -> [usize; 3] {
    match spec.sampling {
        Sampling::Area => [1; 3],
        Sampling::Nearest | Sampling::Linear | Sampling::Cubic => {
            grid.voxel_size().to_array().map(|mm| (JUDGED_MM / mm).floor().max(1.0) as usize)
        }
    }
}

/// The grid of every so many-th voxel of another one along each axis, from the first on.
fn every_of(grid: &Grid, every: [usize; 3]) -> Grid {
    let scale = DVec3::from_array(every.map(|n| n as f64));
    let shape = std::array::from_fn(|axis| grid.shape[axis].div_ceil(every[axis]));
    Grid { affine: grid.affine * DMat4::from_scale(scale), shape: Xyz(shape) }
}

/// The voxels of a volume, turned to the axes of a network, that its grid is laid over: round the brain that another network
/// marks on its own grid, the last axis fastest. `None` where the grid lies elsewhere.
///
/// # Errors
/// A mask without a brain.
pub(super) fn brain_ranges(
    marked: &Grid,
    mask: Vec<u8>,
    volume: &Grid,
    spec: &GridSpec,
) -> Result<Option<voxels::Ranges>, PipelineError> {
    let Centre::Voxels { of: VoxelBox::Brain { margin, least }, .. } = spec.centre else { return Ok(None) };
    let Xyz([x, y, z]) = marked.shape;
    let largest = components::largest(&mask, Xyz([z, y, x])).expect("a mask has as many voxels as its grid");
    let turned = voxels::turned(volume, spec.axes);
    let ranges = voxels::around(&turned, marked, &largest, margin, least);
    Ok(Some(ranges.ok_or(PipelineError::NoBrain)?))
}
