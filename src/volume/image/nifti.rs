//! The 348 bytes of a NIfTI-1 header and the 540 of NIfTI-2.
//!
//! The bytes themselves are kept: a written header is the one that was read with the few
//! fields patched that must change, so everything else survives bit for bit. One table of fields
//! serves reading and patching of both versions; datatypes and byte orders are the `nifti` crate's,
//! which parses NIfTI-1 alone and patches nothing.
//! Field offsets: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.

use super::super::Problem;
use super::super::affine::voxel_size;
use super::super::geometry::{Forms, qform_fields};
use crate::tensor::Xyz;
use ::nifti::{Endianness, NiftiHeader, NiftiType};
use glam::{DMat4, DVec3};

/// Which version of the format a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 348-byte header, f32 geometry, 16-bit dimensions.
    One,
    /// 540-byte header, f64 geometry, 64-bit dimensions.
    Two,
}

impl Version {
    fn layout(self) -> &'static Layout {
        match self {
            Self::One => &ONE,
            Self::Two => &TWO,
        }
    }
}

/// How a number is stored in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I16,
    I32,
    I64,
    F32,
    F64,
}

impl Kind {
    const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }
}

/// A field of a header: the byte it starts at and how its numbers are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field(usize, Kind);

/// Where the fields that are read here or patched stand.
pub(super) struct Layout {
    pub size: usize,
    pub dim_info: Field,
    pub dim: Field,
    pub datatype: Field,
    pub bitpix: Field,
    pub pixdim: Field,
    pub vox_offset: Field,
    pub scl_slope: Field,
    pub scl_inter: Field,
    pub cal_max: Field,
    pub cal_min: Field,
    pub slice_start: Field,
    pub slice_end: Field,
    pub slice_duration: Field,
    pub slice_code: Field,
    pub xyzt_units: Field,
    pub qform_code: Field,
    pub sform_code: Field,
    pub quatern: Field,
    pub qoffset: Field,
    pub srow: Field,
}

const ONE: Layout = Layout {
    size: 348,
    dim_info: Field(39, Kind::U8),
    dim: Field(40, Kind::I16),
    datatype: Field(70, Kind::I16),
    bitpix: Field(72, Kind::I16),
    slice_start: Field(74, Kind::I16),
    pixdim: Field(76, Kind::F32),
    vox_offset: Field(108, Kind::F32),
    scl_slope: Field(112, Kind::F32),
    scl_inter: Field(116, Kind::F32),
    slice_end: Field(120, Kind::I16),
    slice_code: Field(122, Kind::U8),
    xyzt_units: Field(123, Kind::U8),
    cal_max: Field(124, Kind::F32),
    cal_min: Field(128, Kind::F32),
    slice_duration: Field(132, Kind::F32),
    qform_code: Field(252, Kind::I16),
    sform_code: Field(254, Kind::I16),
    quatern: Field(256, Kind::F32),
    qoffset: Field(268, Kind::F32),
    srow: Field(280, Kind::F32),
};

const TWO: Layout = Layout {
    size: 540,
    datatype: Field(12, Kind::I16),
    bitpix: Field(14, Kind::I16),
    dim: Field(16, Kind::I64),
    pixdim: Field(104, Kind::F64),
    vox_offset: Field(168, Kind::I64),
    scl_slope: Field(176, Kind::F64),
    scl_inter: Field(184, Kind::F64),
    cal_max: Field(192, Kind::F64),
    cal_min: Field(200, Kind::F64),
    slice_duration: Field(208, Kind::F64),
    slice_start: Field(224, Kind::I64),
    slice_end: Field(232, Kind::I64),
    qform_code: Field(344, Kind::I32),
    sform_code: Field(348, Kind::I32),
    quatern: Field(352, Kind::F64),
    qoffset: Field(376, Kind::F64),
    srow: Field(400, Kind::F64),
    slice_code: Field(496, Kind::I32),
    xyzt_units: Field(500, Kind::I32),
    dim_info: Field(524, Kind::U8),
};

/// `sizeof_hdr`, in both versions.
const SIZE: Field = Field(0, Kind::I32);
const MAGIC_ONE: std::ops::Range<usize> = 344..348;
const MAGIC_TWO: std::ops::Range<usize> = 4..12;
/// End of the NIfTI-2 magic: line ends that a transfer in text mode would damage.
const MAGIC_TWO_TAIL: &[u8; 4] = b"\r\n\x1a\n";

