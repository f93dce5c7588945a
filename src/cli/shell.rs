//! `trephine completions` and `trephine man`: what shells and `man` know of the program, made from its own options.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Command};
use clap_complete::Shell;
use serde_json::json;

use super::json::named;
use super::{Outcome, Session};

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine completions bash > ~/.local/share/bash-completion/completions/trephine\n  trephine completions zsh > ~/.zfunc/_trephine\n  trephine completions fish > ~/.config/fish/completions/trephine.fish"
)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub fn run(self, session: &Session, mut program: Command) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "trephine", &mut script);
        let script = String::from_utf8_lossy(&script);
        session.terminal.result(script.trim_end())?;
        session.terminal.json(&json!({ "completions": script }))?;
        Ok(Outcome::Done)
    }
}

/// Write manual pages: trephine.1 and one for each command
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  trephine man ~/.local/share/man/man1")]
pub(super) struct Man {
    /// Folder for the pages; created if needed
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    pub fn run(self, session: &Session, program: Command) -> anyhow::Result<Outcome> {
        let folder = self.folder.display();
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(program, &self.folder))
            .map_err(|e| anyhow!("{folder}: cannot be written ({e}); choose another folder"))?;
        session.terminal.result(&format!("{folder}: manual pages of trephine and its commands"))?;
        session.terminal.json(&json!({ "folder": named(&self.folder) }))?;
        Ok(Outcome::Done)
    }
}
