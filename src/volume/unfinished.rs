//! Files on their way: gone when writing fails, and when the program is stopped.
//!
//! A [`Temporary`] stands beside the file that it becomes, so that a reader never sees half a file. [`Together`] holds
//! finished files that are of use only with others still to come. Both are listed while they live: a signal handler calls
//! [`discard`], which no destructor runs after.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

static LISTED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn listed() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A set of names has no state between two.
    LISTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all unfinished files. Nothing can be begun or finished afterwards: threads that try wait for the end of
/// the process, which the caller brings about.
pub fn discard() {
    let listed = listed();
    for path in listed.iter() {
        // It may be gone already, and nobody is left to tell.
        let _ = fs::remove_file(path);
    }
    std::mem::forget(listed);
}

/// A file that takes its name when it is whole. Dropped before, it is removed.
#[derive(Debug)]
pub struct Temporary {
    /// `None` once it has its name.
    file: Option<NamedTempFile>,
    becomes: PathBuf,
}

impl Temporary {
    /// A new file in the folder of `path`, readable as the user's umask has it.
    ///
    /// # Errors
    /// When the folder is not there or cannot be written.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".trephine-").suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut listed = listed();
        let file = builder.tempfile_in(folder)?;
        listed.insert(file.path().to_path_buf());
        Ok(Self { file: Some(file), becomes: path.to_path_buf() })
    }

    fn file(&mut self) -> &mut NamedTempFile {
        self.file.as_mut().expect("taken when it is finished, which consumes it")
    }

    /// Gives the file its name; one that has it already is replaced.
    ///
    /// # Errors
    /// When the disk is full, which some network disks report only now, or the name cannot be taken.
    pub fn finish(mut self) -> io::Result<()> {
        self.file().as_file().sync_data()?;
        let file = self.file.take().expect("nobody else takes it");
        let mut listed = listed();
        listed.remove(file.path());
        file.persist(&self.becomes).map(drop).map_err(|e| e.error)
    }
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Seek for Temporary {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file().seek(to)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let mut listed = listed();
            listed.remove(file.path());
            drop(file);
        }
    }
}

/// Finished files that belong together. Dropped before [`Together::keep`], all are removed.
#[derive(Debug, Default)]
pub struct Together {
    files: Vec<PathBuf>,
}

impl Together {
    /// Adds a file that was just written. A device such as /dev/null is left alone.
    pub fn add(&mut self, path: &Path) {
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) {
            listed().insert(path.to_path_buf());
            self.files.push(path.to_path_buf());
        }
    }

    /// All are there: they stay.
    pub fn keep(mut self) {
        let mut listed = listed();
        for path in self.files.drain(..) {
            listed.remove(&path);
        }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        let mut listed = listed();
        for path in &self.files {
            listed.remove(path);
            // What fails here failed for the reason that is being reported.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_temporary_file_is_whole_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let mut file = Temporary::beside(&path).unwrap();
        file.write_all(b"half").unwrap();
        let part = names(folder.path());
        assert!(part.len() == 1 && part[0].ends_with(".part"), "{part:?}");
        assert!(listed().contains(&folder.path().join(&part[0])));
        drop(file);
        assert!(names(folder.path()).is_empty());

        let mut file = Temporary::beside(&path).unwrap();
        file.write_all(b"whole").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(!listed().iter().any(|listed| listed.starts_with(folder.path())));
    }

    #[test]
    fn files_that_belong_together_stay_or_go_together() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        let write = || {
            let mut together = Together::default();
            for path in &paths {
                fs::write(path, b"1").unwrap();
                together.add(path);
            }
            together.add(Path::new("/dev/null"));
            together
        };
        drop(write());
        assert!(names(folder.path()).is_empty());
        write().keep();
        assert_eq!(names(folder.path()), ["a", "b"]);
    }
}