/// Edges of voxels of MRI, from microscopy of specimens to the thickest slices, with room on both sides.
const PLAUSIBLE_EDGE_MM: std::ops::Range<f64> = 5e-3..50.0;

/// `xyzt_units`: NIFTI_UNITS_MM and NIFTI_UNITS_SEC.
const MM_AND_SECONDS: i64 = 2 | 8;

/// Bytes that hold the longest header and the extender, which says whether extensions follow.
pub(super) const LONGEST: usize = TWO.size + 4;

/// A NIfTI header: its bytes, and the fields this program uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    raw: Vec<u8>,
    /// Extender and extension records as they stand in the file, empty where there are none.
    pub(super) extensions: Vec<u8>,
    version: Version,
    endianness: Endianness,
    pair: bool,
    dim: [i64; 8],
    datatype: i16,
    vox_offset: f64,
    slope: f64,
    intercept: f64,
    xyzt_units: i32,
    forms: Forms,
}

impl Header {
    /// Parses a header from the first bytes of a file (up to [`LONGEST`] where the file has
    /// them).
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.len() >= TWO.size {
            let magic = &bytes[MAGIC_TWO];
            if (magic.starts_with(b"n+2\0") || magic.starts_with(b"ni2\0")) && &magic[4..] == MAGIC_TWO_TAIL {
                return Self::parse_as(Version::Two, &bytes[..TWO.size]);
            }
        }
        if bytes.len() >= ONE.size {
            let magic = &bytes[MAGIC_ONE];
            if magic == b"n+1\0" || magic == b"ni1\0" {
                return Self::parse_as(Version::One, &bytes[..ONE.size]);
            }
        }
        Err(other_format(bytes))
    }

    /// Clears what is free text: data_type, db_name, descrip, aux_file, intent_name, extensions.
    pub(super) fn clear_texts(&mut self) {
        let texts: &[std::ops::Range<usize>] = match self.version {
            Version::One => &[4..32, 148..252, 328..344],
            Version::Two => &[240..344, 508..524],
        };
        texts.iter().for_each(|text| self.raw[text.clone()].fill(0));
        self.extensions.clear();
    }

    /// The header of a grid that came from another format: NIfTI-1 where its dimensions fit,
    /// both forms set to `affine` as [`Header::for_new_grid`] does, mm and seconds.
    pub(super) fn new(
        shape: Xyz<usize>,
        frames: usize,
        datatype: NiftiType,
        affine: &DMat4,
        repetition_s: f64,
    ) -> Result<Self, Problem> {
        let longest = shape.into_iter().chain([frames]).max().unwrap_or_default();
        let (layout, blank) = if longest <= i16::MAX as usize {
            let mut raw = vec![0; ONE.size];
            raw[..4].copy_from_slice(&348_i32.to_le_bytes());
            raw[MAGIC_ONE].copy_from_slice(b"n+1\0");
            (&ONE, raw)
        } else {
            let mut raw = vec![0; TWO.size];
            raw[..4].copy_from_slice(&540_i32.to_le_bytes());
            raw[MAGIC_TWO].copy_from_slice(b"n+2\0\r\n\x1a\n");
            (&TWO, raw)
        };
        let mut out = Writer { raw: blank, layout, endianness: Endianness::Little };
        out.put_floats(layout.pixdim, &[1.0, 1.0, 1.0, 1.0, repetition_s, 1.0, 1.0, 1.0]);
        out.put_int(layout.xyzt_units, 0, MM_AND_SECONDS);
        let output =
            Output { datatype, scaling: Some((1.0, 0.0)), all_frames: frames > 1, range: (0.0, 0.0) };
        let bytes = Self::parse(&out.raw)?.for_new_grid(shape, frames, affine, &output)?;
        Self::parse(&bytes)
    }

    /// The same with this slope and intercept.
    pub(super) fn with_scaling(&self, (slope, intercept): (f64, f64)) -> Result<Self, Problem> {
        let mut out = Writer::new(self);
        out.put_float(out.layout.scl_slope, 0, slope);
        out.put_float(out.layout.scl_inter, 0, intercept);
        Self::parse(&out.raw)
    }

    fn parse_as(version: Version, raw: &[u8]) -> Result<Self, Problem> {
        let layout = version.layout();
        let little = Reader { raw, endianness: Endianness::Little };
        let endianness = match version {
            // By the number of dimensions, as the standard wants it: readers do not insist on the size.
            Version::One if (0..=7).contains(&little.int(layout.dim, 0)) => Endianness::Little,
            Version::One => Endianness::Big,
            Version::Two => match little.int(SIZE, 0) as i32 {
                540 => Endianness::Little,
                size if size.swap_bytes() == 540 => Endianness::Big,
                _ => return Err(other_format(raw)),
            },
        };
        let reader = Reader { raw, endianness };
        let rows = reader.floats::<12>(layout.srow);
        Ok(Self {
            raw: raw.to_vec(),
            extensions: Vec::new(),
            version,
            endianness,
            pair: match version {
                Version::One => &raw[MAGIC_ONE] == b"ni1\0",
                Version::Two => raw[MAGIC_TWO].starts_with(b"ni2"),
            },
            dim: std::array::from_fn(|i| reader.int(layout.dim, i)),
            datatype: reader.int(layout.datatype, 0) as i16,
            vox_offset: reader.float(layout.vox_offset, 0),
            slope: reader.float(layout.scl_slope, 0),
            intercept: reader.float(layout.scl_inter, 0),
            xyzt_units: reader.int(layout.xyzt_units, 0) as i32,
            forms: Forms {
                pixdim: reader.floats(layout.pixdim),
                qform_code: reader.int(layout.qform_code, 0) as i32,
                sform_code: reader.int(layout.sform_code, 0) as i32,
                quatern: reader.floats(layout.quatern),
                qoffset: reader.floats(layout.qoffset),
                srow: std::array::from_fn(|r| std::array::from_fn(|c| rows[4 * r + c])),
            },
        })
    }

    /// NIfTI-1 or NIfTI-2.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Byte order of the file.
    pub fn endianness(&self) -> Endianness {
        self.endianness
    }

    /// Whether the voxels are in a file of their own (`.hdr` and `.img`).
    pub fn is_pair(&self) -> bool {
        self.pair
    }

    /// `dim` as stored: the number of dimensions, then the lengths.
    pub fn dim(&self) -> [i64; 8] {
        self.dim
    }

    /// `scl_slope` and `scl_inter` as stored. See [`Header::scaling`].
    pub fn stored_scaling(&self) -> (f64, f64) {
        (self.slope, self.intercept)
    }

    /// `sform_code` and `qform_code`.
    pub fn form_codes(&self) -> (i32, i32) {
        (self.forms.sform_code, self.forms.qform_code)
    }

    /// The header's bytes as read, without extensions.
    pub fn bytes(&self) -> &[u8] {
        &self.raw
    }

    /// The extender and extension records as they stand in the file, empty where there are none.
    pub fn extensions(&self) -> &[u8] {
        &self.extensions
    }

    /// Time between volumes in ms by `pixdim[4]` and its unit; 0 where it is none.
    pub(super) fn repetition_ms(&self) -> f64 {
        let layout = self.layout();
        let reader = Reader { raw: &self.raw, endianness: self.endianness };
        let time = reader.float(layout.pixdim, 4);
        // NIFTI_UNITS_SEC, _MSEC and _USEC; without a unit seconds are meant.
        let ms = match self.xyzt_units & 0x38 {
            16 => time,
            24 => time / 1000.0,
            _ => time * 1000.0,
        };
        if ms.is_finite() { ms.max(0.0) } else { 0.0 }
    }

    fn layout(&self) -> &'static Layout {
        self.version.layout()
    }

    /// The forms in mm, and how many mm the header's unit of length has.
    pub(super) fn forms(&self) -> (Forms, f64) {
        let mm = self.unit_mm();
        let Forms { pixdim, qform_code, sform_code, quatern, qoffset, srow } = self.forms;
        let [qfac, dx, dy, dz] = pixdim;
        let forms = Forms {
            pixdim: [qfac, dx * mm, dy * mm, dz * mm],
            qform_code,
            sform_code,
            quatern,
            qoffset: qoffset.map(|v| v * mm),
            srow: srow.map(|row| row.map(|v| v * mm)),
        };
        (forms, mm)
    }

    /// Millimetres of the header's unit of length: by `xyzt_units`, unless its voxels then have a size that no MRI
    /// has, and as millimetres they would not.
    fn unit_mm(&self) -> f64 {
        let Some((_, mm)) = self.odd_unit() else { return 1.0 };
        let edge = match self.forms.sform_code {
            ..=0 => self.forms.pixdim[1].abs(),
            _ => DVec3::from_array(self.forms.srow.map(|row| row[0])).length(),
        };
        if !PLAUSIBLE_EDGE_MM.contains(&(edge * mm)) && PLAUSIBLE_EDGE_MM.contains(&edge) { 1.0 } else { mm }
    }

    pub(super) fn size(&self) -> usize {
        self.raw.len()
    }

    /// The unit of length where it is neither mm nor unknown, with its millimetres.
    pub(super) fn odd_unit(&self) -> Option<(&'static str, f64)> {
        match self.xyzt_units & 7 {
            1 => Some(("metres", 1000.0)),
            3 => Some(("micrometres", 1e-3)),
            _ => None,
        }
    }

    /// Slope and intercept to apply: a slope of 0 or not finite means none, that is (1, 0).
    pub fn scaling(&self) -> Result<(f64, f64), Problem> {
        let (slope, intercept) = (self.slope, self.intercept);
        if slope == 0.0 || !slope.is_finite() {
            return Ok((1.0, 0.0));
        }
        if !intercept.is_finite() {
            return Err(Problem::Intercept { slope, intercept });
        }
        Ok((slope, intercept))
    }

    /// The datatype where it is one of the ten real ones of at most 64 bits.
    pub fn datatype(&self) -> Result<NiftiType, Problem> {
        use NiftiType::*;
        let table = NiftiHeader { datatype: self.datatype, ..NiftiHeader::default() };
        match table.data_type() {
            Ok(t @ (Uint8 | Int8 | Uint16 | Int16 | Uint32 | Int32 | Uint64 | Int64 | Float32 | Float64)) => {
                Ok(t)
            }
            Ok(Complex64 | Complex128 | Complex256) => Err(Problem::Datatype("complex".into())),
            Ok(Rgb24 | Rgba32) => Err(Problem::Datatype("colour (RGB)".into())),
            Ok(Float128) => Err(Problem::Datatype("128-bit float".into())),
            Err(_) => Err(Problem::Datatype(format!("unknown (datatype {})", self.datatype))),
        }
    }

    /// Shape of a volume and the number of volumes: lengths past the third multiply.
    pub(super) fn grid(&self) -> Result<(Xyz<usize>, usize), Problem> {
        let rank = self.dim[0];
        if !(1..=7).contains(&rank) {
            return Err(Problem::Rank(rank));
        }
        let lengths = &self.dim[1..=rank as usize];
        let text = || {
            let parts: Vec<String> = lengths.iter().map(i64::to_string).collect();
            parts.join("x")
        };
        for (i, &length) in lengths.iter().enumerate() {
            if length < 1 {
                return Err(Problem::Dimension { axis: i + 1, length });
            }
        }
        if rank < 3 || lengths[..3].contains(&1) {
            return Err(Problem::NotThreeD(text()));
        }
        let length = |i: usize| usize::try_from(lengths[i]).ok();
        let grid = || {
            let shape = Xyz([length(0)?, length(1)?, length(2)?]);
            let mut frames = 1_usize;
            for i in 3..lengths.len() {
                frames = frames.checked_mul(length(i)?)?;
            }
            // 8 bytes a voxel is the most of any datatype; its size must be addressable.
            shape
                .iter()
                .try_fold(frames.checked_mul(8)?, |n, &d| n.checked_mul(d))
                .filter(|&n| n <= isize::MAX as usize)?;
            Some((shape, frames))
        };
        grid().ok_or_else(|| Problem::TooLarge(text()))
    }

    /// Byte at which the voxels start: in a single file never inside the header, and 0 stands
    /// for the first byte after it.
    pub(super) fn voxel_offset(&self) -> Result<u64, Problem> {
        let first = if self.pair { 0 } else { self.size() as u64 + 4 };
        let offset = self.vox_offset;
        if offset == 0.0 {
            return Ok(first);
        }
        // 2^53: beyond it an offset is neither exact nor sane.
        if !(offset >= first as f64 && offset <= 9_007_199_254_740_992.0) {
            return Err(Problem::Offset(offset));
        }
        Ok(offset as u64)
    }

    /// The header of a single-file output on the same grid, extensions included: the bytes read
    /// with datatype, bitpix, voxel offset, magic and display range patched, the scaling reset
    /// unless kept, and the dimensions past the third dropped unless `all_frames`.
    pub(super) fn for_output(&self, output: &Output) -> Vec<u8> {
        let mut out = Writer::new(self);
        let layout = out.layout;
        if !output.all_frames && self.dim[0] != 3 {
            out.put_int(layout.dim, 0, 3);
            for i in 4..8 {
                out.put_int(layout.dim, i, 1);
            }
        }
        out.finish(self, output)
    }

    /// The header of an output on a new grid. Both forms are set to `affine` (mm), in this header's
    /// unit of length, with the codes of this header (1, scanner, where it has none); the qform
    /// stays unset for a sheared matrix. Slice fields say nothing about the new grid and are cleared.
    pub(super) fn for_new_grid(
        &self,
        shape: Xyz<usize>,
        frames: usize,
        affine: &DMat4,
        output: &Output,
    ) -> Result<Vec<u8>, Problem> {
        let mut out = Writer::new(self);
        let layout = out.layout;
        let lengths = [shape[0], shape[1], shape[2], frames, 1, 1, 1];
        if self.version == Version::One && lengths.iter().any(|&n| n > i16::MAX as usize) {
            return Err(Problem::GridTooLarge(shape));
        }
        out.put_int(layout.dim, 0, if frames > 1 { 4 } else { 3 });
        for (i, n) in lengths.into_iter().enumerate() {
            out.put_int(layout.dim, i + 1, n as i64);
        }
        for field in [layout.dim_info, layout.slice_start, layout.slice_end, layout.slice_code] {
            out.put_int(field, 0, 0);
        }
        out.put_float(layout.slice_duration, 0, 0.0);

        let affine = &(DMat4::from_scale(DVec3::splat(1.0 / self.unit_mm())) * *affine);
        let (sform_code, qform_code) = self.form_codes();
        let known = [sform_code, qform_code].into_iter().find(|&code| code > 0);
        let or_known = |code: i32| i64::from(if code > 0 { code } else { known.unwrap_or(1) });
        out.put_int(layout.sform_code, 0, or_known(sform_code));
        for row in 0..3 {
            for col in 0..4 {
                out.put_float(layout.srow, 4 * row + col, affine.col(col)[row]);
            }
        }
        if let Some((pixdim, quatern)) = qform_fields(affine) {
            out.put_int(layout.qform_code, 0, or_known(qform_code));
            out.put_floats(layout.pixdim, &pixdim);
            out.put_floats(layout.quatern, &quatern);
            out.put_floats(layout.qoffset, &affine.w_axis.truncate().to_array());
        } else {
            let size = voxel_size(affine);
            out.put_int(layout.qform_code, 0, 0);
            out.put_floats(layout.pixdim, &[1.0, size.x, size.y, size.z]);
            out.put_floats(layout.quatern, &[0.0; 3]);
            out.put_floats(layout.qoffset, &[0.0; 3]);
        }
        Ok(out.finish(self, output))
    }
}

