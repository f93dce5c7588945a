//! The data of a run: every image and mask is read and judged before the first step, and a resumed run knows them
//! again by their content.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pipeline::PipelineError;
use crate::tensor::Xyz;
use crate::volume::pairs::{Pair, PairTable, WEIGHT, WEIGHT_IMAGE, Weight, relative};
use crate::volume::{Volume, Warning, companion, image};

/// How far the one value of a mask may lie from a whole number: a header's slope is rounded.
const WHOLE: f32 = 1e-3;
/// Part of the brain whose voxels may lack a value.
const MOST_NON_FINITE: f64 = 0.01;
/// Part of the voxels on an image's faces that a mask of a brain marks at most. A thick slab cut at two faces stays
/// below; an inverted mask marks nearly all.
const MOST_ON_FACES: f64 = 0.5;
/// Files that a message names.
const NAMED: usize = 5;

/// Sentences, each about a file.
pub type Remarks = Vec<(PathBuf, String)>;

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Image and mask.
    pub pair: Pair,
    /// How much it counts in the loss.
    pub weight: Weight,
}

impl From<Pair> for Row {
    fn from(pair: Pair) -> Self {
        Self { pair, weight: Weight::default() }
    }
}

/// An image and its mask as training takes them.
pub struct Labelled {
    /// The image; voxels that are NaN or infinite have no value.
    pub image: Volume,
    /// 1 in the brain and 0 elsewhere, or how probably or how much of it a voxel is, on the image's grid.
    pub mask: Volume,
    /// How much each voxel counts in the loss, if they do not all count alike.
    pub weight: Option<Volume>,
    /// What a person should know of them.
    pub remarks: Remarks,
}

impl Labelled {
    /// Reads a row.
    ///
    /// What a mask is, and where it lies in its image, is [`companion::read_mask`]'s to say. Training is stricter: a mask
    /// of 0 and one fraction, one that holds NaN, everything or the surroundings is refused. Of other fractions it takes all:
    /// probabilities and parts of voxels are what a network learns as well as whole ones.
    ///
    /// # Errors
    /// A file that cannot be read, an image without contrast or without values in the brain, a mask that is none or lies
    /// elsewhere, weights that are negative, or 0 throughout, or on another grid.
    pub fn read(row: &Row) -> Result<Self, PipelineError> {
        let Row { pair, weight } = row;
        let Some(mask_path) = &pair.mask else {
            return Err(fault(&pair.image, "has no mask in the table; training needs one"));
        };
        if *mask_path == pair.image {
            return Err(fault(mask_path, "is named as image and as mask; name the mask of the image"));
        }
        let file = image::read_single(&pair.image)?;
        let image = file.frame_f32(0)?;
        let content = image.check_content().map_err(|problem| problem.at(&pair.image))?;
        check_values(&image::read_single(mask_path)?.frame_f32(0)?.data)
            .map_err(|reason| fault(mask_path, reason))?;
        let companion::Mask { voxels, mut warnings } = companion::read_mask(mask_path, &file, None)?;
        let data = voxels.into_iter().map(f32::from).collect();
        let mut mask = Volume { shape: image.shape, affine: image.affine, data };
        check_region(&mask).map_err(|reason| fault(mask_path, reason))?;
        check_brain(&image, &mask).map_err(|reason| fault(&pair.image, reason))?;
        let mut remarks = Remarks::new();
        remarks.extend(file.warnings().iter().map(|warning| (pair.image.clone(), warning.to_string())));
        if let Some(at) = warnings.iter().position(|warning| *warning == Warning::Fractions) {
            warnings.remove(at);
            mask.data = companion::read_fractions(mask_path, &file)?;
            remarks.push((mask_path.clone(), "holds fractions, which are learnt as they are".into()));
        }
        remarks.extend(warnings.iter().map(|warning| (mask_path.clone(), warning.to_string())));
        let weight = match &weight.image {
            None => None,
            Some(path) => {
                let companion::Values { data, warnings } = companion::read_values(path, &file)?;
                check_weights(&data).map_err(|reason| fault(path, reason))?;
                remarks.extend(warnings.iter().map(|warning| (path.clone(), warning.to_string())));
                Some(Volume { shape: image.shape, affine: image.affine, data })
            }
        };
        if content.non_finite > 0 {
            remarks.push((pair.image.clone(), "voxels that are NaN or infinite count as background".into()));
        }
        Ok(Self { image, mask, weight, remarks })
    }
}

fn fault(file: &Path, reason: impl Into<String>) -> PipelineError {
    PipelineError::Input { file: file.to_path_buf(), reason: reason.into() }
}

