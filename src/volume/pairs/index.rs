//! Finding pairs of images and masks in a folder, by their names and headers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::table::{Pair, PairTable, cell, folder_of};
use crate::volume::companion::check_mask;
use crate::volume::image::{read_info, strip_suffix};
use crate::volume::{Problem, VolumeError};

/// What a scan of a folder found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Every image with the mask found for it, in order of their paths.
    pub table: PairTable,
    /// Masks that belong to no image, or to one that has another mask.
    pub unused_masks: Vec<PathBuf>,
    /// Files that by their names are made from an image, and no masks: stripped brains, segmentations.
    pub derived: Vec<PathBuf>,
}

impl Index {
    /// Why there is nothing to do, where no image was found: what the folder holds instead. To follow its name.
    pub fn nothing_found(&self) -> String {
        let look_like = |files: &[PathBuf], what: &str| {
            let first = files.first()?.file_name().unwrap_or_default().display().to_string();
            let more = if files.len() > 1 { ", ..." } else { "" };
            Some(format!("{} {what} ({first}{more})", files.len()))
        };
        let found = [
            look_like(&self.derived, "made from a head by their names"),
            look_like(&self.unused_masks, "masks by their names"),
        ];
        let found: Vec<String> = found.into_iter().flatten().collect();
        match found[..] {
            [] => "holds no image (.nii, .nii.gz, .hdr, .mgz, .mgh); name the folder that does".to_owned(),
            _ => format!(
                "holds no raw head, only images {}; name the folder of the heads, or rename them if they are heads",
                found.join(" and ")
            ),
        }
    }

    /// Leaves out what a table at `path` cannot be used with, and says why, file by file: names that it cannot hold,
    /// images whose headers cannot be used, and masks that by theirs are not those of their images. A mask on another
    /// grid that overlaps stays, with a word.
    pub fn check(&mut self, path: &Path) -> Vec<(PathBuf, String)> {
        let mut said = Vec::new();
        self.table.pairs.retain_mut(|pair| {
            let mut unfit = |file: &Path, reason: Option<String>| {
                let reason = reason.or_else(|| match cell(file, folder_of(path)) {
                    Some(_) => None,
                    None => {
                        Some("its name is not UTF-8 or holds a tab or a line break; rename it".to_owned())
                    }
                });
                let unfit = reason.is_some();
                said.extend(reason.map(|reason| (file.to_path_buf(), format!("is left out: {reason}"))));
                unfit
            };
            let image = read_info(&pair.image);
            if unfit(&pair.image, image.as_ref().err().map(|error| error.problem.to_string())) {
                return false;
            }
            let (Some(mask), Ok(image)) = (&pair.mask, image) else { return true };
            let placement = check_mask(mask, &image);
            if unfit(mask, placement.as_ref().err().map(|error| error.problem.to_string())) {
                pair.mask = None;
            } else if let Some(warning) = placement.ok().and_then(|placement| placement.warning(0.0)) {
                said.push((mask.clone(), warning.to_string()));
            }
            true
        });
        said
    }
}

/// Last parts of names that say how a head was scanned.
const CONTRASTS: [&str; 14] =
    ["T1w", "T1", "t1", "T2w", "T2", "t2", "PDw", "PD", "pd", "FLAIR", "flair", "EPI", "bold", "T2starw"];

