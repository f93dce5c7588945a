//! `trephine report`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use serde_json::json;
use trephine::pipeline::batch::{REPORT_JSON, read_report};
use trephine::pipeline::bids;
use trephine::pipeline::report::page;

use super::json::named;
use super::strip::summary;
use super::terminal::Terminal;
use super::{Outcome, Session};

/// Name of the page.
pub(super) const REPORT_HTML: &str = "report.html";

/// Make one page to look a batch through
///
/// The page is one file that needs no other and no network: thumbnails with the outline of each mask, a table to sort
/// and filter with the doubtful heads first, a histogram of volumes, and keys to step through heads and mark them good or
/// bad. Marks stay in the browser and are saved as a table (TSV). The large pictures are those of the batch: they are
/// shown where the page lies beside them.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine strip heads/ -O stripped\n  trephine report stripped\n\nwrites stripped/report.html."
)]
pub(super) struct Options {
    /// Folder of a batch, or of derivatives that `trephine bids` made
    #[arg(value_name = "OUT")]
    folder: PathBuf,
    /// The page [default: OUT/report.html]
    ///
    /// In another folder it is without the large pictures.
    #[arg(short, long, value_name = "HTML")]
    output: Option<PathBuf>,
}

impl Options {
    pub fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        let folder = &self.folder;
        if !folder.is_dir() {
            bail!("{}: is no folder; name the one that strip -O or bids wrote", folder.display());
        }
        // Of derivatives, the records are newer than what `group` made of them.
        let rows = match bids::holds_records(folder) {
            true => bids::records(folder)?,
            false => match read_report(folder)? {
                Some(rows) if !rows.is_empty() => rows,
                Some(_) => bail!("{}: holds no head", folder.join(REPORT_JSON).display()),
                None => bail!(
                    "{}: holds no {REPORT_JSON}; name the folder of a batch (trephine strip ... -O OUT) or of derivatives \
                     (trephine bids)",
                    folder.display()
                ),
            },
        };
        let whole = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let title = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = self.output.clone().unwrap_or_else(|| folder.join(REPORT_HTML));
        let subject = page::Subject { title, folder, rows: &rows };
        write_page(session.terminal, &subject, &output)?;
        session.terminal.result(&format!("{}: {}", output.display(), summary(&rows)))?;
        session.terminal.json(&json!({ "report": named(&output), "heads": rows.len() }))?;
        Ok(Outcome::Done)
    }
}

/// Writes the page, and tells of pictures that it has to do without.
pub(super) fn write_page(
    terminal: Terminal,
    subject: &page::Subject<'_>,
    output: &Path,
) -> anyhow::Result<()> {
    for (file, reason) in page::write(subject, output)? {
        terminal.warning(&file, &reason);
    }
    Ok(())
}
