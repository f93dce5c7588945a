//! A kernel of a user's own, and which of ours it stands in for.

use std::path::{Path, PathBuf};

use super::error::LabError;
use super::subject::Subject;
use crate::gpu::{Caps, Replacement};
use crate::ops;

/// A user's own kernel.
#[derive(Clone, Debug)]
pub struct UserShader {
    /// The file.
    pub file: PathBuf,
    /// The embedded file that it stands in for, with or without its folder; `None` takes the one of the same name, or
    /// the only one that there is.
    pub replaces: Option<String>,
}

/// What a user's kernel stands in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kernel variant that runs it.
    pub variant: &'static str,
    /// The embedded file.
    pub path: &'static str,
}

impl UserShader {
    /// The source as it is now.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self) -> Result<Replacement, LabError> {
        let source = std::fs::read_to_string(&self.file).map_err(|error| LabError::Input {
            file: self.file.clone(),
            reason: format!("cannot be read ({error}); check the path"),
        })?;
        Ok(Replacement { file: self.file.display().to_string(), source })
    }

    /// What it stands in for among these variants of an operator: the first that runs the kernel.
    ///
    /// # Errors
    /// When none does, or when the file's name does not tell; names those that there are.
    pub(super) fn place(
        &self,
        subject: &Subject,
        variants: &[&'static str],
        caps: &Caps,
    ) -> Result<Place, LabError> {
        let descs = subject.descs();
        let outputs =
            ops::infer(subject.op.as_ref(), &descs).map_err(|e| LabError::Refused(e.to_string()))?;
        let files: Vec<(&'static str, Vec<&'static str>)> = variants
            .iter()
            .map(|&variant| {
                let lowered = subject.op.lower(&descs, &outputs, caps, variant);
                let mut paths: Vec<&'static str> = lowered.dispatches.iter().map(|d| d.kernel.path).collect();
                paths.dedup();
                (variant, paths)
            })
            .collect();
        let places =
            || files.iter().flat_map(|(variant, paths)| paths.iter().map(|&path| Place { variant, path }));
        let wanted = match &self.replaces {
            Some(path) => path.trim_start_matches("shaders/").to_owned(),
            None => self.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let is_wanted = |path: &str| path == wanted || Path::new(path).file_name() == Some(wanted.as_ref());
        if let Some(place) = places().find(|place| is_wanted(place.path)) {
            return Ok(place);
        }
        let name = subject.op.name();
        let only = places().next().filter(|first| places().all(|place| place.path == first.path));
        let elsewhere = ops::find(name).is_some_and(|def| def.shaders.iter().any(|path| is_wanted(path)));
        let what = match (&self.replaces, only, elsewhere) {
            (None, Some(only), _) => return Ok(only),
            (_, _, true) => {
                format!("{wanted} is a kernel of {name}, but not of these variants at this shape")
            }
            (Some(_), ..) => format!("{name} has no kernel {wanted}"),
            (None, ..) => format!(
                "{wanted} is not the name of a kernel of {name}; name it after the one that it stands in for, or \
                 name that with --replaces"
            ),
        };
        let list: Vec<String> =
            files.iter().map(|(variant, paths)| format!("{variant} ({})", paths.join(", "))).collect();
        Err(LabError::Refused(format!("{what}; there are: {}", list.join("; "))))
    }
}