/// Finds images and their masks in a folder and those below it. Hidden files and folders are
/// passed over.
///
/// - NFBS layout: `NAME_brainmask.*` is the mask of `NAME.*`, `NAME_brain.*` a stripped copy;
/// - plain pairs: `NAME_mask.*` or `NAME_brain_mask.*` with `NAME.*`, in the same folder or
///   elsewhere (then the closest in the tree);
/// - a mask named after the head alone: `NAME_mask.*` with `NAME_T1w.*`, or another of the usual
///   contrasts if it is the only one;
/// - BIDS derivatives: `*_desc-brain_mask.*` with the image whose entities are the same:
///   in the same folder before elsewhere, T1w before others.
///
/// Other derivatives (`desc-brain` images, `dseg`, `probseg`, lesion masks) are no images.
pub fn index(folder: impl AsRef<Path>) -> Result<Index, VolumeError> {
    let folder = folder.as_ref();
    let mut files = BTreeMap::new();
    scan(folder, &mut BTreeSet::new(), &mut files).map_err(|(path, e)| Problem::from_read(e).at(&path))?;

    let (mut images, mut masks, mut derived) = (Vec::new(), Vec::new(), Vec::new());
    for (path, stem) in &files {
        match Role::of(stem) {
            Role::Image => images.push((path, stem)),
            Role::Mask(mask) => masks.push((path, mask)),
            Role::Other => derived.push(path.clone()),
        }
    }
    let mut by_stem: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut by_entities: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
    for (i, (_, stem)) in images.iter().enumerate() {
        by_stem.entry(stem.as_str()).or_default().push(i);
        if let Some(name) = BidsName::parse(stem) {
            by_entities.entry(name.entities).or_default().push(i);
        }
    }

    let mut found: Vec<Option<PathBuf>> = vec![None; images.len()];
    let mut unused_masks = Vec::new();
    for (path, mask) in &masks {
        let nearest = |candidates: &[usize]| closest(candidates, |&i| shared_depth(images[i].0, path));
        let plain = mask.bases.iter().find_map(|base| by_stem.get(base).and_then(|c| nearest(c)));
        let image = plain.or_else(|| {
            let name = mask.bids.as_ref()?;
            let candidates =
                name.image_entities().into_iter().find_map(|entities| by_entities.get(&entities))?;
            let suffix_of = |i: usize| images[i].1.rsplit('_').next().unwrap_or_default();
            let suffix = name.modality.unwrap_or_else(|| {
                let has_t1w = candidates.iter().any(|&i| suffix_of(i) == "T1w");
                if has_t1w { "T1w" } else { "" }
            });
            let fitting: Vec<usize> =
                candidates.iter().copied().filter(|&i| suffix.is_empty() || suffix_of(i) == suffix).collect();
            nearest(&fitting)
        });
        let image = image.or_else(|| {
            let of_contrast = |base: &str, contrast: &str| {
                by_stem.get(format!("{base}_{contrast}").as_str()).and_then(|c| nearest(c))
            };
            mask.bases.iter().find_map(|base| {
                let found: Vec<usize> = CONTRASTS.iter().filter_map(|c| of_contrast(base, c)).collect();
                of_contrast(base, "T1w").or(if let [only] = found[..] { Some(only) } else { None })
            })
        });
        match image {
            Some(i) if found[i].is_none() => found[i] = Some((*path).clone()),
            _ => unused_masks.push((*path).clone()),
        }
    }
    let pairs = images
        .into_iter()
        .zip(found)
        .map(|((path, _), mask)| Pair { image: path.clone(), mask, extra: Vec::new() })
        .collect();
    Ok(Index { table: PairTable { extra_columns: Vec::new(), pairs }, unused_masks, derived })
}

/// Collects NIfTI files with their names less the extension. `seen` breaks circles of links.
fn scan(
    folder: &Path,
    seen: &mut BTreeSet<PathBuf>,
    files: &mut BTreeMap<PathBuf, String>,
) -> Result<(), (PathBuf, io::Error)> {
    let at = |e| (folder.to_path_buf(), e);
    if !seen.insert(folder.canonicalize().map_err(at)?) {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            scan(&path, seen, files)?;
        } else if let Some(stem) = stem(&name) {
            let stem = stem.to_owned();
            files.insert(path, stem);
        }
    }
    Ok(())
}

/// The name of an image file less its extension; `None` for other files. Of a pair, the header
/// stands for both.
pub fn stem(name: &str) -> Option<&str> {
    let plain = strip_suffix(name, ".gz").unwrap_or(name);
    [".nii", ".hdr", ".mgz", ".mgh"]
        .iter()
        .find_map(|ext| strip_suffix(plain, ext))
        .filter(|stem| !stem.is_empty())
}

/// Number of leading folders that two paths share.
fn shared_depth(a: &Path, b: &Path) -> usize {
    let folders = a.components().zip(b.components());
    folders.take_while(|(a, b)| a == b).count()
}

/// The one candidate with the greatest score; `None` where several share it, or there is none.
fn closest(candidates: &[usize], score: impl Fn(&usize) -> usize) -> Option<usize> {
    let best = candidates.iter().map(&score).max()?;
    let mut top = candidates.iter().filter(|&c| score(c) == best);
    match (top.next(), top.next()) {
        (Some(&one), None) => Some(one),
        _ => None,
    }
}

/// What a file is by its name.
enum Role<'a> {
    Image,
    Mask(MaskName<'a>),
    /// A derivative that is neither.
    Other,
}

struct MaskName<'a> {
    /// Names of images that it would belong to, likeliest first.
    bases: Vec<&'a str>,
    bids: Option<BidsName<'a>>,
}

