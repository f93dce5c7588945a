//! Images on their way to a file, volume after volume: onto a temporary file in the same folder, renamed when complete, so
//! that a failure leaves nothing behind and a reader never sees half a file.
//!
//! Voxels are made a piece at a time, just before they are compressed: writing takes no copy of
//! the volume. The header, which states their range, is set when all are written.

use super::super::unfinished::Temporary;
use super::super::{Problem, VolumeError};
use super::form::{Content, Form, Values, Voxels, check_name, extremes, is_gzip_name};
use super::gzip::Gzip;
use super::volumes::Volumes;
use super::{Image, Info};
use crate::tensor::Xyz;
use glam::DMat4;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Bytes at the start of a file that hold all of a header that may change after it is begun.
const HEADER_MOST: usize = 1 << 10;

/// An image on its way to a file, on the grid of another one. It takes volume after volume, in the memory of one; dropped
/// before it is finished, it leaves nothing behind.
pub struct VolumeWriter {
    path: PathBuf,
    content: Content,
    form: Form,
    target: Target,
    /// Where the name says that the file is packed.
    gzip: Option<Gzip>,
    /// Of the file, with extensions.
    header_bytes: usize,
    /// Values that the file shall hold, and that it holds.
    expected: usize,
    written: usize,
    /// Least and greatest finite scaled value.
    range: Option<(f64, f64)>,
}

impl VolumeWriter {
    /// Begins a file of so many volumes on the grid of `like`.
    ///
    /// # Errors
    /// A name that says nothing, or a folder that cannot be written.
    pub fn begin(
        path: impl AsRef<Path>,
        like: &Image,
        volumes: usize,
        content: Content,
    ) -> Result<Self, VolumeError> {
        let path = path.as_ref();
        let values = match content {
            Content::Labels => Values::Labels(&[]),
            Content::Floats => Values::Floats(&[]),
            Content::Stripped => Values::Stored { image: like, bytes: &[], keep: Some((&[], 0.0)) },
        };
        // Only asked for where the type of the file depends on all volumes.
        let all = || match like.info.frames {
            held if held == like.held => Ok(extremes(like, &like.data)),
            _ => extremes_of_file(&like.path),
        };
        Self::new(path, &like.info, None, volumes, &values, all).map_err(|problem| problem.at(path))
    }

    /// Appends a volume of labels.
    ///
    /// # Errors
    /// Another number of voxels, or a disk that is full.
    ///
    /// # Panics
    /// Where the file was begun for something else.
    pub fn labels(&mut self, mask: &[u8]) -> Result<(), VolumeError> {
        self.append_as(Content::Labels, Values::Labels(mask))
    }

    /// Appends a volume of floats.
    ///
    /// # Errors
    /// As [`VolumeWriter::labels`].
    ///
    /// # Panics
    /// As [`VolumeWriter::labels`].
    pub fn floats(&mut self, data: &[f32]) -> Result<(), VolumeError> {
        self.append_as(Content::Floats, Values::Floats(data))
    }

    /// Appends the volume that an image holds: bit-equal where `keep` is not 0, `fill` elsewhere (see
    /// [`write_stripped`](super::write_stripped)).
    ///
    /// # Errors
    /// As [`VolumeWriter::labels`].
    ///
    /// # Panics
    /// As [`VolumeWriter::labels`].
    pub fn stripped(&mut self, image: &Image, keep: &[u8], fill: f32) -> Result<(), VolumeError> {
        let values = Values::Stored { image, bytes: &image.data, keep: Some((keep, fill)) };
        self.append_as(Content::Stripped, values)
    }

    fn append_as(&mut self, content: Content, values: Values<'_>) -> Result<(), VolumeError> {
        assert_eq!(self.content, content, "a file holds one thing");
        self.append(values).map_err(|problem| problem.at(&self.path))
    }

    /// Ends the file, with the header of `like`: that of the last volume of the image that it was begun like.
    ///
    /// # Errors
    /// Volumes that are missing, or a disk that is full.
    pub fn finish(self, like: &Info) -> Result<(), VolumeError> {
        let path = self.path.clone();
        self.close(like, None).map_err(|problem| problem.at(&path))
    }

    /// Begins a file of volumes like `values`, on a grid of their own if need be. `extremes` gives the least and the greatest
    /// of all voxels as stored.
    pub(super) fn new(
        path: &Path,
        like: &Info,
        grid: Option<(Xyz<usize>, &DMat4)>,
        volumes: usize,
        values: &Values<'_>,
        extremes: impl FnOnce() -> Result<(f64, f64), Problem>,
    ) -> Result<Self, Problem> {
        let form = Form::of(path, like, volumes, values, extremes)?;
        let header = form.header(like, grid, (0.0, 0.0))?;
        let mut target = Target::open(path)?;
        let (first, rest) = header.split_at(header.len().min(HEADER_MOST));
        let mut begin = || -> io::Result<Option<Gzip>> {
            if !is_gzip_name(path) {
                target.write_all(&header)?;
                return Ok(None);
            }
            let mut gzip = Gzip::begin(&mut target, first)?;
            gzip.append(&mut target, 1, |_| rest.into())?;
            Ok(Some(gzip))
        };
        let gzip = begin().map_err(Problem::Write)?;
        let voxels: usize = grid.map_or(like.shape, |(shape, _)| shape).iter().product();
        Ok(Self {
            path: path.to_path_buf(),
            content: values.content(),
            form,
            target,
            gzip,
            header_bytes: header.len(),
            expected: volumes * voxels,
            written: 0,
            range: None,
        })
    }

