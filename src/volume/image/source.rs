//! Bytes of a file, inflated where its content is gzip, whatever its name says.

use super::super::Problem;
use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Most that deflate can shrink: 258 bytes in 2 bits, 1032 to 1 (RFC 1951).
const DEFLATE_MOST: u64 = 1032;

/// What images in practice shrink to at most; memory for this much is taken at once.
const DEFLATE_USUAL: u64 = 16;

/// Bytes read past the voxels to reach the gzip checksum; what comes later stays unchecked.
const TAIL: u64 = 64 << 20;

/// A file being read from front to back.
pub(super) struct Source {
    reader: Inner,
    /// Bytes on disk, `None` for a pipe.
    length: Option<u64>,
    /// Inflated bytes consumed so far.
    position: u64,
}

enum Inner {
    Plain(BufReader<File>),
    Gzip(Box<Members<BufReader<File>>>),
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, Problem> {
        let file = File::open(path).map_err(Problem::from_read)?;
        let meta = file.metadata().map_err(Problem::from_read)?;
        if meta.is_dir() {
            return Err(Problem::Folder);
        }
        let length = meta.is_file().then_some(meta.len());
        let mut reader = BufReader::with_capacity(1 << 17, file);
        let start = reader.fill_buf().map_err(Problem::from_read)?;
        let reader = if start.starts_with(&GZIP) {
            Inner::Gzip(Box::new(Members::new(reader)))
        } else {
            Inner::Plain(reader)
        };
        Ok(Self { reader, length, position: 0 })
    }

    fn is_gzip(&self) -> bool {
        matches!(self.reader, Inner::Gzip(_))
    }

    /// Whether it can be read once only.
    pub(super) fn is_pipe(&self) -> bool {
        self.length.is_none()
    }

    /// `Err` where the file's length tells that it holds fewer than `n` inflated bytes after `offset`.
    pub(super) fn check_length(&self, offset: u64, n: u64) -> Result<(), Problem> {
        let most = self.at_most().saturating_add(self.position).saturating_sub(offset);
        if most < n { Err(self.too_short(n, most)) } else { Ok(()) }
    }

    fn problem(&self, error: io::Error) -> Problem {
        if self.is_gzip() { Problem::Gzip(error) } else { Problem::from_read(error) }
    }

    /// Most bytes that can still come, as far as the file's length tells.
    fn at_most(&self) -> u64 {
        let factor = if self.is_gzip() { DEFLATE_MOST } else { 1 };
        let whole = self.length.unwrap_or(u64::MAX).saturating_mul(factor);
        whole.saturating_sub(self.position)
    }

    fn too_short(&self, needed: u64, most: u64) -> Problem {
        if self.is_gzip() {
            Problem::Overclaimed { needed, most }
        } else {
            let found = most;
            Problem::Truncated { needed, found }
        }
    }

    /// Up to `n` bytes, fewer only where the file ends or a gzip stream breaks off.
    pub(super) fn read_up_to(&mut self, n: usize) -> Result<Vec<u8>, Problem> {
        self.read_after(&[], n, 0)
    }