impl<'a> Role<'a> {
    fn of(stem: &'a str) -> Self {
        let bids = BidsName::parse(stem);
        let of_brain =
            bids.as_ref().is_none_or(|name| name.about.iter().all(|about| about.contains("brain")));
        let ends = |suffix: &str| strip_suffix(stem, suffix);
        if ends("_mask").is_some() || ends("_brainmask").is_some() {
            if !of_brain {
                return Self::Other;
            }
            let bases = ["_brainmask", "_desc-brain_mask", "_brain_mask", "_mask"];
            return Self::Mask(MaskName { bases: bases.into_iter().filter_map(ends).collect(), bids });
        }
        let derived = bids.is_some_and(|name| {
            name.about.iter().any(|a| a.contains("brain")) || matches!(name.suffix, "dseg" | "probseg")
        });
        if derived || ends("_brain").is_some() {
            return Self::Other;
        }
        Self::Image
    }
}

/// The parts of a BIDS file name: `sub-01_ses-2_space-MNI_desc-brain_mask`.
struct BidsName<'a> {
    /// `key-value` parts that say which scan it is, sorted.
    entities: Vec<&'a str>,
    /// Values of `desc` and `label`: what was made from the scan.
    about: Vec<&'a str>,
    /// Which image a derivative belongs to, where it says so: the value of `mod`, a suffix left in the middle
    /// (`sub-01_T1w_desc-brain_mask`), or the end of the description (`sub-01_desc-brainT2w_mask`).
    modality: Option<&'a str>,
    /// The last part.
    suffix: &'a str,
}

impl<'a> BidsName<'a> {
    fn parse(stem: &'a str) -> Option<Self> {
        if !stem.starts_with("sub-") {
            return None;
        }
        let (rest, suffix) = stem.rsplit_once('_')?;
        let (mut entities, mut about, mut modality) = (Vec::new(), Vec::new(), None);
        for part in rest.split('_') {
            match part.split_once('-') {
                Some((key @ ("desc" | "label"), value)) => {
                    about.push(value);
                    // As `trephine bids` names the masks of other contrasts than T1w.
                    let contrast =
                        value.strip_prefix("brain").filter(|c| key == "desc" && CONTRASTS.contains(c));
                    modality = contrast.or(modality);
                }
                Some(("mod", value)) => modality = Some(value),
                Some(_) => entities.push(part),
                None => modality = Some(part),
            }
        }
        entities.sort_unstable();
        Some(Self { entities, about, modality, suffix })
    }

