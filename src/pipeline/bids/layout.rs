//! The scans of a BIDS data set, and the names of what is made from them.
//!
//! Names follow the specification's part on derivatives. Its masks have no entity for the contrast that they were made from, so
//! that the masks of two contrasts of a session would share a name: that of a T1w scan is `desc-brain_mask`, that of another says
//! which in the description, `desc-brainT2w_mask`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::super::PipelineError;
use super::super::batch::{DESCRIPTION, Outputs};
use crate::volume::image::strip_suffix;

/// Which scans are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Labels of participants, with or without `sub-`; all where there are none.
    pub participants: Vec<String>,
    /// Labels of sessions, with or without `ses-`; all where there are none.
    pub sessions: Vec<String>,
    /// Suffixes, such as `T1w`.
    pub suffixes: Vec<String>,
}

/// An anatomical scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The file.
    pub path: PathBuf,
    /// The same as seen from the data set, with `/`.
    pub relative: String,
    /// `sub-01`.
    pub subject: String,
    /// `ses-1`.
    pub session: Option<String>,
    /// The name up to its suffix: `sub-01_ses-1_acq-mprage`.
    pub entities: String,
    /// `T1w`.
    pub suffix: String,
}

/// The scans of a data set.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Those that are wanted, by their paths.
    pub scans: Vec<Scan>,
    /// What was passed over, for a person to know.
    pub remarks: Vec<String>,
}

/// Folder of a data set of derivatives for what became of each scan.
pub(super) const LOGS: &str = "logs";

/// Finds the anatomical scans (`sub-*/[ses-*/]anat/*.nii[.gz]`) of a data set that are wanted.
///
/// # Errors
/// A folder that is no BIDS data set or cannot be looked through, a participant or a session that it does not have, or
/// nothing that is wanted.
pub fn find(data_set: &Path, query: &Query) -> Result<Found, PipelineError> {
    let refused = |reason: String| PipelineError::Input { file: data_set.to_path_buf(), reason };
    if !data_set.join(DESCRIPTION).is_file() {
        return Err(refused(format!("is no BIDS data set: it holds no {DESCRIPTION}; name its root")));
    }
    let subjects = chosen(data_set, "sub-", &query.participants)?.map_err(|known| {
        refused(format!("has no participant {}; it has {}", known.missing.join(", "), known.some()))
    })?;
    let mut found = Found::default();
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    let mut sessions_met = 0;
    for subject in &subjects {
        let folder = data_set.join(subject);
        let mut places = Vec::new();
        for session in folders(&folder, "ses-")? {
            let wanted = query.sessions.iter().any(|label| labelled("ses-", label) == session);
            if query.sessions.is_empty() || wanted {
                sessions_met += 1;
                places.push((folder.join(&session), Some(session)));
            }
        }
        if query.sessions.is_empty() {
            places.push((folder.clone(), None));
        }
        for (place, session) in places {
            let anat = place.join("anat");
            let mut names = names(&anat)?;
            names.sort();
            for name in names {
                let Some(scan) = scan_of(&anat, &name, subject, session.as_deref()) else { continue };
                match query.suffixes.contains(&scan.suffix) {
                    true => found.scans.push(scan),
                    false => *others.entry(scan.suffix).or_default() += 1,
                }
            }
        }
    }
    if sessions_met == 0 && !query.sessions.is_empty() {
        return Err(refused(format!("has no session {} of these participants", query.sessions.join(", "))));
    }
    if !others.is_empty() {
        let others: Vec<String> =
            others.iter().map(|(suffix, number)| format!("{suffix}: {number}")).collect();
        found.remarks.push(format!(
            "{}: left out scans of other suffixes ({}); --suffix takes them, as in --suffix T1w,T2w",
            data_set.display(),
            others.join(", ")
        ));
    }
    if found.scans.is_empty() {
        let remark = found.remarks.pop().map(|remark| format!("; {remark}")).unwrap_or_default();
        return Err(refused(format!(
            "holds no anatomical scan of suffix {}{remark}",
            query.suffixes.join(", ")
        )));
    }
    found.scans.sort_by(|a, b| a.path.cmp(&b.path));
    let mut names = BTreeSet::new();
    if let Some(twice) = found.scans.iter().find(|scan| !names.insert(scan.name())) {
        let name = twice.name();
        return Err(refused(format!(
            "holds {name} as .nii and as .nii.gz, which is one name in BIDS; remove one"
        )));
    }
    Ok(found)
}

