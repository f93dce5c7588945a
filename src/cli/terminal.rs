//! Where text goes: results to stdout, the rest to stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use serde::Serialize;

/// How much is printed, and as what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// Only warnings and errors go to stderr.
    pub quiet: bool,
    /// Results are one JSON object.
    pub json: bool,
}

impl Terminal {
    /// Something good to know, on stderr.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }

    /// Something odd about a file.
    pub fn warning(&self, file: &Path, text: &dyn Display) {
        to_stderr(&format!("warning: {}: {}", file.display(), one_line(&text.to_string())));
    }

    /// Something that failed. `FILE: what is wrong; what to do`.
    pub fn error(&self, text: &str) {
        to_stderr(&format!("error: {}", one_line(text)));
    }

    /// Something that failed, whose text goes on below its first line: a compiler's excerpt.
    pub fn report(&self, text: &str) {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        self.error(first);
        if !rest.is_empty() {
            to_stderr(rest);
        }
    }

    /// A result for people, on stdout; nothing with `--json`.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn result(&self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// The result for programs, on stdout, when `--json` asks for it.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn json(&self, value: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(value)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// Whether a progress bar makes sense.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
}

/// Not `eprintln!`, which panics when stderr is closed.
fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The same text on one line: drivers and parsers write several.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
