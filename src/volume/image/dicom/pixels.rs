//! The pixels of a frame as little-endian whole numbers, from whatever they are stored as.

use super::parse::{File, Pixels, Syntax};
use super::slice::{Format, damaged};
use crate::volume::Problem;
use jpeg_decoder::PixelFormat;

/// Appends the pixels of `frame` of `frames` to `out`.
pub(super) fn append(
    out: &mut Vec<u8>,
    file: &File<'_>,
    format: &Format,
    (frame, frames): (usize, usize),
) -> Result<(), Problem> {
    let length = format.pixels() * format.bytes;
    let from = out.len();
    match (file.pixels().map_err(damaged)?, &file.syntax) {
        (Pixels::Plain(bytes), Syntax::Plain { big }) => {
            let needed = frames as u64 * length as u64;
            if (bytes.len() as u64) < needed {
                return Err(Problem::Truncated { needed, found: bytes.len() as u64 });
            }
            out.extend_from_slice(&bytes[frame * length..(frame + 1) * length]);
            if *big {
                out[from..].chunks_exact_mut(format.bytes).for_each(<[u8]>::reverse);
            }
        }
        (Pixels::Fragments(fragments), Syntax::RunLength) => {
            let fragment = *one_of(&fragments, frame, frames)?;
            run_length(out, fragment, format)?;
        }
        (Pixels::Fragments(fragments), Syntax::Jpeg) => {
            let whole =
                if frames == 1 { fragments.concat() } else { one_of(&fragments, frame, frames)?.to_vec() };
            jpeg(out, &whole, format)?;
        }
        _ => return Err(Problem::DicomDamaged("its pixels are not stored as its transfer syntax says")),
    }
    tidy(&mut out[from..], format);
    Ok(())
}

fn one_of<'a, 'b>(fragments: &'b [&'a [u8]], frame: usize, frames: usize) -> Result<&'b &'a [u8], Problem> {
    fragments
        .get(frame)
        .filter(|_| fragments.len() == frames)
        .ok_or(Problem::DicomContent("compressed frames in pieces"))
}

/// Cuts off the bits that do not count, overlays among them, and extends the sign.
fn tidy(bytes: &mut [u8], format: &Format) {
    let unused = 8 * format.bytes as u32 - format.bits;
    if unused == 0 {
        return;
    }
    let up = 32 - format.bits - format.shift;
    for pixel in bytes.chunks_exact_mut(format.bytes) {
        let mut whole = [0; 4];
        whole[..format.bytes].copy_from_slice(pixel);
        let high = u32::from_le_bytes(whole) << up;
        let value = match format.signed {
            true => (high.cast_signed() >> (32 - format.bits)).cast_unsigned(),
            false => high >> (32 - format.bits),
        };
        pixel.copy_from_slice(&value.to_le_bytes()[..format.bytes]);
    }
}

/// Takes apart a frame of runs (PS3.5 G.3): a segment a byte of the pixels, the highest first.
fn run_length(out: &mut Vec<u8>, fragment: &[u8], format: &Format) -> Result<(), Problem> {
    const HEADER: usize = 64;
    const ODD: Problem = Problem::DicomDamaged("its runs are not those of its pixels");
    let word = |at: usize| fragment.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    if word(0) != Some(format.bytes) || fragment.len() < HEADER {
        return Err(ODD);
    }
    let mut planes = Vec::new();
    for segment in 0..format.bytes {
        let from = word(4 + 4 * segment).ok_or(ODD)?;
        let to = match segment + 1 < format.bytes {
            true => word(8 + 4 * segment).ok_or(ODD)?,
            false => fragment.len(),
        };
        let plane = unpack(fragment.get(from..to).ok_or(ODD)?, format.pixels());
        if plane.len() < format.pixels() {
            return Err(Problem::Truncated { needed: format.pixels() as u64, found: plane.len() as u64 });
        }
        planes.push(plane);
    }
    out.reserve(format.pixels() * format.bytes);
    for pixel in 0..format.pixels() {
        out.extend(planes.iter().rev().map(|plane| plane[pixel]));
    }
    Ok(())
}

/// `PackBits`: up to `most` bytes.
fn unpack(mut packed: &[u8], most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((&control, rest)) = packed.split_first()
        && bytes.len() < most
    {
        let control = control.cast_signed();
        let used = match control {
            0.. => {
                let literal = &rest[..rest.len().min(control as usize + 1)];
                bytes.extend_from_slice(literal);
                literal.len()
            }
            i8::MIN => 0,
            _ => {
                let Some(&value) = rest.first() else { break };
                bytes.resize(bytes.len() + 1 + usize::from(control.unsigned_abs()), value);
                1
            }
        };
        packed = &rest[used..];
    }
    bytes.truncate(most);
    bytes
}

fn jpeg(out: &mut Vec<u8>, bytes: &[u8], format: &Format) -> Result<(), Problem> {
    const ODD: Problem = Problem::DicomDamaged("its JPEG is damaged or of another kind than DICOM's");
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    decoder.read_info().map_err(|_| ODD)?;
    let info = decoder.info().ok_or(ODD)?;
    let kind = match format.bytes {
        1 => PixelFormat::L8,
        _ => PixelFormat::L16,
    };
    if [usize::from(info.width), usize::from(info.height)] != [format.columns, format.rows]
        || info.pixel_format != kind
    {
        return Err(ODD);
    }
    let pixels = decoder.decode().map_err(|_| ODD)?;
    if pixels.len() != format.pixels() * format.bytes {
        return Err(ODD);
    }
    match kind {
        // In the byte order of this machine.
        PixelFormat::L16 => {
            out.extend(pixels.as_chunks::<2>().0.iter().flat_map(|v| u16::from_ne_bytes(*v).to_le_bytes()));
        }
        _ => out.extend_from_slice(&pixels),
    }
    Ok(())
}
