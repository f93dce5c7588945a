//! Which heads a batch holds, and how their outputs are named.
//!
//! Outputs are named after their head: `STEM_brain.nii.gz`, `STEM_mask.nii.gz`, `STEM_qc.png`. Those of a folder's
//! heads keep their subfolders. Where heads of several folders would share a name, all keep their folders, as seen from
//! the folder that they have in common; where heads of one folder would, they keep their extensions (`a.nii_brain.nii.gz`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::select::{Selection, folders_left_out};
use crate::volume::image;
use crate::volume::pairs::{self, Index};

/// Something that can be written for a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The head inside the mask.
    Brain,
    /// The mask.
    Mask,
    /// Signed distance to its border.
    Distance,
    /// Probability of brain.
    Probability,
    /// Picture.
    Picture,
    /// Bias field.
    Bias,
    /// The head with its bias field corrected.
    Corrected,
}

impl Output {
    /// What is written where nobody asks for anything else.
    pub const USUAL: [Self; 3] = [Self::Brain, Self::Mask, Self::Picture];

    /// The end of its name.
    fn end(self) -> &'static str {
        match self {
            Self::Brain => "brain",
            Self::Mask => "mask",
            Self::Distance => "distance",
            Self::Probability => "probability",
            Self::Picture => "qc",
            Self::Bias => "bias",
            Self::Corrected => "corrected",
        }
    }
}

