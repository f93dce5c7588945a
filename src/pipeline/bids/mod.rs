//! BIDS data sets: their scans stripped into a data set of derivatives.
//!
//! What became of each scan is kept in a file of its own, `logs/NAME.json`, so that participants can be done at the same time by
//! several processes, or one after the other; [`merge`] makes one report of all.

mod layout;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use layout::LOGS;
pub use layout::{Found, Query, Scan, find};

use super::batch::{
    DESCRIPTION, Earlier, Job, Keeper, Outputs, Provenance, Row, read_rows, write_report, write_rows,
};
use super::{PipelineError, write_whole};
use crate::volume::pairs::relative;

/// The version of BIDS that names and sidecars follow.
const BIDS_VERSION: &str = "1.10.0";
/// What validators are not to look at: it is no part of BIDS.
const IGNORED: &str = "logs\nreport.*\nmarks.tsv\nsub-*/figures\n";

fn refused(file: &Path, reason: impl Into<String>) -> PipelineError {
    PipelineError::Input { file: file.to_path_buf(), reason: reason.into() }
}

/// Scans as jobs, with outputs in a data set of derivatives at `out`, which is ours and may be replaced; and what earlier runs have
/// finished there, unless all is to be done anew.
///
/// # Errors
/// A record that cannot be read.
pub fn jobs(scans: &[Scan], out: &Path, anew: bool) -> Result<(Vec<Job>, Earlier), PipelineError> {
    let (mut jobs, mut rows) = (Vec::new(), Vec::new());
    for scan in scans {
        if !anew {
            rows.extend(read_rows(&scan.record(out), out)?.unwrap_or_default());
        }
        jobs.push(Job::named(&scan.path, scan.outputs(out), true));
    }
    Ok((jobs, Earlier::new(rows)))
}

