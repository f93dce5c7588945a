//! DICOM: a folder of one series, or a file that stands for the series it belongs to.
//!
//! A file is DICOM by its content, whatever its name. Slices are ordered by where they lie, never by their names or numbers,
//! and what makes no even stack of one orientation is refused in words. Nothing that a file says about a person is kept.

mod parse;
mod pixels;
mod slice;
mod stack;

use super::voxels;
use crate::tensor::Xyz;
use crate::volume::affine::is_usable;
use crate::volume::{Problem, VolumeError};
use ::nifti::{Endianness, NiftiType};
use glam::DMat4;
use parse::{Broken, File, Syntax};
use slice::{Head, Slice, damaged};
use stack::Stack;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a file that are read for what it says before its pixels; more where that is longer.
const HEAD: u64 = 1 << 16;

/// Whether a path is a DICOM file, or a folder with one somewhere in it.
pub fn is_dicom(path: &Path) -> bool {
    if path.is_dir() {
        return walk(path, &mut BTreeSet::new(), &mut |file| is_dicom_file(file)).unwrap_or(false);
    }
    is_dicom_file(path)
}

/// Which series a DICOM file belongs to, by its unique identifier; `None` for any other file.
pub fn series_uid(file: &Path) -> Option<String> {
    if !is_dicom_file(file) {
        return None;
    }
    head(file).ok().flatten().map(|head| head.uid)
}

fn is_dicom_file(path: &Path) -> bool {
    let mut start = [0; parse::START];
    // Nothing is taken out of a pipe.
    fs::metadata(path).is_ok_and(|meta| meta.is_file())
        && fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
        && parse::is_dicom(&start)
}

