//! What the elements of a file say about its slices: one, or the frames of an enhanced object (PS3.3 C.7.6 and C.8.13).

use super::parse::{Broken, DataSet, Element, File, Syntax, Tag};
use crate::volume::Problem;
use ::nifti::NiftiType;
use glam::{DMat3, DVec3};
use std::path::{Path, PathBuf};

const IMAGE_TYPE: Tag = Tag(0x0008, 0x0008);
const SERIES_DESCRIPTION: Tag = Tag(0x0008, 0x103e);
const SERIES_UID: Tag = Tag(0x0020, 0x000e);
const SERIES_NUMBER: Tag = Tag(0x0020, 0x0011);
const POSITION: Tag = Tag(0x0020, 0x0032);
const ORIENTATION: Tag = Tag(0x0020, 0x0037);
const SAMPLES: Tag = Tag(0x0028, 0x0002);
const PHOTOMETRIC: Tag = Tag(0x0028, 0x0004);
const FRAMES: Tag = Tag(0x0028, 0x0008);
const ROWS: Tag = Tag(0x0028, 0x0010);
const COLUMNS: Tag = Tag(0x0028, 0x0011);
const SPACING: Tag = Tag(0x0028, 0x0030);
const BITS_ALLOCATED: Tag = Tag(0x0028, 0x0100);
const BITS_STORED: Tag = Tag(0x0028, 0x0101);
const HIGH_BIT: Tag = Tag(0x0028, 0x0102);
const REPRESENTATION: Tag = Tag(0x0028, 0x0103);
const INTERCEPT: Tag = Tag(0x0028, 0x1052);
const SLOPE: Tag = Tag(0x0028, 0x1053);

const SHARED: Tag = Tag(0x5200, 0x9229);
const PER_FRAME: Tag = Tag(0x5200, 0x9230);
const PLANE_POSITION: Tag = Tag(0x0020, 0x9113);
const PLANE_ORIENTATION: Tag = Tag(0x0020, 0x9116);
const MEASURES: Tag = Tag(0x0028, 0x9110);
const TRANSFORMATION: Tag = Tag(0x0028, 0x9145);

/// How far a direction cosine may be from that of a unit vector or another slice. Files round to six digits or so; this moves
/// the corner of a head by a quarter of a millimetre at most.
pub(super) const COSINE: f64 = 1e-3;

/// How the pixels of a frame lie in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    pub rows: usize,
    pub columns: usize,
    /// Bytes of a pixel: 1, 2 or 4.
    pub bytes: usize,
    /// Bits of them that count, and how far up they are.
    pub bits: u32,
    pub shift: u32,
    pub signed: bool,
}

impl Format {
    pub fn pixels(&self) -> usize {
        self.rows * self.columns
    }

    pub fn datatype(&self) -> NiftiType {
        match (self.bytes, self.signed) {
            (1, false) => NiftiType::Uint8,
            (1, true) => NiftiType::Int8,
            (2, false) => NiftiType::Uint16,
            (2, true) => NiftiType::Int16,
            (_, false) => NiftiType::Uint32,
            (_, true) => NiftiType::Int32,
        }
    }
}

/// A slice and its place.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub file: PathBuf,
    /// Its place in the file, from 0, and how many there are.
    pub frame: usize,
    pub frames: usize,
    pub format: Format,
    /// Centre of the first pixel, mm, in DICOM's directions: left, posterior, superior.
    pub position: DVec3,
    /// Directions in which columns and rows are counted, and their normal.
    pub axes: DMat3,
    /// Between the centres of columns, and of rows.
    pub spacing_mm: [f64; 2],
    /// Slope and intercept.
    pub scaling: (f64, f64),
}

/// What a file says before its pixels.
#[derive(Debug)]
pub(super) struct Head {
    pub file: PathBuf,
    /// Which series it belongs to, with its number and name.
    pub uid: String,
    pub number: Option<i64>,
    pub description: String,
    /// Columns and rows.
    pub size: [usize; 2],
    pub frames: usize,
    /// Where and how; or why it cannot be read.
    pub slices: Result<Vec<Slice>, Problem>,
}

impl Head {
    /// `None` for a file that holds no image: a directory, a report.
    pub fn of(path: PathBuf, file: &File<'_>) -> Option<Self> {
        let set = &file.set;
        let length = |tag| set.get(tag).and_then(Element::unsigned).map(usize::from);
        let (uid, columns, rows) = (set.get(SERIES_UID)?, length(COLUMNS)?, length(ROWS)?);
        let frames = set.get(FRAMES).and_then(Element::integer).unwrap_or(1);
        let plain = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        Some(Self {
            uid: uid.text().into_owned(),
            number: set.get(SERIES_NUMBER).and_then(Element::integer),
            description: set.get(SERIES_DESCRIPTION).map(|text| plain(&text.text())).unwrap_or_default(),
            size: [columns, rows],
            frames: usize::try_from(frames).unwrap_or(0),
            slices: slices(&path, file, [columns, rows], frames),
            file: path,
        })
    }
}

