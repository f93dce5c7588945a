//! What a second image means for the first: a mask, a weight, a field or a reference of it.
//!
//! Every command that takes two images decides here, by where their voxels lie and never by their shapes:
//!
//! - the same grid, but for the rounding of headers: voxel by voxel;
//! - a permutation and flips of its axes: undone exactly;
//! - another grid that overlaps: masks are sampled at nearest voxels, with a warning that names both grids; values
//!   (weights, fields) are refused, since how they should be interpolated is the user's to say;
//! - no overlap: refused.

use std::collections::BTreeSet;
use std::path::Path;

use glam::DVec3;

use super::grid::Apart;
use super::image::{self, Image, Info};
use super::nearest::{End, sample};
use super::orientation::AxisMap;
use super::{Grid, Problem, VolumeError, Warning};
use crate::tensor::Xyz;

/// Most labels of a mask; a file with more different values may be a scan. FreeSurfer's finest parcellation has
/// about 200, an 8-bit scan up to 255.
const MOST_LABELS: usize = 250;

/// How far a number may lie from a whole one to count as a label: scaling by slope and intercept rounds.
const WHOLE: f64 = 1e-3;

/// What a companion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Marks voxels.
    Mask,
    /// Has a value at every voxel: a weight, a bias field.
    Values,
}

/// How the voxels of a companion lie on the grid of its image.
#[derive(Debug, Clone, PartialEq)]
pub enum Placement {
    /// Voxel by voxel, or with axes in another order: the map brings them to the image's.
    Exact(AxisMap),
    /// On another grid that overlaps the image's. Only masks.
    Resampled(Box<Apart>),
}

impl Placement {
    /// Decides how a companion on the grid `own` lies on that of its `image`. Looks at no voxel, so that a table of
    /// thousands can be checked by headers alone.
    ///
    /// # Errors
    /// [`Problem::OtherGrid`] for values on another grid, [`Problem::NoOverlap`].
    pub fn of(own: Grid, image: Grid, role: Role) -> Result<Self, Problem> {
        if let Some(map) = image.map_from(&own) {
            return Ok(Self::Exact(map));
        }
        let apart = Box::new(Apart { own, image });
        match role {
            _ if !image.overlaps(&own) => Err(Problem::NoOverlap(apart)),
            Role::Values => Err(Problem::OtherGrid(apart)),
            Role::Mask => Ok(Self::Resampled(apart)),
        }
    }

    /// What to say of a companion on another grid, of which so much lies outside the image.
    pub fn warning(&self, outside_percent: f64) -> Option<Warning> {
        match self {
            Self::Exact(_) => None,
            Self::Resampled(apart) => Some(Warning::OtherGrid { apart: apart.clone(), outside_percent }),
        }
    }

    /// The companion's voxels, of shape `shape`, on the image's grid; `outside` where it does not reach.
    pub fn bring<T: Copy + Send + Sync>(&self, shape: Xyz<usize>, values: Vec<T>, outside: T) -> Vec<T> {
        match self {
            Self::Exact(map) if *map == AxisMap::IDENTITY => values,
            Self::Exact(map) => map.apply(shape, &values),
            Self::Resampled(apart) => sample(&values, &apart.own, &apart.image, End::Faces, outside),
        }
    }
}

/// A mask on the grid of its image.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// 1 where it marks, 0 elsewhere; x fastest, as the image.
    pub voxels: Vec<u8>,
    /// What a user should know about it: oddities of its header, another grid, unusual labels.
    pub warnings: Vec<Warning>,
}

/// A companion's values on the grid of its image.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// One a voxel, x fastest, as the image; NaN and infinite ones stay.
    pub data: Vec<f32>,
    /// Oddities of its header.
    pub warnings: Vec<Warning>,
}

/// Looks by headers alone whether `mask` can be that of `image`; [`read_mask`] then finds it as said here, unless its
/// voxels are of no use.
///
/// # Errors
/// A header that cannot be used, several volumes in the mask, grids that do not overlap.
pub fn check_mask(mask: &Path, image: &Info) -> Result<Placement, VolumeError> {
    let own = image::read_info(mask)?;
    let placed = match own.frames {
        1 => Placement::of(own.grid(), image.grid(), Role::Mask),
        frames => Err(Problem::SeveralVolumes(frames)),
    };
    placed.map_err(|problem| problem.at(mask))
}

/// Reads a mask and brings it to the grid of its image. `label` takes one label of it alone.
///
/// Any label but 0 counts, as does the one other value of a file with two (0 and 255, 0 and 0.4). Of values between
/// 0 and 1 (probabilities, a mask that was interpolated) those above 0.5 count. A fourth axis of length 1 is dropped.
///
/// # Errors
/// A file that cannot be read, several volumes, a grid that does not overlap the image's; a mask without a voxel in
/// the image, without the label, or whose values are neither labels nor probabilities.
pub fn read_mask(path: &Path, image: &Image, label: Option<f64>) -> Result<Mask, VolumeError> {
    let (file, placement) = read(path, image, Role::Mask)?;
    let (marked, unusual) = marked(&file, label).map_err(|problem| problem.at(path))?;
    let mut warnings = file.warnings().to_vec();
    if let Placement::Resampled(apart) = &placement {
        warnings.extend(placement.warning(percent_outside(&marked, apart)));
    }
    warnings.extend(unusual);
    let voxels = placement.bring(file.shape(), marked, 0);
    if !voxels.contains(&1) {
        return Err(Problem::MaskOutside.at(path));
    }
    if !voxels.contains(&0) {
        warnings.push(Warning::FullMask);
    }
    Ok(Mask { voxels, warnings })
}

