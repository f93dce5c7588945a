//! Random changes of a training sample: drawn on the host from a seed, applied on the device.

use glam::{DMat3, DMat4, DVec3};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::pipeline::synth::scanner::Faults;

/// Strengths of the augmentation. Zero switches a part off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Probability of a left-right flip.
    pub flip: f64,
    /// Largest rotation about each axis, in radians.
    pub rotation: f64,
    /// Largest relative change of size, common to all axes; a third of it more by axis.
    pub scale: f64,
    /// Largest shift along each axis, in mm.
    pub shift_mm: f64,
    /// Standard deviation of the elastic displacement at its control points, in mm.
    pub elastic_mm: f64,
    /// Standard deviation of the logarithm of gamma.
    pub gamma: f64,
    /// Probability of an inverted contrast; in half of these the dark outside the head stays dark.
    pub invert: f64,
    /// Probability of a random tone curve.
    pub curve: f64,
    /// Standard deviation of the log bias field at its 4x4x4 control points.
    pub bias: f64,
    /// Probability that the field of view ends between the brain and the lower face of the stored head; a third
    /// of it for each other face.
    pub field_of_view: f64,
    /// Largest standard deviation of the noise; 1 is the intensity of bright tissue.
    pub noise: f64,
    /// Probability of a scanner's faults: thick slices or coarse voxels, blur, ringing, ghosts, noise that varies in space,
    /// hot voxels, as synthetic heads have them.
    pub faults: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            flip: 0.5,
            rotation: 0.2,
            scale: 0.15,
            shift_mm: 10.0,
            elastic_mm: 0.0,
            gamma: 0.4,
            invert: 0.3,
            curve: 0.1,
            bias: 0.3,
            field_of_view: 0.15,
            noise: 0.08,
            faults: 0.0,
        }
    }
}

impl Augmentation {
    /// Changes that leave a scan one of its own contrast and field of view: what a model is to see that is trained on.
    pub fn gentle() -> Self {
        Self {
            flip: 0.5,
            rotation: 0.1,
            scale: 0.1,
            shift_mm: 5.0,
            gamma: 0.2,
            bias: 0.2,
            noise: 0.03,
            ..Self::none()
        }
    }

    /// No change at all.
    pub fn none() -> Self {
        Self {
            flip: 0.0,
            rotation: 0.0,
            scale: 0.0,
            shift_mm: 0.0,
            elastic_mm: 0.0,
            gamma: 0.0,
            invert: 0.0,
            curve: 0.0,
            bias: 0.0,
            field_of_view: 0.0,
            noise: 0.0,
            faults: 0.0,
        }
    }

    /// Whether samples move in space.
    pub fn is_spatial(&self) -> bool {
        self.flip > 0.0
            || self.rotation > 0.0
            || self.scale > 0.0
            || self.shift_mm > 0.0
            || self.elastic_mm > 0.0
            || self.field_of_view > 0.0
    }

    /// Whether intensities change.
    pub fn is_tonal(&self) -> bool {
        self.gamma > 0.0
            || self.invert > 0.0
            || self.curve > 0.0
            || self.bias > 0.0
            || self.noise > 0.0
            || self.faults > 0.0
    }
}

/// Knots of a tone curve.
pub const CURVE_KNOTS: usize = 32;
/// Control points of the elastic displacement along an axis.
pub const ELASTIC_POINTS: usize = 8;

/// One draw.
#[derive(Clone, Debug)]
pub struct Draw {
    /// World to world, about `centre`: where a voxel of the network's grid looks.
    pub transform: DMat4,
    /// Displacements `[3, g, g, g]` in mm, `None` when switched off.
    pub elastic_mm: Option<Vec<f32>>,
    /// Fraction of the room between the brain and each face, low and high by axis, that the field of view lacks.
    pub cuts: [[f64; 2]; 3],
    /// Tone curve.
    pub curve: Vec<f32>,
    /// Log bias field at 4x4x4 knots.
    pub bias: Vec<f32>,
    /// Standard deviation of the noise.
    pub noise: f32,
    /// Seed of the noise.
    pub seed: [u32; 2],
    /// What a scanner does to it.
    pub faults: Option<Faults>,
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}