/// Whether the values of a mask say what is brain.
fn check_values(values: &[f32]) -> Result<(), String> {
    if !values.iter().all(|value| value.is_finite()) {
        return Err("holds NaN or infinite values; write 0 outside the brain and 1 inside".into());
    }
    let mut marks = values.iter().copied().filter(|&value| value != 0.0);
    let Some(first) = marks.next() else { return Ok(()) };
    if (first - first.round()).abs() > WHOLE && marks.all(|value| value == first) {
        return Err(format!(
            "holds 0 and {first} only, neither labels nor a range of fractions; write 0 outside the brain and 1 inside"
        ));
    }
    Ok(())
}

/// Whether values say how much voxels count.
fn check_weights(values: &[f32]) -> Result<(), String> {
    match values.iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
        Some(value) => Err(format!("holds {value}; weights of voxels are numbers from 0 on")),
        None if values.iter().all(|&value| value == 0.0) => {
            Err("is 0 throughout: no voxel would count; take the row out".into())
        }
        None => Ok(()),
    }
}

/// Whether a mask of 0 and 1 can be that of a brain: neither everything nor the surroundings.
fn check_region(mask: &Volume) -> Result<(), String> {
    let Xyz([nx, ny, nz]) = mask.shape;
    // Voxels and marked voxels, inside and on the faces.
    let mut counts = [[0usize; 2]; 2];
    for (row, line) in mask.data.chunks_exact(nx).enumerate() {
        let (y, z) = (row % ny, row / ny);
        let outer = y == 0 || y + 1 == ny || z == 0 || z + 1 == nz;
        for (x, &value) in line.iter().enumerate() {
            let face = outer || x == 0 || x + 1 == nx;
            counts[usize::from(face)][0] += 1;
            counts[usize::from(face)][1] += usize::from(value != 0.0);
        }
    }
    let [[inside, inside_marked], [faces, faces_marked]] = counts;
    if inside_marked + faces_marked == inside + faces {
        return Err("marks every voxel; mark the brain or take the row out".into());
    }
    let share = |marked: usize, all: usize| marked as f64 / all.max(1) as f64;
    let on_faces = share(faces_marked, faces);
    if inside > 0 && on_faces > MOST_ON_FACES && on_faces > share(inside_marked, inside) {
        return Err(format!(
            "looks inverted (it marks {:.0}% of the voxels on the image's faces, {:.0}% of those inside); write 0 \
             outside the brain and 1 inside",
            100.0 * on_faces,
            100.0 * share(inside_marked, inside)
        ));
    }
    Ok(())
}

/// Whether an image shows something in its brain.
fn check_brain(image: &Volume, mask: &Volume) -> Result<(), String> {
    let brain = || image.data.iter().zip(&mask.data).filter(|(_, m)| **m != 0.0).map(|(v, _)| *v);
    let (count, lost) =
        brain().fold((0usize, 0usize), |(n, lost), v| (n + 1, lost + usize::from(!v.is_finite())));
    if lost as f64 > MOST_NON_FINITE * count as f64 {
        return Err(format!(
            "holds NaN or infinite values in {lost} of the {count} voxels of its mask; check how it was made"
        ));
    }
    let least = image.data.iter().copied().filter(|v| v.is_finite()).fold(f32::INFINITY, f32::min);
    if brain().all(|v| !v.is_finite() || v <= least) {
        return Err(format!(
            "is {least}, its least value, throughout its mask; check that the two belong together"
        ));
    }
    Ok(())
}

/// A row of a table that was found fit to learn from; only [`check_rows`] makes them.
#[derive(Clone, Debug)]
pub struct LabelledHead {
    row: Row,
    image_sha256: String,
    mask_sha256: String,
}

impl LabelledHead {
    /// Its files, and how much it counts.
    pub fn row(&self) -> &Row {
        &self.row
    }

    fn image_name(&self) -> String {
        self.row.pair.image.display().to_string()
    }

