//! Any bytes as an image file: no panic, no hang (libFuzzer's `-timeout`), and never more memory in use than
//! 1100 times the bytes of the file.
//!
//! The first byte says what the rest is: a single file, a gzip file of one member or two packed here (so that
//! mutations reach the reader and not the checksum), header and voxels of a pair, or a folder with one file of DICOM.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use trephine::volume::image::{FrameChoice, read, read_info, write_stripped};

/// Deflate shrinks to a 1032nd at most; the rest is for structures of the reader's own.
const FACTOR: usize = 1100;
/// What reading takes whatever the file: buffers, tables, paths.
const FLOOR: usize = 512 << 10;

/// Bytes in use by Rust code (libFuzzer's own are not counted), and their maximum since the last reset.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

impl Counting {
    fn taken(size: usize) {
        let live = LIVE.fetch_add(size, Relaxed) + size;
        PEAK.fetch_max(live, Relaxed);
    }
}

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::taken(layout.size());
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::taken(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large blocks grow by remapping: old and new do not exist side by side.
        LIVE.fetch_sub(layout.size(), Relaxed);
        Self::taken(size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static FOLDER: tempfile::TempDir = {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        tempfile::tempdir_in(place).expect("a folder to write to")
    };
}

/// One gzip member.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("to memory");
    packed.finish().expect("to memory")
}

/// A gzip member of a million zeros.
static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&[0; 1 << 20]).expect("to memory");
    packed.finish().expect("to memory")
});

/// Handing work on a few bytes to other threads would take longer than the work.
fn stay_on_this_thread() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("the first use of rayon");
}

fuzz_target!(init: stay_on_this_thread(), |data: &[u8]| {
    let Some((&kind, bytes)) = data.split_first() else { return };
    FOLDER.with(|folder| {
        let at = |name: &str| folder.path().join(name);
        let put = |name: &str, bytes: &[u8]| {
            fs::write(at(name), bytes).expect("written");
            bytes.len()
        };
        let (path, length) = match kind % 6 {
            0 => (at("a.nii"), put("a.nii", bytes)),
            1 => (at("b.nii.gz"), put("b.nii.gz", &packed(bytes))),
            // Long runs of one byte: where claims of the header can be true.
            2 => (at("c.mgz"), put("c.mgz", &[&packed(bytes), &ZEROS[..]].concat())),
            3 => {
                let (first, second) = bytes.split_at(bytes.len() / 2);
                (at("e.nii"), put("e.nii", &[packed(first), packed(second)].concat()))
            }
            4 => {
                fs::create_dir_all(at("series")).expect("made");
                let file = [&[0; 128], &b"DICM"[..], bytes].concat();
                (at("series"), put("series/f.dcm", &file))
            }
            _ => {
                let (header, voxels) = bytes.split_at(bytes.len().min(352));
                (at("d.hdr"), put("d.hdr", header) + put("d.img", voxels))
            }
        };
        for choice in [FrameChoice::All, FrameChoice::Only, FrameChoice::One(1)] {
            let before = LIVE.load(Relaxed);
            PEAK.store(before, Relaxed);
            let image = read(&path, choice);
            let taken = PEAK.load(Relaxed) - before;
            assert!(taken <= FLOOR + FACTOR * length, "{taken} bytes in use for a file of {length}");
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
