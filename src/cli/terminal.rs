//! Where text goes: results to stdout, the rest to stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::json::Envelope;

/// How much is printed, and as what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// Only warnings and errors go to stderr.
    quiet: bool,
    /// Results are one JSON object.
    pub json: bool,
    /// What that object will hold.
    envelope: &'static Mutex<Envelope>,
    /// A bar that stands below all other text.
    bar: &'static Mutex<Option<ProgressBar>>,
}

impl Terminal {
    /// The process's own: there is one stdout, and one object goes there.
    pub fn new(quiet: bool, json: bool, envelope: Envelope) -> Self {
        let envelope = Box::leak(Box::new(Mutex::new(envelope)));
        Self { quiet, json, envelope, bar: Box::leak(Box::default()) }
    }

    /// Shows a bar of so many steps with the time left, where stderr is a terminal. `template` is indicatif's.
    pub fn show_bar(&self, steps: usize, template: &str) {
        if self.shows_progress() {
            let style = ProgressStyle::with_template(template).expect("the template is valid");
            let bar = ProgressBar::new(steps as u64).with_style(style);
            bar.tick();
            *self.bar() = Some(bar);
        }
    }

    /// Takes the bar a step further. A step that is `free` says nothing about how long the others take.
    pub fn step_bar(&self, free: bool, message: String) {
        if let Some(bar) = &*self.bar() {
            bar.set_message(message);
            bar.inc(1);
            if free {
                bar.reset_eta();
            }
        }
    }

    /// Takes the bar away.
    pub fn clear_bar(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&self) -> MutexGuard<'static, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        match &*self.bar() {
            Some(bar) => bar.suspend(|| to_stderr(text)),
            None => to_stderr(text),
        }
    }

    /// What the JSON object will hold.
    pub fn envelope(&self) -> MutexGuard<'static, Envelope> {
        // It is told that something panicked, too.
        self.envelope.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something good to know, on stderr.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Something odd about a file.
    pub fn warning(&self, file: &Path, text: &dyn Display) {
        let text = format!("{}: {}", file.display(), one_line(&text.to_string()));
        self.say(&format!("warning: {text}"));
        self.envelope().warnings.push(text);
    }

    /// Something that failed. `FILE: what is wrong; what to do`.
    pub fn error(&self, text: &str) {
        let text = one_line(text);
        self.say(&format!("error: {text}"));
        self.envelope().errors.push(text);
    }

    /// Something that failed, whose text goes on below its first line: a compiler's excerpt.
    #[cfg(feature = "bench")]
    pub fn report(&self, text: &str) {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        self.error(first);
        if !rest.is_empty() {
            self.say(rest);
        }
    }

    /// A result for people, on stdout; nothing with `--json`.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn result(&self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { to_stdout(text) }
    }

    /// Entries of the object that `--json` prints when the command ends.
    ///
    /// # Errors
    /// A value that JSON cannot express.
    pub fn json(&self, object: &impl Serialize) -> io::Result<()> {
        if self.json {
            self.envelope().extend(object)?;
        }
        Ok(())
    }

    /// Prints the object when `--json` asks for it: once, at the very end.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn close(&self, done: bool) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let object = self.envelope().close(done);
        object.map_or(Ok(()), |object| to_stdout(&serde_json::to_string_pretty(&object)?))
    }

    /// Whether a progress bar makes sense.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
}

fn to_stdout(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Not `eprintln!`, which panics when stderr is closed.
fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The same text on one line: drivers and parsers write several.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
