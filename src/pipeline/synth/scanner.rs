//! What a scanner makes of a head: field of view, slices, blur, bias, noise, faults, and the file's own scale.

use glam::{DMat3, DMat4, DVec3};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::anatomy::{Anatomy, between, in_scan, normal, rotation, within};
use super::config::Synthesis;
use super::contrast::Contrast;
use super::map::{LabelMap, same_box};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::run_op1;
use crate::ops::augment::IntensityAugment;
use crate::ops::convolve::{ConvolveAxis, gaussian_weights};
use crate::ops::resample::Interpolation;
use crate::ops::synth::ScanFaults;
use crate::pipeline::PipelineError;
use crate::pipeline::place::placed::PlacedVolume;
use crate::tensor::{TensorDesc, Xyz};
use crate::volume::Grid;

/// Knots of a tone curve.
const CURVE_KNOTS: usize = 32;
/// A human brain's least extent, which crops and margins are meant for.
const BRAIN_MM: f64 = 110.0;
/// Taps of the ringing on either side.
const RINGING_RADIUS: i32 = 8;

/// A half-space that holds no signal: where `normal . x > offset_mm` in the world.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Outward unit vector.
    pub normal: DVec3,
    /// Distance of the plane from the world's origin along it.
    pub offset_mm: f64,
}

/// The scale of the file's values, and what stands where nothing was scanned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Units {
    /// Value of the brightest tissue above the background.
    pub gain: f32,
    /// Value of no signal.
    pub background: f32,
    /// Value of what lies beyond the cuts.
    pub padding: f32,
}

/// A scanner's resolution: what it does to a volume before noise and numbers.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// Edges of the voxels along x, y and z of the volume; smaller ones than it has leave it.
    pub voxel_mm: [f64; 3],
    /// Standard deviation of a Gaussian.
    pub blur_mm: f64,
    /// Axis along which the highest frequencies are missing, and the share of them that is there.
    pub ringing: Option<(usize, f64)>,
}

/// Tone, bias, noise and faults.
#[derive(Clone, Debug)]
pub struct Signal {
    curve: Vec<f32>,
    bias: Vec<f32>,
    rician: f32,
    /// Ghosts, noise, hot voxels.
    pub faults: ScanFaults,
    seed: [u32; 2],
}

/// What a scanner would have done to a real head.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Slices, coarse voxels, blur, ringing.
    pub resolution: Resolution,
    signal: Signal,
}

impl Faults {
    /// Those of a default synthesis, at random.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let synthesis = Synthesis::default();
        Self {
            resolution: Resolution::draw(&synthesis, Contrast::Free, 0.0, rng),
            signal: Signal::draw(&synthesis, Contrast::Free, rng),
        }
    }

    /// Ghosts, hot voxels and noise that varies in space, on a volume whose tissue lies between 0 and 1.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn spoil(&self, gpu: &Gpu, volume: &PlacedVolume) -> Result<GpuTensor, PipelineError> {
        cut(gpu, volume, self.signal.faults.clone(), &[], 0.0, self.signal.seed).await
    }
}

/// A scan: where it lies and what becomes of it.
pub struct Scan {
    /// The grid that the head is painted on: the box that is scanned, in voxels no larger than the file's.
    pub painted: Grid,
    /// Its resolution.
    pub resolution: Resolution,
    /// Its signal.
    pub signal: Signal,
    /// Where nothing was scanned, or the face was taken off.
    pub cuts: Vec<Cut>,
    /// Values of the file.
    pub units: Units,
}

impl Resolution {
    /// One at random for volumes of voxels of `voxel_mm`.
    pub fn draw(synthesis: &Synthesis, contrast: Contrast, voxel_mm: f64, rng: &mut ChaCha8Rng) -> Self {
        let mut edges = [voxel_mm; 3];
        let kind: f64 = rng.random();
        if contrast == Contrast::Epi {
            let plane = between(rng, 1.8, 3.5);
            edges = [plane, plane, between(rng, 2.0, 4.5)];
        } else if kind < synthesis.slices {
            let axis = [2, 2, 2, 1, 0][rng.random_range(0..5)];
            edges[axis] = between(rng, 2.0, 8.0);
        } else if kind < synthesis.slices + synthesis.coarse {
            edges = [between(rng, 1.5, 4.0); 3];
        }
        let blur_mm = synthesis.blur_mm * rng.random::<f64>().powi(2);
        let ringing = (rng.random::<f64>() < synthesis.faults)
            .then(|| (rng.random_range(0..3), between(rng, 0.5, 0.85)));
        Self { voxel_mm: edges.map(|edge| edge.max(voxel_mm)), blur_mm, ringing }
    }

