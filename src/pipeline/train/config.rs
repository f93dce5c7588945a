//! What decides a run: its network, its schedule, its augmentation.

use serde::{Deserialize, Serialize};

use super::augment::Augmentation;
use crate::model::{
    Centre, Description, GridSpec, Intensity, LayerKind, LossKind, OptimiserSpec, Sampling, article,
    residual_unet,
};

/// Everything that decides what a run does; written to `config.toml` in its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Which network.
    pub network: NetworkConfig,
    /// Samples a step.
    pub batch: usize,
    /// Extents of the random window of the network's grid that a sample is; absent: the whole grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<[usize; 3]>,
    /// Number of epochs.
    pub epochs: usize,
    /// Steps an epoch; 0: once through the training heads.
    pub steps_per_epoch: usize,
    /// Fraction of the heads kept for validation when no table of their own is given.
    pub validation_fraction: f64,
    /// Seed of weights, order, augmentation and dropout.
    pub seed: u64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Falls along a half cosine to a hundredth by the last step instead of staying.
    pub cosine: bool,
    /// The loss.
    pub loss: LossKind,
    /// Memory for heads kept between epochs, in MiB.
    pub cache_mib: usize,
    /// Adam's attributes.
    pub optimiser: OptimiserSpec,
    /// Strengths of the augmentation.
    pub augmentation: Augmentation,
}

/// Which network to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkConfig {
    /// The article's network on its 2 mm grid.
    Article {
        /// Channels of the finest level.
        filters: usize,
        /// Probability of dropout.
        dropout: f32,
        /// Voxel size in mm; the extents of the grid shrink as it grows.
        voxel_mm: f64,
        /// Weight of a batch's statistics in the running ones (Keras: 0.01). More when steps are few.
        momentum: f32,
    },
    /// A residual U-Net on a grid centred on the head.
    ResidualUnet {
        /// Name of the model.
        name: String,
        /// Channels of each level, finest first.
        widths: Vec<usize>,
        /// Extents of the grid along x, y, z.
        shape: [usize; 3],
        /// Voxel size in mm.
        voxel_mm: f64,
    },
}

impl NetworkConfig {
    /// The network's description.
    pub fn description(&self) -> Description {
        match self {
            Self::Article { filters, dropout, voxel_mm, momentum: running } => {
                let mut description = article(*filters, 4, *dropout);
                for layer in &mut description.layers {
                    if let LayerKind::BatchNorm { momentum, .. } = &mut layer.kind {
                        *momentum = *running;
                    }
                }
                let grid = &mut description.input;
                grid.shape = grid.shape.map(|n| (n as f64 * grid.voxel_mm[0] / voxel_mm).round() as usize);
                grid.voxel_mm = [*voxel_mm; 3];
                description
            }
            Self::ResidualUnet { name, widths, shape, voxel_mm } => {
                let grid = GridSpec {
                    shape: *shape,
                    voxel_mm: [*voxel_mm; 3],
                    centre: Centre::Head { above_mm: 16.0 },
                    sampling: Sampling::Area,
                    intensity: Intensity::Percentile { low: 1.0, high: 99.5 },
                    n4: None,
                    mirror: true,
                };
                residual_unet(name, widths, grid)
            }
        }
    }
}

impl TrainConfig {
    /// The set-up behind the built-in `default` model, that of weights/default.toml.
    pub fn default_preset() -> Self {
        Self {
            network: NetworkConfig::ResidualUnet {
                name: "default".into(),
                widths: vec![16, 32, 64, 128],
                shape: [48, 56, 56],
                voxel_mm: 4.0,
            },
            batch: 1,
            crop: None,
            epochs: 22,
            steps_per_epoch: 100,
            validation_fraction: 0.03,
            seed: 1,
            learning_rate: 1.2e-3,
            warmup_steps: 50,
            cosine: true,
            loss: LossKind::DiceBce,
            cache_mib: 4096,
            optimiser: OptimiserSpec { weight_decay: 1e-2, keras: false, clip_norm: 1.0, ema_decay: 0.99 },
            augmentation: Augmentation::default(),
        }
    }

    /// The article's set-up: Adam at 1e-1 in its code, batch 4, 60 epochs of 16 steps, focal loss in its code.
    pub fn article_preset() -> Self {
        Self {
            network: NetworkConfig::Article { filters: 16, dropout: 0.05, voxel_mm: 2.0, momentum: 0.01 },
            batch: 4,
            crop: None,
            epochs: 60,
            steps_per_epoch: 16,
            validation_fraction: 0.2,
            seed: 1,
            learning_rate: 1e-1,
            warmup_steps: 0,
            cosine: false,
            loss: LossKind::Focal,
            cache_mib: 4096,
            optimiser: OptimiserSpec { weight_decay: 0.0, keras: true, clip_norm: 0.0, ema_decay: 0.0 },
            augmentation: Augmentation::none(),
        }
    }

    /// Learning rate of step `step` (from 1) of `total`.
    pub fn learning_rate_at(&self, step: u64, total: u64) -> f64 {
        let warmup = if self.warmup_steps == 0 { 1.0 } else { step as f64 / self.warmup_steps as f64 };
        let progress = step.saturating_sub(self.warmup_steps) as f64
            / total.saturating_sub(self.warmup_steps).max(1) as f64;
        let decay = if self.cosine {
            0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
        } else {
            1.0
        };
        self.learning_rate * warmup.min(1.0) * decay
    }
}
