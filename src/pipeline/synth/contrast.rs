//! What tissues look like: a mean and a spread for each class.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::config::Synthesis;
use super::tissue::{Class, Tissue};

/// What decides intensities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contrast {
    /// Fat and white matter bright, fluid dark.
    T1,
    /// Fluid bright, white matter darker than grey.
    T2,
    /// As T2, fluid dark.
    Flair,
    /// All soft tissue bright, grey more than white.
    Pd,
    /// As T2 in the brain, hardly any signal outside.
    Epi,
    /// Every group of labels has an intensity of its own.
    Free,
}

impl Contrast {
    /// One at random.
    pub fn draw(synthesis: &Synthesis, rng: &mut ChaCha8Rng) -> Self {
        if rng.random::<f64>() < synthesis.epi {
            return Self::Epi;
        }
        if rng.random::<f64>() >= synthesis.sequence {
            return Self::Free;
        }
        match rng.random_range(0..10) {
            0..4 => Self::T1,
            4..6 => Self::T2,
            6..8 => Self::Flair,
            _ => Self::Pd,
        }
    }

    /// Ends of the range of means of a tissue; 1 is the brightest there is.
    fn range(self, tissue: Tissue) -> [f64; 2] {
        use Tissue::{
            Air, Background, Cord, Csf, Dura, Eye, Fat, Grey, Marrow, Muscle, Skin, Skull, Soft, Ventricle,
            Vessel, White,
        };
        match (self, tissue) {
            (Self::Free, Background) => [0.0, 0.06],
            (Self::Free, _) => [0.05, 1.0],
            (_, Background | Air) => [0.0, 0.04],
            (Self::T1, White | Cord) => [0.7, 0.95],
            (Self::T1, Grey) => [0.42, 0.68],
            (Self::T1, Ventricle | Csf | Eye) => [0.06, 0.28],
            (Self::T1, Fat) => [0.7, 1.0],
            (Self::T1, Marrow) => [0.35, 1.0],
            (Self::T1, Muscle) => [0.3, 0.55],
            (Self::T1, Skin | Soft) => [0.35, 0.9],
            (Self::T1, Vessel) => [0.05, 1.0],
            (Self::T1, Dura) => [0.15, 0.6],
            (Self::T2 | Self::Epi, White | Cord) => [0.28, 0.48],
            (Self::T2 | Self::Epi, Grey) => [0.44, 0.68],
            (Self::T2 | Self::Epi, Ventricle | Csf) => [0.78, 1.0],
            (Self::T2, Eye) => [0.7, 1.0],
            (Self::T2, Fat) => [0.25, 0.85],
            (Self::T2, Marrow) => [0.15, 0.6],
            (Self::T2, Muscle) => [0.08, 0.3],
            (Self::T2, Skin | Soft) => [0.15, 0.7],
            (Self::T2, Vessel) => [0.03, 0.6],
            (Self::T2, Dura) => [0.05, 0.35],
            (Self::Epi, _) => [0.0, 0.2],
            (Self::Flair, White | Cord) => [0.42, 0.62],
            (Self::Flair, Grey) => [0.58, 0.85],
            (Self::Flair, Ventricle | Csf | Eye) => [0.03, 0.25],
            (Self::Flair, Fat) => [0.3, 0.95],
            (Self::Flair, Marrow) => [0.15, 0.7],
            (Self::Flair, Muscle) => [0.2, 0.5],
            (Self::Flair, Skin | Soft) => [0.25, 0.8],
            (Self::Flair, Vessel) => [0.05, 0.6],
            (Self::Flair, Dura) => [0.1, 0.5],
            (Self::Pd, White | Cord) => [0.55, 0.75],
            (Self::Pd, Grey) => [0.7, 0.95],
            (Self::Pd, Ventricle | Csf | Eye) => [0.6, 1.0],
            (Self::Pd, Fat) => [0.45, 0.95],
            (Self::Pd, Marrow) => [0.3, 0.8],
            (Self::Pd, Muscle) => [0.4, 0.7],
            (Self::Pd, Skin | Soft) => [0.35, 0.85],
            (Self::Pd, Vessel) => [0.05, 0.8],
            (Self::Pd, Dura) => [0.1, 0.5],
            (_, Skull) => [0.02, 0.25],
        }
    }
}

