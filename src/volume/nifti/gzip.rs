//! Parallel gzip with a single member.
//!
//! Blocks are deflated on their own, each ended by a sync flush (RFC 1951: an empty stored
//! block, which aligns to a byte), and strung together as pigz does. A file of several members
//! would be as legal, but some readers (browsers among them) stop after the first.

use flate2::{Compress, Compression, Crc, FlushCompress};
use rayon::prelude::*;
use std::io;

/// Bytes per block: large enough that the window restarting costs below 1%.
const BLOCK: usize = 1 << 20;

/// Deflate level. See the table in [`super::write`].
pub(super) const LEVEL: u32 = 3;

/// RFC 1952: magic, deflate, no flags, no time (equal input gives equal files), unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty final block of fixed codes: ends the deflate stream.
const FINAL: [u8; 2] = [0x03, 0x00];

/// Writes the gzip of `parts`, one after the other, to `out`.
pub(super) fn write(out: &mut impl io::Write, parts: &[&[u8]]) -> io::Result<()> {
    let blocks: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(BLOCK)).collect();
    out.write_all(&HEAD)?;
    let mut crc = Crc::new();
    let mut total = 0_u32;
    // In groups, so that the memory for compressed bytes stays small and writing overlaps.
    for group in blocks.chunks(8 * rayon::current_num_threads()) {
        let packed: Vec<(Vec<u8>, Crc)> =
            group.par_iter().map(|block| deflate(block)).collect::<io::Result<_>>()?;
        for (bytes, block_crc) in packed {
            out.write_all(&bytes)?;
            crc.combine(&block_crc);
        }
        for block in group {
            // The trailer holds the length modulo 2^32.
            total = total.wrapping_add(block.len() as u32);
        }
    }
    out.write_all(&FINAL)?;
    out.write_all(&crc.sum().to_le_bytes())?;
    out.write_all(&total.to_le_bytes())
}

/// One block as raw deflate up to a byte boundary, with its checksum.
fn deflate(block: &[u8]) -> io::Result<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(block);
    let mut state = Compress::new(Compression::new(LEVEL), false);
    let mut out = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let done = state.total_in() as usize;
        state.compress_vec(&block[done..], &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        // Space left over means that nothing waits inside.
        if state.total_in() as usize == block.len() && out.len() < out.capacity() {
            return Ok((out, crc));
        }
        out.reserve(block.len() / 4 + 1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn any_length_survives_in_one_member() {
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..3 * BLOCK + 17)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        for n in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, noise.len()] {
            for head in [0, 352] {
                let mut packed = vec![];
                write(&mut packed, &[&noise[..head], &noise[..n]]).unwrap();
                let mut back = vec![];
                // A decoder of one member only; its trailer is checked by the decoder.
                GzDecoder::new(&packed[..]).read_to_end(&mut back).unwrap();
                assert_eq!(back.len(), head + n);
                assert!(back[head..] == noise[..n]);
            }
        }
        let zeros = vec![0; 5 * BLOCK];
        let mut packed = vec![];
        write(&mut packed, &[&zeros]).unwrap();
        assert!(packed.len() < zeros.len() / 100);
    }
}