/// Calls `visit` with each file below a folder, in order of their paths and without hidden ones, until it says that this is
/// enough; whether it did. `seen` breaks circles of links.
fn walk(
    folder: &Path,
    seen: &mut BTreeSet<PathBuf>,
    visit: &mut impl FnMut(&Path) -> bool,
) -> io::Result<bool> {
    if !seen.insert(folder.canonicalize()?) {
        return Ok(false);
    }
    let entries: BTreeSet<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    for path in entries {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && (if path.is_dir() { walk(&path, seen, visit)? } else { visit(&path) }) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The files of one series, with their slices.
pub(super) struct Series {
    /// As the user named it.
    path: PathBuf,
    heads: Vec<Head>,
}

impl Series {
    /// The series at a path: of a folder with one, or of a file with those beside it. `None` where there is no DICOM.
    pub(super) fn at(path: &Path) -> Result<Option<Self>, VolumeError> {
        let mut files = Vec::new();
        let mut take = |file: &Path| {
            files.extend(is_dicom_file(file).then(|| file.to_path_buf()));
            false
        };
        let found = |e| Problem::from_read(e).at(path);
        if path.is_dir() {
            walk(path, &mut BTreeSet::new(), &mut take).map_err(found)?;
        } else if is_dicom_file(path) {
            let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).map_err(found)?;
            let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
            let names: BTreeSet<_> = names.collect::<io::Result<_>>().map_err(found)?;
            for name in names {
                take(&path.with_file_name(name));
            }
        }
        if files.is_empty() {
            return Ok(None);
        }
        let mut all: BTreeMap<String, Vec<Head>> = BTreeMap::new();
        for file in &files {
            if let Some(head) = head(file).map_err(|problem| problem.at(file))? {
                all.entry(head.uid.clone()).or_default().push(head);
            }
        }
        let heads = if path.is_dir() {
            if all.len() > 1 {
                return Err(Problem::DicomSeveral(listing(all.values())).at(path));
            }
            all.pop_first().map(|(_, heads)| heads)
        } else {
            all.into_values().find(|heads| heads.iter().any(|head| head.file == path))
        };
        let heads = heads.ok_or(Problem::DicomContent("no image")).map_err(|problem| problem.at(path))?;
        Ok(Some(Self { path: path.to_path_buf(), heads }))
    }

    /// Its files, in order of their names.
    pub(super) fn files(self) -> Vec<PathBuf> {
        self.heads.into_iter().map(|head| head.file).collect()
    }

    /// Its volume, not yet read.
    pub(super) fn scan(self) -> Result<Scan, VolumeError> {
        let path = self.path;
        let mut slices = Vec::new();
        for head in self.heads {
            slices.append(&mut head.slices.map_err(|problem| problem.at(&head.file))?);
        }
        Stack::of(slices).and_then(Scan::of).map_err(|problem| problem.at(&path))
    }
}

/// The volume of a series: what its voxels are, and where.
pub(super) struct Scan {
    stack: Stack,
    pub(super) datatype: NiftiType,
    pub(super) scaling: (f64, f64),
}

impl Scan {
    fn of(stack: Stack) -> Result<Self, Problem> {
        let Xyz([x, y, z]) = stack.shape;
        if stack.shape.contains(&1) {
            return Err(Problem::NotThreeD(format!("{x}x{y}x{z}")));
        }
        if !is_usable(&stack.affine) {
            return Err(Problem::DicomDamaged("its positions and sizes make no grid"));
        }
        let (datatype, scaling) = match common_scaling(&stack.slices) {
            Some(scaling) => (stack.slices[0].format.datatype(), scaling),
            None => (NiftiType::Float32, (1.0, 0.0)),
        };
        Ok(Self { stack, datatype, scaling })
    }

    pub(super) fn shape(&self) -> Xyz<usize> {
        self.stack.shape
    }

    /// Voxel index to world coordinates, mm.
    pub(super) fn affine(&self) -> DMat4 {
        self.stack.affine
    }

    /// The voxels, slice after slice, little-endian; floats where each slice has a scaling of its own.
    pub(super) fn read(&self) -> Result<Vec<u8>, VolumeError> {
        let own_scaling = common_scaling(&self.stack.slices).is_none();
        let mut data = Vec::new();
        let mut open: Option<(&Path, Vec<u8>)> = None;
        for slice in &self.stack.slices {
            let at = |problem: Problem| problem.at(&slice.file);
            let bytes = match open.take() {
                Some((path, bytes)) if path == slice.file => bytes,
                _ => fs::read(&slice.file).map_err(|e| at(Problem::from_read(e)))?,
            };
            let from = data.len();
            let file = File::parse(&bytes).map_err(|broken| at(damaged(broken)))?;
            pixels::append(&mut data, &file, &slice.format, (slice.frame, slice.frames)).map_err(at)?;
            if own_scaling {
                let stored = data.split_off(from);
                let scaled =
                    voxels::to_f32(&stored, slice.format.datatype(), Endianness::Little, slice.scaling);
                data.extend_from_slice(&voxels::from_f32(&scaled, Endianness::Little));
            }
            open = Some((&slice.file, bytes));
        }
        Ok(data)
    }
}

/// What a file says before its pixels; `None` where it holds no image.
fn head(path: &Path) -> Result<Option<Head>, Problem> {
    let mut file = fs::File::open(path).map_err(Problem::from_read)?;
    let mut bytes = Vec::new();
    loop {
        // Twice as many as before, until that is enough or all there is.
        let more = HEAD.max(bytes.len() as u64);
        let read = (&mut file).take(more).read_to_end(&mut bytes).map_err(Problem::from_read)?;
        match File::parse(&bytes) {
            Err(Broken::Short) if read as u64 == more => {}
            Err(broken) => return Err(damaged(broken)),
            // The elements may end where the bytes read so far do.
            Ok(File { syntax: Syntax::Other(name), set, .. }) if set.is_empty() => {
                return Err(Problem::DicomSyntax(name.into_owned()));
            }
            Ok(parsed) if parsed.has_pixels() || (read as u64) < more => {
                return Ok(Head::of(path.to_path_buf(), &parsed));
            }
            Ok(_) => {}
        }
    }
}

/// A line a series: its number and name, how many slices of what size, and a file that stands for it.
fn listing<'a>(all: impl Iterator<Item = &'a Vec<Head>>) -> String {
    let mut all: Vec<&[Head]> = all.map(Vec::as_slice).collect();
    all.sort_by_key(|heads| heads.first().map(|head| (head.number, head.file.clone())));
    let mut text = String::new();
    for heads in all {
        let Some(Head { number, description, size: [columns, rows], file, .. }) = heads.first() else {
            continue;
        };
        let number = number.map(|number| number.to_string()).unwrap_or_else(|| "-".to_owned());
        let slices: usize = heads.iter().map(|head| head.frames).sum();
        let name = if description.is_empty() { "(no description)" } else { description };
        let file = file.display();
        write!(text, "\n  series {number}, {name}: {slices} slices of {columns}x{rows}, {file}")
            .expect("text takes all");
    }
    text
}

/// Slope and intercept, if all slices have the same; what f32 does not part is the same.
fn common_scaling(slices: &[Slice]) -> Option<(f64, f64)> {
    let of = |slice: &Slice| (slice.scaling.0 as f32, slice.scaling.1 as f32);
    let first = slices.first()?;
    slices.iter().all(|slice| of(slice) == of(first)).then_some(first.scaling)
}