    /// The volume as it comes out: in larger voxels, if they are.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn apply(&self, gpu: &Gpu, volume: &PlacedVolume) -> Result<PlacedVolume, PipelineError> {
        let edges = volume.grid().voxel_size().to_array();
        let mut filters = Vec::new();
        for (axis, edge) in edges.into_iter().enumerate() {
            // Below a fifth of a voxel the weights are one.
            if self.blur_mm > 0.2 * edge {
                filters.push((axis, gaussian_weights(self.blur_mm / edge)));
            }
        }
        filters.extend(self.ringing.map(|(axis, share)| (axis, ringing_weights(share))));
        let mut tensor = volume.tensor.clone();
        for (axis, weights) in filters {
            let weights = gpu.upload(&TensorDesc::f32(&[weights.len()]), &weights).await?;
            let op = ConvolveAxis { axis: volume.axes.nifti_axis(axis) };
            tensor = run_op1(gpu, &op, &[&tensor, &weights])?;
        }
        let filtered = PlacedVolume { tensor, ..volume.clone() };
        let grid = volume.grid();
        let scanned = self.grid_for(&grid);
        if scanned == grid {
            return Ok(filtered);
        }
        let averaged = filtered.filtered_for(gpu, &scanned).await?;
        Ok(averaged.interpolated(gpu, &scanned, volume.axes, Interpolation::Linear)?)
    }

    /// The box of a grid in this resolution's voxels.
    fn grid_for(&self, grid: &Grid) -> Grid {
        let edges = grid.voxel_size().to_array();
        let shape = Xyz(std::array::from_fn(|a| match self.voxel_mm[a] > 1.05 * edges[a] {
            true => ((grid.shape[a] as f64 * edges[a] / self.voxel_mm[a]).round() as usize).max(1),
            false => grid.shape[a],
        }));
        if shape == grid.shape { *grid } else { same_box(grid, shape) }
    }
}

/// The ideal low-pass filter that a truncated matrix of frequencies is, over a few of its lobes.
fn ringing_weights(share: f64) -> Vec<f32> {
    let weights: Vec<f64> = (-RINGING_RADIUS..=RINGING_RADIUS)
        .map(|k| {
            let x = std::f64::consts::PI * share * f64::from(k);
            if k == 0 { share } else { share * x.sin() / x }
        })
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| (w / sum) as f32).collect()
}

impl Signal {
    /// One at random for a volume whose tissue lies between 0 and 1.
    pub fn draw(synthesis: &Synthesis, contrast: Contrast, rng: &mut ChaCha8Rng) -> Self {
        let s = synthesis;
        let gamma = (normal(rng) * s.gamma).exp();
        let curve =
            (0..CURVE_KNOTS).map(|k| (k as f64 / (CURVE_KNOTS - 1) as f64).powf(gamma) as f32).collect();
        let spread = rng.random::<f64>() * s.bias;
        let mut bias: Vec<f32> = (0..64).map(|_| (normal(rng) * spread) as f32).collect();
        if contrast == Contrast::Epi && spread > 0.0 {
            // Signal lost above the sinuses: knots in front, low, of a lattice stored z, y, x.
            for knot in bias[24..32].iter_mut().filter(|_| rng.random::<f64>() < 0.3) {
                *knot -= 1.5;
            }
        }
        let mut signal =
            Self { curve, bias, rician: 0.0, faults: ScanFaults::NONE, seed: [rng.random(), rng.random()] };
        let noise = (rng.random::<f64>().powi(2) * s.noise) as f32;
        if rng.random::<f64>() < 0.6 {
            signal.rician = noise;
        } else {
            signal.faults.noise = noise;
            signal.faults.noise_slope = [0; 3].map(|_| (normal(rng) * 0.4) as f32);
        }
        if rng.random::<f64>() < s.faults {
            signal.faults.ghost = between(rng, 0.03, 0.2) as f32;
            signal.faults.ghost_axis = rng.random_range(0..3);
            signal.faults.ghost_shift = rng.random_range(8..80);
        }
        if rng.random::<f64>() < s.faults {
            signal.faults.hot_share = between(rng, 1e-6, 1e-4) as f32;
            signal.faults.hot = between(rng, 1.0, 6.0) as f32;
        }
        signal
    }

