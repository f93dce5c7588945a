//! Label maps in memory: classes and the distances that anatomy is varied by, one word a voxel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use glam::{DMat4, DVec3};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::tissue::{Class, Family, Tissue};
use crate::gpu::Gpu;
use crate::ops::synth::pack_word;
use crate::pipeline::PipelineError;
use crate::pipeline::place::placed::PlacedVolume;
use crate::tensor::{TensorDesc, Xyz};
use crate::volume::nearest::{End, sample};
use crate::volume::{Grid, Problem, components, distance, image};

/// Gaps in parenchyma and ventricles up to twice as wide are brain, and
const CLOSE_MM: f64 = 7.0;
/// so much beyond, where there is brain or fluid. On BrainWeb the masks with 5 to 9 and 1.5 to 2.2 mm agree best with those
/// of the tools that real heads' masks are made by.
pub const FILM_MM: f64 = 2.0;
/// Fluid that lies deeper counts as ventricle in families that do not part them: deeper than sulci, but for the Sylvian
/// fissure's end.
const DEEP_FLUID_MM: f64 = 20.0;
/// Area of the brain in a plane through the cerebellum's lower end; the cord and the medulla take 1 to 4 cm2.
const CEREBELLUM_MM2: f64 = 1000.0;
/// How far below that the medulla is brain: to about the foramen magnum.
const BELOW_CEREBELLUM_MM: f64 = 12.0;
/// Step of the distance to the envelope in a word: 64 mm either way.
pub const ENVELOPE_STEP_MM: f64 = 1.0 / 32.0;
/// Voxels of the brain's surface, and of its tissue, that are kept as a list.
const KEPT_POINTS: usize = 600;
/// Part of a map that must be brain: 15 mL in a human head's 5 L, and a rat in its own.
const LEAST_BRAIN: f64 = 0.003;

/// A label map, ready to be painted.
#[derive(Clone)]
pub struct LabelMap {
    /// The file.
    pub file: PathBuf,
    /// Of labels, extents and place.
    pub sha256: String,
    /// Where its voxels lie.
    pub grid: Grid,
    /// The classes of its family.
    pub classes: Vec<Class>,
    /// Volume of the brain in mL.
    pub brain_ml: f64,
    /// Box round all that is not background, in the map's world.
    pub head: [DVec3; 2],
    /// Voxels of the brain's surface, in the map's world,
    pub surface: Vec<DVec3>,
    /// and of its tissue, by their index x, y, z.
    pub tissue: Vec<DVec3>,
    /// [`pack_word`] of each voxel, x fastest.
    words: Vec<u32>,
}

impl LabelMap {
    /// Reads a map; `store_mm`, where given, is the edge of the cubic voxels that it is kept in, if its own are smaller.
    ///
    /// # Errors
    /// A file that cannot be read, labels that the family does not name, a map without a brain.
    pub fn read(file: &Path, family: &Family, store_mm: Option<f64>) -> Result<Self, PipelineError> {
        let fail = |reason: String| PipelineError::Input { file: file.to_path_buf(), reason };
        let volume = image::read_single(file)?.frame_f32(0)?;
        let mut unknown = BTreeSet::new();
        let mut classes = Vec::with_capacity(volume.data.len());
        for &value in &volume.data {
            let whole = value.round();
            if !value.is_finite() || (value - whole).abs() > 1e-3 {
                return Err(fail(format!("holds {value}, which is no label; labels are whole numbers")));
            }
            match family.class_of(whole as i64) {
                Some(class) => classes.push(class),
                None => {
                    unknown.insert(whole as i64);
                    classes.push(0);
                }
            }
        }
        if !unknown.is_empty() {
            let named: Vec<String> = unknown.iter().take(8).map(ToString::to_string).collect();
            let more = unknown.len().saturating_sub(named.len());
            return Err(fail(format!(
                "holds labels that the family {} does not name: {}{}; choose another family, or say in a TOML file of \
                 your own which tissue they are",
                family.name,
                named.join(", "),
                if more > 0 { format!(" and {more} more") } else { String::new() }
            )));
        }
        let mut grid = Grid::of(&volume);
        if let Some(store) = store_mm.and_then(|mm| coarser(&grid, mm)) {
            classes = sample(&classes, &grid, &store, End::Faces, 0);
            grid = store;
        }
        Self::of_classes(file, family, grid, classes).map_err(|problem| match problem {
            Fault::NoBrain => fail(format!(
                "shows no brain by the family {}; check that the two belong together",
                family.name
            )),
            Fault::Volume(problem) => problem.at(file).into(),
        })
    }

