//! Tables of images and their masks, and finding such pairs in a folder.
//!
//! A table is tab-separated with a header line. Columns `image` and `mask` hold paths relative
//! to the table's folder; other columns are kept. An empty mask (or `n/a`, as BIDS writes it)
//! means that there is none.

use super::{Problem, VolumeError};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// One image, perhaps with its mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Path of the image, ready to open.
    pub image: PathBuf,
    /// Path of its mask, ready to open.
    pub mask: Option<PathBuf>,
    /// Values of the other columns, one each.
    pub extra: Vec<String>,
}

/// A table of pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PairTable {
    /// Names of the columns besides `image` and `mask`.
    pub extra_columns: Vec<String>,
    /// The pairs in order.
    pub pairs: Vec<Pair>,
}

const IMAGE: &str = "image";
const MASK: &str = "mask";

impl PairTable {
    /// Reads a table. Whether the images exist is not looked at.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, VolumeError> {
        let path = path.as_ref();
        Self::parse(path).map_err(|p| p.at(path))
    }

    fn parse(path: &Path) -> Result<Self, Problem> {
        let bytes = fs::read(path).map_err(Problem::from_read)?;
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        // Tab-separated files have no quotes: one in a name is part of the name.
        let mut reader =
            csv::ReaderBuilder::new().delimiter(b'\t').quoting(false).flexible(true).from_reader(text);
        let table = |e: csv::Error| Problem::Table(e.to_string());
        let header = reader.headers().map_err(table)?.clone();
        let column = |name: &str| header.iter().position(|h| h.trim() == name);
        let image_at = column(IMAGE).ok_or(Problem::Column(IMAGE))?;
        let mask_at = column(MASK);
        let others: Vec<usize> = (0..header.len()).filter(|&i| i != image_at && Some(i) != mask_at).collect();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut pairs = Vec::new();
        for record in reader.records() {
            let record = record.map_err(table)?;
            let cell = |i: usize| record.get(i).unwrap_or("").trim();
            if record.iter().all(|c| c.trim().is_empty()) {
                continue;
            }
            let image = cell(image_at);
            if image.is_empty() {
                let line = record.position().map_or(0, csv::Position::line);
                return Err(Problem::EmptyImage(line));
            }
            let mask = mask_at.map(cell).filter(|m| !matches!(*m, "" | "n/a"));
            pairs.push(Pair {
                image: folder.join(image),
                mask: mask.map(|m| folder.join(m)),
                extra: others.iter().map(|&i| cell(i).to_owned()).collect(),
            });
        }
        Ok(Self { extra_columns: others.iter().map(|&i| header[i].trim().to_owned()).collect(), pairs })
    }

    /// Writes a table, its paths relative to its folder. An existing file is replaced.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), VolumeError> {
        let path = path.as_ref();
        self.format(path)
            .and_then(|bytes| replace(path, &bytes).map_err(Problem::Write))
            .map_err(|p| p.at(path))
    }

    fn format(&self, path: &Path) -> Result<Vec<u8>, Problem> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(Problem::NoFolder(folder.to_path_buf()));
        }
        let mut writer = csv::WriterBuilder::new()
            .delimiter(b'\t')
            .quote_style(csv::QuoteStyle::Never)
            .from_writer(Vec::new());
        let table = |e: csv::Error| Problem::Table(e.to_string());
        let head = [IMAGE, MASK].into_iter();
        writer.write_record(head.chain(self.extra_columns.iter().map(String::as_str))).map_err(table)?;
        for pair in &self.pairs {
            let cell = |file: &Path| {
                let text = relative(file, folder);
                text.filter(|t| !t.contains(['\t', '\n', '\r']))
                    .ok_or_else(|| Problem::PathName(file.to_path_buf()))
            };
            let image = cell(&pair.image)?;
            let mask = pair.mask.as_deref().map(cell).transpose()?;
            let cells = [image, mask.unwrap_or_default()];
            let extra = (0..self.extra_columns.len())
                .map(|i| pair.extra.get(i).map_or("", String::as_str))
                .map(|text| text.replace(['\t', '\n', '\r'], " "));
            writer.write_record(cells.into_iter().chain(extra)).map_err(table)?;
        }
        writer.into_inner().map_err(|e| Problem::Table(e.to_string()))
    }
}

/// Writes a file on to a temporary one beside it and renames.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    super::image::temporary_in(folder)
        .and_then(|mut file| {
            io::Write::write_all(&mut file, bytes)?;
            Ok(file)
        })?
        .persist(path)
        .map(drop)
        .map_err(|e| e.error)
}

