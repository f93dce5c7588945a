//! How varied synthetic heads are.

use serde::{Deserialize, Serialize};

/// Strengths of the synthesis. Zero switches a part off; probabilities are by head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Synthesis {
    /// Share of a run's samples that are made from label maps.
    pub share: f64,
    /// Edge of the voxels that label maps are kept in, in mm.
    pub store_mm: f64,
    /// Probability of a left-right flip.
    pub flip: f64,
    /// Largest rotation about each axis in four heads of five, in radians; three times as much in the fifth.
    pub rotation: f64,
    /// Largest relative change of size, common to all axes; a third of it more by axis.
    pub scale: f64,
    /// Largest shift of the network's grid along each axis, in mm.
    pub shift_mm: f64,
    /// Standard deviation of the elastic displacement at its control points, in mm.
    pub elastic_mm: f64,
    /// Probability that intensities follow a sequence (T1, T2, FLAIR, PD); else every tissue has one at random.
    pub sequence: f64,
    /// Probability of a head as echo-planar imaging shows it: coarse, distorted, with hardly any scalp.
    pub epi: f64,
    /// Probability of a thinner or thicker skull.
    pub skull: f64,
    /// Probability of hardly any fluid between brain and skull, as in children.
    pub squeezed: f64,
    /// Probability of atrophy: wider sulci and ventricles.
    pub atrophy: f64,
    /// Probability of lesions or cavities.
    pub lesions: f64,
    /// Probability that the field of view cuts the head.
    pub field_of_view: f64,
    /// Probability that parts of the volume are padded, or the face taken off.
    pub padding: f64,
    /// Probability of thick slices, 2 to 8 mm.
    pub slices: f64,
    /// Probability of coarse cubic voxels, to 4 mm.
    pub coarse: f64,
    /// Largest standard deviation of the blur, in mm.
    pub blur_mm: f64,
    /// Largest standard deviation of the noise; 1 is the intensity of the brightest tissue.
    pub noise: f64,
    /// Largest standard deviation of the log bias field at its 4x4x4 control points.
    pub bias: f64,
    /// Standard deviation of the logarithm of gamma.
    pub gamma: f64,
    /// Probability of each of ghosts, ringing and hot voxels.
    pub faults: f64,
    /// Probability of a background other than 0.
    pub background: f64,
}

impl Default for Synthesis {
    fn default() -> Self {
        Self {
            share: 0.5,
            store_mm: 1.5,
            flip: 0.5,
            rotation: 0.25,
            scale: 0.12,
            shift_mm: 10.0,
            elastic_mm: 4.0,
            sequence: 0.55,
            epi: 0.1,
            skull: 0.5,
            squeezed: 0.15,
            atrophy: 0.4,
            lesions: 0.25,
            field_of_view: 0.35,
            padding: 0.15,
            slices: 0.3,
            coarse: 0.2,
            blur_mm: 1.0,
            noise: 0.1,
            bias: 0.4,
            gamma: 0.25,
            faults: 0.12,
            background: 0.3,
        }
    }
}

impl Synthesis {
    /// What is wrong with the values, by key.
    pub fn faults(&self) -> Vec<String> {
        let probabilities = [
            ("share", self.share),
            ("flip", self.flip),
            ("sequence", self.sequence),
            ("epi", self.epi),
            ("skull", self.skull),
            ("squeezed", self.squeezed),
            ("atrophy", self.atrophy),
            ("lesions", self.lesions),
            ("field_of_view", self.field_of_view),
            ("padding", self.padding),
            ("slices", self.slices),
            ("coarse", self.coarse),
            ("faults", self.faults),
            ("background", self.background),
        ];
        // A scale changes by up to four thirds of its strength and must not reach 0.
        let strengths = [
            ("store_mm", self.store_mm, 0.1, 10.0),
            ("rotation", self.rotation, 0.0, 1.0),
            ("scale", self.scale, 0.0, 0.5),
            ("shift_mm", self.shift_mm, 0.0, 1000.0),
            ("elastic_mm", self.elastic_mm, 0.0, 100.0),
            ("blur_mm", self.blur_mm, 0.0, 20.0),
            ("noise", self.noise, 0.0, 10.0),
            ("bias", self.bias, 0.0, 3.0),
            ("gamma", self.gamma, 0.0, 2.0),
        ];
        let all = probabilities.map(|(key, value)| (key, value, 0.0, 1.0)).into_iter().chain(strengths);
        all.filter(|(_, value, low, high)| !(*low..=*high).contains(value))
            .map(|(key, value, low, high)| format!("synthesis.{key} is {value}, must be {low} to {high}"))
            .collect()
    }
}