    fn of_classes(file: &Path, family: &Family, grid: Grid, mut classes: Vec<u8>) -> Result<Self, Fault> {
        let shape = grid.shape;
        let voxel_mm = grid.voxel_size().to_array();
        let mean_voxel_mm = grid.voxel_size().element_product().cbrt();
        let tissue_of = |class: u8| family.classes[usize::from(class)].tissue;
        let marks = |classes: &[u8], of: &(dyn Fn(Tissue) -> bool + Sync)| -> Vec<u8> {
            classes.par_iter().map(|&class| u8::from(of(tissue_of(class)))).collect()
        };
        let mut core = marks(&classes, &|tissue| tissue.is_parenchyma() || tissue == Tissue::Ventricle);
        leave_out_cord(&mut core, &grid);
        if (core.iter().filter(|&&v| v != 0).count() as f64) < LEAST_BRAIN * core.len() as f64 {
            return Err(Fault::NoBrain);
        }
        // Closed beyond the faces of the map too, where a brain may be cut: the outside counts as unknown, not as air.
        let near: Vec<u8> = distance::squared_to(&core, shape, voxel_mm, |v| v != 0)?
            .par_iter()
            .map(|&square| u8::from(square <= CLOSE_MM * CLOSE_MM))
            .collect();
        let closed: Vec<u8> = distance::squared_to(&near, shape, voxel_mm, |v| v == 0)?
            .par_iter()
            .map(|&square| u8::from(square > CLOSE_MM * CLOSE_MM))
            .collect();
        let closed = components::fill_holes(&components::largest(&closed, shape)?, shape)?;
        let mut envelope_mm = distance::signed(&closed, shape, voxel_mm)?;
        // From voxel centres to the border between them.
        envelope_mm.par_iter_mut().for_each(|mm| *mm -= (0.5 * mean_voxel_mm as f32).copysign(*mm));
        for (class, &mm) in classes.iter_mut().zip(&envelope_mm) {
            if mm <= 0.0 {
                *class = family.enclosed(*class);
            }
        }
        let deep = |ix: usize| {
            let tissue = tissue_of(classes[ix]);
            tissue == Tissue::Ventricle
                || (!family.has_ventricles
                    && tissue == Tissue::Csf
                    && f64::from(envelope_mm[ix]) < -DEEP_FLUID_MM)
        };
        let ventricle: Vec<u8> = (0..classes.len()).into_par_iter().map(|ix| u8::from(deep(ix))).collect();
        let parenchyma = marks(&classes, &Tissue::is_parenchyma);
        // What is not tissue and no ventricle: the fluid round it, and all else.
        let outer: Vec<u8> =
            parenchyma.par_iter().zip(&ventricle).map(|(&p, &v)| u8::from(p == 0 && v == 0)).collect();
        let border = |squares: Vec<f64>| -> Vec<f32> {
            squares.par_iter().map(|square| (square.sqrt() - 0.5 * mean_voxel_mm).max(0.0) as f32).collect()
        };
        let depth_mm = border(distance::squared_to(&outer, shape, voxel_mm, |v| v != 0)?);
        let ventricle_mm = border(distance::squared_to(&ventricle, shape, voxel_mm, |v| v != 0)?);
        let words = (0..classes.len())
            .into_par_iter()
            .map(|ix| {
                let [envelope, depth, ventricle] =
                    [&envelope_mm, &depth_mm, &ventricle_mm].map(|mm| f64::from(mm[ix]));
                pack_word(classes[ix], envelope, ENVELOPE_STEP_MM, depth, ventricle)
            })
            .collect();
        let brain: Vec<u8> = classes
            .par_iter()
            .zip(&envelope_mm)
            .map(|(&class, &mm)| {
                u8::from(family.classes[usize::from(class)].inside && f64::from(mm) <= FILM_MM)
            })
            .collect();
        let voxels = brain.iter().filter(|&&v| v != 0).count();
        let surface = kept(&crate::volume::morphology::surface(&brain, shape)?, shape);
        let surface = surface.into_iter().map(|at| grid.affine.transform_point3(at)).collect();
        let mut hash = Sha256::new();
        shape.iter().for_each(|&extent| hash.update((extent as u64).to_le_bytes()));
        grid.affine.to_cols_array().iter().for_each(|entry| hash.update(entry.to_le_bytes()));
        hash.update(&classes);
        Ok(Self {
            file: file.to_path_buf(),
            sha256: format!("{:x}", hash.finalize()),
            head: world_box(&classes, &grid),
            brain_ml: voxels as f64 * voxel_mm.iter().product::<f64>() / 1000.0,
            surface,
            tissue: kept(&parenchyma, shape),
            classes: family.classes.clone(),
            grid,
            words,
        })
    }