/// Means and spreads of the classes, as `label_paint` takes them.
pub struct Table {
    /// A row a class: mean, spread, whether parenchyma, whether brain where near enough.
    pub rows: Vec<[f32; 4]>,
    /// Mean of the fluid that takes the place of lost tissue.
    pub fluid: f32,
}

impl Table {
    /// One at random.
    pub fn draw(contrast: Contrast, classes: &[Class], rng: &mut ChaCha8Rng) -> Self {
        let groups = 1 + classes.iter().map(|class| class.group).max().unwrap_or(0);
        // Ventricles and outer fluid, soft tissues among each other: near one mean by tissue, off it by group.
        let uniform = |rng: &mut ChaCha8Rng, [low, high]: [f64; 2]| low + (high - low) * rng.random::<f64>();
        let mut of_tissue = std::collections::BTreeMap::new();
        let mut means = vec![0.0; groups];
        let mut spreads = vec![0.0; groups];
        let fine = rng.random_range(0.01..0.07);
        let dim = if rng.random::<f64>() < 0.25 { rng.random_range(0.35..0.85) } else { 1.0 };
        for class in classes {
            let tissue = class.tissue;
            let seen = if tissue == Tissue::Ventricle { Tissue::Csf } else { tissue };
            let common = *of_tissue.entry(seen).or_insert_with(|| uniform(rng, contrast.range(seen)));
            let own = uniform(rng, contrast.range(tissue));
            let jitter = rng.random_range(0.92..1.08);
            let varied = rng.random_range(0.5..2.0);
            if means[class.group] != 0.0 {
                continue;
            }
            let mut mean = if contrast == Contrast::Free { own } else { common * jitter };
            // A brain far from the coil, beside fat that is near it.
            if contrast != Contrast::Free && tissue.is_brain_or_fluid() {
                mean *= dim;
            }
            means[class.group] = mean.max(1e-6);
            let rough = match tissue {
                Tissue::Background => 0.15,
                Tissue::Soft => 2.5,
                Tissue::Marrow | Tissue::Fat | Tissue::Muscle | Tissue::Skin | Tissue::Skull => 1.6,
                _ => 1.0,
            };
            spreads[class.group] = fine * rough * varied * if contrast == Contrast::Epi { 0.5 } else { 1.0 };
        }
        if contrast == Contrast::Free {
            // Labels merged, and air that is no darker than tissue.
            let merge = if rng.random::<f64>() < 0.4 { 0.25 } else { 0.0 };
            for group in 1..groups {
                let other = rng.random_range(1..groups);
                if rng.random::<f64>() < merge {
                    means[group] = means[other];
                }
            }
            if rng.random::<f64>() < 0.12 {
                means[classes[0].group] = rng.random_range(0.05..0.5);
            }
        }
        let rows = classes
            .iter()
            .map(|class| {
                let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
                let (mean, spread) = (means[class.group] as f32, spreads[class.group] as f32);
                [mean, spread, flag(class.tissue.is_parenchyma()), flag(class.inside)]
            })
            .collect();
        let is_fluid = |class: &&Class| matches!(class.tissue, Tissue::Csf | Tissue::Ventricle);
        let fluid = classes.iter().find(is_fluid).map_or(0.1, |class| means[class.group]) as f32;
        Self { rows, fluid }
    }

    /// The mean of a lesion: between fluid and the brightest tissue.
    pub fn lesion(&self, rng: &mut ChaCha8Rng) -> f32 {
        if rng.random::<f64>() < 0.3 { self.fluid } else { rng.random_range(0.05..1.0) }
    }
}