    /// `known`, and what follows in the file, up to `n` bytes together. Memory for `expected` of
    /// them is taken at once; from there on it follows the bytes that are there, twice as many
    /// at most, never more than `n` and never more than the file's length allows.
    pub(super) fn read_after(&mut self, known: &[u8], n: usize, expected: usize) -> Result<Vec<u8>, Problem> {
        let most = usize::try_from(self.at_most()).unwrap_or(usize::MAX).saturating_add(known.len());
        let n = n.min(most).max(known.len());
        let memory = |_| Problem::Memory(n as u64);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(expected.clamp(known.len(), n)).map_err(memory)?;
        bytes.extend_from_slice(known);
        while bytes.len() < n {
            if bytes.len() == bytes.capacity() {
                let more = bytes.len().max(1 << 12).min(n - bytes.len());
                bytes.try_reserve_exact(more).map_err(memory)?;
            }
            // To the end of the memory and no further, so that `read_to_end` takes no more.
            let room = bytes.capacity().min(n) - bytes.len();
            let read = match (&mut self.reader).take(room as u64).read_to_end(&mut bytes) {
                Ok(read) => read,
                // What was inflated up to the break is in `bytes`; the caller says what is missing.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) if e.kind() == io::ErrorKind::OutOfMemory => {
                    return Err(Problem::Memory(n as u64));
                }
                Err(e) => return Err(self.problem(e)),
            };
            if read < room {
                break;
            }
        }
        self.position += (bytes.len() - known.len()) as u64;
        Ok(bytes)
    }

    /// `n` bytes of voxels, of which the first are `known` already. A file too short for them is
    /// refused before memory is taken.
    pub(super) fn read_voxels(&mut self, known: &[u8], n: u64) -> Result<Vec<u8>, Problem> {
        let size = usize::try_from(n).map_err(|_| Problem::Memory(n))?;
        let known = &known[..known.len().min(size)];
        let most = self.at_most().saturating_add(known.len() as u64);
        if most < n {
            return Err(self.too_short(n, most));
        }
        let usual = match self.length {
            Some(length) if self.is_gzip() => length.saturating_mul(DEFLATE_USUAL),
            Some(length) => length,
            None => 1 << 20,
        };
        let usual = usize::try_from(usual).unwrap_or(usize::MAX);
        let bytes = self.read_after(known, size, usual)?;
        if bytes.len() < size {
            let found = bytes.len() as u64;
            return Err(Problem::Truncated { needed: n, found });
        }
        Ok(bytes)
    }

    /// Skips forward to inflated byte `offset`; `Err` where the file ends before.
    pub(super) fn skip_to(&mut self, offset: u64) -> Result<(), Problem> {
        let n = offset.saturating_sub(self.position);
        let truncated = |found| Problem::Truncated { needed: n, found };
        if self.at_most() < n {
            return Err(self.too_short(n, self.at_most()));
        }
        if let (Inner::Plain(reader), Some(_), Ok(step)) = (&mut self.reader, self.length, i64::try_from(n)) {
            reader.seek_relative(step).map_err(Problem::from_read)?;
            self.position += n;
            return Ok(());
        }
        match io::copy(&mut (&mut self.reader).take(n), &mut io::sink()) {
            Ok(got) if got == n => {
                self.position += n;
                Ok(())
            }
            Ok(got) => Err(truncated(got)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(truncated(0)),
            Err(e) => Err(self.problem(e)),
        }
    }

    /// Reads on to the end of a gzip stream, which is where its checksum is.
    pub(super) fn verify(&mut self) -> Result<(), Problem> {
        if self.is_gzip() {
            io::copy(&mut (&mut self.reader).take(TAIL), &mut io::sink()).map_err(Problem::Gzip)?;
        }
        Ok(())
    }
}

impl Read for Inner {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(r) => r.read(buf),
            Self::Gzip(r) => r.read(buf),
        }
    }
}

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The members of a gzip file one after the other. Unlike flate2's `MultiGzDecoder`, it takes
/// bytes after the last member (padding of tapes and of some downloads) for the end, as gzip
/// itself does.
struct Members<R> {
    /// `None` only while a member is being exchanged.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Members<R> {
    fn new(reader: R) -> Self {
        Self { member: Some(GzDecoder::new(reader)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(member) = &mut self.member else {
                return Ok(0);
            };
            let n = member.read(buf)?;
            if n > 0 {
                return Ok(n);
            }
            // The magic may straddle the reader's buffer; a member's other bytes are checked by
            // the decoder.
            if member.get_mut().fill_buf()?.first() != Some(&GZIP[0]) {
                return Ok(0);
            }
            self.member = self.member.take().map(|m| GzDecoder::new(m.into_inner()));
        }
    }
}

/// `name` without an ASCII `suffix`, in either case.
pub(crate) fn strip_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let at = name.len().checked_sub(suffix.len())?;
    let (stem, end) = (name.get(..at)?, name.get(at..)?);
    end.eq_ignore_ascii_case(suffix).then_some(stem)
}

/// The other file of a pair: beside `path` with extension `to` instead of `from` (`hdr`, `img`), compressed or not.
pub(super) fn sibling(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    // Extensions of paths, not of text: a name need not be UTF-8.
    let is =
        |path: &Path, extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    let packed = is(path, "gz");
    let plain = if packed { path.with_extension("") } else { path.to_path_buf() };
    if !is(&plain, from) {
        return None;
    }
    let upper = to.to_ascii_uppercase();
    let ends = if packed { [".gz", ""] } else { ["", ".gz"] };
    ends.into_iter()
        .flat_map(|end| [to, &upper].map(|extension| format!("{extension}{end}")))
        .map(|extension| plain.with_extension(extension))
        .find(|path| path.is_file())
}
