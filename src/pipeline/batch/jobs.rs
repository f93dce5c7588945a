//! Which heads a batch holds, and how their outputs are named.
//!
//! Outputs are named after their head: `STEM_brain.nii.gz`, `STEM_mask.nii.gz`, `STEM_qc.png`. Those of a folder's
//! heads keep their subfolders. Where heads of several folders would share a name, all keep their folders, as seen from
//! the folder that they have in common; where heads of one folder would, they keep their extensions (`a.nii_brain.nii.gz`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::volume::image;
use crate::volume::pairs::{self, Index};

/// What is written for a head.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outputs {
    /// The head inside the mask.
    #[serde(serialize_with = "lossy")]
    pub brain: Option<PathBuf>,
    /// The mask.
    #[serde(serialize_with = "lossy")]
    pub mask: Option<PathBuf>,
    /// Signed distance to its border.
    #[serde(serialize_with = "lossy")]
    pub distance: Option<PathBuf>,
    /// Probability of brain.
    #[serde(serialize_with = "lossy")]
    pub probability: Option<PathBuf>,
    /// Picture.
    #[serde(serialize_with = "lossy")]
    pub qc: Option<PathBuf>,
    /// Bias field.
    #[serde(serialize_with = "lossy")]
    pub bias: Option<PathBuf>,
    /// The head with its bias field corrected.
    #[serde(serialize_with = "lossy")]
    pub corrected: Option<PathBuf>,
}

/// JSON is Unicode, names of files need not be.
fn lossy<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.display().to_string()).serialize(serializer)
}

impl Outputs {
    /// Those that are images.
    pub fn images(&self) -> Vec<&Path> {
        [&self.brain, &self.mask, &self.distance, &self.probability, &self.bias, &self.corrected]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect()
    }

    /// All of them.
    pub fn all(&self) -> Vec<&Path> {
        let mut all = self.images();
        all.extend(self.qc.as_deref());
        all
    }

    /// Brain, mask and picture of `input` in `folder`, under the name `stem`; `.mgz` for an input of that format.
    fn named(folder: &Path, stem: &OsStr, input: &Path) -> Self {
        let extension = if image::is_mgh_name(input) { "mgz" } else { "nii.gz" };
        let name = |end: &str, extension: &str| {
            let mut name = stem.to_owned();
            name.push(format!("_{end}.{extension}"));
            Some(folder.join(name))
        };
        Self {
            brain: name("brain", extension),
            mask: name("mask", extension),
            qc: name("qc", "png"),
            ..Self::default()
        }
    }
}

/// A head to strip.
#[derive(Clone, Debug)]
pub struct Job {
    /// The image.
    pub input: PathBuf,
    /// What to write, or why the head is not even begun.
    pub outputs: Result<Outputs, String>,
}

impl Job {
    /// A head whose outputs go to `folder`. Whether they can be written is found out now, not after the work: existing
    /// files are kept unless `force` is set.
    pub fn new(input: &Path, folder: &Path, force: bool) -> Self {
        Self::named(input, Outputs::named(folder, &stem(input), input), force)
    }

    fn named(input: &Path, outputs: Outputs, force: bool) -> Self {
        let existing = outputs.all().into_iter().find(|path| path.exists());
        let outputs = match existing {
            Some(path) if !force => Err(format!(
                "{}: exists already; replace it with --force, or name another folder with -O",
                path.display()
            )),
            _ => Ok(outputs),
        };
        Self { input: input.to_path_buf(), outputs }
    }
}

/// The heads of a batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In the order of the inputs, a folder's by their paths.
    pub jobs: Vec<Job>,
    /// What was passed over, for a person to know.
    pub remarks: Vec<String>,
}

/// A head and the folder below the outputs' that its own go to.
struct Found {
    input: PathBuf,
    below: PathBuf,
    /// The head's folder, resolved, and its name.
    place: [PathBuf; 2],
}

impl Batch {
    /// The heads of files and folders, with outputs below `out`.
    ///
    /// A folder that holds no head, or cannot be looked through, is a job that says so.
    pub fn of(inputs: &[&Path], out: &Path, force: bool) -> Self {
        let (mut found, mut failed, mut remarks) = (Vec::new(), Vec::new(), Vec::new());
        for input in inputs {
            if !input.is_dir() {
                found.push(Found::new(input.to_path_buf(), PathBuf::new()));
                continue;
            }
            match pairs::index(input) {
                Ok(index) if index.table.pairs.is_empty() => {
                    failed.push(Job {
                        input: input.to_path_buf(),
                        outputs: Err(format!("{}: {}", input.display(), index.nothing_found())),
                    });
                }
                Ok(index) => {
                    remarks.extend(passed_over(input, &index));
                    found.extend(index.table.pairs.into_iter().map(|pair| {
                        let below = pair.image.parent().and_then(|p| p.strip_prefix(input).ok());
                        let below = below.unwrap_or(Path::new("")).to_path_buf();
                        Found::new(pair.image, below)
                    }));
                }
                Err(e) => failed.push(Job { input: input.to_path_buf(), outputs: Err(e.to_string()) }),
            }
        }
        let mut seen = BTreeSet::new();
        found.retain(|head| {
            let new = seen.insert(head.place.clone());
            if !new {
                remarks.push(format!("{}: is named more than once and stripped once", head.input.display()));
            }
            new
        });
        let mut jobs = named(found, out, force);
        jobs.append(&mut failed);
        Self { jobs, remarks }
    }
}