    /// The map on the device.
    ///
    /// # Errors
    /// When it does not fit.
    pub(super) async fn upload(&self, gpu: &Gpu) -> Result<PlacedVolume, PipelineError> {
        let Xyz([x, y, z]) = self.grid.shape;
        let tensor = gpu.upload(&TensorDesc::u32(&[z, y, x]), &self.words).await?;
        Ok(PlacedVolume { tensor, affine: self.grid.affine, axes: crate::ops::resample::AxisOrder::Zyx })
    }
}

/// Why classes make no map.
enum Fault {
    NoBrain,
    Volume(Problem),
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Volume(problem)
    }
}

/// The same box in cubic voxels of this edge, where the grid's own are smaller along an axis.
fn coarser(grid: &Grid, mm: f64) -> Option<Grid> {
    let voxel = grid.voxel_size().to_array();
    if voxel.iter().all(|&edge| edge >= 0.99 * mm) {
        return None;
    }
    let shape = std::array::from_fn(|a| ((grid.shape[a] as f64 * voxel[a] / mm).round() as usize).max(1));
    Some(same_box(grid, Xyz(shape)))
}

/// The box of a grid in other voxels.
pub(super) fn same_box(grid: &Grid, shape: Xyz<usize>) -> Grid {
    let ratio = DVec3::from_array(std::array::from_fn(|a| grid.shape[a] as f64 / shape[a] as f64));
    let first = (ratio - 1.0) / 2.0;
    Grid { shape, affine: grid.affine * DMat4::from_translation(first) * DMat4::from_scale(ratio) }
}

/// Takes out what lies far below the lowest level at which the brain is as wide as the cerebellum: the spinal cord, which some
/// families label as white matter down to the face of the map.
fn leave_out_cord(core: &mut [u8], grid: &Grid) {
    let voxel = grid.voxel_size();
    // The axis of the map that runs upward, and whether its first plane is the lowest.
    let upward = (0..3).map(|axis| grid.affine.col(axis).z / voxel[axis]).enumerate();
    let (axis, rise) =
        upward.max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs())).expect("a grid has three axes");
    let Xyz([nx, ny, _]) = grid.shape;
    let plane_of = |ix: usize| [ix % nx, ix / nx % ny, ix / nx / ny][axis];
    let mut counts = vec![0usize; grid.shape[axis]];
    core.iter().enumerate().filter(|(_, v)| **v != 0).for_each(|(ix, _)| counts[plane_of(ix)] += 1);
    let plane_mm2 = voxel.element_product() / voxel[axis];
    let wide = |plane: &usize| counts[*plane] as f64 * plane_mm2 >= CEREBELLUM_MM2;
    let reach = (BELOW_CEREBELLUM_MM / voxel[axis]).round() as usize;
    let last = grid.shape[axis] - 1;
    let kept = if rise > 0.0 {
        let Some(lowest) = (0..=last).find(wide) else { return };
        lowest.saturating_sub(reach)..=last
    } else {
        let Some(lowest) = (0..=last).rev().find(wide) else { return };
        0..=(lowest + reach).min(last)
    };
    core.iter_mut().enumerate().filter(|(ix, _)| !kept.contains(&plane_of(*ix))).for_each(|(_, v)| *v = 0);
}

/// Some of the voxels of a mask, evenly through it, by their index x, y, z.
fn kept(mask: &[u8], Xyz([nx, ny, _]): Xyz<usize>) -> Vec<DVec3> {
    let marked: Vec<usize> = (0..mask.len()).filter(|&ix| mask[ix] != 0).collect();
    let step = marked.len().div_ceil(KEPT_POINTS).max(1);
    // Half a step in: no corner of the volume has a preference.
    marked
        .iter()
        .skip(step / 2)
        .step_by(step)
        .map(|&ix| DVec3::new((ix % nx) as f64, (ix / nx % ny) as f64, (ix / nx / ny) as f64))
        .collect()
}

/// The box round all classes but the background, in the world.
fn world_box(classes: &[u8], grid: &Grid) -> [DVec3; 2] {
    let Xyz([nx, ny, nz]) = grid.shape;
    let (mut low, mut high) = ([nx, ny, nz], [0; 3]);
    for ix in (0..classes.len()).filter(|&ix| classes[ix] != 0) {
        for (a, at) in [ix % nx, ix / nx % ny, ix / nx / ny].into_iter().enumerate() {
            low[a] = low[a].min(at);
            high[a] = high[a].max(at + 1);
        }
    }
    let corner = |bits: usize| {
        let at = |a: usize| if bits >> a & 1 == 1 { high[a] as f64 - 0.5 } else { low[a] as f64 - 0.5 };
        grid.affine.transform_point3(DVec3::new(at(0), at(1), at(2)))
    };
    (0..8)
        .map(corner)
        .fold([DVec3::INFINITY, DVec3::NEG_INFINITY], |[low, high], p| [low.min(p), high.max(p)])
}
