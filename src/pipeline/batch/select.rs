//! Which of the images of a folder are heads to strip: patterns that a user gives, and folders that hold what was made from
//! heads.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde_json::Value;

use crate::volume::pairs::Index;

/// Patterns of heads to take and to leave.
///
/// A pattern that holds a `/` is matched against the path below the folder that was named (of a head that was named itself:
/// against its path), any other against the file's name. `*` and `?` do not match a `/`, `**` does.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Of these, where there are any.
    include: Option<Patterns>,
    /// None of these.
    exclude: Option<Patterns>,
}

#[derive(Clone, Debug)]
struct Patterns {
    of_names: GlobSet,
    of_paths: GlobSet,
}

impl Selection {
    /// Of these patterns.
    ///
    /// # Errors
    /// One that is none, with the reason.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        Ok(Self { include: Patterns::new(include)?, exclude: Patterns::new(exclude)? })
    }

    /// Whether a head is taken, by its path below the folder that was named.
    pub fn takes(&self, path: &Path) -> bool {
        self.include.as_ref().is_none_or(|patterns| patterns.match_any(path))
            && !self.exclude.as_ref().is_some_and(|patterns| patterns.match_any(path))
    }
}

impl Patterns {
    fn new(texts: &[String]) -> Result<Option<Self>, String> {
        let (mut of_names, mut of_paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for text in texts {
            let glob =
                GlobBuilder::new(text.strip_prefix("./").unwrap_or(text)).literal_separator(true).build();
            let glob = glob.map_err(|e| format!("'{text}' is no pattern: {}", e.kind()))?;
            if text.contains('/') {
                of_paths.add(glob)
            } else {
                of_names.add(glob)
            };
        }
        let built = |builder: GlobSetBuilder| builder.build().map_err(|e| e.to_string());
        let patterns = Self { of_names: built(of_names)?, of_paths: built(of_paths)? };
        Ok((!texts.is_empty()).then_some(patterns))
    }

    fn match_any(&self, path: &Path) -> bool {
        let path = path.strip_prefix(".").unwrap_or(path);
        self.of_paths.is_match(path) || path.file_name().is_some_and(|name| self.of_names.is_match(name))
    }
}

/// A folder whose images are not taken, with their number.
#[derive(Debug)]
pub(super) struct LeftOut {
    folder: PathBuf,
    /// As seen from the folder that was named.
    name: PathBuf,
    why: &'static str,
    images: usize,
}

impl LeftOut {
    /// Whether a path lies in it.
    pub fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.folder)
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, why, images, .. } = self;
        write!(f, "{} ({why}; images: {images}); name that folder itself to strip them", name.display())
    }
}

/// Folders inside `folder` that hold what was made from heads: by BIDS (`derivatives/`, `sourcedata/` and `code/` of a data set,
/// and any data set of the type `derivative`), and the outputs of this batch and of others. A folder that is named itself is never one.
pub(super) fn folders_left_out(folder: &Path, out: &Path, index: &Index) -> Vec<LeftOut> {
    let images = || index.table.pairs.iter().map(|pair| &pair.image).chain(&index.derived);
    let is_bids = folder.join(DESCRIPTION).is_file();
    let out = out.canonicalize().ok();
    let mut known: BTreeMap<PathBuf, Option<&'static str>> = BTreeMap::new();
    let mut found: Vec<LeftOut> = Vec::new();
    for image in images() {
        let Ok(below) = image.strip_prefix(folder) else { continue };
        let mut at = folder.to_path_buf();
        for part in below.parent().unwrap_or(Path::new("")).components() {
            let first = at == folder;
            at.push(part);
            let why = *known.entry(at.clone()).or_insert_with(|| {
                let of_bids =
                    ["derivatives", "sourcedata", "code"].iter().any(|name| part.as_os_str() == *name);
                if first && is_bids && of_bids {
                    Some("no raw data of this BIDS data set")
                } else if is_derivative(&at) {
                    Some("a BIDS data set of derivatives")
                } else if out.is_some() && at.canonicalize().ok() == out {
                    Some("the folder of the outputs")
                } else if is_of_a_batch(&at) {
                    Some("outputs of an earlier batch")
                } else {
                    None
                }
            });
            let Some(why) = why else { continue };
            match found.iter_mut().find(|left_out| left_out.folder == at) {
                Some(left_out) => left_out.images += 1,
                None => {
                    let name = at.strip_prefix(folder).unwrap_or(&at).to_path_buf();
                    found.push(LeftOut { folder: at, name, why, images: 1 });
                }
            }
            break;
        }
    }
    found
}

/// The file that a BIDS data set says in what it is.
pub const DESCRIPTION: &str = "dataset_description.json";

/// Whether a folder is a BIDS data set of derivatives.
fn is_derivative(folder: &Path) -> bool {
    let Ok(text) = fs::read(folder.join(DESCRIPTION)) else { return false };
    let description: Value = serde_json::from_slice(&text).unwrap_or_default();
    // Before BIDS 1.4, a pipeline's description stood for the type.
    description["DatasetType"] == "derivative" || description["PipelineDescription"].is_object()
}

/// Name of the report that a batch leaves for programs.
pub const REPORT_JSON: &str = "report.json";

/// Whether a folder holds the report of a batch.
fn is_of_a_batch(folder: &Path) -> bool {
    let mut start = [0; 64];
    let read = fs::File::open(folder.join(REPORT_JSON)).and_then(|mut file| file.read(&mut start));
    read.is_ok_and(|length| start[..length].windows(10).any(|bytes| bytes == b"\"trephine\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(include: &[&str], exclude: &[&str], path: &str) -> bool {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Selection::new(&owned(include), &owned(exclude)).unwrap().takes(Path::new(path))
    }

    #[test]
    fn patterns_are_of_names_or_of_paths() {
        assert!(takes(&[], &[], "a.nii"));
        assert!(takes(&["*_T1w.nii*"], &[], "sub-1/anat/sub-1_T1w.nii.gz"));
        assert!(!takes(&["*_T1w.nii*"], &[], "sub-1/anat/sub-1_T2w.nii.gz"));
        assert!(takes(&["*_T1w.nii*", "*_T2w.nii*"], &["sub-2*"], "sub-1/anat/sub-1_T2w.nii.gz"));
        assert!(!takes(&[], &["sub-2*"], "sub-1/anat/sub-2_T2w.nii.gz"));
        // With a slash: the whole path, and a star stays in its folder.
        assert!(takes(&["sub-*/anat/*"], &[], "sub-1/anat/x.nii"));
        assert!(!takes(&["sub-*/*"], &[], "sub-1/anat/x.nii"));
        assert!(
            takes(&["sub-1/**"], &[], "./sub-1/anat/x.nii") && takes(&["./sub-1/**"], &[], "sub-1/x.nii")
        );
        assert!(!takes(&[], &["**/func/**"], "sub-1/ses-1/func/x.nii"));
        assert!(takes(&["{a,b}.nii"], &[], "b.nii") && !takes(&["[!ab].nii"], &[], "b.nii"));
        let error = Selection::new(&["[a".to_owned()], &[]).unwrap_err();
        assert!(error.starts_with("'[a' is no pattern: "), "{error}");
    }
}
