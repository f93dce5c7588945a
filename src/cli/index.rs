//! `trephine index`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde_json::json;
use trephine::volume::pairs;

use super::json::named;
use super::{Outcome, Session};

/// Find images and their masks in a folder and write a table of pairs
///
/// Understands the NFBS layout (NAME_brainmask.* is the mask, NAME_brain.* a stripped copy, the rest raw),
/// BIDS derivatives (*_desc-brain_mask.*) and plain pairs (NAME_mask.*). The table is tab-separated with the
/// columns `image` and `mask`, relative to its own folder; it is what `train` and `evaluate` read.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine index NFBS_Dataset -o pairs.tsv\n  trephine train --data pairs.tsv --out run"
)]
pub(super) struct Options {
    /// Folder to look through, with those below it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Table to write
    #[arg(short, long, value_name = "TSV")]
    output: PathBuf,
}

impl Options {
    pub fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        let mut index = pairs::index(&self.folder)?;
        if index.table.pairs.is_empty() {
            bail!("{}: {}", self.folder.display(), index.nothing_found());
        }
        let misfits = index.check(&self.output);
        misfits.iter().for_each(|(file, reason)| session.terminal.warning(file, reason));
        let pairs = &index.table.pairs;
        if pairs.is_empty() {
            bail!("{}: holds no image that can be used; the warnings say why", self.folder.display());
        }
        for mask in &index.unused_masks {
            session
                .terminal
                .warning(mask, &"is the mask of no image found, or of one that has another; left out");
        }
        index.table.write(&self.output)?;
        let with_mask = pairs.iter().filter(|pair| pair.mask.is_some()).count();
        session.terminal.result(&format!(
            "{}: {} images, {with_mask} with a mask",
            self.output.display(),
            pairs.len()
        ))?;
        session.terminal.json(&json!({
            "table": named(&self.output),
            "images": pairs.len(),
            "with_mask": with_mask,
            "unused_masks": index.unused_masks.iter().map(|mask| named(mask)).collect::<Vec<_>>(),
        }))?;
        Ok(Outcome::Done)
    }
}
