//! NIfTI files as users have them: odd headers, odd containers, damage; and what comes back out.

mod companion;
mod dicom;
#[path = "../common/dicom.rs"]
mod dicom_files;
mod mgh;
mod nii;
mod reading;
mod round_trip;
mod series;
mod writing;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Remembers the largest single allocation, so that tests see one that a header talked us into, and how much a
/// thread holds.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Bytes held now and at most, of those that this thread took.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn hold(bytes: isize) {
    let (now, peak) = HELD.get();
    HELD.set((now + bytes, peak.max(now + bytes)));
}

/// What `f` returns, and the most bytes that this thread held meanwhile on top of what it held before.
pub fn peak_of<T>(f: impl FnOnce() -> T) -> (T, isize) {
    let (before, _) = HELD.get();
    HELD.set((before, before));
    let value = f();
    (value, HELD.get().1 - before)
}

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        hold(layout.size().cast_signed());
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        hold(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        hold(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// More than all the tests here need at once, far less than the headers below ask for.
const SANE: usize = 32 << 20;
