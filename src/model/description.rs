//! A network as data: its input grid, its layers and its output, as stored in a weight file's metadata.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ops::activation::{Activate, Activation, GeluForm};
use crate::ops::upsample::UpsampleMode;

/// A network with the preprocessing it was trained with.
///
/// Weights lie in one set of tensors: `NAME.weight` and so on for the layers below, the same behind `first.` for the network
/// that looks first, and behind `fold1.`, `fold2.` ... for further sets of weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Name of the model.
    pub name: String,
    /// The grid and intensities that the network sees.
    pub input: GridSpec,
    /// Layers in order of evaluation; the value `input` is `[N, 1, D, H, W]`.
    pub layers: Vec<Layer>,
    /// The layer whose output is the network's answer `[N, 1 or 2, D, H, W]`.
    pub output: String,
    /// What the answer means.
    #[serde(default, skip_serializing_if = "AnswerKind::is_logit")]
    pub answer: AnswerKind,
    /// The layer whose output says the same of the brain without the CSF round it, where the network says both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_csf: Option<String>,
    /// A network that looks at the volume first, to find the brain that this one's grid is laid round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Box<Description>>,
    /// Sets of weights, of which each is asked; the mean of their logits counts.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub folds: usize,
}

impl Description {
    /// The same network with the layers alone that its answer needs: of the brain, or of the brain without the CSF round it,
    /// where it says that too.
    pub fn answering(&self, no_csf: bool) -> Option<Self> {
        let output = if no_csf { self.no_csf.as_ref()? } else { &self.output };
        let mut needed = BTreeSet::from([output.as_str()]);
        for layer in self.layers.iter().rev() {
            if needed.contains(layer.name.as_str()) {
                needed.extend(layer.inputs.iter().map(String::as_str));
            }
        }
        let needed = |layer: &&Layer| needed.contains(layer.name.as_str());
        let layers = self.layers.iter().filter(needed).cloned().collect();
        Some(Self { layers, no_csf: None, output: output.clone(), ..self.clone() })
    }
}

/// More than any whole number of a network that somebody made: channels, extents, steps, sets of weights.
const MOST: u64 = 4096;

impl Description {
    /// Looks for numbers that no network has, so that products of them fit the machine: a file may say anything.
    ///
    /// # Errors
    /// The first, with the key that it stands under.
    pub(super) fn check_numbers(&self) -> Result<(), String> {
        let value = serde_json::to_value(self).map_err(|e| e.to_string())?;
        check_numbers("", &value)?;
        match self.input.patches {
            Some(Patches { step, deviation }) if !(step > 0.01 && step <= 1.0 && deviation > 0.01) => {
                Err(format!(
                    "has a network description with patches of step {step} and deviation {deviation}; a step of 0.01 to 1 and a \
                 deviation above 0.01 are possible"
                ))
            }
            _ => Ok(()),
        }
    }
}