/// What is written for a head.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

    /// The place of an output.
    pub fn place(&mut self, output: Output) -> &mut Option<PathBuf> {
        match output {
            Output::Brain => &mut self.brain,
            Output::Mask => &mut self.mask,
            Output::Distance => &mut self.distance,
            Output::Probability => &mut self.probability,
            Output::Picture => &mut self.qc,
            Output::Bias => &mut self.bias,
            Output::Corrected => &mut self.corrected,
        }
    }

    /// The same with other paths.
    pub(super) fn each(&self, path: impl Fn(&Path) -> PathBuf) -> Self {
        let each = |of: &Option<PathBuf>| of.as_deref().map(&path);
        Self {
            brain: each(&self.brain),
            mask: each(&self.mask),
            distance: each(&self.distance),
            probability: each(&self.probability),
            qc: each(&self.qc),
            bias: each(&self.bias),
            corrected: each(&self.corrected),
        }
    }

    /// Those of `input` that are wanted, in `folder`, under the name `stem`; `.mgz` for an input of that format.
    fn named(folder: &Path, stem: &OsStr, input: &Path, wanted: &[Output]) -> Self {
        let image = if image::is_mgh_name(input) { "mgz" } else { "nii.gz" };
        let mut outputs = Self::default();
        for &output in wanted {
            let mut name = stem.to_owned();
            let extension = if output == Output::Picture { "png" } else { image };
            name.push(format!("_{}.{extension}", output.end()));
            *outputs.place(output) = Some(folder.join(name));
        }
        outputs
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
    pub fn new(input: &Path, folder: &Path, wanted: &[Output], force: bool) -> Self {
        Self::named(input, Outputs::named(folder, &stem(input), input, wanted), force)
    }

    /// A head with outputs of these names.
    pub fn named(input: &Path, outputs: Outputs, force: bool) -> Self {
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

/// What a batch is to make of the heads that it finds.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Folder for the outputs.
    pub out: &'a Path,
    /// Which.
    pub wanted: &'a [Output],
    /// Replace those that exist.
    pub force: bool,
    /// Which heads.
    pub selection: Selection,
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
    /// The heads of files and folders.
    ///
    /// A folder without images but with DICOM is a head itself. One that holds no head, or cannot be looked through, is a job that says so. Of a folder, what was made from
    /// heads is passed over: by its name, in the derivatives of a BIDS data set, in the outputs' own folder.
    pub fn of(inputs: &[&Path], plan: &Plan<'_>) -> Self {
        let (mut found, mut failed, mut remarks) = (Vec::new(), Vec::new(), Vec::new());
        let (mut met, mut deselected) = (0, 0);
        let mut selected = |path: &Path, below: &Path| {
            met += 1;
            let takes = plan.selection.takes(&below.join(path.file_name().unwrap_or_default()));
            deselected += usize::from(!takes);
            takes
        };
        for input in inputs {
            if !input.is_dir() {
                if selected(input, input.parent().unwrap_or(Path::new(""))) {
                    found.push(Found::new(input.to_path_buf(), PathBuf::new()));
                }
                continue;
            }
            let mut index = match pairs::index(input) {
                Ok(index) => index,
                Err(e) => {
                    failed.push(Job { input: input.to_path_buf(), outputs: Err(e.to_string()) });
                    continue;
                }
            };
            let left_out = folders_left_out(input, plan.out, &index);
            index.table.pairs.retain(|pair| !left_out.iter().any(|folder| folder.holds(&pair.image)));
            index.derived.retain(|path| !left_out.iter().any(|folder| folder.holds(path)));
            if index.table.pairs.is_empty() && image::is_dicom(input) {
                if selected(input, input.parent().unwrap_or(Path::new(""))) {
                    found.push(Found::new(input.to_path_buf(), PathBuf::new()));
                }
                continue;
            }
            if index.table.pairs.is_empty() {
                let mut reason = format!("{}: {}", input.display(), index.nothing_found());
                if let Some(folder) = left_out.first() {
                    reason = format!("{}: holds no head beside those in {folder}", input.display());
                }
                failed.push(Job { input: input.to_path_buf(), outputs: Err(reason) });
                continue;
            }
            remarks.extend(left_out.iter().map(|folder| format!("{}: left out {folder}", input.display())));
            remarks.extend(passed_over(input, &index));
            for pair in index.table.pairs {
                let below = pair.image.parent().and_then(|p| p.strip_prefix(input).ok());
                let below = below.unwrap_or(Path::new("")).to_path_buf();
                if selected(&pair.image, &below) {
                    found.push(Found::new(pair.image, below));
                }
            }
        }
        if deselected > 0 {
            let what = format!("{deselected} of {met} heads are left out by --include and --exclude");
            match found.is_empty() && failed.is_empty() {
                true => failed.push(Job {
                    input: inputs.first().map(|input| input.to_path_buf()).unwrap_or_default(),
                    outputs: Err(format!(
                        "{what}; a pattern with a / is matched against the path below the folder, one without \
                         against the name"
                    )),
                }),
                false => remarks.push(what),
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
        remarks.extend(one_of_each_series(&mut found));
        let mut jobs = named(found, plan);
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

/// Leaves one file of each DICOM series, which stands for all of it; what was passed over.
fn one_of_each_series(found: &mut Vec<Found>) -> Vec<String> {
    let mut more: BTreeMap<(PathBuf, String), (PathBuf, usize)> = BTreeMap::new();
    found.retain(|head| {
        let Some(uid) = image::series_uid(&head.input) else { return true };
        match more.entry((head.place[0].clone(), uid)) {
            Entry::Vacant(entry) => {
                entry.insert((head.input.clone(), 0));
                true
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().1 += 1;
                false
            }
        }
    });
    let more = more.into_values().filter(|(_, files)| *files > 0);
    more.map(|(file, files)| {
        format!("{}: stands for its DICOM series; {files} more files of it were named", file.display())
    })
    .collect()
}

/// Gives the outputs of each head names that no other head's have.
fn named(mut found: Vec<Found>, plan: &Plan<'_>) -> Vec<Job> {
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
        let outputs = Outputs::named(&plan.out.join(&head.below), &name, &head.input, plan.wanted);
        let mut job = Job::named(&head.input, outputs, plan.force);
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

/// The name of an image file without its extension; a name that says nothing stays whole, as does that of a folder.
fn stem(path: &Path) -> OsString {
    // The working folder has no name here.
    let resolved = if path.file_name().is_none() { path.canonicalize().ok() } else { None };
    let path = resolved.as_deref().unwrap_or(path);
    let name = Path::new(path.file_name().unwrap_or_default());
    if path.is_dir() {
        return name.as_os_str().to_owned();
    }
    let has = |path: &Path, extensions: &[&str]| {
        path.extension().is_some_and(|e| extensions.iter().any(|known| e.eq_ignore_ascii_case(known)))
    };
    let plain = match has(name, &["gz"]) {
        true => Path::new(name.file_stem().unwrap_or_default()),
        false => name,
    };
    let stem =
        has(plain, &["nii", "hdr", "img", "mgz", "mgh", "dcm", "ima"]).then(|| plain.file_stem()).flatten();
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