    /// A volume with tissue between 0 and 1, toned and spoilt, in these units, with the cuts padded.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn apply(
        &self,
        gpu: &Gpu,
        volume: &PlacedVolume,
        cuts: &[Cut],
        units: Units,
    ) -> Result<GpuTensor, PipelineError> {
        let curve = gpu.upload(&TensorDesc::f32(&[self.curve.len()]), &self.curve).await?;
        let bias = gpu.upload(&TensorDesc::f32(&[4, 4, 4]), &self.bias).await?;
        let seed = gpu.upload(&TensorDesc::u32(&[2]), &self.seed).await?;
        let op = IntensityAugment { noise: self.rician };
        let toned = run_op1(gpu, &op, &[&volume.tensor, &curve, &bias, &seed])?;
        let faults = ScanFaults { gain: units.gain, offset: units.background, ..self.faults.clone() };
        cut(gpu, &PlacedVolume { tensor: toned, ..volume.clone() }, faults, cuts, units.padding, self.seed)
            .await
    }
}

/// `scan_faults` with these cuts of the world.
pub(super) async fn cut(
    gpu: &Gpu,
    volume: &PlacedVolume,
    faults: ScanFaults,
    cuts: &[Cut],
    padding: f32,
    seed: [u32; 2],
) -> Result<GpuTensor, PipelineError> {
    let affine = volume.affine;
    let mut planes: Vec<f32> = cuts
        .iter()
        .flat_map(|cut| {
            let along: [f64; 3] = std::array::from_fn(|axis| {
                cut.normal.dot(affine.col(volume.axes.nifti_axis(axis)).truncate())
            });
            let offset = cut.offset_mm - cut.normal.dot(affine.w_axis.truncate());
            [along[0] as f32, along[1] as f32, along[2] as f32, offset as f32, padding, 0.0, 0.0, 0.0]
        })
        .collect();
    if planes.is_empty() {
        planes = vec![0.0; 8];
    }
    let planes = gpu.upload(&TensorDesc::f32(&[planes.len() / 8, 8]), &planes).await?;
    let seed = gpu.upload(&TensorDesc::u32(&[2]), &seed).await?;
    Ok(run_op1(gpu, &faults, &[&volume.tensor, &planes, &seed])?)
}

impl Scan {
    /// One at random of this head; no voxel is smaller than `voxel_mm`.
    pub fn draw(
        synthesis: &Synthesis,
        map: &LabelMap,
        anatomy: &Anatomy,
        contrast: Contrast,
        voxel_mm: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let s = synthesis;
        let frame = match rng.random::<f64>() < 0.3 {
            true => rotation(rng, 0.35),
            false => DMat3::IDENTITY,
        };
        let brain = in_scan(&map.surface, anatomy);
        let corners: Vec<DVec3> = (0..8)
            .map(|bits| {
                let side = |a: usize| map.head[bits >> a & 1][a];
                DVec3::new(side(0), side(1), side(2))
            })
            .collect();
        let head = in_scan(&corners, anatomy);
        let resolution = Resolution::draw(s, contrast, voxel_mm, rng);
        let [low, high] = field_of_view(s, &bounds(&frame, &head), &bounds(&frame, &brain), rng);
        let extents = Xyz(((high - low) / DVec3::from_array(resolution.voxel_mm)).to_array());
        let shape = extents.map(|n| (n.round() as usize).max(4));
        let edges = DVec3::from_array(resolution.voxel_mm);
        let affine = DMat4::from_mat3(frame * DMat3::from_diagonal(edges));
        let origin = frame * (low + edges / 2.0);
        let grid = Grid { shape, affine: DMat4::from_translation(origin) * affine };
        let finer = Xyz(std::array::from_fn(|a| match resolution.voxel_mm[a] > 1.05 * voxel_mm {
            true => (shape[a] as f64 * resolution.voxel_mm[a] / voxel_mm).round() as usize,
            false => shape[a],
        }));
        let signal = Signal::draw(s, contrast, rng);
        let cuts = match rng.random::<f64>() < s.padding {
            true => cuts(&frame, &brain, rng),
            false => Vec::new(),
        };
        let gain = 10f64.powf(between(rng, 1.5, 3.5));
        let background = match rng.random::<f64>() < s.background {
            true => [0.02, 0.3, 1.0, -1.0][rng.random_range(0..4)] * gain * between(rng, 0.5, 1.5),
            false => 0.0,
        };
        // Padding is as dark as the background, or darker.
        let padding = if rng.random::<bool>() { background } else { background.min(0.0) };
        let units = Units { gain: gain as f32, background: background as f32, padding: padding as f32 };
        Self { painted: same_box(&grid, finer), resolution, signal, cuts, units }
    }
}