fn check_numbers(key: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Object(entries) => entries.iter().try_for_each(|(key, value)| check_numbers(key, value)),
        Value::Array(values) => values.iter().try_for_each(|value| check_numbers(key, value)),
        Value::Number(number) => match number.as_u64() {
            Some(number) if number > MOST => {
                Err(format!("has a network description with {key} {number}; at most {MOST} is possible"))
            }
            Some(0) if key != "padding" && key != "crop" => {
                Err(format!("has a network description with {key} 0; it must be above 0"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

impl Description {
    /// What extents must be multiples of along each axis, so that every level's grid is a whole part of the finest one's: the
    /// input's voxels in the largest voxel of any layer.
    ///
    /// # Errors
    /// A layer that reads an unknown name, in words.
    pub fn multiple(&self) -> Result<[usize; 3], String> {
        // Voxels of each layer in those of the input, as fractions.
        let mut voxels = HashMap::from([("input", [[1, 1]; 3])]);
        let mut multiple = [1; 3];
        for layer in &self.layers {
            let input = layer.inputs.first().map_or("", String::as_str);
            let unknown = || format!("layer '{}' reads unknown layer '{input}'", layer.name);
            let mut voxel = *voxels.get(input).ok_or_else(unknown)?;
            let (coarser, finer) = match &layer.kind {
                LayerKind::Conv3d { stride, .. }
                | LayerKind::MaxPool3d { stride, .. }
                | LayerKind::AvgPool3d { stride, .. } => (*stride, [1; 3]),
                LayerKind::SpaceToDepth { factor } => (*factor, [1; 3]),
                LayerKind::ConvTranspose3d { stride, .. } => ([1; 3], *stride),
                LayerKind::Upsample { factor, .. } | LayerKind::DepthToSpace { factor } => ([1; 3], *factor),
                _ => ([1; 3], [1; 3]),
            };
            for (axis, [over, under]) in voxel.iter_mut().enumerate() {
                (*over, *under) = (*over * coarser[axis], *under * finer[axis]);
                let shared = common_divisor(*over, *under);
                (*over, *under) = (*over / shared, *under / shared);
                multiple[axis] = multiple[axis] / common_divisor(multiple[axis], *over) * *over;
            }
            voxels.insert(&layer.name, voxel);
        }
        Ok(multiple)
    }
}

/// The greatest divisor of both.
fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a.max(1) } else { common_divisor(b, a % b) }
}

/// What a network's last layer says of a voxel. The graph ends with a logit whatever it is, since all that follows reads one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// One channel: the logit of brain.
    #[default]
    Logit,
    /// Two channels, of background and of brain, made for a softmax: the logit is their difference.
    TwoClasses,
    /// One channel: the signed distance to the brain's border in mm, negative inside. The logit is what is left of it up to
    /// where the mask ends.
    DistanceMm {
        /// The mask ends at this distance.
        border_mm: f32,
    },
}

impl AnswerKind {
    fn is_logit(&self) -> bool {
        *self == Self::Logit
    }
}

/// The network's input grid: `[D, H, W]` run along `axes`, by default x, y, z as nibabel orders arrays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridSpec {
    /// Voxels along each axis: x (right), y (anterior), z (superior), unless `axes` says otherwise; the least number of them
    /// where the grid is fitted to the volume.
    pub shape: [usize; 3],
    /// Size of a voxel along each axis in mm.
    pub voxel_mm: [f64; 3],
    /// What the grid is centred on, or laid over.
    pub centre: Centre,
    /// Where the axes point, `RAS` say.
    #[serde(default, skip_serializing_if = "AxisCodes::is_ras")]
    pub axes: AxisCodes,
    /// How the image is sampled.
    pub sampling: Sampling,
    /// How intensities are brought to a common scale.
    pub intensity: Intensity,
    /// Preset of the bias-field correction that comes first, when the network was trained with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n4: Option<String>,
    /// The patches that the grid is seen in, where the network does not see it whole: as large as `shape`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches: Option<Patches>,
    /// Average the logits with those of the head mirrored left to right: one more pass for a steadier border.
    #[serde(default)]
    pub mirror: bool,
    /// Axes of the grid along which the network knows mirrored heads: test-time augmentation is then the mean of the logits over
    /// all their combinations, and moves no grid.
    #[serde(default, skip_serializing_if = "is_none")]
    pub mirror_axes: [bool; 3],
    /// How logits between the network's voxels arise.
    #[serde(default, skip_serializing_if = "Readout::is_linear")]
    pub readout: Readout,
}

impl GridSpec {
    /// Whether the grid is fitted to every volume, padded to as many voxels as that takes: `shape` is the least then.
    pub fn is_padded(&self) -> bool {
        matches!(self.centre, Centre::Voxels { fit: Fit::Padded { .. }, .. })
    }
}

fn is_none(axes: &[bool; 3]) -> bool {
    !axes.contains(&true)
}

/// Overlapping patches of a grid, whose logits are averaged with weights that fall off from the middle of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patches {
    /// Largest step from a patch to the next, in parts of a patch.
    pub step: f64,
    /// Standard deviation of the weights, a Gaussian, in parts of a patch.
    pub deviation: f64,
}

/// How logits between the voxels of a network's grid arise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readout {
    /// From the 8 voxels around.
    #[default]
    Linear,
    /// That of the nearest voxel.
    Nearest,
}

impl Readout {
    fn is_linear(&self) -> bool {
        *self == Self::Linear
    }
}

/// Where the three axes of a grid point: a letter each, of R and L, A and P, S and I.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AxisCodes([(usize, bool); 3]);

impl AxisCodes {
    /// Right, anterior, superior.
    pub const RAS: Self = Self([(0, false), (1, false), (2, false)]);

    /// For each axis of the grid, the axis of the world (0 = x) that it runs along, and whether against it.
    pub fn world(self) -> [(usize, bool); 3] {
        self.0
    }

    fn is_ras(&self) -> bool {
        *self == Self::RAS
    }
}

impl Default for AxisCodes {
    fn default() -> Self {
        Self::RAS
    }
}

/// The ends of the world's axes.
const ENDS: [[char; 2]; 3] = [['R', 'L'], ['A', 'P'], ['S', 'I']];