/// Reads a mask that [`read_mask`] found to hold fractions ([`Warning::Fractions`]) as such: what part of each voxel of the image
/// it marks, or how probably, 0 to 1.
///
/// # Errors
/// As [`read_mask`].
pub fn read_fractions(path: &Path, image: &Image) -> Result<Vec<f32>, VolumeError> {
    let (file, placement) = read(path, image, Role::Mask)?;
    let fractions = file.frame_f32(0)?.data.into_iter();
    // Cubic interpolation overshoots.
    let fractions = fractions.map(|v| if v.is_finite() { v.clamp(0.0, 1.0) } else { 0.0 }).collect();
    Ok(placement.bring(file.shape(), fractions, 0.0))
}

/// Reads values that belong to the voxels of an image and brings them to its grid.
///
/// # Errors
/// A file that cannot be read, several volumes, another grid than the image's.
pub fn read_values(path: &Path, image: &Image) -> Result<Values, VolumeError> {
    let (file, placement) = read(path, image, Role::Values)?;
    let data = placement.bring(file.shape(), file.frame_f32(0)?.data, 0.0);
    Ok(Values { data, warnings: file.warnings().to_vec() })
}

fn read(path: &Path, image: &Image, role: Role) -> Result<(Image, Placement), VolumeError> {
    let file = image::read_single(path)?;
    let placement = Placement::of(file.grid(), image.grid(), role).map_err(|problem| problem.at(path))?;
    Ok((file, placement))
}

/// What the voxels of a file hold.
#[derive(Default)]
struct Survey {
    /// The values besides 0, as bits, at most one more than [`MOST_LABELS`].
    values: BTreeSet<u64>,
    has_zero: bool,
    /// Whether all are whole numbers.
    whole: bool,
    min: f64,
    max: f64,
}

impl Survey {
    fn of(file: &Image) -> Self {
        let mut survey = Self { whole: true, min: f64::INFINITY, max: f64::NEG_INFINITY, ..Self::default() };
        // Neighbours are mostly alike.
        let mut last = f64::NAN;
        file.for_each_value(|v| {
            if v == last || !v.is_finite() {
                return;
            }
            last = v;
            survey.min = survey.min.min(v);
            survey.max = survey.max.max(v);
            survey.whole &= (v - v.round()).abs() < WHOLE;
            if v == 0.0 {
                survey.has_zero = true;
            } else if survey.values.len() <= MOST_LABELS {
                survey.values.insert(v.to_bits());
            }
        });
        survey
    }
}

/// Which voxels a mask marks, as [`read_mask`] says, and what is unusual about its values.
fn marked(file: &Image, label: Option<f64>) -> Result<(Vec<u8>, Option<Warning>), Problem> {
    let where_true = |counts: &dyn Fn(f64) -> bool| {
        let mut voxels = Vec::with_capacity(file.voxels());
        file.for_each_value(|v| voxels.push(u8::from(v.is_finite() && counts(v))));
        voxels
    };
    if let Some(label) = label {
        let voxels = where_true(&|v| (v - label).abs() < WHOLE);
        return if voxels.contains(&1) { Ok((voxels, None)) } else { Err(Problem::NoLabel(label)) };
    }
    let Survey { values, has_zero, whole, min, max } = Survey::of(file);
    let not_zero = || where_true(&|v| v != 0.0);
    match values.len() {
        0 => Err(Problem::EmptyMask),
        // Whatever stands for the mask: 1, 255, -1 where 255 was read with a sign, 0.4.
        1 => Ok((not_zero(), None)),
        _ if !has_zero && whole && min > 0.0 => Err(Problem::NoBackground { min, max }),
        count if whole && min >= 0.0 => {
            let unusual = match count {
                ..=MOST_LABELS => Warning::SeveralLabels { count, max },
                _ => Warning::LooksLikeScan { more_than: MOST_LABELS, max },
            };
            Ok((not_zero(), Some(unusual)))
        }
        // Cubic interpolation overshoots.
        _ if min > -0.5 && max < 1.5 => {
            let voxels = where_true(&|v| v > 0.5);
            if voxels.contains(&1) {
                Ok((voxels, Some(Warning::Fractions)))
            } else {
                Err(Problem::FaintMask { max })
            }
        }
        _ => Err(Problem::NotAMask { min, max }),
    }
}

/// How much of a mask lies outside the box of the image's voxels, %.
fn percent_outside(marked: &[u8], Apart { own, image }: &Apart) -> f64 {
    let to_image = image.affine.inverse() * own.affine;
    let (mut all, mut outside) = (0usize, 0usize);
    let Xyz([nx, ny, _]) = own.shape;
    for (ix, _) in marked.iter().enumerate().filter(|(_, v)| **v != 0) {
        let at = DVec3::new((ix % nx) as f64, (ix / nx % ny) as f64, (ix / (nx * ny)) as f64);
        let at = to_image.transform_point3(at).to_array();
        all += 1;
        outside += usize::from((0..3).any(|a| !(-0.5..image.shape[a] as f64 - 0.5).contains(&at[a])));
    }
    100.0 * outside as f64 / all.max(1) as f64
}