/// Least and largest coordinates of points in a rotated frame.
fn bounds(frame: &DMat3, points: &[DVec3]) -> [DVec3; 2] {
    let to_frame = frame.transpose();
    points.iter().fold([DVec3::INFINITY, DVec3::NEG_INFINITY], |[low, high], &point| {
        let at = to_frame * point;
        [low.min(at), high.max(at)]
    })
}

/// The box that is scanned: the head with air round it, or a part of it. Lengths are those of a human head, whose brain is
/// [`BRAIN_MM`] high, and smaller for smaller ones.
fn field_of_view(s: &Synthesis, head: &[DVec3; 2], brain: &[DVec3; 2], rng: &mut ChaCha8Rng) -> [DVec3; 2] {
    let size = ((brain[1] - brain[0]).min_element() / BRAIN_MM).min(1.0);
    let mm = |rng: &mut ChaCha8Rng, low: f64, high: f64| size * between(rng, low, high);
    let vector = |rng: &mut ChaCha8Rng, low, high| DVec3::from_array([0; 3].map(|_| mm(rng, low, high)));
    let mut low = head[0] - vector(rng, 2.0, 25.0);
    let mut high = head[1] + vector(rng, 2.0, 25.0);
    // Most fields of view end in the neck, at some distance below the brain.
    low.z = between(rng, head[0].z.min(brain[0].z - 10.0 * size), brain[0].z - 5.0 * size);
    if rng.random::<f64>() >= s.field_of_view {
        return [low, high];
    }
    let side = rng.random_range(0..2);
    let axis = rng.random_range(0..2);
    match rng.random_range(0..6) {
        0 => high.z = brain[1].z - mm(rng, -5.0, 40.0),
        1 => low.z = brain[0].z + mm(rng, -10.0, 35.0),
        2 => {
            low = brain[0] - vector(rng, 0.0, 10.0);
            high = brain[1] + vector(rng, 0.0, 10.0);
        }
        3 => {
            let depth = mm(rng, -15.0, 30.0);
            if side == 0 { low[axis] = brain[0][axis] + depth } else { high[axis] = brain[1][axis] - depth }
        }
        slab => {
            let axis = if slab == 4 { 2 } else { axis };
            let half = mm(rng, 25.0, 50.0);
            let middle = between(rng, brain[0][axis] + 0.8 * half, brain[1][axis] - 0.8 * half);
            low[axis] = middle - half;
            high[axis] = middle + half;
        }
    }
    [low, high]
}

/// Planes that take off the face, or the corners of an oblique box.
fn cuts(frame: &DMat3, brain: &[DVec3], rng: &mut ChaCha8Rng) -> Vec<Cut> {
    let at = |normal: DVec3, beyond_mm: f64| {
        let farthest = brain.iter().map(|point| normal.dot(*point)).fold(f64::NEG_INFINITY, f64::max);
        Cut { normal, offset_mm: farthest + beyond_mm }
    };
    match rng.random_range(0..3) {
        0 => {
            let down = between(rng, 0.4, 1.1);
            let normal = *frame * DVec3::new(within(rng, 0.2), down.cos(), -down.sin()).normalize();
            vec![at(normal, between(rng, 2.0, 15.0))]
        }
        1 => {
            let tilt = *frame * rotation(rng, 0.4);
            let axes = [tilt.x_axis, tilt.y_axis, tilt.z_axis];
            axes.iter()
                .flat_map(|&axis| [axis, -axis])
                .map(|normal| at(normal, between(rng, 3.0, 40.0)))
                .collect()
        }
        _ => {
            let normal = DVec3::from_array([0; 3].map(|_| normal(rng))).normalize_or(DVec3::Y);
            vec![at(normal, between(rng, -15.0, 20.0))]
        }
    }
}