impl TryFrom<String> for AxisCodes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let axis = |letter: char| {
            (0..3).find_map(|world| {
                let end = ENDS[world].iter().position(|&end| end == letter)?;
                Some((world, end == 1))
            })
        };
        let axes: Vec<_> = text.chars().filter_map(axis).collect();
        let worlds = |wanted: usize| axes.iter().filter(|(world, _)| *world == wanted).count() == 1;
        match axes[..] {
            [a, b, c] if text.len() == 3 && (0..3).all(worlds) => Ok(Self([a, b, c])),
            _ => Err(format!("'{text}' does not name three axes; RAS does, for one")),
        }
    }
}

impl From<AxisCodes> for String {
    fn from(axes: AxisCodes) -> Self {
        axes.0.iter().map(|&(world, against)| ENDS[world][usize::from(against)]).collect()
    }
}

/// Placement of the grid in the world.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Centre {
    /// The world's origin lies in the middle of the grid (the article).
    WorldOrigin,
    /// The head: its centre along x and y; along z the grid's upper face lies `above_mm` above its top.
    Head {
        /// Distance from the top of the head to the upper face of the grid, in mm.
        above_mm: f64,
    },
    /// The middle of the field of view, along the world's axes.
    Middle,
    /// A box of whole voxels of the volume, along the volume's own axes.
    Voxels {
        /// Which ones.
        of: VoxelBox,
        /// How the grid fills the box.
        fit: Fit,
    },
}

/// Boxes of whole voxels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoxelBox {
    /// All of the volume.
    All,
    /// All that is not background.
    Content,
    /// The brain that the first network found.
    Brain {
        /// What is added on either side, in parts of the box.
        margin: f64,
        /// Planes count in which at least such a part is brain.
        least: f64,
    },
}

/// How a grid fills a box.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// By as many voxels as the grid has, whatever their size.
    Stretched,
    /// By voxels of about the grid's size, as many as a whole number allows, and beyond them padding: at least the grid's
    /// extents, a multiple of `multiple`, and no more than `most`.
    Padded {
        /// What every extent is a multiple of.
        multiple: usize,
        /// Largest extent; a longer box loses its ends.
        most: Option<usize>,
        /// Whether the padding lies on both sides, instead of behind the last voxel.
        both_sides: bool,
        /// Whether the padding is 0 for the network, instead of background before intensities are brought to scale.
        after_scaling: bool,
    },
}

/// How the image is brought to the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// The nearest voxel (the article).
    Nearest,
    /// Box average over the target voxel where the grid is coarser, then linear.
    Area,
    /// From the 8 voxels around.
    Linear,
    /// From the 64 voxels around, by Keys' kernel.
    Cubic,
}

/// Intensity normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intensity {
    /// Minimum to 0, maximum to `high` (the article: 255).
    MinMax {
        /// What the maximum becomes.
        high: f32,
    },
    /// The two percentiles of the grid to 0 and 1, clipped.
    Percentile {
        /// Lower percentile, in %.
        low: f32,
        /// Upper percentile, in %.
        high: f32,
    },
    /// Zero mean and unit variance.
    ZScore,
    /// Zero mean and unit variance of the volume's own voxels in the box that the grid is laid over, before they are sampled.
    ZScoreOfVoxels {
        /// Count those alone that are not background, or that such voxels enclose; the others become 0.
        masked: bool,
    },
    /// The two percentiles to 0 and 1, clipped; then to this mean and standard deviation.
    Standard {
        /// Lower percentile, in %.
        low: f32,
        /// Upper percentile, in %.
        high: f32,
        /// Mean of the result.
        mean: f32,
        /// Its standard deviation.
        deviation: f32,
        /// Take the percentiles of what the first network saw.
        of_first: bool,
    },
}

/// One layer: an operator, where its inputs come from, and the name of its result and its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Unique name; its tensors are `NAME.weight`, `NAME.bias`, and so on.
    pub name: String,
    /// Names of earlier layers, or `input`.
    pub inputs: Vec<String>,
    /// The operator.
    #[serde(flatten)]
    pub kind: LayerKind,
}

fn ones() -> [usize; 3] {
    [1; 3]
}

fn yes() -> bool {
    true
}

fn is_yes(flag: &bool) -> bool {
    *flag
}

