//! Voxel bytes of every real datatype to floats, and back for one value.

use ::nifti::{Endianness, NiftiType};
use rayon::prelude::*;
use std::borrow::Cow;

/// Voxels per unit of parallel work: 64 Ki, at least 64 KiB of input.
const CHUNK: usize = 1 << 16;

/// Runs `$body` with `$T` bound to the Rust type of `$datatype`; `$other` for the types that
/// [`super::Header::datatype`] refuses.
macro_rules! with_type {
    ($datatype:expr, $T:ident => $body:expr, $other:expr) => {
        match $datatype {
            NiftiType::Uint8 => {
                type $T = u8;
                $body
            }
            NiftiType::Int8 => {
                type $T = i8;
                $body
            }
            NiftiType::Uint16 => {
                type $T = u16;
                $body
            }
            NiftiType::Int16 => {
                type $T = i16;
                $body
            }
            NiftiType::Uint32 => {
                type $T = u32;
                $body
            }
            NiftiType::Int32 => {
                type $T = i32;
                $body
            }
            NiftiType::Uint64 => {
                type $T = u64;
                $body
            }
            NiftiType::Int64 => {
                type $T = i64;
                $body
            }
            NiftiType::Float32 => {
                type $T = f32;
                $body
            }
            NiftiType::Float64 => {
                type $T = f64;
                $body
            }
            _ => $other,
        }
    };
}

/// `slope * value + intercept` of each voxel in f64, rounded to f32 once.
#[expect(clippy::unnecessary_cast, reason = "one body for all types, floats among them")]
pub(super) fn to_f32(
    bytes: &[u8],
    datatype: NiftiType,
    endianness: Endianness,
    (slope, intercept): (f64, f64),
) -> Vec<f32> {
    let big = endianness == Endianness::Big;
    let scaled = (slope, intercept) != (1.0, 0.0);
    with_type!(datatype, T => {
        const SIZE: usize = size_of::<T>();
        let mut out = vec![0.0_f32; bytes.len() / SIZE];
        out.par_chunks_mut(CHUNK)
            .zip(bytes.par_chunks(CHUNK * SIZE))
            .for_each(|(out, bytes)| {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<SIZE>().0) {
                    let v = if big { T::from_be_bytes(*raw) } else { T::from_le_bytes(*raw) };
                    *value = if scaled {
                        (v as f64 * slope + intercept) as f32
                    } else {
                        v as f32
                    };
                }
            });
        out
    }, Vec::new())
}

/// Calls `f` with each voxel in turn: exact but for integers of 64 bits beyond 2^53.
#[expect(clippy::unnecessary_cast, reason = "one body for all types, f64 among them")]
pub(super) fn for_each(
    bytes: &[u8],
    datatype: NiftiType,
    endianness: Endianness,
    (slope, intercept): (f64, f64),
    mut f: impl FnMut(f64),
) {
    let big = endianness == Endianness::Big;
    let scaled = (slope, intercept) != (1.0, 0.0);
    with_type!(datatype, T => {
        for raw in bytes.as_chunks::<{ size_of::<T>() }>().0 {
            let v = if big { T::from_be_bytes(*raw) } else { T::from_le_bytes(*raw) } as f64;
            f(if scaled { v * slope + intercept } else { v });
        }
    }, ());
}

/// The bytes of the stored value whose scaled value is nearest to `value`: rounded half to even
/// and clamped to the range of an integer type. NaN becomes the stored value 0 in those.
pub(super) fn nearest_raw(
    value: f64,
    datatype: NiftiType,
    endianness: Endianness,
    (slope, intercept): (f64, f64),
) -> Vec<u8> {
    let stored = (value - intercept) / slope;
    let is_float = matches!(datatype, NiftiType::Float32 | NiftiType::Float64);
    let stored = if is_float { stored } else { stored.round_ties_even() };
    with_type!(datatype, T => {
        // `as` saturates at the ends of integer types and takes NaN to 0.
        let v = stored as T;
        if endianness == Endianness::Big {
            v.to_be_bytes().to_vec()
        } else {
            v.to_le_bytes().to_vec()
        }
    }, Vec::new())
}

/// Voxels in another type and byte order, slope and intercept applied: whole numbers up to 2^53 stay what they are in
/// a type that holds them.
pub(super) fn recast(
    bytes: &[u8],
    (from, order): (NiftiType, Endianness),
    scaling: (f64, f64),
    (to, to_order): (NiftiType, Endianness),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / from.size_of() * to.size_of());
    with_type!(to, T => for_each(bytes, from, order, scaling, |v| match to_order {
        Endianness::Big => out.extend_from_slice(&(v as T).to_be_bytes()),
        Endianness::Little => out.extend_from_slice(&(v as T).to_le_bytes()),
    }), ());
    out
}

/// Floats as bytes in the given order; no copy where it is this machine's.
pub(super) fn from_f32(data: &[f32], endianness: Endianness) -> Cow<'_, [u8]> {
    if endianness == Endianness::native() {
        return Cow::Borrowed(bytemuck::cast_slice(data));
    }
    let mut out = vec![0; 4 * data.len()];
    out.par_chunks_mut(4 * CHUNK).zip(data.par_chunks(CHUNK)).for_each(|(out, data)| {
        for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(data) {
            *bytes = match endianness {
                Endianness::Big => value.to_be_bytes(),
                Endianness::Little => value.to_le_bytes(),
            };
        }
    });
    Cow::Owned(out)
}

/// Least and greatest finite value, slope and intercept applied, as f32, if there is one.
pub(super) fn finite_range(
    bytes: &[u8],
    datatype: NiftiType,
    endianness: Endianness,
    scaling: (f64, f64),
) -> Option<(f64, f64)> {
    let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
    for_each(bytes, datatype, endianness, scaling, |v| {
        let v = v as f32;
        if v.is_finite() {
            (least, most) = (least.min(v), most.max(v));
        }
    });
    (least <= most).then(|| (f64::from(least), f64::from(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_is_the_nearest_storable_value() {
        let raw = |v, t, s| nearest_raw(v, t, Endianness::Little, s);
        let id = (1.0, 0.0);
        assert_eq!(raw(0.0, NiftiType::Int16, id), 0i16.to_le_bytes());
        // Scaled 0 is stored as 1000 where the intercept is -1000.
        let ct = (1.0, -1000.0);
        assert_eq!(raw(0.0, NiftiType::Int16, ct), 1000i16.to_le_bytes());
        // 0 = 2.5 s - 3 at s = 1.2: nearest is 1.
        assert_eq!(raw(0.0, NiftiType::Uint8, (2.5, -3.0)), [1]);
        // Not representable: clamped.
        assert_eq!(raw(-5.0, NiftiType::Uint8, id), [0]);
        assert_eq!(raw(0.0, NiftiType::Uint8, (1.0, 10.0)), [0]);
        assert_eq!(raw(1e9, NiftiType::Int8, id), [127]);
        assert_eq!(raw(f64::NAN, NiftiType::Int32, id), [0; 4]);
        assert_eq!(nearest_raw(1.5, NiftiType::Float32, Endianness::Big, id), 1.5f32.to_be_bytes());
    }

    #[test]
    fn floats_in_either_order() {
        let data = [1.0_f32, -2.5];
        assert_eq!(
            *from_f32(&data, Endianness::Big),
            [1.0_f32.to_be_bytes(), (-2.5_f32).to_be_bytes()].concat()
        );
        assert_eq!(
            *from_f32(&data, Endianness::Little),
            [1.0_f32.to_le_bytes(), (-2.5_f32).to_le_bytes()].concat()
        );
    }
}
