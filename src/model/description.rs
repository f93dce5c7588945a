//! A network as data: its input grid, its layers and its output, as stored in a weight file's metadata.

use serde::{Deserialize, Serialize};

use crate::ops::activation::Activation;

/// A network with the preprocessing it was trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Name of the model.
    pub name: String,
    /// The grid and intensities that the network sees.
    pub input: GridSpec,
    /// Layers in order of evaluation; the value `input` is `[N, 1, D, H, W]`.
    pub layers: Vec<Layer>,
    /// The layer whose output are the logits `[N, 1, D, H, W]`.
    pub output: String,
}

/// The network's input grid: RAS axes, `[D, H, W]` = x, y, z as nibabel orders arrays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridSpec {
    /// Voxels along x (right), y (anterior), z (superior).
    pub shape: [usize; 3],
    /// Size of a voxel in mm.
    pub voxel_mm: [f64; 3],
    /// What the grid is centred on.
    pub centre: Centre,
    /// How the image is sampled.
    pub sampling: Sampling,
    /// How intensities are brought to a common scale.
    pub intensity: Intensity,
    /// Preset of the bias-field correction that comes first, when the network was trained with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n4: Option<String>,
    /// Average the logits with those of the head mirrored left to right: one more pass for a steadier border.
    #[serde(default)]
    pub mirror: bool,
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
}

/// How the image is brought to the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// The nearest voxel (the article).
    Nearest,
    /// Box average over the target voxel where the grid is coarser, then linear.
    Area,
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
}

impl From<ActivationKind> for Activation {
    fn from(kind: ActivationKind) -> Self {
        match kind {
            ActivationKind::None => Self::None,
            ActivationKind::Relu => Self::Relu,
            ActivationKind::LeakyRelu(slope) => Self::LeakyRelu(slope),
        }
    }
}