    /// Entities that the image of a mask may have: the mask's, then those less a space that
    /// means the image's own.
    fn image_entities(&self) -> Vec<Vec<&'a str>> {
        let native = |part: &&str| {
            let own = ["space-orig", "space-native", "space-individual", "space-T1w"];
            !own.contains(part)
        };
        let all = self.entities.clone();
        let less = all.iter().copied().filter(|p| native(p)).collect();
        vec![all, less]
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::relative;
    use super::*;

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
    }

    /// `(image, mask)` by paths relative to the folder, and the unused masks.
    fn indexed(names: &[&str]) -> (Vec<(String, String)>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), names);
        let index = index(dir.path()).unwrap();
        let rel = |p: &Path| relative(p, dir.path()).unwrap();
        let pairs = index.table.pairs.iter();
        (
            pairs.map(|p| (rel(&p.image), p.mask.as_deref().map(rel).unwrap_or_default())).collect(),
            index.unused_masks.iter().map(|m| rel(m)).collect(),
        )
    }

    fn pair(image: &str, mask: &str) -> (String, String) {
        (image.to_owned(), mask.to_owned())
    }

    #[test]
    fn nfbs_layout() {
        let (pairs, unused) = indexed(&[
            "A1/sub-A1_ses-NFB3_T1w.nii.gz",
            "A1/sub-A1_ses-NFB3_T1w_brain.nii.gz",
            "A1/sub-A1_ses-NFB3_T1w_brainmask.nii.gz",
            "A2/sub-A2_ses-NFB3_T1w.nii.gz",
            "A2/readme.txt",
            "A3/sub-A3_ses-NFB3_T1w_brainmask.nii.gz",
        ]);
        assert_eq!(
            pairs,
            [
                pair("A1/sub-A1_ses-NFB3_T1w.nii.gz", "A1/sub-A1_ses-NFB3_T1w_brainmask.nii.gz"),
                pair("A2/sub-A2_ses-NFB3_T1w.nii.gz", ""),
            ]
        );
        assert_eq!(unused, ["A3/sub-A3_ses-NFB3_T1w_brainmask.nii.gz"]);
    }

    #[test]
    fn plain_names_in_one_folder_or_two() {
        let (pairs, unused) = indexed(&[
            "x.nii",
            "x_mask.nii.gz",
            "y.v1.NII.GZ",
            "y.v1_brain_mask.nii",
            "a/images/z.hdr",
            "a/images/z.img",
            "a/masks/z_mask.nii",
            "b/images/z.nii",
            "b/masks/z_mask.nii",
            ".hidden.nii",
            ".git/q.nii",
        ]);
        assert_eq!(
            pairs,
            [
                pair("a/images/z.hdr", "a/masks/z_mask.nii"),
                pair("b/images/z.nii", "b/masks/z_mask.nii"),
                pair("x.nii", "x_mask.nii.gz"),
                pair("y.v1.NII.GZ", "y.v1_brain_mask.nii"),
            ]
        );
        assert!(unused.is_empty());
        // A mask named after the head, not after one of its scans.
        let (pairs, unused) = indexed(&[
            "a_T1w.nii",
            "a_T2w.nii",
            "a_mask.nii",
            "b_FLAIR.nii",
            "b_mask.nii",
            "c_T2.nii",
            "c_PD.nii",
            "c_mask.nii",
            "d_old.nii",
            "d_mask.nii",
        ]);
        let with_mask: Vec<_> = pairs.iter().filter(|(_, mask)| !mask.is_empty()).cloned().collect();
        assert_eq!(with_mask, [pair("a_T1w.nii", "a_mask.nii"), pair("b_FLAIR.nii", "b_mask.nii")]);
        assert_eq!(unused, ["c_mask.nii", "d_mask.nii"]);
        // Two images equally near: none is chosen.
        let (pairs, unused) = indexed(&["a/z.nii", "b/z.nii", "masks/z_mask.nii"]);
        assert_eq!(pairs, [pair("a/z.nii", ""), pair("b/z.nii", "")]);
        assert_eq!(unused, ["masks/z_mask.nii"]);
    }

    #[test]
    fn bids_derivatives() {
        let d = "derivatives/tool/sub-01/ses-1/anat";
        let mask = format!("{d}/sub-01_ses-1_desc-brain_mask.nii.gz");
        let mni_mask = format!("{d}/sub-01_ses-1_space-MNI_desc-brain_mask.nii.gz");
        let (pairs, unused) = indexed(&[
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
            "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
            &mask,
            &mni_mask,
            &format!("{d}/sub-01_ses-1_desc-brain_T1w.nii.gz"),
            &format!("{d}/sub-01_ses-1_label-lesion_mask.nii.gz"),
            &format!("{d}/sub-01_ses-1_label-GM_probseg.nii.gz"),
        ]);
        assert_eq!(
            pairs,
            [
                pair("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", &mask),
                pair("sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz", ""),
                pair("sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz", ""),
            ]
        );
        // A mask on a template's grid belongs to no scan in its own space.
        assert_eq!(unused, [mni_mask]);
    }

    #[test]
    fn bids_names_that_tell_the_contrast_or_sit_beside_it() {
        let (pairs, unused) = indexed(&[
            "sub-1/anat/sub-1_T1w.nii.gz",
            "sub-1/anat/sub-1_T2w.nii.gz",
            "out/sub-1/anat/sub-1_mod-T2w_desc-brain_mask.nii.gz",
            "out/sub-1/anat/sub-1_T1w_desc-brain_mask.nii.gz",
            "sub-2/anat/sub-2_T1w.nii.gz",
            "out/sub-2/anat/sub-2_desc-preproc_T1w.nii.gz",
            "out/sub-2/anat/sub-2_desc-brain_mask.nii.gz",
            "sub-4/anat/sub-4_T1w.nii.gz",
            "sub-4/anat/sub-4_T2w.nii.gz",
            "out/sub-4/anat/sub-4_desc-brainT2w_mask.nii.gz",
            "sub-3/anat/sub-3_FLAIR.nii.gz",
            "out/sub-3/anat/sub-3_space-orig_desc-brain_mask.nii.gz",
        ]);
        assert_eq!(
            pairs,
            [
                pair(
                    "out/sub-2/anat/sub-2_desc-preproc_T1w.nii.gz",
                    "out/sub-2/anat/sub-2_desc-brain_mask.nii.gz"
                ),
                pair("sub-1/anat/sub-1_T1w.nii.gz", "out/sub-1/anat/sub-1_T1w_desc-brain_mask.nii.gz"),
                pair("sub-1/anat/sub-1_T2w.nii.gz", "out/sub-1/anat/sub-1_mod-T2w_desc-brain_mask.nii.gz"),
                pair("sub-2/anat/sub-2_T1w.nii.gz", ""),
                pair(
                    "sub-3/anat/sub-3_FLAIR.nii.gz",
                    "out/sub-3/anat/sub-3_space-orig_desc-brain_mask.nii.gz"
                ),
                pair("sub-4/anat/sub-4_T1w.nii.gz", ""),
                pair("sub-4/anat/sub-4_T2w.nii.gz", "out/sub-4/anat/sub-4_desc-brainT2w_mask.nii.gz"),
            ]
        );
        assert!(unused.is_empty());
    }
}
