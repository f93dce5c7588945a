//! A page to look a batch through: one file that needs no other and no network. The large pictures are not in it, only small
//! ones; it shows the large ones where it lies beside them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::outliers::{OUTLIER, suspicions, usual_volume};
use super::thumbnail;
use crate::model::hex;
use crate::pipeline::batch::Row;
use crate::pipeline::{PipelineError, write_whole};
use crate::volume::pairs::relative;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What a page is about.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// What it is called.
    pub title: String,
    /// Folder of the batch; outputs are shown as seen from it.
    pub folder: &'a Path,
    /// The heads. Outputs are paths that can be opened.
    pub rows: &'a [Row],
}

/// What the page's script reads.
#[derive(Serialize)]
struct Data {
    /// Stands for this set of heads: marks are kept under it.
    id: String,
    made: Vec<String>,
    median: Option<f64>,
    /// Volumes beyond are far from the median.
    usual: Option<[f64; 2]>,
    heads: Vec<Head>,
}

#[derive(Serialize)]
struct Head {
    path: String,
    name: String,
    /// Of the outputs, where they have one below the batch's.
    folder: String,
    status: &'static str,
    ml: Option<f64>,
    score: Option<f64>,
    seconds: f64,
    memory: Option<f64>,
    model: String,
    warnings: Vec<String>,
    error: Option<String>,
    /// Place by how suspect it is; 0 is the first to look at.
    rank: usize,
    reasons: Vec<String>,
    /// The large picture, as seen from the page.
    picture: Option<String>,
    /// JPEG in base 64.
    thumb: Option<String>,
}

/// Pictures that a page has to do without, with the reason.
pub type Missing = Vec<(PathBuf, String)>;

/// Writes the page, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write(subject: &Subject<'_>, output: &Path) -> Result<Missing, PipelineError> {
    let (html, missing) = html(subject, output);
    write_whole(output, html.as_bytes())?;
    Ok(missing)
}

/// The page, to be written to `output`.
fn html(subject: &Subject<'_>, output: &Path) -> (String, Missing) {
    let rows = subject.rows;
    let suspicions = suspicions(rows);
    let mut by_level: Vec<usize> = (0..rows.len()).collect();
    by_level.sort_by(|&a, &b| {
        suspicions[b].level.total_cmp(&suspicions[a].level).then_with(|| rows[a].path.cmp(&rows[b].path))
    });
    let mut rank = vec![0; rows.len()];
    by_level.iter().enumerate().for_each(|(place, &ix)| rank[ix] = place);

    let beside = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made: Vec<(Head, Option<(PathBuf, String)>)> = rows
        .par_iter()
        .enumerate()
        .map(|(ix, row)| {
            let picture = row.outputs.as_ref().and_then(|outputs| outputs.qc.clone());
            let small = picture.as_deref().map(thumbnail::jpeg);
            let missing = match (&picture, &small) {
                (Some(picture), Some(Err(reason))) => Some((picture.clone(), reason.clone())),
                _ => None,
            };
            let outputs = row.outputs.as_ref().map(|outputs| outputs.all()).unwrap_or_default();
            let folder = outputs.first().and_then(|path| path.parent()?.strip_prefix(subject.folder).ok());
            let head = Head {
                path: row.path.display().to_string(),
                name: row.path.file_name().unwrap_or(row.path.as_os_str()).to_string_lossy().into_owned(),
                folder: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
                status: row.status.name(),
                ml: row.brain_ml,
                score: row.score,
                seconds: row.total_seconds(),
                memory: row.peak_memory_mb,
                model: row.made.as_ref().map(|made| made.model.clone()).unwrap_or_default(),
                warnings: row.warnings.clone(),
                error: row.error.clone(),
                rank: rank[ix],
                reasons: suspicions[ix].reasons.clone(),
                picture: picture.as_deref().and_then(|picture| Some(url(&relative(picture, beside)?))),
                thumb: small.and_then(Result::ok).map(|jpeg| STANDARD.encode(jpeg)),
            };
            (head, missing)
        })
        .collect();
    let (heads, missing): (Vec<Head>, Vec<_>) = made.into_iter().unzip();
    let usual = usual_volume(rows);
    let data = Data {
        id: id_of(rows),
        made: how_made(rows),
        median: usual.map(|[median, _]| median),
        usual: usual.map(|[median, spread]| [median - OUTLIER * spread, median + OUTLIER * spread]),
        heads,
    };
    // In a script, only the end of the element would be taken for markup.
    let data = serde_json::to_string(&data).expect("texts and numbers make JSON").replace('<', "\\u003c");
    let title = escape(&subject.title);
    let mut page = String::new();
    for (ix, part) in PAGE.split("{{").enumerate() {
        let (name, rest) = if ix == 0 { ("", part) } else { part.split_once("}}").unwrap_or(("", part)) };
        page += match name {
            "TITLE" => &title,
            "STYLE" => STYLE,
            "SCRIPT" => SCRIPT,
            "DATA" => &data,
            _ => "",
        };
        page += rest;
    }
    (page, missing.into_iter().flatten().collect())
}

/// The same for a page that is made anew of the same heads.
fn id_of(rows: &[Row]) -> String {
    let paths: BTreeSet<String> = rows.iter().map(|row| row.path.display().to_string()).collect();
    let hash = Sha256::digest(paths.into_iter().collect::<Vec<_>>().join("\n"));
    hex(&hash[..8])
}

/// Versions and models that the heads were stripped with.
fn how_made(rows: &[Row]) -> Vec<String> {
    let made: BTreeSet<String> = rows
        .iter()
        .filter_map(|row| row.made.as_ref())
        .map(|made| {
            let hash = made.model_sha256.get(..12).unwrap_or_default();
            format!("Trephine {}, model {} ({hash})", made.version, made.model)
        })
        .collect();
    made.into_iter().collect()
}

/// Text for HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A relative path as a URL: what has a meaning there is escaped.
fn url(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_head_is_taken_for_markup() {
        let text = r#"{"path": "a/</script><b>{{SCRIPT}}&.nii", "status": "failed", "brain_ml": null, "score": null,
            "seconds": {}, "signals": null, "warnings": ["<i>"], "error": "x", "outputs": null}"#;
        let rows = [serde_json::from_str::<Row>(text).unwrap()];
        let folder = Path::new(".");
        let subject = Subject { title: "<u>&".into(), folder, rows: &rows };
        let (html, missing) = html(&subject, &folder.join("report.html"));
        assert!(missing.is_empty());
        assert_eq!(html.matches("</script>").count(), 2);
        assert!(!html.contains("<b>") && !html.contains("<i>") && html.contains("&lt;u&gt;&amp;"), "{html}");
        assert_eq!(html.matches("\"use strict\"").count(), 1);
        // No other place is named: the page works without a network.
        assert!(
            !html.contains("http://")
                || html.matches("http://").count() == html.matches("w3.org/2000/svg").count()
        );
        assert!(!html.contains("https://") && !html.contains(" src=\"") && !html.contains("@import"));
        assert_eq!(url("a b/c#1_ä.png"), "a%20b/c%231_%C3%A4.png");
    }
}