/// Uniform in `[-limit, limit]`.
fn within(rng: &mut ChaCha8Rng, limit: f64) -> f64 {
    (rng.random::<f64>() * 2.0 - 1.0) * limit
}

impl Draw {
    /// The draw of sample number `sample` of a run with `seed`: the same whenever it is asked for.
    pub fn new(augmentation: &Augmentation, seed: u64, sample: u64, centre: DVec3) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(sample + 1);
        let a = augmentation;
        let rotation = DMat3::from_rotation_x(within(&mut rng, a.rotation))
            * DMat3::from_rotation_y(within(&mut rng, a.rotation))
            * DMat3::from_rotation_z(within(&mut rng, a.rotation));
        let common = within(&mut rng, a.scale);
        let mut scale = DVec3::from_array([0; 3].map(|_| 1.0 + common + within(&mut rng, a.scale / 3.0)));
        if rng.random::<f64>() < a.flip {
            scale.x = -scale.x;
        }
        let shift = DVec3::from_array([0; 3].map(|_| within(&mut rng, a.shift_mm)));
        let transform = DMat4::from_translation(centre + shift)
            * DMat4::from_mat3(rotation * DMat3::from_diagonal(scale))
            * DMat4::from_translation(-centre);
        let elastic_mm = (a.elastic_mm > 0.0).then(|| {
            (0..3 * ELASTIC_POINTS.pow(3)).map(|_| (normal(&mut rng) * a.elastic_mm) as f32).collect()
        });
        let curve = tone_curve(a, &mut rng);
        let bias_std = rng.random::<f64>() * a.bias;
        let bias = (0..64).map(|_| (normal(&mut rng) * bias_std) as f32).collect();
        let noise = (rng.random::<f64>().powi(2) * a.noise) as f32;
        let seed = [rng.random(), rng.random()];
        let cuts = std::array::from_fn(|axis| {
            std::array::from_fn(|side| {
                let lowest = axis == 2 && side == 0;
                let probability = if lowest { a.field_of_view } else { a.field_of_view / 3.0 };
                let cut = rng.random::<f64>() < probability;
                let fraction = rng.random::<f64>();
                if cut { fraction } else { 0.0 }
            })
        });
        let faults = (rng.random::<f64>() < a.faults).then(|| Faults::draw(&mut rng));
        Self { transform, elastic_mm, cuts, curve, bias, noise, seed, faults }
    }
}

/// Values that intensities 0 to 1 take. Background stays dark, but for half of the inversions: those turn it bright too,
/// so that a network looks for edges and cannot count layers in from the dark.
fn tone_curve(a: &Augmentation, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let gamma = (normal(rng) * a.gamma).exp();
    let invert = rng.random::<f64>() < a.invert;
    let whole = rng.random::<f64>() < 0.5;
    let random = rng.random::<f64>() < a.curve;
    // Where background ends: intensities below fade to 0 in inverted and random curves.
    let foot = rng.random_range(0.04..0.15);
    let floor = rng.random_range(0.1..0.5);
    let levels: Vec<f64> = (0..6).map(|_| rng.random_range(0.1..1.0)).collect();
    (0..CURVE_KNOTS)
        .map(|knot| {
            let v = knot as f64 / (CURVE_KNOTS - 1) as f64;
            let ramp = if invert && whole && !random { 1.0 } else { (v / foot).min(1.0) };
            let toned = if random {
                let position = v * (levels.len() - 1) as f64;
                let below = (position as usize).min(levels.len() - 2);
                let fraction = position - below as f64;
                ramp * (levels[below] * (1.0 - fraction) + levels[below + 1] * fraction)
            } else if invert {
                ramp * (1.0 - v * (1.0 - floor))
            } else {
                v
            };
            toned.powf(gamma) as f32
        })
        .collect()
}
