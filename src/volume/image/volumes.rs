//! The volumes of an image one at a time, in the memory of one.

use std::path::{Path, PathBuf};

use super::super::{Problem, VolumeError};
use super::{Image, Info, VoxelStream, dicom, open};

/// The volumes of an image, read one after the other.
pub struct Volumes {
    path: PathBuf,
    info: Info,
    voxels: Voxels,
    next: usize,
}

enum Voxels {
    File(VoxelStream),
    /// Of a series of DICOM, which is one volume.
    Series(dicom::Scan),
}

impl Volumes {
    /// Opens an image and reads its header. A file that is too short for its volumes, as far as its length tells, is refused
    /// at once.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, VolumeError> {
        let path = path.as_ref();
        let (info, voxels) = match dicom::Series::at(path)? {
            Some(series) => {
                let scan = series.scan()?;
                (Info::of(&scan).map_err(|problem| problem.at(path))?, Voxels::Series(scan))
            }
            None => Self::open_file(path).map_err(|problem| problem.at(path))?,
        };
        Ok(Self { path: path.to_path_buf(), info, voxels, next: 0 })
    }

    fn open_file(path: &Path) -> Result<(Info, Voxels), Problem> {
        let mut opened = open(path)?;
        let info = opened.info()?;
        let stream = opened.voxels()?;
        let all = (info.volume_bytes() * info.frames) as u64;
        stream.source.check_length(stream.offset, all)?;
        Ok((info, Voxels::File(stream)))
    }

    /// What the header says. Of an MGH file, what stands behind its voxels is known after the last volume.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Whether they can be read once only: they come through a pipe.
    pub fn come_once(&self) -> bool {
        matches!(&self.voxels, Voxels::File(stream) if stream.source.is_pipe())
    }

    /// The next volume, as an image that holds it alone; `None` after the last, with which the checksum of a packed file is
    /// looked at.
    ///
    /// # Errors
    /// A file that ends early or is damaged.
    pub fn next_volume(&mut self) -> Result<Option<Image>, VolumeError> {
        if self.next == self.info.frames {
            return Ok(None);
        }
        let data = match &mut self.voxels {
            Voxels::Series(scan) => scan.read()?,
            Voxels::File(stream) => {
                read_next(stream, &mut self.info, self.next).map_err(|problem| problem.at(&self.path))?
            }
        };
        self.next += 1;
        Ok(Some(Image { path: self.path.clone(), info: self.info.clone(), held: 1, data }))
    }
}

fn read_next(stream: &mut VoxelStream, info: &mut Info, number: usize) -> Result<Vec<u8>, Problem> {
    let bytes = info.volume_bytes() as u64;
    let data = stream.read(info, number, 1).map_err(|problem| match problem {
        Problem::Truncated { found, .. } => {
            Problem::Truncated { needed: info.frames as u64 * bytes, found: number as u64 * bytes + found }
        }
        problem => problem,
    })?;
    if number + 1 == info.frames {
        stream.read_tail(info)?;
        stream.source.verify()?;
    }
    Ok(data)
}
