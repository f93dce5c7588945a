//! Any bytes as an image file: no panic, no hang, and no allocation beyond 1100 times the bytes of the file.
//!
//! The first byte says what the rest is: a single file, a gzip file packed here (so that mutations reach the
//! reader and not the checksum), or header and voxels of a pair.

#![no_main]

#[path = "../../src/volume/mod.rs"]
pub mod volume;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use volume::image::{FrameChoice, read, read_info, write_stripped};

/// Deflate shrinks to a 1032nd at most; the rest is for structures of the reader's own.
const FACTOR: usize = 1100;
/// What reading takes whatever the file: buffers, tables, paths.
const FLOOR: usize = 512 << 10;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Watching;

fn note(size: usize) {
    LARGEST.with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

thread_local! {
    static FOLDER: tempfile::TempDir = {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        tempfile::tempdir_in(place).expect("a folder to write to")
    };
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, bytes)) = data.split_first() else { return };
    FOLDER.with(|folder| {
        let at = |name: &str| folder.path().join(name);
        let put = |name: &str, bytes: &[u8]| {
            fs::write(at(name), bytes).expect("written");
            bytes.len()
        };
        let (path, length) = match kind % 4 {
            0 => (at("a.nii"), put("a.nii", bytes)),
            1 => {
                let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
                packed.write_all(bytes).expect("to memory");
                (at("b.nii.gz"), put("b.nii.gz", &packed.finish().expect("to memory")))
            }
            2 => {
                // Long runs of one byte: where claims of the header can be true.
                let mut packed = GzEncoder::new(Vec::new(), Compression::best());
                packed.write_all(bytes).expect("to memory");
                packed.write_all(&vec![0; 1 << 20]).expect("to memory");
                (at("c.mgz"), put("c.mgz", &packed.finish().expect("to memory")))
            }
            _ => {
                let (header, voxels) = bytes.split_at(bytes.len().min(352));
                (at("d.hdr"), put("d.hdr", header) + put("d.img", voxels))
            }
        };
        for choice in [FrameChoice::All, FrameChoice::Only, FrameChoice::One(1)] {
            LARGEST.set(0);
            let image = read(&path, choice);
            let largest = LARGEST.get();
            assert!(
                largest <= FLOOR + FACTOR * length,
                "{largest} bytes at once for a file of {length}"
            );
            let Ok(image) = image else { continue };
            assert!(image.affine().is_finite());
            let last = image.frame_f32(image.frames() - 1).expect("held");
            assert_eq!(last.data.len(), image.voxels());
            // What is read can be written, and is then the same.
            if image.raw().len() <= 1 << 16 && choice == FrameChoice::All {
                for name in ["out.nii", "out.mgz"] {
                    let keep = vec![1; image.voxels()];
                    write_stripped(at(name), &image, &keep, 0.0).expect("written");
                    let back = read(at(name), FrameChoice::All).expect("written by us");
                    assert_eq!((back.shape(), back.frames()), (image.shape(), image.frames()));
                    if name == "out.nii" {
                        let swapped = image.endianness() != back.endianness();
                        assert!(swapped || back.raw() == image.raw());
                    }
                }
            }
        }
        let _ = read_info(&path);
    });
});