    /// Appends volumes.
    pub(super) fn append(&mut self, values: Values<'_>) -> Result<(), Problem> {
        let voxels = Voxels { values, form: self.form };
        let range = Mutex::new(self.range);
        let piece = |ix| {
            let bytes = voxels.piece(ix);
            let found = voxels.range(&bytes);
            let mut range = range.lock().expect("no panic while held");
            *range = match (*range, found) {
                (Some(a), Some(b)) => Some((f64::min(a.0, b.0), f64::max(a.1, b.1))),
                (a, b) => a.or(b),
            };
            bytes
        };
        let mut write = || match &mut self.gzip {
            Some(gzip) => gzip.append(&mut self.target, voxels.pieces(), piece),
            None => (0..voxels.pieces()).try_for_each(|ix| self.target.write_all(&piece(ix))),
        };
        write().map_err(Problem::Write)?;
        self.range = range.into_inner().expect("no panic while held");
        self.written += values.len();
        Ok(())
    }

    /// Ends the file.
    pub(super) fn close(mut self, like: &Info, grid: Option<(Xyz<usize>, &DMat4)>) -> Result<(), Problem> {
        if self.written != self.expected {
            return Err(Problem::Length { expected: self.expected, got: self.written });
        }
        let header = self.form.header(like, grid, self.range.unwrap_or_default())?;
        assert_eq!(header.len(), self.header_bytes, "an image's header has one length");
        let first = &header[..header.len().min(HEADER_MOST)];
        let tail = self.form.tail(like);
        let end = || {
            match self.gzip {
                Some(mut gzip) => {
                    gzip.append(&mut self.target, 1, |_| tail[..].into())?;
                    gzip.finish(&mut self.target, first)?;
                }
                None => {
                    self.target.write_all(&tail)?;
                    self.target.seek(SeekFrom::Start(0))?;
                    self.target.write_all(first)?;
                }
            }
            self.target.finish()
        };
        end().map_err(Problem::Write)
    }
}

/// Where the bytes of a file go.
enum Target {
    /// To a new file.
    New(Temporary),
    /// To a device such as /dev/null, which cannot be replaced by a rename, only written to.
    Device(File),
    /// To a pipe, which takes what is complete: until then it is in a file without a name.
    Pipe { complete: File, pipe: File },
}

impl Target {
    fn open(path: &Path) -> Result<Self, Problem> {
        if path.is_dir() {
            return Err(Problem::Folder);
        }
        if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            let open = || {
                let mut device = File::options().write(true).open(path)?;
                Ok(match device.stream_position() {
                    Ok(_) => Self::Device(device),
                    Err(_) => Self::Pipe { complete: tempfile::tempfile()?, pipe: device },
                })
            };
            return open().map_err(Problem::Write);
        }
        check_name(path)?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(Problem::NoFolder(folder.to_path_buf()));
        }
        Temporary::beside(path).map(Self::New).map_err(Problem::Write)
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::New(file) => file.finish(),
            Self::Device(mut device) => device.flush(),
            Self::Pipe { mut complete, mut pipe } => {
                complete.seek(SeekFrom::Start(0))?;
                io::copy(&mut complete, &mut pipe)?;
                pipe.flush()
            }
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::New(file) => file.write(bytes),
            Self::Device(file) | Self::Pipe { complete: file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::New(file) => file.flush(),
            Self::Device(file) | Self::Pipe { complete: file, .. } => file.flush(),
        }
    }
}

impl Seek for Target {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::New(file) => file.seek(to),
            Self::Device(file) | Self::Pipe { complete: file, .. } => file.seek(to),
        }
    }
}

/// The least and the greatest voxel of all volumes of a file as stored, and 0.
fn extremes_of_file(path: &Path) -> Result<(f64, f64), Problem> {
    let all = || -> Result<(f64, f64), VolumeError> {
        let mut volumes = Volumes::open(path)?;
        let mut found = (0.0f64, 0.0f64);
        while let Some(volume) = volumes.next_volume()? {
            let (least, most) = extremes(&volume, &volume.data);
            found = (found.0.min(least), found.1.max(most));
        }
        Ok(found)
    };
    all().map_err(|error| error.problem)
}
