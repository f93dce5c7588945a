//! FreeSurfer's MGH files (`.mgh`; `.mgz` where gzip).
//!
//! Always big-endian: 284 bytes of header, the voxels of every volume, x fastest, and then scan
//! parameters and tags, which are kept as they stand. There is no scaling. Geometry and field
//! offsets: `mri.h` and `mghRead` of FreeSurfer's mriio.cpp; nibabel's `freesurfer/mghformat.py`.

use super::super::affine::{is_usable, linear, voxel_size};
use super::super::{FormSource, Geometry, Problem, Warning};
use crate::tensor::Xyz;
use ::nifti::NiftiType;
use glam::{DMat3, DMat4, DVec3};

/// Bytes of the header.
pub(super) const SIZE: usize = 284;

/// Bytes of the figures of the scan, with which the tail begins.
const SCAN: usize = 20;

/// The version, which is also how such a file begins.
const VERSION: [u8; 4] = 1_i32.to_be_bytes();

const DIMENSIONS: usize = 4;
const TYPE: usize = 20;
const GOOD_RAS: usize = 28;
const DELTA: usize = 30;
const COSINES: usize = 42;
const CENTRE: usize = 78;

/// Codes of `mri.h` with the type that they stand for.
const TYPES: [(i32, NiftiType); 5] = [
    (0, NiftiType::Uint8),
    (1, NiftiType::Int32),
    (3, NiftiType::Float32),
    (4, NiftiType::Int16),
    (10, NiftiType::Uint16),
];

/// An MGH header: its bytes, and those after the voxels.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    raw: [u8; SIZE],
    /// Scan parameters and tags as they stand in the file.
    pub(super) tail: Vec<u8>,
}

/// Whether the first bytes of a file are those of an MGH header.
pub(super) fn is_mgh(bytes: &[u8]) -> bool {
    bytes.starts_with(&VERSION)
}