    fn mask_name(&self) -> String {
        self.row.pair.mask.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

/// Rows fit to learn from, and what a person should know of them.
pub struct CheckedRows {
    /// In the order of the table.
    pub heads: Vec<LabelledHead>,
    /// Each with the files that it is about.
    pub remarks: Vec<String>,
}

/// Reads and judges every row; `read` hears of each.
///
/// # Errors
/// [`PipelineError::Rows`] with all rows that cannot be learnt from.
pub fn check_rows(rows: Vec<impl Into<Row>>, read: &(dyn Fn() + Sync)) -> Result<CheckedRows, PipelineError> {
    let rows: Vec<Row> = rows.into_iter().map(Into::into).collect();
    let total = rows.len();
    let checked: Vec<Result<(LabelledHead, Remarks), PipelineError>> = rows
        .into_par_iter()
        .map(|row| {
            let labelled = Labelled::read(&row);
            read();
            let Labelled { image, mask, weight, remarks } = labelled?;
            let image_sha256 = content_hash(&image, None, 1.0);
            let mask_sha256 = content_hash(&mask, weight.as_ref(), row.weight.factor);
            Ok((LabelledHead { row, image_sha256, mask_sha256 }, remarks))
        })
        .collect();
    let (mut heads, mut faults) = (Vec::with_capacity(total), Vec::new());
    let mut remarks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in checked {
        match row {
            Ok((head, of_head)) => {
                for (file, remark) in of_head {
                    remarks.entry(remark).or_default().push(file.display().to_string());
                }
                heads.push(head);
            }
            Err(error) => faults.push(error),
        }
    }
    if !faults.is_empty() {
        return Err(PipelineError::Rows { faults, total });
    }
    let remarks = remarks.into_iter().map(|(remark, files)| format!("{}: {remark}", names(&files))).collect();
    Ok(CheckedRows { heads, remarks })
}

/// Of extents, place and voxels, and of weights that are not 1: one for an image, however it is compressed and wherever its
/// file lies.
fn content_hash(volume: &Volume, weight: Option<&Volume>, factor: f32) -> String {
    let mut hash = Sha256::new();
    for extent in volume.shape.0 {
        hash.update((extent as u64).to_le_bytes());
    }
    for entry in volume.affine.to_cols_array() {
        hash.update(entry.to_le_bytes());
    }
    hash.update(bytemuck::cast_slice::<f32, u8>(&volume.data));
    if let Some(weight) = weight {
        hash.update(bytemuck::cast_slice::<f32, u8>(&weight.data));
    }
    if factor != 1.0 {
        hash.update(factor.to_le_bytes());
    }
    format!("{:x}", hash.finalize())
}

/// The first few of these files in words.
fn names<S: AsRef<str>>(files: &[S]) -> String {
    let mut text = files.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if files.len() > NAMED {
        write!(text, " and {} more", files.len() - NAMED).expect("writing to a string does not fail");
    }
    text
}

/// What a head is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its samples make the steps.
    Training,
    /// It is looked at after every epoch.
    Validation,
}

impl Role {
    /// As `heads.tsv` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Validation => "validation",
        }
    }
}

/// A head in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// What it is there for.
    pub role: Role,
    /// Where the image lay.
    pub image: String,
    /// Where the mask lay.
    pub mask: String,
    /// Hash of the image's extents, place and voxels.
    pub image_sha256: String,
    /// The same of the mask and the weights.
    pub mask_sha256: String,
}

/// The heads of a run in their order, by role.
#[derive(Clone, Debug)]
pub struct Split {
    /// Those trained on.
    pub training: Vec<LabelledHead>,
    /// Those validated on.
    pub validation: Vec<LabelledHead>,
}

impl Split {
    /// All heads with their roles, training first.
    pub fn records(&self) -> Vec<HeadRecord> {
        let of = |role, heads: &[LabelledHead]| -> Vec<HeadRecord> {
            let record = |head: &LabelledHead| HeadRecord {
                role,
                image: head.image_name(),
                mask: head.mask_name(),
                image_sha256: head.image_sha256.clone(),
                mask_sha256: head.mask_sha256.clone(),
            };
            heads.iter().map(record).collect()
        };
        [of(Role::Training, &self.training), of(Role::Validation, &self.validation)].concat()
    }

