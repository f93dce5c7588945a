//! Reading inputs and naming outputs.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::{FrameOptions, UsageError, usage};
use crate::volume::image::{self, FrameChoice, Image};
use crate::volume::{Volume, VolumeError};

impl From<FrameOptions> for FrameChoice {
    fn from(options: FrameOptions) -> Self {
        match options {
            FrameOptions { all: true, .. } => Self::All,
            FrameOptions { volume: Some(n), .. } => Self::One(n),
            FrameOptions { .. } => Self::Only,
        }
    }
}

/// An image whose voxels are known to be of use.
pub(super) struct Input {
    /// As read.
    pub image: Image,
    /// What is odd about it.
    pub warnings: Vec<String>,
}

impl Input {
    /// Reads an image and looks at its voxels: all NaN, all zero and constant ones are refused, other NaN and
    /// infinite ones become 0.
    pub fn read(path: &Path, choice: FrameChoice) -> Result<Self, VolumeError> {
        let image = image::read(path, choice)?;
        let mut warnings: Vec<String> = image.warnings().iter().map(ToString::to_string).collect();
        for frame in 0..image.frames() {
            let mut volume = image.frame_f32(frame)?;
            volume.check_content().map_err(|problem| problem.at(image.path()))?;
            let which = if frame > 0 { format!("volume {frame}: ") } else { String::new() };
            warnings.extend(volume.replace_non_finite().map(|warning| format!("{which}{warning}")));
        }
        Ok(Self { image, warnings })
    }

    /// A held volume, finite: made anew from the stored voxels, so that it takes memory only while it is used.
    pub fn volume(&self, frame: usize) -> Result<Volume, VolumeError> {
        let mut volume = self.image.frame_f32(frame)?;
        volume.replace_non_finite();
        Ok(volume)
    }
}

/// Adds the values of a further volume; those of the first are taken without a copy.
pub(super) fn append<T>(all: &mut Vec<T>, mut more: Vec<T>) {
    if all.is_empty() {
        *all = more;
    } else {
        all.append(&mut more);
    }
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