impl Header {
    /// Takes the first bytes of a file that [`is_mgh`].
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let raw = bytes.first_chunk().ok_or(Problem::TooShort(bytes.len()))?;
        Ok(Self { raw: *raw, tail: Vec::new() })
    }

    /// A header for a grid that never was an MGH file. `repetition_ms` is the time between
    /// volumes, 0 where there is one only.
    pub(super) fn new(repetition_ms: f32) -> Self {
        let mut raw = [0; SIZE];
        raw[..4].copy_from_slice(&VERSION);
        // Repetition time, flip angle, echo time, inversion time, field of view.
        let scan = [repetition_ms, 0.0, 0.0, 0.0, 0.0];
        Self { raw, tail: scan.into_iter().flat_map(f32::to_be_bytes).collect() }
    }

    /// Clears what follows the voxels, commands and names of files among it, but for the figures of the scan.
    pub(super) fn clear_texts(&mut self) {
        self.tail.truncate(SCAN);
    }

    /// The header's bytes as read.
    pub fn bytes(&self) -> &[u8] {
        &self.raw
    }

    /// Scan parameters and tags: what follows the voxels.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.raw[at + i])
    }

    fn int(&self, at: usize) -> i32 {
        i32::from_be_bytes(self.field(at))
    }

    fn vector(&self, at: usize) -> DVec3 {
        DVec3::from_array([0, 1, 2].map(|i| f64::from(f32::from_be_bytes(self.field(at + 4 * i)))))
    }

    /// Shape of a volume and the number of volumes.
    pub(super) fn grid(&self) -> Result<(Xyz<usize>, usize), Problem> {
        let lengths: [i32; 4] = std::array::from_fn(|i| self.int(DIMENSIONS + 4 * i));
        for (i, &length) in lengths.iter().enumerate() {
            if length < 1 {
                return Err(Problem::Dimension { axis: i + 1, length: length.into() });
            }
        }
        let [x, y, z, frames] = lengths.map(|n| n.unsigned_abs() as usize);
        let text = || format!("{x}x{y}x{z}x{frames}");
        if x == 1 || y == 1 || z == 1 {
            return Err(Problem::NotThreeD(text()));
        }
        // 4 bytes a voxel is the most of any type.
        let bytes = [y, z, frames, 4].iter().try_fold(x, |n, &d| n.checked_mul(d));
        match bytes {
            Some(n) if n <= isize::MAX as usize => Ok((Xyz([x, y, z]), frames)),
            _ => Err(Problem::TooLarge(text())),
        }
    }

    /// The type of the voxels.
    pub(super) fn datatype(&self) -> Result<NiftiType, Problem> {
        let code = self.int(TYPE);
        let known = TYPES.iter().find(|(c, _)| *c == code).map(|(_, t)| *t);
        known.ok_or_else(|| Problem::Datatype(format!("unknown (MGH type {code})")))
    }

    /// Time between volumes in seconds, 0 where the file does not say.
    pub(super) fn repetition_s(&self) -> f64 {
        let ms = self.tail.first_chunk().map_or(0.0, |bytes| f32::from_be_bytes(*bytes));
        if ms.is_finite() { f64::from(ms) / 1000.0 } else { 0.0 }
    }

    /// The place of the grid: direction cosines times voxel sizes, and the world coordinates of
    /// voxel `shape / 2`. Where the header is not marked good: 1 mm, coronal, centred, which is
    /// FreeSurfer's default.
    pub(super) fn geometry(
        &self,
        shape: Xyz<usize>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Geometry, Problem> {
        let good = i16::from_be_bytes(self.field(GOOD_RAS)) > 0;
        let (delta, cosines, centre) = if good {
            let cosines = [0, 1, 2].map(|axis| self.vector(COSINES + 12 * axis));
            (self.vector(DELTA), DMat3::from_cols(cosines[0], cosines[1], cosines[2]), self.vector(CENTRE))
        } else {
            warnings.push(Warning::NoOrientation);
            (DVec3::ONE, DMat3::from_cols(DVec3::NEG_X, DVec3::NEG_Z, DVec3::Y), DVec3::ZERO)
        };
        let linear = cosines * DMat3::from_diagonal(delta);
        let mut affine = DMat4::from_mat3(linear);
        affine.w_axis = (centre - linear * middle(shape)).extend(1.0);
        if !is_usable(&affine) {
            return Err(Problem::DirectionCosines);
        }
        let source = if good { FormSource::Mgh } else { FormSource::None };
        Ok(Geometry { affine, source })
    }

    /// The header of an output of this type: these bytes with what must change. `grid` is the
    /// shape and matrix of an output that does not lie on this header's grid.
    pub(super) fn for_output(
        &self,
        datatype: NiftiType,
        frames: usize,
        grid: Option<(Xyz<usize>, &DMat4)>,
    ) -> Result<Vec<u8>, Problem> {
        let mut out = self.raw.to_vec();
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        let as_i32 = |n: usize, shape| i32::try_from(n).map_err(|_| Problem::GridTooLarge(shape));
        let code = TYPES.iter().find(|(_, t)| *t == datatype).map_or(3, |(code, _)| *code);
        put(TYPE, &code.to_be_bytes());
        put(DIMENSIONS + 12, &as_i32(frames, Xyz([0; 3]))?.to_be_bytes());
        if let Some((shape, affine)) = grid {
            for (axis, n) in shape.into_iter().enumerate() {
                put(DIMENSIONS + 4 * axis, &as_i32(n, shape)?.to_be_bytes());
            }
            let mut floats = |at: usize, v: DVec3| {
                for (i, value) in v.to_array().into_iter().enumerate() {
                    put(at + 4 * i, &(value as f32).to_be_bytes());
                }
            };
            let (axes, size) = (linear(affine), voxel_size(affine));
            floats(DELTA, size);
            for axis in 0..3 {
                floats(COSINES + 12 * axis, axes.col(axis) / size[axis]);
            }
            floats(CENTRE, affine.transform_point3(middle(shape)));
            put(GOOD_RAS, &1_i16.to_be_bytes());
        }
        Ok(out)
    }
}

/// The voxel whose world coordinates the header holds: not the middle of the grid, but half a
/// voxel past it.
fn middle(shape: Xyz<usize>) -> DVec3 {
    DVec3::from_array(shape.map(|n| n as f64 / 2.0).0)
}

/// The type in which voxels of `datatype` are stored: an integer type that holds them all where
/// there is one; float32 for the others and for scaled ones.
pub(super) fn stored_type(datatype: NiftiType, scaled: bool) -> NiftiType {
    use NiftiType::*;
    match datatype {
        Uint8 | Int16 | Int32 | Float32 if !scaled => datatype,
        Int8 if !scaled => Int16,
        // Not as Uint16 (code 10), which most readers do not know.
        Uint16 if !scaled => Int32,
        _ => Float32,
    }
}