    /// Writes a table of all heads with their roles, which can be named as data again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_table(&self, path: &Path) -> Result<(), PipelineError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let heads = || self.training.iter().chain(&self.validation);
        let weighted = heads().any(|head| head.row.weight != Weight::default());
        let cells = |role: Role, head: &LabelledHead| {
            let Weight { factor, image } = &head.row.weight;
            let image = image.as_ref().and_then(|image| relative(image, folder)).unwrap_or_default();
            let mut cells = vec![role.name().to_owned()];
            cells.extend(weighted.then(|| [factor.to_string(), image]).into_iter().flatten());
            cells
        };
        let of = |role: Role, heads: &[LabelledHead]| -> Vec<Pair> {
            let pair = |head: &LabelledHead| Pair { extra: cells(role, head), ..head.row.pair.clone() };
            heads.iter().map(pair).collect()
        };
        let pairs = [of(Role::Training, &self.training), of(Role::Validation, &self.validation)].concat();
        let mut extra_columns = vec!["role".to_owned()];
        extra_columns
            .extend(weighted.then(|| [WEIGHT, WEIGHT_IMAGE].map(str::to_owned)).into_iter().flatten());
        Ok(PairTable { extra_columns, pairs }.write(path)?)
    }

    /// Images that are validated on and trained on as well, under whatever name.
    pub fn shared(&self) -> Option<String> {
        let trained: HashMap<&str, &LabelledHead> =
            self.training.iter().map(|head| (head.image_sha256.as_str(), head)).collect();
        let shared: Vec<String> = self
            .validation
            .iter()
            .filter(|head| trained.contains_key(head.image_sha256.as_str()))
            .map(LabelledHead::image_name)
            .collect();
        (!shared.is_empty()).then(|| {
            format!(
                "{}: {} of the {} heads to validate on are trained on as well, so that validation flatters",
                names(&shared),
                shared.len(),
                self.validation.len()
            )
        })
    }

    /// The split that a checkpoint records, out of the heads of the tables; without a table of its own, validation heads
    /// are looked for among those of `training`.
    ///
    /// # Errors
    /// What is missing, new, changed or has another role, in words.
    pub fn again(
        records: &[HeadRecord],
        training: Vec<LabelledHead>,
        validation: Vec<LabelledHead>,
    ) -> Result<Self, String> {
        let own_table = !validation.is_empty();
        let mut left: Vec<Option<(Role, LabelledHead)>> = training
            .into_iter()
            .map(|head| Some((Role::Training, head)))
            .chain(validation.into_iter().map(|head| Some((Role::Validation, head))))
            .collect();
        let mut by_content: HashMap<(String, String), Vec<usize>> = HashMap::new();
        for (ix, (_, head)) in left.iter().flatten().enumerate() {
            by_content.entry((head.image_sha256.clone(), head.mask_sha256.clone())).or_default().push(ix);
        }
        let mut split = Self { training: Vec::new(), validation: Vec::new() };
        let (mut missing, mut moved): (Vec<&HeadRecord>, Vec<&str>) = (Vec::new(), Vec::new());
        for record in records {
            let table = if own_table { record.role } else { Role::Training };
            let same = by_content.get_mut(&(record.image_sha256.clone(), record.mask_sha256.clone()));
            let Some(same) = same.filter(|same| !same.is_empty()) else {
                missing.push(record);
                continue;
            };
            let in_table = |ix: &usize| left[*ix].as_ref().is_some_and(|(role, _)| *role == table);
            let at = same.iter().position(in_table).unwrap_or_else(|| {
                moved.push(&record.image);
                0
            });
            let (_, head) = left[same.remove(at)].take().expect("an index is listed until it is taken");
            match record.role {
                Role::Training => split.training.push(head),
                Role::Validation => split.validation.push(head),
            }
        }
        let new: Vec<&LabelledHead> = left.iter().flatten().map(|(_, head)| head).collect();
        let same_files = |record: &HeadRecord, head: &LabelledHead| {
            record.image == head.image_name() && record.mask == head.mask_name()
        };
        let (changed, gone): (Vec<&HeadRecord>, Vec<&HeadRecord>) =
            missing.into_iter().partition(|record| new.iter().any(|head| same_files(record, head)));
        let is_changed = |head: &LabelledHead| changed.iter().any(|record| same_files(record, head));
        let added: Vec<String> =
            new.iter().filter(|head| !is_changed(head)).map(|head| head.image_name()).collect();
        let changed: Vec<&str> = changed
            .into_iter()
            .map(|record| {
                let of_image =
                    new.iter().any(|h| same_files(record, h) && h.image_sha256 != record.image_sha256);
                if of_image { record.image.as_str() } else { record.mask.as_str() }
            })
            .collect();
        let added: Vec<&str> = added.iter().map(String::as_str).collect();
        let gone: Vec<&str> = gone.into_iter().map(|record| record.image.as_str()).collect();
        let mut differences = Vec::new();
        for (files, what) in [
            (&changed, "changed since"),
            (&gone, "gone from the tables"),
            (&added, "new in the tables"),
            (&moved, "moved between training and validation"),
        ] {
            if !files.is_empty() {
                differences.push(format!("{} {what} ({})", files.len(), names(files)));
            }
        }
        if differences.is_empty() { Ok(split) } else { Err(differences.join(", ")) }
    }
}