fn slices(path: &Path, file: &File<'_>, size: [usize; 2], frames: i64) -> Result<Vec<Slice>, Problem> {
    let set = &file.set;
    if let Syntax::Other(name) = &file.syntax {
        return Err(Problem::DicomSyntax(name.clone().into_owned()));
    }
    if !file.has_pixels() {
        return Err(Problem::DicomContent("no pixels of whole numbers"));
    }
    let format = format(set, size)?;
    if set.get(IMAGE_TYPE).is_some_and(|kind| kind.text().contains("MOSAIC")) {
        return Err(Problem::DicomContent("a mosaic: many slices in one picture"));
    }
    let frames = usize::try_from(frames)
        .ok()
        .filter(|&frames| frames > 0)
        .ok_or(Problem::DicomDamaged("it has no frame"))?;
    let groups = Groups::of(set)?;
    if frames > 1 && groups.each.len() != frames {
        return Err(Problem::DicomContent("frames that do not say where they lie"));
    }
    let of = |frame: usize| {
        let get = |sequence, tag| groups.find(frame, sequence, tag);
        let position =
            get(PLANE_POSITION, POSITION)?.ok_or(Problem::DicomContent("slices without a position"))?;
        let directions = get(PLANE_ORIENTATION, ORIENTATION)?;
        let directions = directions.ok_or(Problem::DicomContent("slices without an orientation"))?;
        let spacing = get(MEASURES, SPACING)?.ok_or(Problem::DicomContent("pixels without a size"))?;
        let number = |tag, usual| match get(TRANSFORMATION, tag) {
            Ok(Some(element)) => element.decimals().map(|[number]| number),
            Ok(None) => Some(usual),
            Err(_) => None,
        };
        let scaling = number(SLOPE, 1.0).zip(number(INTERCEPT, 0.0)).filter(|(slope, _)| *slope != 0.0);
        let position = position.decimals().ok_or(Problem::DicomDamaged("a position is no number"))?;
        let [rows, columns] = spacing
            .decimals()
            .filter(|lengths: &[f64; 2]| lengths.iter().all(|length| *length > 0.0))
            .ok_or(Problem::DicomDamaged("the size of a pixel is no number above 0"))?;
        Ok(Slice {
            file: path.to_path_buf(),
            frame,
            frames,
            format,
            position: DVec3::from_array(position),
            axes: axes(&directions)?,
            spacing_mm: [columns, rows],
            scaling: scaling.ok_or(Problem::DicomDamaged("its rescale slope or intercept is of no use"))?,
        })
    };
    (0..frames).map(of).collect()
}

/// What is said of each frame, and of all of them. Of a file with one frame, mostly neither.
struct Groups<'a> {
    each: Vec<DataSet<'a>>,
    shared: Vec<DataSet<'a>>,
    set: &'a DataSet<'a>,
}

impl<'a> Groups<'a> {
    fn of(set: &'a DataSet<'a>) -> Result<Self, Problem> {
        let items = |tag| set.get(tag).map_or(Ok(Vec::new()), Element::items).map_err(damaged);
        Ok(Self { each: items(PER_FRAME)?, shared: items(SHARED)?, set })
    }

    /// An element that stands in a sequence of the frame or of all frames, or in the file itself.
    fn find(&self, frame: usize, sequence: Tag, tag: Tag) -> Result<Option<Element<'a>>, Problem> {
        for group in [self.each.get(frame), self.shared.first()].into_iter().flatten() {
            let Some(sequence) = group.get(sequence) else { continue };
            let items = sequence.items().map_err(damaged)?;
            if let Some(element) = items.first().and_then(|item| item.get(tag)) {
                return Ok(Some(*element));
            }
        }
        Ok(self.set.get(tag).copied())
    }
}

/// What the breaks of a file mean to a person.
pub(super) fn damaged(broken: Broken) -> Problem {
    Problem::DicomDamaged(match broken {
        Broken::Short => "it breaks off",
        Broken::Odd(what) => what,
    })
}

fn format(set: &DataSet<'_>, [columns, rows]: [usize; 2]) -> Result<Format, Problem> {
    let number = |tag| set.get(tag).and_then(Element::unsigned);
    match set.get(PHOTOMETRIC).map(|kind| kind.text()).as_deref() {
        Some("MONOCHROME2") => {}
        Some("MONOCHROME1") => return Err(Problem::DicomContent("bright tissue stored dark (MONOCHROME1)")),
        _ => return Err(Problem::DicomContent("colours")),
    }
    if number(SAMPLES).unwrap_or(1) != 1 {
        return Err(Problem::DicomContent("colours"));
    }
    if rows == 0 || columns == 0 {
        return Err(Problem::DicomDamaged("it has no pixel"));
    }
    let allocated = number(BITS_ALLOCATED).unwrap_or(0);
    let bytes = match allocated {
        8 | 16 | 32 => usize::from(allocated / 8),
        _ => return Err(Problem::DicomContent("pixels that are neither of 8 nor of 16 nor of 32 bits")),
    };
    let stored = number(BITS_STORED).unwrap_or(allocated);
    let high = number(HIGH_BIT).unwrap_or(stored.wrapping_sub(1));
    if stored == 0 || stored > allocated || high >= allocated || high + 1 < stored {
        return Err(Problem::DicomDamaged("its pixels have more bits than room"));
    }
    let (bits, shift) = (stored.into(), (high + 1 - stored).into());
    Ok(Format { rows, columns, bytes, bits, shift, signed: number(REPRESENTATION) == Some(1) })
}

/// Unit vectors at right angles from what files round.
fn axes(directions: &Element<'_>) -> Result<DMat3, Problem> {
    let [a, b, c, d, e, f] =
        directions.decimals().ok_or(Problem::DicomDamaged("an orientation is no number"))?;
    let (along_row, along_column) = (DVec3::new(a, b, c), DVec3::new(d, e, f));
    let is_unit = |v: DVec3| (v.length() - 1.0).abs() < COSINE;
    if !is_unit(along_row) || !is_unit(along_column) || along_row.dot(along_column).abs() > COSINE {
        return Err(Problem::DicomDamaged("its orientation is not that of rows and columns at right angles"));
    }
    let x = along_row.normalize();
    let y = (along_column - x * x.dot(along_column)).normalize();
    Ok(DMat3::from_cols(x, y, x.cross(y)))
}