/// Makes `out` a data set of derivatives of `data_set`, or makes sure that it is one of ours.
///
/// # Errors
/// A folder that is the data set itself or holds that of another program, or cannot be written.
pub fn prepare(data_set: &Path, out: &Path) -> Result<(), PipelineError> {
    let cannot = |source: io::Error| PipelineError::Write { file: out.to_path_buf(), source };
    fs::create_dir_all(out.join(LOGS)).map_err(cannot)?;
    let same = |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    if same(data_set, out) {
        return Err(refused(
            out,
            "is the data set itself; name a folder for the derivatives, such as derivatives/trephine",
        ));
    }
    let file = out.join(DESCRIPTION);
    match fs::read(&file) {
        Ok(text) => {
            let known: Value = serde_json::from_slice(&text).unwrap_or_default();
            if known["GeneratedBy"][0]["Name"] != "trephine" {
                return Err(refused(&file, "describes the data set of another program; name another folder"));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(PipelineError::Write { file, source }),
    }
    let description = description(data_set, out)?;
    write_whole(&file, &pretty(&description))?;
    write_whole(&out.join(".bidsignore"), IGNORED.as_bytes())
}

/// `dataset_description.json` of the derivatives of a data set.
fn description(data_set: &Path, out: &Path) -> Result<Value, PipelineError> {
    let file = data_set.join(DESCRIPTION);
    let text = fs::read(&file)
        .map_err(|e| refused(&file, format!("cannot be read ({e}); check its permissions")))?;
    let raw: Value = serde_json::from_slice(&text)
        .map_err(|e| refused(&file, format!("is no JSON ({e}); mend it first")))?;
    let link = relative(data_set, out).unwrap_or_else(|| data_set.display().to_string());
    let name = raw["Name"].as_str().unwrap_or("unnamed data set");
    let mut source = json!({ "URL": link });
    if let Some(doi) = raw["DatasetDOI"].as_str() {
        source["DOI"] = json!(doi);
    }
    let mut description = json!({
        "Name": format!("{name}: brains by Trephine"),
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{
            "Name": "trephine",
            "Version": env!("CARGO_PKG_VERSION"),
            "Description": "brain extraction",
        }],
        "SourceDatasets": [source],
        "DatasetLinks": { "raw": link },
    });
    // Derivatives are under the licence of their source.
    if let Some(licence) = raw["License"].as_str() {
        description["License"] = json!(licence);
    }
    Ok(description)
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Keeps what becomes of scans in a data set of derivatives.
pub struct Records {
    out: PathBuf,
    scans: HashMap<PathBuf, Scan>,
}

impl Records {
    /// Of these scans.
    pub fn new(scans: &[Scan], out: &Path) -> Self {
        let scans = scans.iter().map(|scan| (scan.path.clone(), scan.clone())).collect();
        Self { out: out.to_path_buf(), scans }
    }
}

impl Keeper for Records {
    fn sidecars(&self, row: &Row, outputs: &Outputs) -> Vec<(PathBuf, Vec<u8>)> {
        let Some(scan) = self.scans.get(&row.path) else { return Vec::new() };
        let source = format!("bids:raw:{}", scan.relative);
        let made = made(row);
        let mut files = Vec::new();
        let mut sidecar = |image: &Option<PathBuf>, mut content: Value| {
            if let Some(image) = image {
                content["SpatialReference"] = json!(source);
                content["Trephine"] = made.clone();
                files.push((json_beside(image), pretty(&content)));
            }
        };
        let mask = outputs.mask.as_deref().and_then(|mask| relative(mask, &self.out));
        let of_brain: Vec<String> =
            std::iter::once(source.clone()).chain(mask.map(|mask| format!("bids::{mask}"))).collect();
        sidecar(
            &outputs.mask,
            json!({ "Type": "Brain", "Description": "Brain mask: 1 in the brain, 0 elsewhere", "Sources": [source] }),
        );
        sidecar(
            &outputs.brain,
            json!({ "SkullStripped": true, "Description": "The scan inside the brain mask", "Sources": of_brain }),
        );
        files
    }

    fn keep(&mut self, rows: &[Row], ended: bool) -> Result<(), PipelineError> {
        let Some(row) = rows.last().filter(|row| !ended && !row.kept) else { return Ok(()) };
        let Some(scan) = self.scans.get(&row.path) else { return Ok(()) };
        write_rows(&scan.record(&self.out), &self.out, vec![row.clone()], Vec::new())
    }
}

/// How an image was made, and what is to be thought of it: for its sidecar.
fn made(row: &Row) -> Value {
    let Provenance { version, model, model_sha256, settings, .. } = row.made.clone().unwrap_or_default();
    json!({
        "Version": version,
        "Model": model,
        "ModelSHA256": model_sha256,
        "InputSHA256": row.input_sha256,
        "Parameters": settings,
        "BrainVolumeML": row.brain_ml,
        "Score": row.score,
        "Warnings": row.warnings,
    })
}

/// The sidecar of an image: `x.json` for `x.nii.gz`.
fn json_beside(image: &Path) -> PathBuf {
    let plain =
        if image.extension() == Some(OsStr::new("gz")) { image.with_extension("") } else { image.into() };
    plain.with_extension("json")
}

/// What became of the scans of a data set of derivatives.
#[derive(Debug, Default)]
pub struct Merged {
    /// A row a scan, by their names.
    pub rows: Vec<Row>,
    /// Scans of which nothing is known.
    pub missing: Vec<PathBuf>,
}

/// Whether a folder is a data set of derivatives with records of ours.
pub fn holds_records(out: &Path) -> bool {
    out.join(DESCRIPTION).is_file() && out.join(LOGS).is_dir()
}

/// All records of a data set of derivatives; outputs are paths that can be opened.
///
/// # Errors
/// A record that cannot be read, or none at all.
pub fn records(out: &Path) -> Result<Vec<Row>, PipelineError> {
    let folder = out.join(LOGS);
    let nothing = || refused(out, "holds no record of a scan (logs/*.json); run the level participant first");
    let mut files: Vec<PathBuf> = match fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(nothing()),
        Err(e) => {
            return Err(refused(&folder, format!("cannot be looked through ({e}); check its permissions")));
        }
    };
    files.retain(|file| file.extension() == Some(OsStr::new("json")));
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        rows.extend(read_rows(&file, out)?.unwrap_or_default());
    }
    if rows.is_empty() { Err(nothing()) } else { Ok(rows) }
}

/// Merges the records of a data set of derivatives into `report.csv` and `report.json`, and compares them with the scans that
/// there are.
///
/// # Errors
/// As [`records`], and a report that cannot be written.
pub fn merge(scans: &[Scan], out: &Path) -> Result<Merged, PipelineError> {
    let rows = records(out)?;
    let missing: Vec<PathBuf> =
        scans.iter().filter(|scan| !scan.record(out).is_file()).map(|scan| scan.path.clone()).collect();
    let left = missing.iter().map(|path| path.display().to_string()).collect();
    write_report(out, rows.clone(), left)?;
    Ok(Merged { rows, missing })
}