/// What an output file holds, as far as its header is concerned.
pub(super) struct Output {
    pub datatype: NiftiType,
    /// Slope and intercept; `None` keeps them as stored.
    pub scaling: Option<(f64, f64)>,
    /// Keep dimensions past the third.
    pub all_frames: bool,
    /// Least and greatest finite value.
    pub range: (f64, f64),
}

/// Reads numbers of a header by field.
struct Reader<'a> {
    raw: &'a [u8],
    endianness: Endianness,
}

impl Reader<'_> {
    fn bytes<const N: usize>(&self, field: Field, index: usize) -> [u8; N] {
        let at = field.0 + index * N;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.raw[at..at + N]);
        if self.endianness == Endianness::Big {
            bytes.reverse();
        }
        bytes
    }

    fn int(&self, field: Field, index: usize) -> i64 {
        match field.1 {
            Kind::U8 => i64::from(u8::from_le_bytes(self.bytes(field, index))),
            Kind::I16 => i64::from(i16::from_le_bytes(self.bytes(field, index))),
            Kind::I32 => i64::from(i32::from_le_bytes(self.bytes(field, index))),
            Kind::I64 => i64::from_le_bytes(self.bytes(field, index)),
            Kind::F32 | Kind::F64 => self.float(field, index) as i64,
        }
    }

    fn float(&self, field: Field, index: usize) -> f64 {
        match field.1 {
            Kind::F32 => f64::from(f32::from_le_bytes(self.bytes(field, index))),
            Kind::F64 => f64::from_le_bytes(self.bytes(field, index)),
            _ => self.int(field, index) as f64,
        }
    }

    fn floats<const N: usize>(&self, field: Field) -> [f64; N] {
        std::array::from_fn(|i| self.float(field, i))
    }
}