/// Labels that are not there, and those that are.
struct Unknown {
    missing: Vec<String>,
    there: Vec<String>,
}

impl Unknown {
    fn some(&self) -> String {
        match &self.there[..] {
            [] => "none".to_owned(),
            there => {
                let more = if there.len() > 5 { ", ..." } else { "" };
                format!("{}{more}", there.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// `sub-01` for `01` and `sub-01`.
fn labelled(key: &str, label: &str) -> String {
    format!("{key}{}", label.strip_prefix(key).unwrap_or(label))
}

/// The folders that begin with `key` and that labels ask for.
fn chosen(at: &Path, key: &str, labels: &[String]) -> Result<Result<Vec<String>, Unknown>, PipelineError> {
    let there = folders(at, key)?;
    let wanted: Vec<String> = labels.iter().map(|label| labelled(key, label)).collect();
    let missing: Vec<String> = wanted.iter().filter(|name| !there.contains(name)).cloned().collect();
    if !missing.is_empty() {
        return Ok(Err(Unknown { missing, there }));
    }
    Ok(Ok(if wanted.is_empty() { there } else { there.into_iter().filter(|n| wanted.contains(n)).collect() }))
}

/// Names of the folders that begin with `key`, in order.
fn folders(at: &Path, key: &str) -> Result<Vec<String>, PipelineError> {
    let mut found = names(at)?;
    found.retain(|name| name.starts_with(key) && at.join(name).is_dir());
    found.sort();
    Ok(found)
}

/// What a folder holds; nothing where it is not there. Names of a data set are plain text.
fn names(at: &Path) -> Result<Vec<String>, PipelineError> {
    let cannot = |e: std::io::Error| PipelineError::Input {
        file: at.to_path_buf(),
        reason: format!("cannot be looked through ({e}); check its permissions"),
    };
    if !at.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(at).map_err(cannot)? {
        names.extend(entry.map_err(cannot)?.file_name().into_string());
    }
    Ok(names)
}

fn scan_of(anat: &Path, name: &str, subject: &str, session: Option<&str>) -> Option<Scan> {
    let stem = strip_suffix(name, ".gz").unwrap_or(name);
    let stem = strip_suffix(stem, ".nii")?;
    let (entities, suffix) = stem.rsplit_once('_')?;
    let start = session.map_or(subject.to_owned(), |session| format!("{subject}_{session}"));
    let rest = entities.strip_prefix(start.as_str())?;
    // `sub-01` is no part of `sub-012`; and what says what it was made for is no raw scan.
    let raw = (rest.is_empty() || rest.starts_with('_')) && !suffix.contains('-') && suffix != "defacemask";
    let place = session.map_or(subject.to_owned(), |session| format!("{subject}/{session}"));
    raw.then(|| Scan {
        path: anat.join(name),
        relative: format!("{place}/anat/{name}"),
        subject: subject.to_owned(),
        session: session.map(str::to_owned),
        entities: entities.to_owned(),
        suffix: suffix.to_owned(),
    })
}

impl Scan {
    /// `sub-01_ses-1_T1w`.
    pub fn name(&self) -> String {
        format!("{}_{}", self.entities, self.suffix)
    }

    /// Its folder below the data set's.
    fn folder(&self, out: &Path) -> PathBuf {
        let folder = out.join(&self.subject);
        self.session.iter().fold(folder, |folder, session| folder.join(session)).join("anat")
    }

    /// Brain, mask and picture in a data set of derivatives.
    pub fn outputs(&self, out: &Path) -> Outputs {
        let Self { entities, suffix, subject, .. } = self;
        let folder = self.folder(out);
        let contrast = if suffix == "T1w" { "" } else { suffix };
        Outputs {
            brain: Some(folder.join(format!("{entities}_desc-brain_{suffix}.nii.gz"))),
            mask: Some(folder.join(format!("{entities}_desc-brain{contrast}_mask.nii.gz"))),
            qc: Some(out.join(subject).join("figures").join(format!("{entities}_desc-brain_{suffix}.png"))),
            ..Outputs::default()
        }
    }

    /// Where a data set of derivatives keeps what became of it.
    pub fn record(&self, out: &Path) -> PathBuf {
        out.join(LOGS).join(format!("{}.json", self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_set(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files.iter().chain(&[DESCRIPTION]) {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        folder
    }

    fn query(participants: &[&str], sessions: &[&str], suffixes: &[&str]) -> Query {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Query { participants: owned(participants), sessions: owned(sessions), suffixes: owned(suffixes) }
    }

    #[test]
    fn scans_are_found_by_label_and_suffix() {
        let folder = data_set(&[
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-01/anat/sub-01_T1w.json",
            "sub-01/anat/sub-01_mod-T1w_defacemask.nii.gz",
            "sub-01/func/sub-01_task-rest_bold.nii.gz",
            "sub-02/ses-a/anat/sub-02_ses-a_acq-x_T1w.nii",
            "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz",
            "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
            "sub-02/ses-b/anat/sub-03_ses-b_T1w.nii.gz",
            "derivatives/x/sub-01/anat/sub-01_desc-brain_T1w.nii.gz",
        ]);
        let at = folder.path();
        let names = |query: &Query| -> Vec<String> {
            find(at, query).unwrap().scans.iter().map(|scan| scan.relative.clone()).collect()
        };
        let [first, a, b] = [
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-02/ses-a/anat/sub-02_ses-a_acq-x_T1w.nii",
            "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
        ];
        assert_eq!(names(&query(&[], &[], &["T1w"])), [first, a, b]);
        assert_eq!(names(&query(&["02"], &["ses-b"], &["T1w"])), [b]);
        assert_eq!(
            names(&query(&["sub-01", "02"], &[], &["T2w"])),
            ["sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz"]
        );
        let found = find(at, &query(&[], &[], &["T1w"])).unwrap();
        assert!(found.remarks[0].contains("other suffixes (T2w: 1)"), "{:?}", found.remarks);
        let error = |query: &Query| find(at, query).unwrap_err().to_string();
        assert!(
            error(&query(&["7"], &[], &["T1w"])).contains("has no participant sub-7; it has sub-01, sub-02")
        );
        assert!(error(&query(&[], &["c"], &["T1w"])).contains("has no session c"));
        assert!(error(&query(&[], &[], &["FLAIR"])).contains("no anatomical scan of suffix FLAIR"));
        fs::write(at.join("sub-01/anat/sub-01_T1w.nii"), b"").unwrap();
        assert!(error(&query(&[], &[], &["T1w"])).contains("holds sub-01_T1w as .nii and as .nii.gz"));
        assert!(
            find(&at.join("sub-01"), &Query::default())
                .unwrap_err()
                .to_string()
                .contains("is no BIDS data set")
        );
    }

    #[test]
    fn names_of_derivatives_tell_contrasts_apart() {
        let folder =
            data_set(&["sub-1/ses-1/anat/sub-1_ses-1_T1w.nii", "sub-1/ses-1/anat/sub-1_ses-1_T2w.nii"]);
        let found = find(folder.path(), &query(&[], &[], &["T1w", "T2w"])).unwrap();
        let out = Path::new("out");
        let [one, two] = [&found.scans[0], &found.scans[1]].map(|scan| scan.outputs(out));
        let path = |path: &Option<PathBuf>| path.clone().unwrap().display().to_string().replace('\\', "/");
        assert_eq!(path(&one.mask), "out/sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz");
        assert_eq!(path(&two.mask), "out/sub-1/ses-1/anat/sub-1_ses-1_desc-brainT2w_mask.nii.gz");
        assert_eq!(path(&two.brain), "out/sub-1/ses-1/anat/sub-1_ses-1_desc-brain_T2w.nii.gz");
        assert_eq!(path(&one.qc), "out/sub-1/figures/sub-1_ses-1_desc-brain_T1w.png");
    }
}
