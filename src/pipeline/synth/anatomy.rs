//! What a head of a map becomes before it is scanned: pose, shape, skull, atrophy, lesions.

use glam::{DMat3, DMat4, DVec3};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::config::Synthesis;
use super::contrast::Contrast;
use super::map::LabelMap;
use crate::volume::Grid;

/// Control points of the displacement along an axis.
pub const ELASTIC_POINTS: usize = 9;
/// Most lesions of a head.
const MOST_LESIONS: usize = 12;

/// A head out of a map.
pub struct Anatomy {
    /// From the scan's world to the map's.
    pub transform: DMat4,
    /// Displacement at the control points, in mm of the scan's world: along its axes, in the order that
    /// `[3, g, g, g]` has for a volume stored z, y, x.
    pub elastic_mm: Vec<DVec3>,
    /// As the operator `label_paint` takes it.
    pub pull: f32,
    /// Whether the pull begins at the tissue, so that there is little fluid between brain and skull, or none.
    pub squeezed: bool,
    /// Loss of cortex in mm.
    pub erosion_mm: f32,
    /// Growth of the ventricles in mm.
    pub growth_mm: f32,
    /// Centre by index x, y, z of the map, and half axes in mm.
    pub lesions: Vec<[DVec3; 2]>,
}

/// Uniform in `[-limit, limit]`.
pub(super) fn within(rng: &mut ChaCha8Rng, limit: f64) -> f64 {
    (rng.random::<f64>() * 2.0 - 1.0) * limit
}

/// Uniform between two numbers.
pub(super) fn between(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}

/// A rotation by up to `limit` about each axis.
pub(super) fn rotation(rng: &mut ChaCha8Rng, limit: f64) -> DMat3 {
    DMat3::from_rotation_x(within(rng, limit))
        * DMat3::from_rotation_y(within(rng, limit))
        * DMat3::from_rotation_z(within(rng, limit))
}

impl Anatomy {
    /// One at random.
    pub fn draw(synthesis: &Synthesis, map: &LabelMap, contrast: Contrast, rng: &mut ChaCha8Rng) -> Self {
        let s = synthesis;
        let strongly = if rng.random::<f64>() < 0.2 { 3.0 } else { 1.0 };
        let pose = rotation(rng, strongly * s.rotation);
        let common = within(rng, s.scale);
        let mut scale = DVec3::from_array([0; 3].map(|_| 1.0 + common + within(rng, s.scale / 3.0)));
        if rng.random::<f64>() < s.flip {
            scale.x = -scale.x;
        }
        let centre = (map.head[0] + map.head[1]) / 2.0;
        let transform = DMat4::from_translation(centre)
            * DMat4::from_mat3(pose * DMat3::from_diagonal(scale))
            * DMat4::from_translation(-centre);

        let elastic = s.elastic_mm * rng.random::<f64>();
        let mut elastic_mm: Vec<DVec3> = (0..ELASTIC_POINTS.pow(3))
            .map(|_| DVec3::from_array([0; 3].map(|_| normal(rng) * elastic)))
            .collect();
        if contrast == Contrast::Epi {
            distort(&mut elastic_mm, rng);
        }
        let squeezed = rng.random::<f64>() < s.squeezed;
        let pull = match squeezed || rng.random::<f64>() < s.skull {
            // Children's brains fill their skulls.
            true if squeezed => between(rng, 0.3, 3.0) as f32,
            // Thinner more often: heads of children and of the old, and most label maps show the bone thick.
            true => between(rng, -0.35, 0.9) as f32,
            false => 0.0,
        };
        let (mut erosion_mm, mut growth_mm) = (0.0, 0.0);
        if !squeezed && rng.random::<f64>() < s.atrophy {
            erosion_mm = between(rng, 0.2, 1.6) as f32;
            growth_mm = (between(rng, 0.0, 1.0).powi(2) * 6.0) as f32;
        }
        let lesions = match rng.random::<f64>() < s.lesions {
            true => lesions(map, rng),
            false => Vec::new(),
        };
        Self { transform, elastic_mm, pull, squeezed, erosion_mm, growth_mm, lesions }
    }

    /// The control points in voxels of a map, as `label_paint` takes them.
    pub fn displacement(&self, map: &Grid) -> Vec<f32> {
        let to_voxels = DMat3::from_mat4(map.affine.inverse() * self.transform);
        (0..3)
            .rev()
            .flat_map(|axis| self.elastic_mm.iter().map(move |mm| (to_voxels * *mm)[axis] as f32))
            .collect()
    }

    /// The lesions' rows for `label_paint` with these means; at least one row.
    pub fn lesion_rows(&self, map: &Grid, means: impl FnMut() -> f32) -> Vec<f32> {
        let voxel = map.voxel_size();
        let mut means = means;
        let mut rows: Vec<f32> = self
            .lesions
            .iter()
            .flat_map(|[at, half_mm]| {
                let half = *half_mm / voxel;
                [at.z, at.y, at.x, 0.0, half.z, half.y, half.x].map(|v| v as f32).into_iter().chain([means()])
            })
            .collect();
        if rows.is_empty() {
            rows = vec![0.0; 8];
        }
        rows
    }
}

/// The distortion of echo-planar images: along the y axis, strong near the air of the sinuses and ears.
fn distort(elastic_mm: &mut [DVec3], rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=3) {
        let centre = DVec3::new(between(rng, 0.2, 0.8), between(rng, 0.4, 0.9), between(rng, 0.1, 0.5));
        let width = between(rng, 0.12, 0.25);
        let mm = between(rng, 4.0, 16.0) * if rng.random::<bool>() { 1.0 } else { -1.0 };
        for (ix, displacement) in elastic_mm.iter_mut().enumerate() {
            let last = (ELASTIC_POINTS - 1) as f64;
            let g = ELASTIC_POINTS;
            let at = DVec3::new((ix % g) as f64, (ix / g % g) as f64, (ix / g / g) as f64) / last;
            displacement.y += mm * (-0.5 * (at - centre).length_squared() / (width * width)).exp();
        }
    }
}

/// Many small ones, or a large one or two.
fn lesions(map: &LabelMap, rng: &mut ChaCha8Rng) -> Vec<[DVec3; 2]> {
    let (count, sizes) = match rng.random::<f64>() < 0.6 {
        true => (rng.random_range(3..=MOST_LESIONS), [1.5, 6.0]),
        false => (rng.random_range(1..=2), [8.0, 28.0]),
    };
    // A map has tissue, or it would not have been read.
    (0..count)
        .map(|_| {
            let at = map.tissue[rng.random_range(0..map.tissue.len())];
            let size = between(rng, sizes[0], sizes[1]);
            [at, DVec3::from_array([0; 3].map(|_| size * between(rng, 0.7, 1.3)))]
        })
        .collect()
}

/// The points of a map's world in the scan's.
pub(super) fn in_scan(points: &[DVec3], anatomy: &Anatomy) -> Vec<DVec3> {
    let to_scan = anatomy.transform.inverse();
    points.iter().map(|&point| to_scan.transform_point3(point)).collect()
}