impl Found {
    fn new(input: PathBuf, below: PathBuf) -> Self {
        // Only the folder is resolved: a file may be a link into some store, and its name counts.
        let folder = input.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder
            .canonicalize()
            .or_else(|_| std::path::absolute(folder))
            .unwrap_or_else(|_| folder.to_path_buf());
        let name = Path::new(input.file_name().unwrap_or_default());
        // The two files of a pair are one image.
        let is_voxels = name.extension().is_some_and(|e| e.eq_ignore_ascii_case("img"));
        let header = name.with_extension("hdr");
        let name = if is_voxels && folder.join(&header).exists() { header } else { name.to_path_buf() };
        Self { input, below, place: [folder, name] }
    }
}

/// Gives the outputs of each head names that no other head's have.
fn named(mut found: Vec<Found>, out: &Path, force: bool) -> Vec<Job> {
    let key = |head: &Found| (head.below.clone(), stem(&head.input));
    let mut by_name: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (ix, head) in found.iter().enumerate() {
        by_name.entry(key(head)).or_default().push(ix);
    }
    let across_folders =
        by_name.values().any(|heads| heads.iter().any(|&ix| found[ix].place[0] != found[heads[0]].place[0]));
    if across_folders {
        let shared = common_ancestor(found.iter().map(|head| head.place[0].as_path()));
        for head in &mut found {
            head.below = head.place[0].strip_prefix(&shared).unwrap_or(Path::new("")).to_path_buf();
        }
    }
    let mut alike: BTreeMap<_, usize> = BTreeMap::new();
    for head in &found {
        *alike.entry(key(head)).or_default() += 1;
    }
    let inputs: BTreeSet<[PathBuf; 2]> = found.iter().map(|head| head.place.clone()).collect();
    let mut taken: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut jobs = Vec::new();
    for head in found {
        let name = match alike[&key(&head)] {
            1 => stem(&head.input),
            _ => head.input.file_name().unwrap_or_default().to_owned(),
        };
        let outputs = Outputs::named(&out.join(&head.below), &name, &head.input);
        let mut job = Job::named(&head.input, outputs, force);
        if let Ok(outputs) = &job.outputs {
            let is_input =
                |path: &&Path| inputs.contains(&Found::new(path.to_path_buf(), PathBuf::new()).place);
            let clash = outputs.all().into_iter().find_map(|path| taken.get(path));
            if let Some(path) = outputs.all().into_iter().find(is_input) {
                job.outputs = Err(format!(
                    "{}: would overwrite {}, which is to be stripped as well; name another folder with -O",
                    head.input.display(),
                    path.display()
                ));
            } else if let Some(other) = clash {
                job.outputs = Err(format!(
                    "{}: its outputs would have the names of those of {}; strip it into another -O",
                    head.input.display(),
                    other.display()
                ));
            } else {
                taken.extend(outputs.all().into_iter().map(|path| (path.to_path_buf(), head.input.clone())));
            }
        }
        jobs.push(job);
    }
    jobs
}

fn common_ancestor<'a>(mut folders: impl Iterator<Item = &'a Path>) -> PathBuf {
    let Some(first) = folders.next() else { return PathBuf::new() };
    folders.fold(first.to_path_buf(), |shared, folder| {
        let same = shared.components().zip(folder.components()).take_while(|(a, b)| a == b);
        same.map(|(component, _)| component).collect()
    })
}

/// The name of an image file without its extension; a name that says nothing stays whole.
fn stem(path: &Path) -> OsString {
    let name = Path::new(path.file_name().unwrap_or_default());
    let has = |path: &Path, extensions: &[&str]| {
        path.extension().is_some_and(|e| extensions.iter().any(|known| e.eq_ignore_ascii_case(known)))
    };
    let plain = match has(name, &["gz"]) {
        true => Path::new(name.file_stem().unwrap_or_default()),
        false => name,
    };
    let stem = has(plain, &["nii", "hdr", "img", "mgz", "mgh"]).then(|| plain.file_stem()).flatten();
    stem.unwrap_or(name.as_os_str()).to_owned()
}

/// Images of a folder that are no heads by their names; `None` where there are none.
fn passed_over(folder: &Path, index: &Index) -> Option<String> {
    let name = index.derived.first()?.file_name()?.display();
    let more = if index.derived.len() > 1 { ", ..." } else { "" };
    Some(format!(
        "{}: passed over {} made from a head by their names ({name}{more}); name such a file itself to strip it",
        folder.display(),
        index.derived.len()
    ))
}