/// A copy of a header's bytes to patch.
struct Writer {
    raw: Vec<u8>,
    layout: &'static Layout,
    endianness: Endianness,
}

impl Writer {
    fn new(header: &Header) -> Self {
        Self { raw: header.raw.clone(), layout: header.layout(), endianness: header.endianness }
    }

    /// Puts the little-endian `bytes` of a number in the header's byte order.
    fn put(&mut self, field: Field, index: usize, bytes: &mut [u8]) {
        if self.endianness == Endianness::Big {
            bytes.reverse();
        }
        let at = field.0 + index * field.1.size();
        self.raw[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_int(&mut self, field: Field, index: usize, value: i64) {
        match field.1 {
            Kind::F32 | Kind::F64 => self.put_float(field, index, value as f64),
            // The low bytes of a little-endian integer are the narrower integer.
            kind => self.put(field, index, &mut value.to_le_bytes()[..kind.size()]),
        }
    }

    fn put_float(&mut self, field: Field, index: usize, value: f64) {
        match field.1 {
            Kind::F32 => self.put(field, index, &mut (value as f32).to_le_bytes()),
            Kind::F64 => self.put(field, index, &mut value.to_le_bytes()),
            _ => self.put_int(field, index, value as i64),
        }
    }

    fn put_floats(&mut self, field: Field, values: &[f64]) {
        for (i, &value) in values.iter().enumerate() {
            self.put_float(field, i, value);
        }
    }

    /// Patches what every output has of its own, and appends the extensions.
    fn finish(mut self, header: &Header, output: &Output) -> Vec<u8> {
        let layout = self.layout;
        self.put_int(layout.datatype, 0, output.datatype as i64);
        let bits = 8 * output.datatype.size_of() as i64;
        self.put_int(layout.bitpix, 0, bits);
        if let Some((slope, intercept)) = output.scaling {
            self.put_float(layout.scl_slope, 0, slope);
            self.put_float(layout.scl_inter, 0, intercept);
        }
        self.put_float(layout.cal_min, 0, output.range.0);
        self.put_float(layout.cal_max, 0, output.range.1);
        let extensions: &[u8] = if header.extensions.is_empty() { &[0; 4] } else { &header.extensions };
        let offset = layout.size + extensions.len();
        self.put_int(layout.vox_offset, 0, offset as i64);
        match header.version {
            Version::One => {
                self.put_int(SIZE, 0, ONE.size as i64);
                self.raw[MAGIC_ONE].copy_from_slice(b"n+1\0");
            }
            Version::Two => {
                self.raw[MAGIC_TWO].copy_from_slice(b"n+2\0\r\n\x1a\n");
            }
        }
        self.raw.extend_from_slice(extensions);
        self.raw
    }
}

/// Length of the longest well-formed prefix of the bytes after a header, extender and records (0
/// without a record), and whether only padding follows it.
///
/// The voxels of an output follow the records at once, so records of odd length (the standard
/// wants multiples of 16) stay as they are.
pub(super) fn extension_records(region: &[u8], endianness: Endianness) -> (usize, bool) {
    if region.len() < 4 || region[0] == 0 {
        return (0, true);
    }
    let reader = Reader { raw: region, endianness };
    let mut end = 4;
    let mut sound = true;
    while end + 8 <= region.len() {
        let size = reader.int(Field(end, Kind::I32), 0);
        match usize::try_from(size) {
            Ok(size) if size >= 8 && size <= region.len() - end => end += size,
            _ => {
                // Zeros up to the voxels are padding.
                sound = region[end..].iter().all(|&b| b == 0);
                break;
            }
        }
    }
    (if end > 4 { end } else { 0 }, sound)
}

/// A guess at what a file is that has no NIfTI magic, with the way out.
fn other_format(bytes: &[u8]) -> Problem {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let little = |n: i32| starts(&n.to_le_bytes()) || starts(&n.to_be_bytes());
    let (found, remedy) = if starts(b"NRRD") {
        ("NRRD", "convert it, for example with 3D Slicer")
    } else if starts(b"ObjectType") || starts(b"NDims") {
        ("MetaImage", "convert it, for example with SimpleITK")
    } else if starts(b"\x89HDF") || starts(b"CDF") {
        ("MINC", "convert it with mnc2nii")
    } else if starts(b"\x89PNG") || starts(&[0xff, 0xd8, 0xff]) {
        ("a picture", "pass the 3D scan it was made from")
    } else if bytes.len() >= ONE.size && little(348) {
        ("Analyze 7.5, which does not say which side is left", "convert the original scan to NIfTI")
    } else if bytes.len() < ONE.size {
        return Problem::TooShort(bytes.len());
    } else {
        ("something else", "pass a .nii, .nii.gz or .mgz file, or a folder of DICOM")
    };
    Problem::OtherFormat { found, remedy }
}
