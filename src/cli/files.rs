//! Inputs, and the names of outputs.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use trephine::volume::image::{self, FrameChoice};

use super::{FrameOptions, UsageError, usage};
pub(super) use trephine::pipeline::input::{Input, append};

impl From<FrameOptions> for FrameChoice {
    fn from(options: FrameOptions) -> Self {
        match options {
            FrameOptions { all: true, .. } => Self::All,
            FrameOptions { volume: Some(n), .. } => Self::One(n),
            FrameOptions { .. } => Self::Only,
        }
    }
}

/// The paths that a list names, a line each; or, where it holds bytes that are 0, as `find -print0` writes them, between
/// those. `-` is standard input. Relative ones are seen from the working folder; empty lines count for nothing.
pub(super) fn read_list(list: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut bytes = Vec::new();
    let (name, read) = match list.to_str() {
        Some("-") => ("standard input".to_owned(), std::io::stdin().lock().read_to_end(&mut bytes).map(drop)),
        _ => (list.display().to_string(), std::fs::read(list).map(|read| bytes = read)),
    };
    read.map_err(|e| {
        anyhow!("{name}: cannot be read as a list of files ({e}); check its name and permissions")
    })?;
    let end = if bytes.contains(&0) { 0 } else { b'\n' };
    let paths = bytes
        .split(|&byte| byte == end)
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
        .map(|line| {
            path_of(line).ok_or_else(|| anyhow!("{name}: a line is not UTF-8; name that file another way"))
        })
        .collect::<anyhow::Result<Vec<PathBuf>>>()?;
    if paths.is_empty() {
        bail!("{name}: names no file; write one path a line");
    }
    Ok(paths)
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    Some(OsString::from_vec(bytes.to_vec()).into())
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> Option<PathBuf> {
    Some(OsString::from(std::str::from_utf8(bytes).ok()?).into())
}

/// Checks the names of output images before any work: an extension that can be written, different from each
/// other and from the inputs.
pub(super) fn check_outputs(outputs: &[&Path], inputs: &[&Path]) -> anyhow::Result<()> {
    for (ix, output) in outputs.iter().enumerate() {
        if !is_device(output) {
            image::check_output_name(output).map_err(|e| UsageError(e.to_string()))?;
        }
        check_distinct(output, &outputs[..ix], inputs)?;
    }
    Ok(())
}

/// `Err` when an output is also an input or another output.
pub(super) fn check_distinct(output: &Path, others: &[&Path], inputs: &[&Path]) -> anyhow::Result<()> {
    if others.iter().any(|other| same_file(output, other)) {
        return Err(usage(format!("{} is named for two outputs; give each its own name", output.display())));
    }
    if inputs.iter().any(|input| same_file(output, input)) {
        return Err(usage(format!(
            "{} is the input and would be overwritten; give the output another name",
            output.display()
        )));
    }
    Ok(())
}

/// /dev/null and its like, which may be named any number of times and have no extension.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
}

/// Whether two paths name the same file, also before it exists.
fn same_file(a: &Path, b: &Path) -> bool {
    let resolved = |path: &Path| -> PathBuf {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let whole = path.canonicalize().ok();
        whole
            .or_else(|| Some(parent.canonicalize().ok()?.join(path.file_name()?)))
            .unwrap_or_else(|| path.to_path_buf())
    };
    !is_device(a) && resolved(a) == resolved(b)
}

/// `Err` when the folder that a file shall be written to is not there.
pub(super) fn check_folder(output: &Path) -> anyhow::Result<()> {
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!(
            "{}: cannot be written: the folder {} does not exist; create it first",
            output.display(),
            folder.display()
        );
    }
    Ok(())
}