/// `file` as seen from `folder`, with `/` between the parts; absolute where they share no root.
/// `None` where it is not UTF-8.
fn relative(file: &Path, folder: &Path) -> Option<String> {
    // Only folders are resolved: a file may be a link into some store, and its name counts.
    let resolved = |p: &Path| {
        let p = if p.as_os_str().is_empty() { Path::new(".") } else { p };
        p.canonicalize().or_else(|_| std::path::absolute(p)).unwrap_or_else(|_| p.to_path_buf())
    };
    let file = match (file.parent(), file.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => resolved(file),
    };
    let folder = resolved(folder);
    let (to, from): (Vec<Component>, Vec<Component>) =
        (file.components().collect(), folder.components().collect());
    let shared = to.iter().zip(&from).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return file.to_str().map(str::to_owned);
    }
    let up = from[shared..].iter().map(|_| Some(".."));
    let down = to[shared..].iter().map(|c| c.as_os_str().to_str());
    let parts: Option<Vec<&str>> = up.chain(down).collect();
    parts.map(|parts| parts.join("/"))
}

/// What a scan of a folder found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Every image with the mask found for it, in order of their paths.
    pub table: PairTable,
    /// Masks that belong to no image, or to one that has another mask.
    pub unused_masks: Vec<PathBuf>,
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

    let (mut images, mut masks) = (Vec::new(), Vec::new());
    for (path, stem) in &files {
        match Role::of(stem) {
            Role::Image => images.push((path, stem)),
            Role::Mask(mask) => masks.push((path, mask)),
            Role::Other => {}
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
    Ok(Index { table: PairTable { extra_columns: Vec::new(), pairs }, unused_masks })
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
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            scan(&path, seen, files)?;
        } else if let Some(stem) = stem(name) {
            let stem = stem.to_owned();
            files.insert(path, stem);
        }
    }
    Ok(())
}

/// The name of an image file less its extension; `None` for other files. Of a pair, the header
/// stands for both.
pub fn stem(name: &str) -> Option<&str> {
    let plain = super::image::strip_suffix(name, ".gz").unwrap_or(name);
    [".nii", ".hdr", ".mgz", ".mgh"]
        .iter()
        .find_map(|ext| super::image::strip_suffix(plain, ext))
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
        let ends = |suffix: &str| super::image::strip_suffix(stem, suffix);
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
    /// Which image a derivative belongs to, where it says so: the value of `mod`, or a suffix
    /// left in the middle (`sub-01_T1w_desc-brain_mask`).
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
                Some(("desc" | "label", value)) => about.push(value),
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
            ]
        );
        assert!(unused.is_empty());
    }

    #[test]
    fn table_round_trip_from_another_folder() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["data/a.nii", "data/\"b\" mask.nii", "t/x"]);
        let table = PairTable {
            extra_columns: vec!["site".into()],
            pairs: vec![
                Pair {
                    image: dir.path().join("data/a.nii"),
                    mask: Some(dir.path().join("data/\"b\" mask.nii")),
                    extra: vec!["one\ttwo".into()],
                },
                Pair { image: dir.path().join("t/../data/a.nii"), mask: None, extra: vec![] },
            ],
        };
        let path = dir.path().join("t/pairs.tsv");
        table.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "image\tmask\tsite\n../data/a.nii\t../data/\"b\" mask.nii\tone two\n../data/a.nii\t\t\n"
        );
        let back = PairTable::read(&path).unwrap();
        assert_eq!(back.extra_columns, ["site"]);
        assert!(back.pairs[0].image.is_file());
        assert!(back.pairs[0].mask.as_ref().unwrap().is_file());
        assert_eq!(back.pairs[1].mask, None);
        assert_eq!(back.pairs[0].extra, ["one two"]);
        assert_eq!(fs::read_dir(dir.path().join("t")).unwrap().count(), 2);
    }

    #[test]
    fn tables_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.tsv");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            PairTable::read(&path)
        };
        // Byte-order mark, Windows line ends, other order, short row, empty line.
        let t = read("\u{feff}age\tmask\timage\r\n3\tn/a\ta.nii\r\n\r\n4\tm.nii\tb.nii\r\n").unwrap();
        assert_eq!(t.pairs.len(), 2);
        assert_eq!(t.pairs[0].mask, None);
        assert_eq!(t.pairs[1].mask, Some(dir.path().join("m.nii")));
        assert_eq!(t.pairs[1].extra, ["4"]);
        assert_eq!(read("image\tmask\na.nii\n").unwrap().pairs[0].mask, None);
        let error = read("picture\tmask\na\tb\n").unwrap_err().to_string();
        assert!(error.contains("p.tsv: has no column `image`;"), "{error}");
        let error = read("image\tmask\n\tb.nii\n").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(read("").is_err());
        let error = PairTable::read(dir.path().join("none.tsv")).unwrap_err();
        assert!(error.to_string().ends_with("none.tsv: does not exist; check the path"));
        assert!(index(dir.path().join("none")).is_err());
    }
}