/// Operators that a network is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum LayerKind {
    /// Convolution; two inputs are read as their concatenation along the channels.
    Conv3d {
        /// Channels written.
        out_channels: usize,
        /// Extents of the kernel.
        kernel: [usize; 3],
        /// Step between outputs.
        #[serde(default = "ones")]
        stride: [usize; 3],
        /// Step between taps.
        #[serde(default = "ones")]
        dilation: [usize; 3],
        /// Zeros before and after each axis; absent: output as large as the input, as Keras pads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        padding: Option<[[usize; 2]; 3]>,
        /// Whether a bias is added.
        bias: bool,
        /// Fused activation; only in descriptions folded for inference.
        #[serde(default)]
        activation: ActivationKind,
    },
    /// Transposed convolution.
    ConvTranspose3d {
        /// Channels written.
        out_channels: usize,
        /// Extents of the kernel.
        kernel: [usize; 3],
        /// Step between the inputs' footprints.
        stride: [usize; 3],
        /// Planes cropped before and after each axis.
        crop: [[usize; 2]; 3],
        /// Whether a bias is added.
        bias: bool,
        /// Fused activation; only in descriptions folded for inference.
        #[serde(default)]
        activation: ActivationKind,
    },
    /// Batch normalisation with running statistics.
    BatchNorm {
        /// Added to the variance.
        eps: f32,
        /// Weight of the new statistics in the running ones.
        momentum: f32,
        /// Activation applied last.
        #[serde(default)]
        activation: ActivationKind,
    },
    /// Instance normalisation.
    InstanceNorm {
        /// Added to the variance.
        eps: f32,
        /// Whether weight and bias follow, one of each a channel.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        affine: bool,
        /// Activation applied last.
        #[serde(default)]
        activation: ActivationKind,
    },
    /// Group normalisation.
    GroupNorm {
        /// Number of groups.
        groups: usize,
        /// Added to the variance.
        eps: f32,
        /// Whether weight and bias follow, one of each a channel.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        affine: bool,
        /// Activation applied last.
        #[serde(default)]
        activation: ActivationKind,
    },
    /// An activation of its own.
    Activation {
        /// Which one.
        activation: ActivationKind,
    },
    /// Largest value of each window.
    MaxPool3d {
        /// Extents of the window.
        kernel: [usize; 3],
        /// Step between windows.
        stride: [usize; 3],
        /// Padding on both sides.
        #[serde(default)]
        padding: [usize; 3],
    },
    /// Mean of each window.
    AvgPool3d {
        /// Extents of the window.
        kernel: [usize; 3],
        /// Step between windows.
        stride: [usize; 3],
    },
    /// Values repeated, or interpolated, on a finer grid over the same field of view.
    Upsample {
        /// Voxels along each axis that one becomes.
        factor: [usize; 3],
        /// How the finer values arise.
        mode: UpsampleKind,
    },
    /// Sum of two inputs.
    Add,
    /// Blocks of voxels as channels, in the order of PyTorch's `pixel_unshuffle`.
    SpaceToDepth {
        /// Extents of a block.
        factor: [usize; 3],
    },
    /// Channels as blocks of voxels: the inverse of `SpaceToDepth`.
    DepthToSpace {
        /// Extents of a block.
        factor: [usize; 3],
    },
    /// Dropout while training.
    Dropout {
        /// Probability of dropping an element.
        rate: f32,
    },
}

/// Interpolations of `Upsample`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpsampleKind {
    /// The nearest value.
    Nearest,
    /// Linear along each axis; the grids' faces coincide.
    Trilinear,
    /// Linear along each axis; the centres of the outer voxels coincide (PyTorch's `align_corners`).
    TrilinearAligned,
}

impl From<UpsampleKind> for UpsampleMode {
    fn from(kind: UpsampleKind) -> Self {
        match kind {
            UpsampleKind::Nearest => Self::Nearest,
            UpsampleKind::Trilinear => Self::Trilinear { align_corners: false },
            UpsampleKind::TrilinearAligned => Self::Trilinear { align_corners: true },
        }
    }
}

/// Activation functions in descriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationKind {
    /// Identity.
    #[default]
    None,
    /// max(x, 0)
    Relu,
    /// x above 0, slope·x below.
    LeakyRelu(f32),
    /// x Φ(x); a layer of its own only.
    Gelu,
    /// Its approximation by a hyperbolic tangent; a layer of its own only.
    GeluTanh,
}

impl ActivationKind {
    /// As other layers apply it last; `None` for those that need a layer of their own.
    pub fn fused(self) -> Option<Activation> {
        match self {
            Self::None => Some(Activation::None),
            Self::Relu => Some(Activation::Relu),
            Self::LeakyRelu(slope) => Some(Activation::LeakyRelu(slope)),
            Self::Gelu | Self::GeluTanh => None,
        }
    }

    /// As an operator; `None` for the identity.
    pub fn operator(self) -> Option<Activate> {
        match self {
            Self::None => None,
            Self::Relu => Some(Activate::Relu),
            Self::LeakyRelu(slope) => Some(Activate::LeakyRelu { slope }),
            Self::Gelu => Some(Activate::Gelu(GeluForm::Erf)),
            Self::GeluTanh => Some(Activate::Gelu(GeluForm::Tanh)),
        }
    }
}
