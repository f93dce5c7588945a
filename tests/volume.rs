//! NIfTI files as users have them: odd headers, odd containers, damage; and what comes back out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use glam::{DMat4, DVec3, DVec4};
use tempfile::TempDir;
use trephine::volume::nifti::{
    FrameChoice, Image, NiftiType, Version, check_output_name, read, read_info, write_like, write_mask,
    write_new, write_stripped,
};
use trephine::volume::{FormSource, Problem, VolumeError, Warning};

/// Remembers the largest single allocation, so that tests see one that a header talked us into.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// More than all the tests here need at once, far less than the headers below ask for.
const SANE: usize = 32 << 20;

const SHAPE: [usize; 3] = [7, 6, 5];
const VOXELS: usize = 210;

/// A header to write, field by field, with every field that must survive set to something.
#[derive(Clone)]
struct Nii {
    two: bool,
    big: bool,
    pair: bool,
    dim: Vec<i64>,
    datatype: i16,
    bits: i16,
    pixdim: [f64; 8],
    offset: Option<f64>,
    scaling: [f64; 2],
    codes: [i16; 2],
    quatern: [f64; 3],
    qoffset: [f64; 3],
    srow: [[f64; 4]; 3],
    extensions: Vec<u8>,
    data: Vec<u8>,
}

/// Oblique, sheared, not RAS: rows of a matrix.
const OBLIQUE: [[f64; 4]; 3] = [[-0.9, 0.1, 0.02, 30.0], [0.1, 0.95, 0.05, -40.0], [0.0, -0.05, 1.2, -20.0]];

impl Nii {
    /// int16 voxels `7 i - 300`, sform only.
    fn new() -> Self {
        Self {
            two: false,
            big: false,
            pair: false,
            dim: vec![7, 6, 5],
            datatype: 4,
            bits: 16,
            pixdim: [1.0, 0.905, 0.956, 1.201, 2.5, 1.0, 1.0, 1.0],
            offset: None,
            scaling: [f64::NAN, f64::NAN],
            codes: [0, 2],
            quatern: [0.0; 3],
            qoffset: [0.0; 3],
            srow: OBLIQUE,
            extensions: vec![],
            data: value_bytes(4, false, 1),
        }
    }

    fn with(datatype: i16, bits: i16, big: bool) -> Self {
        Self { datatype, bits, big, data: value_bytes(datatype, big, 1), ..Self::new() }
    }

    fn version_two(mut self) -> Self {
        self.two = true;
        self
    }

    fn header_size(&self) -> usize {
        if self.two { 540 } else { 348 }
    }

    /// The header and what follows it up to the voxels.
    fn head(&self) -> Vec<u8> {
        let mut h = vec![0_u8; self.header_size()];
        let mut dim = vec![self.dim.len() as i64];
        dim.extend(&self.dim);
        dim.resize(8, 1);
        let extender = if self.extensions.is_empty() { 4 } else { 4 + self.extensions.len() };
        let first = if self.pair { 0 } else { h.len() + extender };
        let offset = self.offset.unwrap_or(first as f64);
        let big = self.big;
        let mut put = |at: usize, little: &[u8]| {
            let mut bytes = little.to_vec();
            if big {
                bytes.reverse();
            }
            h[at..at + bytes.len()].copy_from_slice(&bytes);
        };
        let text = |s: &str, n: usize| {
            let mut bytes = s.as_bytes().to_vec();
            bytes.resize(n, 0);
            bytes
        };
        if self.two {
            put(0, &540_i32.to_le_bytes());
            put(12, &self.datatype.to_le_bytes());
            put(14, &self.bits.to_le_bytes());
            dim.iter().enumerate().for_each(|(i, d)| put(16 + 8 * i, &d.to_le_bytes()));
            put(80, &1.5_f64.to_le_bytes());
            self.pixdim.iter().enumerate().for_each(|(i, p)| put(104 + 8 * i, &p.to_le_bytes()));
            put(168, &(offset as i64).to_le_bytes());
            put(176, &self.scaling[0].to_le_bytes());
            put(184, &self.scaling[1].to_le_bytes());
            put(192, &77.0_f64.to_le_bytes());
            put(208, &0.25_f64.to_le_bytes());
            put(216, &0.125_f64.to_le_bytes());
            put(224, &1_i64.to_le_bytes());
            put(232, &4_i64.to_le_bytes());
            put(344, &i32::from(self.codes[0]).to_le_bytes());
            put(348, &i32::from(self.codes[1]).to_le_bytes());
            for i in 0..3 {
                put(352 + 8 * i, &self.quatern[i].to_le_bytes());
                put(376 + 8 * i, &self.qoffset[i].to_le_bytes());
                for j in 0..4 {
                    put(400 + 32 * i + 8 * j, &self.srow[i][j].to_le_bytes());
                }
            }
            put(496, &3_i32.to_le_bytes());
            put(500, &10_i32.to_le_bytes());
            put(504, &1002_i32.to_le_bytes());
            h[4..12].copy_from_slice(if self.pair { b"ni2\0\r\n\x1a\n" } else { b"n+2\0\r\n\x1a\n" });
            h[240..320].copy_from_slice(&text("a description", 80));
            h[320..344].copy_from_slice(&text("aux.txt", 24));
            h[508..524].copy_from_slice(&text("intent", 16));
            h[524] = 57;
        } else {
            let f = |v: f64| (v as f32).to_le_bytes();
            put(0, &348_i32.to_le_bytes());
            dim.iter().enumerate().for_each(|(i, d)| put(40 + 2 * i, &(*d as i16).to_le_bytes()));
            put(56, &f(1.5));
            put(68, &1002_i16.to_le_bytes());
            put(70, &self.datatype.to_le_bytes());
            put(72, &self.bits.to_le_bytes());
            put(74, &1_i16.to_le_bytes());
            self.pixdim.iter().enumerate().for_each(|(i, p)| put(76 + 4 * i, &f(*p)));
            put(108, &f(offset));
            put(112, &f(self.scaling[0]));
            put(116, &f(self.scaling[1]));
            put(120, &4_i16.to_le_bytes());
            put(124, &f(77.0));
            put(132, &f(0.25));
            put(136, &f(0.125));
            put(252, &self.codes[0].to_le_bytes());
            put(254, &self.codes[1].to_le_bytes());
            for i in 0..3 {
                put(256 + 4 * i, &f(self.quatern[i]));
                put(268 + 4 * i, &f(self.qoffset[i]));
                for j in 0..4 {
                    put(280 + 16 * i + 4 * j, &f(self.srow[i][j]));
                }
            }
            h[38] = b'r';
            h[39] = 57;
            h[122] = 3;
            h[123] = 10;
            h[148..228].copy_from_slice(&text("a description", 80));
            h[228..252].copy_from_slice(&text("aux.txt", 24));
            h[328..344].copy_from_slice(&text("intent", 16));
            h[344..348].copy_from_slice(if self.pair { b"ni1\0" } else { b"n+1\0" });
        }
        if self.extensions.is_empty() {
            h.extend([0; 4]);
        } else {
            h.extend([1, 0, 0, 0]);
            h.extend(&self.extensions);
        }
        h
    }

    fn bytes(&self) -> Vec<u8> {
        [self.head(), self.data.clone()].concat()
    }

    fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).unwrap();
    }
}

/// Voxel `i` of the test images; non-negative below 256 for the unsigned types, so that every
/// type holds the same numbers exactly.
fn value(datatype: i16, i: usize) -> i64 {
    match datatype {
        2 | 256 => (i % 100) as i64,
        512 | 768 | 1280 => 7 * i as i64,
        _ => 7 * i as i64 - 300,
    }
}

fn value_bytes(datatype: i16, big: bool, frames: usize) -> Vec<u8> {
    let mut out = vec![];
    for i in 0..VOXELS * frames {
        let v = value(datatype, i);
        let mut b = match datatype {
            2 => vec![v as u8],
            4 => (v as i16).to_le_bytes().to_vec(),
            8 => (v as i32).to_le_bytes().to_vec(),
            16 => (v as f32).to_le_bytes().to_vec(),
            64 => (v as f64).to_le_bytes().to_vec(),
            256 => (v as i8).to_le_bytes().to_vec(),
            512 => (v as u16).to_le_bytes().to_vec(),
            768 => (v as u32).to_le_bytes().to_vec(),
            1024 => v.to_le_bytes().to_vec(),
            1280 => (v as u64).to_le_bytes().to_vec(),
            _ => unreachable!("a real type"),
        };
        if big {
            b.reverse();
        }
        out.extend(b);
    }
    out
}

const REAL_TYPES: [(i16, i16); 10] =
    [(2, 8), (4, 16), (8, 32), (16, 32), (64, 64), (256, 8), (512, 16), (768, 32), (1024, 64), (1280, 64)];

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn only(path: &Path) -> Image {
    read(path, FrameChoice::Only).unwrap()
}

fn values(image: &Image) -> Vec<f32> {
    image.frame_f32(0).unwrap().data
}

fn expected(datatype: i16) -> Vec<f32> {
    (0..VOXELS).map(|i| value(datatype, i) as f32).collect()
}

fn refusal(path: &Path) -> String {
    let error: VolumeError = read(path, FrameChoice::Only).unwrap_err();
    let text = error.to_string();
    let rest = text
        .strip_prefix(&format!("{}: ", path.display()))
        .unwrap_or_else(|| panic!("names its file: {text}"));
    assert!(rest.contains("; "), "says what to do: {text}");
    rest.to_owned()
}

fn rows(affine: &DMat4) -> [[f64; 4]; 3] {
    std::array::from_fn(|r| std::array::from_fn(|c| affine.col(c)[r]))
}

#[test]
fn every_real_datatype_in_both_orders_and_versions() {
    let dir = Folder::new();
    for (datatype, bits) in REAL_TYPES {
        for big in [false, true] {
            for two in [false, true] {
                let mut nii = Nii::with(datatype, bits, big);
                nii.two = two;
                let image = only(&dir.put("x.nii", &nii.bytes()));
                assert_eq!(image.shape(), SHAPE);
                assert_eq!(values(&image), expected(datatype), "{datatype} {big} {two}");
                let version = if two { Version::Two } else { Version::One };
                assert_eq!(image.header().version(), version);
            }
        }
    }
}

#[test]
fn other_datatypes_are_refused_by_name() {
    let dir = Folder::new();
    for (datatype, word) in [
        (32, "complex"),
        (1792, "complex"),
        (128, "colour"),
        (2304, "colour"),
        (1536, "128-bit"),
        (0, "unknown (datatype 0)"),
        (999, "unknown"),
    ] {
        let mut nii = Nii::new();
        nii.datatype = datatype;
        let text = refusal(&dir.put("x.nii", &nii.bytes()));
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn scaling_rules() {
    let dir = Folder::new();
    for two in [false, true] {
        for (scaling, slope, intercept) in [
            ([2.5, -3.0], 2.5, -3.0),
            ([f64::NAN, f64::NAN], 1.0, 0.0),
            ([0.0, 5.0], 1.0, 0.0),
            ([f64::INFINITY, 5.0], 1.0, 0.0),
            ([1.0, 0.0], 1.0, 0.0),
            ([-2.0, 7.0], -2.0, 7.0),
        ] {
            let nii = Nii { scaling, two, ..Nii::new() };
            let image = only(&dir.put("x.nii", &nii.bytes()));
            let want: Vec<f32> =
                (0..VOXELS).map(|i| (value(4, i) as f64 * slope + intercept) as f32).collect();
            assert_eq!(values(&image), want, "{scaling:?}");
        }
        let nii = Nii { scaling: [2.0, f64::NAN], two, ..Nii::new() };
        let text = refusal(&dir.put("x.nii", &nii.bytes()));
        assert!(text.contains("intercept of NaN"), "{text}");
    }
}

#[test]
fn gzip_by_content_in_one_member_or_several() {
    let dir = Folder::new();
    let bytes = Nii::new().bytes();
    let packed = gz(&bytes);
    let several = [gz(&bytes[..100]), gz(&bytes[100..400]), gz(&[]), gz(&bytes[400..])].concat();
    let padded = [&packed[..], &[0; 512]].concat();
    for (name, content) in [
        ("plain.nii", &bytes),
        ("packed.nii.gz", &packed),
        ("packed.NII.GZ", &packed),
        ("gzip_without_the_name.nii", &packed),
        ("name_without_gzip.nii.gz", &bytes),
        ("several.nii.gz", &several),
        ("padded.nii.gz", &padded),
        ("no_extension", &bytes),
    ] {
        assert_eq!(values(&only(&dir.put(name, content))), expected(4), "{name}");
    }
}

#[test]
fn pairs_by_either_file() {
    let dir = Folder::new();
    let ext = extension(6, b"hello pair");
    for two in [false, true] {
        for packed in [false, true] {
            let nii = Nii { pair: true, two, extensions: ext.clone(), ..Nii::new() };
            let pack = |b: Vec<u8>| if packed { gz(&b) } else { b };
            let suffix = if packed { ".gz" } else { "" };
            let hdr = dir.put(&format!("p{two}.hdr{suffix}"), &pack(nii.head()));
            let img = dir.put(&format!("p{two}.img{suffix}"), &pack(nii.data.clone()));
            for path in [hdr, img] {
                let image = only(&path);
                assert_eq!(values(&image), expected(4), "{}", path.display());
                assert!(image.header().is_pair());
                // Out comes a single file, extension and all.
                let out = dir.path("out.nii");
                write_like(&out, &image, &values(&image)).unwrap();
                let back = only(&out);
                assert!(!back.header().is_pair());
                assert_eq!(values(&back), expected(4));
                assert_eq!(back.header().extensions()[4..], ext);
            }
        }
    }
    // An offset into the voxel file.
    let mut nii = Nii { pair: true, offset: Some(16.0), ..Nii::new() };
    nii.data.splice(0..0, [0; 16]);
    let hdr = dir.put("o.hdr", &nii.head());
    dir.put("o.img", &nii.data);
    assert_eq!(values(&only(&hdr)), expected(4));

    let lone = dir.put("lone.hdr", &nii.head());
    assert!(refusal(&lone).contains(".img file is missing"));
    let lone = dir.put("alone.img", &nii.data);
    assert!(refusal(&lone).contains(".hdr file is missing"));
}

#[test]
fn what_is_not_nifti_is_named() {
    let dir = Folder::new();
    let mut analyze = Nii::new().bytes();
    analyze[344..348].fill(0);
    let mut dicom = vec![0; 900];
    dicom[128..132].copy_from_slice(b"DICM");
    let mgh = [&[0, 0, 0, 1][..], &[0; 600]].concat();
    for (name, content, word) in [
        ("a.hdr", analyze, "Analyze 7.5"),
        ("d.nii", dicom, "DICOM"),
        ("m.nii.gz", gz(&mgh), "FreeSurfer MGH"),
        ("n.nii", vec![b'x'; 700], "not a NIfTI file"),
        ("s.nii", vec![0; 100], "only 100 bytes"),
        ("e.nii", vec![], "only 0 bytes"),
    ] {
        let text = refusal(&dir.put(name, &content));
        assert!(text.contains(word), "{text}");
    }
    assert!(refusal(&dir.path("none.nii")).starts_with("does not exist; "));
    assert!(refusal(dir.0.path()).starts_with("is a folder; "));
}

#[test]
fn frames_of_4d() {
    let dir = Folder::new();
    let frames = 3;
    let nii = Nii { dim: vec![7, 6, 5, frames as i64], data: value_bytes(4, false, frames), ..Nii::new() };
    for (name, content) in [("x.nii", nii.bytes()), ("x.nii.gz", gz(&nii.bytes()))] {
        let path = dir.put(name, &content);
        assert_eq!(read_info(&path).unwrap().frames, frames);
        let text = refusal(&path);
        assert!(text.contains("3 volumes") && text.contains("--volume N (0 to 2)"), "{text}");
        assert!(text.contains("--all"), "{text}");
        let all = read(&path, FrameChoice::All).unwrap();
        assert_eq!(all.frames(), frames);
        for t in 0..frames {
            let want: Vec<f32> = (0..VOXELS).map(|i| value(4, i + t * VOXELS) as f32).collect();
            assert_eq!(all.frame_f32(t).unwrap().data, want);
            let one = read(&path, FrameChoice::One(t)).unwrap();
            assert_eq!(values(&one), want);
        }
        assert!(all.frame_f32(frames).is_err());
        let error = read(&path, FrameChoice::One(frames)).unwrap_err();
        assert!(matches!(error.problem, Problem::NoSuchFrame { wanted: 3, frames: 3 }));
    }
    // Written from all volumes: 4D; from one: 3D.
    let all = read(dir.path("x.nii"), FrameChoice::All).unwrap();
    let mut keep = vec![1; VOXELS * frames];
    keep[VOXELS] = 0;
    write_stripped(dir.path("s.nii"), &all, &keep, 0.0).unwrap();
    let back = read(dir.path("s.nii"), FrameChoice::All).unwrap();
    assert_eq!(back.header().dim(), all.header().dim());
    assert_eq!(back.raw()[..2 * VOXELS], all.raw()[..2 * VOXELS]);
    assert_eq!(back.raw()[2 * VOXELS..2 * VOXELS + 2], [0, 0]);
    assert_eq!(back.raw()[2 * VOXELS + 2..], all.raw()[2 * VOXELS + 2..]);
    // One mask for all the volumes.
    write_stripped(dir.path("s.nii"), &all, &keep[VOXELS..2 * VOXELS], 0.0).unwrap();
    let back = read(dir.path("s.nii"), FrameChoice::All).unwrap();
    for t in 0..frames {
        let (got, want) = (back.frame_f32(t).unwrap(), all.frame_f32(t).unwrap());
        assert_eq!(got.data[0], 0.0);
        assert_eq!(got.data[1..], want.data[1..]);
    }
    write_mask(dir.path("m.nii"), &all, &keep).unwrap();
    assert_eq!(read_info(dir.path("m.nii")).unwrap().frames, frames);
    write_mask(dir.path("m.nii"), &all, &keep[..VOXELS]).unwrap();
    let back = only(&dir.path("m.nii"));
    assert_eq!(back.header().dim(), [3, 7, 6, 5, 1, 1, 1, 1]);
    assert!(write_mask(dir.path("m.nii"), &all, &keep[..VOXELS + 1]).is_err());
}

#[test]
fn trailing_dimensions_of_one_are_squeezed_and_slices_refused() {
    let dir = Folder::new();
    for dim in [vec![7, 6, 5, 1], vec![7, 6, 5, 1, 1, 1, 1]] {
        let nii = Nii { dim, ..Nii::new() };
        let image = only(&dir.put("x.nii", &nii.bytes()));
        assert_eq!(values(&image), expected(4));
    }
    // Volumes along the fifth dimension, as vector images have them.
    let nii = Nii { dim: vec![7, 6, 5, 1, 3], data: value_bytes(4, false, 3), ..Nii::new() };
    assert_eq!(read_info(dir.put("x.nii", &nii.bytes())).unwrap().frames, 3);
    for dim in [vec![42, 5], vec![210], vec![42, 5, 1], vec![42, 1, 5], vec![42, 5, 1, 2]] {
        let nii = Nii { dim, ..Nii::new() };
        let text = refusal(&dir.put("x.nii", &nii.bytes()));
        assert!(text.contains("not a 3D image"), "{text}");
    }
}

#[test]
fn absurd_dimensions_are_refused_before_memory_is_taken() {
    let dir = Folder::new();
    let longest = i64::from(i16::MAX);
    for (dim, word) in [
        (vec![7, 0, 5], "dimension 2 is 0"),
        (vec![7, 6, -5], "dimension 3 is -5"),
        (vec![7, 6, 5, 0], "dimension 4 is 0"),
        (vec![longest; 3], "truncated"),
        (vec![longest; 7], "can be addressed"),
        (vec![7, 6, 6], "truncated (420 of 504"),
    ] {
        for pack in [false, true] {
            let nii = Nii { dim: dim.clone(), ..Nii::new() };
            let bytes = if pack { gz(&nii.bytes()) } else { nii.bytes() };
            let text = refusal(&dir.put("x.nii", &bytes));
            assert!(text.contains(word), "{text}");
        }
    }
    let huge = Nii { dim: vec![1 << 40, 1 << 40, 2], ..Nii::new().version_two() };
    assert!(refusal(&dir.put("x.nii", &huge.bytes())).contains("can be addressed"));
    let mut rank = Nii::new().version_two().bytes();
    rank[16] = 200;
    assert!(refusal(&dir.put("x.nii", &rank)).contains("200 dimensions"));
    for offset in [100.0, -16.0, f64::NAN, 1e30] {
        let nii = Nii { offset: Some(offset), ..Nii::new() };
        let text = refusal(&dir.put("x.nii", &nii.bytes()));
        assert!(text.contains("voxel offset"), "{text}");
    }
    let far = Nii { offset: Some(1e9), ..Nii::new() };
    for bytes in [far.bytes(), gz(&far.bytes())] {
        assert!(refusal(&dir.put("x.nii", &bytes)).contains("truncated"));
    }
    // Offset 0 stands for the first byte after the header; a gap before the voxels is legal.
    let zero = Nii { offset: Some(0.0), ..Nii::new() };
    assert_eq!(values(&only(&dir.put("x.nii", &zero.bytes()))), expected(4));
    let mut gap = Nii { offset: Some(1352.0), ..Nii::new() };
    gap.data.splice(0..0, vec![9; 1000]);
    for bytes in [gap.bytes(), gz(&gap.bytes())] {
        assert_eq!(values(&only(&dir.put("x.nii", &bytes))), expected(4));
    }
    assert!(LARGEST.load(Ordering::Relaxed) < SANE);
}

#[test]
fn damage_is_told_from_truncation() {
    let dir = Folder::new();
    // Noise, so that the compressed stream is long.
    let mut nii = Nii::new();
    let mut state = 1_u32;
    nii.data.iter_mut().for_each(|b| *b = lcg(&mut state));
    let bytes = nii.bytes();
    let packed = gz(&bytes);
    for n in [348, 352, 353, 500, 540, 600, bytes.len() - 1] {
        let text = refusal(&dir.put("t.nii", &bytes[..n]));
        assert!(text.starts_with("is truncated"), "{n}: {text}");
    }
    for n in [12, 30, 100, 300, 500, packed.len() - 20, packed.len() - 5] {
        let text = refusal(&dir.put("t.nii.gz", &packed[..n]));
        let named = ["truncated", "too short", "damaged (gzip"].iter().any(|w| text.contains(w));
        assert!(named, "{n}: {text}");
    }
    // A checksum that does not fit.
    let mut wrong = packed.clone();
    let crc = wrong.len() - 8;
    wrong[crc] ^= 1;
    assert!(refusal(&dir.put("c.nii.gz", &wrong)).contains("damaged (gzip"));
    // Every single flipped byte of the stream is noticed or harmless, never a panic.
    for i in 0..packed.len() {
        let mut bad = packed.clone();
        bad[i] ^= 0x55;
        let path = dir.put("f.nii.gz", &bad);
        if let Ok(image) = read(&path, FrameChoice::All) {
            assert_eq!(image.raw(), nii.data, "byte {i} changed voxels unnoticed");
        }
    }
}

fn lcg(state: &mut u32) -> u8 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 24) as u8
}

#[test]
fn damaged_headers_neither_panic_nor_take_memory() {
    let dir = Folder::new();
    let mut state = 2_u32;
    let (mut read_ok, mut refused) = (0, 0);
    for round in 0..4000_u32 {
        let mut nii = Nii::new();
        nii.two = round % 2 == 1;
        nii.big = round % 4 > 1;
        if round % 8 > 3 {
            nii.extensions = extension(6, b"some bytes of an extension");
        }
        if nii.big {
            nii.data = value_bytes(4, true, 1);
        }
        let mut bytes = nii.bytes();
        let length = nii.head().len();
        for _ in 0..1 + lcg(&mut state) % 6 {
            let at = (usize::from(lcg(&mut state)) << 8 | usize::from(lcg(&mut state))) % length;
            bytes[at] = match lcg(&mut state) % 4 {
                0 => 0xff,
                1 => 0x7f,
                2 => 0,
                _ => lcg(&mut state),
            };
        }
        if round % 16 == 7 {
            bytes.truncate(usize::from(lcg(&mut state)) * 3);
        }
        let packed = round % 3 == 0;
        let path = dir.put("f.nii", &if packed { gz(&bytes) } else { bytes.clone() });
        match read(&path, FrameChoice::All) {
            Ok(image) => {
                read_ok += 1;
                assert!(image.raw().len() <= bytes.len());
                for frame in 0..image.frames() {
                    let volume = image.frame_f32(frame).unwrap();
                    assert_eq!(volume.data.len(), image.voxels());
                    let (canonical, _) = volume.to_canonical();
                    assert_eq!(canonical.data.len(), image.voxels());
                }
                if round % 7 > 0 {
                    continue;
                }
                let keep = vec![1; image.voxels()];
                let out = dir.path("out.nii");
                write_stripped(&out, &image, &keep, 0.0).unwrap();
                let back = read(&out, FrameChoice::All).unwrap();
                assert_eq!(back.raw(), image.raw());
                assert_eq!(rows(&back.affine()), rows(&image.affine()));
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("; "), "{error}");
            }
        }
    }
    // The mutations do reach both outcomes.
    assert!(read_ok > 500 && refused > 500, "{read_ok} {refused}");
    assert!(LARGEST.load(Ordering::Relaxed) < SANE);
}

#[test]
fn forms_by_the_rules() {
    let dir = Folder::new();
    // 90 degrees about z: x runs to +y.
    let half = 0.5_f64.sqrt();
    let q = Nii {
        codes: [1, 0],
        quatern: [0.0, 0.0, half],
        qoffset: [1.0, 2.0, 3.0],
        pixdim: [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0],
        ..Nii::new().version_two()
    };
    let want = [[0.0, -3.0, 0.0, 1.0], [2.0, 0.0, 0.0, 2.0], [0.0, 0.0, 4.0, 3.0]];
    let near = |image: &Image, want: [[f64; 4]; 3]| {
        let got = rows(&image.affine());
        let gap = (0..12).map(|i| (got[i / 4][i % 4] - want[i / 4][i % 4]).abs());
        assert!(gap.fold(0.0, f64::max) < 1e-6, "{got:?} {want:?}");
    };
    let image = only(&dir.put("q.nii", &q.bytes()));
    assert_eq!(image.form_source(), FormSource::Qform);
    near(&image, want);
    assert!(image.warnings().is_empty());
    // qfac 0 counts as +1, -1 turns z round.
    let mut odd = q.clone();
    odd.pixdim[0] = 0.0;
    near(&only(&dir.put("q.nii", &odd.bytes())), want);
    odd.pixdim[0] = -1.0;
    let mut turned = want;
    turned[2][2] = -4.0;
    near(&only(&dir.put("q.nii", &odd.bytes())), turned);
    // Negative voxel size: its absolute value, with a warning.
    let mut negative = q.clone();
    negative.pixdim[1] = -2.0;
    let image = only(&dir.put("q.nii", &negative.bytes()));
    near(&image, want);
    assert_eq!(image.warnings(), [Warning::NegativePixdim([-2.0, 3.0, 4.0])]);
    // The sform wins; that they disagree is said.
    let mut both = q.clone();
    both.codes = [1, 2];
    let image = only(&dir.put("b.nii", &both.bytes()));
    assert_eq!(image.form_source(), FormSource::Sform);
    assert_eq!(rows(&image.affine()), OBLIQUE);
    assert!(matches!(image.warnings(), [Warning::FormsDisagree { .. }]));
    // Neither.
    let mut none = q.clone();
    none.codes = [0, 0];
    let image = only(&dir.put("n.nii", &none.bytes()));
    near(&image, [[-2.0, 0.0, 0.0, 6.0], [0.0, 3.0, 0.0, -7.5], [0.0, 0.0, 4.0, -8.0]]);
    assert_eq!(image.warnings(), [Warning::NoOrientation]);
    // Singular.
    let mut flat = q;
    flat.codes = [0, 1];
    flat.srow[2] = flat.srow[1];
    assert!(refusal(&dir.put("s.nii", &flat.bytes())).contains("unusable sform"));
    let image = only(&dir.put("i.nii", &Nii::new().version_two().bytes()));
    assert!((image.voxel_volume_ml() - 1.0422e-3).abs() < 5e-6);
}

#[test]
fn non_finite_voxels_are_seen() {
    let dir = Folder::new();
    let mut nii = Nii::with(16, 32, false);
    nii.data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    nii.data[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let image = only(&dir.put("x.nii", &nii.bytes()));
    let mut volume = image.frame_f32(0).unwrap();
    assert_eq!(volume.check_content().unwrap().non_finite, 2);
    let warning = volume.replace_non_finite().unwrap();
    assert!(warning.to_string().starts_with("2 of 210 voxels"), "{warning}");
}

/// One extension record: size, code, data padded to 16 bytes.
fn extension(code: i32, data: &[u8]) -> Vec<u8> {
    let size = (8 + data.len()).next_multiple_of(16);
    let mut out = (size as i32).to_le_bytes().to_vec();
    out.extend(code.to_le_bytes());
    out.extend(data);
    out.resize(size, 0);
    out
}

#[test]
fn extensions_survive_and_damaged_ones_do_no_harm() {
    let dir = Folder::new();
    let records = [extension(6, b"hello ext"), extension(4, &[7; 500])].concat();
    for two in [false, true] {
        let nii = Nii { two, extensions: records.clone(), ..Nii::new() };
        for bytes in [nii.bytes(), gz(&nii.bytes())] {
            let image = only(&dir.put("x.nii", &bytes));
            assert_eq!(values(&image), expected(4));
            write_mask(dir.path("m.nii.gz"), &image, &[1; VOXELS]).unwrap();
            let back = only(&dir.path("m.nii.gz"));
            assert_eq!(back.header().extensions(), [&[1, 0, 0, 0][..], &records].concat());
            assert_eq!(values(&back), [1.0; VOXELS]);
        }
        // A record that claims more than there is: kept up to it, with a warning.
        let mut bad = nii.clone();
        let second = extension(6, b"hello ext").len();
        bad.extensions[second..second + 4].copy_from_slice(&1_000_000_i32.to_le_bytes());
        let image = only(&dir.put("x.nii", &bad.bytes()));
        assert_eq!(values(&image), expected(4));
        assert_eq!(image.warnings(), [Warning::DamagedExtensions]);
        assert_eq!(image.header().extensions().len(), 4 + second);
        // Zeros between the records and the voxels are padding.
        let mut padded = nii.clone();
        padded.extensions.extend([0; 32]);
        let image = only(&dir.put("x.nii", &padded.bytes()));
        assert!(image.warnings().is_empty());
        assert_eq!(image.header().extensions().len(), 4 + records.len());
    }
}

/// Bytes of a header that every output computes anew: datatype to bitpix, offset and scaling,
/// display range, magic.
fn recomputed(two: bool) -> Vec<std::ops::Range<usize>> {
    if two { vec![4..12, 12..16, 168..208] } else { vec![70..74, 108..120, 124..132, 344..348] }
}

fn assert_same_but(a: &[u8], b: &[u8], but: &[std::ops::Range<usize>], what: &str) {
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!(x == y || but.iter().any(|r| r.contains(&i)), "{what}: byte {i}: {x} {y}");
    }
}

#[test]
fn geometry_and_the_rest_of_the_header_survive_bit_for_bit() {
    let dir = Folder::new();
    let mut cases = vec![];
    for srow in [
        OBLIQUE,
        [[-1.0, 0.0, 0.0, 90.5], [0.0, 1.0, 0.0, -126.0], [0.0, 0.0, 1.0, -72.0]],
        [[0.0, 0.0, -5.0, 11.0], [0.5, 0.0, 0.0, -7.0], [0.0, 0.5, 0.0, 3.3]],
        [[1.0, 0.4, 0.0, 0.1], [0.0, 1.0, 0.0, 0.2], [0.0, 0.0, 1.0, 0.3]],
    ] {
        for codes in [[0, 2], [1, 0], [1, 4], [0, 0]] {
            for qfac in [1.0, -1.0, 0.0] {
                let mut nii = Nii {
                    srow,
                    codes,
                    quatern: [0.1, -0.2, 0.3],
                    qoffset: [10.1, -20.2, 30.3],
                    scaling: [2.5, -3.0],
                    ..Nii::new()
                };
                nii.pixdim[0] = qfac;
                nii.extensions = extension(6, b"kept");
                cases.push(nii);
            }
        }
    }
    let keep: Vec<u8> = (0..VOXELS).map(|i| u8::from(i % 3 == 0)).collect();
    let out = dir.path("out.nii");
    for case in cases {
        for (two, big) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut nii = case.clone();
            (nii.two, nii.big) = (two, big);
            nii.data = value_bytes(4, big, 1);
            if big {
                nii.extensions.clear();
            }
            let head = nii.head();
            let image = only(&dir.put("in.nii", &nii.bytes()));
            let field: Vec<f32> = (0..VOXELS).map(|i| i as f32 / 7.0).collect();

            write_mask(&out, &image, &keep).unwrap();
            let written = fs::read(&out).unwrap();
            assert_same_but(&head, &written, &recomputed(two), "mask");
            assert_eq!(written[head.len()..], keep);
            let mask = only(&out);
            assert_eq!(mask.datatype(), NiftiType::Uint8);
            assert_eq!(mask.header().stored_scaling(), (1.0, 0.0));
            assert_eq!(rows(&mask.affine()), rows(&image.affine()));

            write_like(&out, &image, &field).unwrap();
            let written = fs::read(&out).unwrap();
            assert_same_but(&head, &written, &recomputed(two), "field");
            let back = only(&out);
            assert_eq!(values(&back), field);
            assert_eq!(back.header().stored_scaling(), (1.0, 0.0));

            write_stripped(&out, &image, &keep, 0.0).unwrap();
            let written = fs::read(&out).unwrap();
            // Datatype and scaling are the input's too: only the display range is new.
            let but = if two { 192..208 } else { 124..132 };
            assert_same_but(&head, &written, &[but], "stripped");
            // 0 = 2.5 * 1.2 - 3 is not representable; the nearest stored value is 1.
            let fill = if big { 1_i16.to_be_bytes() } else { 1_i16.to_le_bytes() };
            for (i, (got, was)) in written[head.len()..].chunks(2).zip(nii.data.chunks(2)).enumerate() {
                assert_eq!(got, if keep[i] == 1 { was } else { &fill }, "voxel {i}");
            }
        }
    }
}

#[test]
fn display_range_is_that_of_the_output() {
    let dir = Folder::new();
    let image = only(&dir.put("x.nii", &Nii::new().bytes()));
    let out = dir.path("o.nii");
    let range = |path: &Path| {
        let b = fs::read(path).unwrap();
        let at = |i: usize| f32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        (at(128), at(124))
    };
    write_mask(&out, &image, &[1; VOXELS]).unwrap();
    assert_eq!(range(&out), (1.0, 1.0));
    let mut field = vec![-1.5; VOXELS];
    field[3] = f32::NAN;
    field[4] = 8.0;
    write_like(&out, &image, &field).unwrap();
    assert_eq!(range(&out), (-1.5, 8.0));
    let keep: Vec<u8> = (0..VOXELS).map(|i| u8::from(i < 2)).collect();
    write_stripped(&out, &image, &keep, 0.0).unwrap();
    assert_eq!(range(&out), (-300.0, 0.0));
}

#[test]
fn stripped_images_of_every_type_are_equal_inside_and_filled_outside() {
    let dir = Folder::new();
    let keep: Vec<u8> = (0..VOXELS).map(|i| u8::from(i % 2 == 0)).collect();
    for (datatype, bits) in REAL_TYPES {
        for big in [false, true] {
            let image = only(&dir.put("x.nii", &Nii::with(datatype, bits, big).bytes()));
            for (name, fill) in [("o.nii", 0.0), ("o.nii.gz", 5.0)] {
                write_stripped(dir.path(name), &image, &keep, fill).unwrap();
                let back = only(&dir.path(name));
                assert_eq!(back.datatype(), image.datatype());
                let size = bits as usize / 8;
                for i in 0..VOXELS {
                    let at = i * size..(i + 1) * size;
                    if keep[i] == 1 {
                        assert_eq!(back.raw()[at.clone()], image.raw()[at]);
                    } else {
                        assert_eq!(values(&back)[i], fill, "{datatype}");
                    }
                }
            }
        }
    }
}

#[test]
fn new_grids_carry_both_forms_or_the_sform_alone() {
    let dir = Folder::new();
    let shape = [4, 3, 2];
    let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let plain = DMat4::from_cols(
        DVec4::new(0.0, 2.0, 0.0, 0.0),
        DVec4::new(0.0, 0.0, 3.0, 0.0),
        DVec4::new(-1.5, 0.0, 0.0, 0.0),
        DVec4::new(5.0, 6.0, 7.0, 1.0),
    );
    let turned = plain * DMat4::from_axis_angle(DVec3::new(1.0, 2.0, 3.0).normalize(), 0.4);
    let mut sheared = plain;
    sheared.y_axis += 0.3 * sheared.x_axis;
    let oblique = DMat4::from_axis_angle(DVec3::new(1.0, 2.0, 3.0).normalize(), 0.4) * plain;
    for two in [false, true] {
        for (codes, want_codes) in [([0, 4], (4, 4)), ([1, 0], (1, 1)), ([1, 2], (2, 1)), ([0, 0], (1, 1))] {
            let nii = Nii { two, codes, extensions: extension(6, b"kept"), ..Nii::new() };
            let source = only(&dir.put("s.nii", &nii.bytes()));
            for (affine, shear) in [(plain, false), (oblique, false), (sheared, true), (turned, true)] {
                let out = dir.path("n.nii.gz");
                write_new(&out, shape, &affine, &data, &source).unwrap();
                let back = only(&out);
                assert_eq!(back.shape(), shape);
                assert_eq!(values(&back), data);
                // No word of disagreement: the qform says the same, or nothing.
                assert!(back.warnings().is_empty(), "{:?}", back.warnings());
                let (s, q) = back.header().form_codes();
                assert_eq!(s, want_codes.0);
                assert_eq!(q, if shear { 0 } else { want_codes.1 });
                let gap = (back.affine() - affine).to_cols_array();
                assert!(gap.iter().all(|g| g.abs() < 1e-6));
                assert_eq!(back.header().extensions(), source.header().extensions());
                // The qform alone gives the same place.
                if !shear {
                    let mut bytes = vec![];
                    let file = fs::read(&out).unwrap();
                    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&file[..]), &mut bytes)
                        .unwrap();
                    let code = if two { 348..352 } else { 254..256 };
                    bytes[code].fill(0);
                    let by_qform = only(&dir.put("q.nii", &bytes));
                    assert_eq!(by_qform.form_source(), FormSource::Qform);
                    let gap = (by_qform.affine() - affine).to_cols_array();
                    assert!(gap.iter().all(|g| g.abs() < 3e-6), "{gap:?}");
                }
            }
        }
    }
    let source = only(&dir.path("s.nii"));
    // Several volumes, and arrays that do not fit.
    let twice = [data.clone(), data.clone()].concat();
    write_new(dir.path("n.nii"), shape, &plain, &twice, &source).unwrap();
    assert_eq!(read_info(dir.path("n.nii")).unwrap().frames, 2);
    assert!(write_new(dir.path("n.nii"), shape, &plain, &data[1..], &source).is_err());
    assert!(write_new(dir.path("n.nii"), shape, &plain, &[], &source).is_err());
    assert!(write_new(dir.path("n.nii"), [0, 3, 2], &plain, &data, &source).is_err());
}

#[test]
fn names_are_kept_exactly_and_failures_leave_nothing() {
    let dir = Folder::new();
    let image = only(&dir.put("in.nii", &Nii::new().bytes()));
    let mask = [1; VOXELS];
    write_mask(dir.path("sub-01_desc.v1.nii"), &image, &mask).unwrap();
    write_mask(dir.path("b.v2.NII.GZ"), &image, &mask).unwrap();
    assert_eq!(dir.names(), ["b.v2.NII.GZ", "in.nii", "sub-01_desc.v1.nii"]);
    assert!(fs::read(dir.path("b.v2.NII.GZ")).unwrap().starts_with(&[0x1f, 0x8b]));
    // Over an existing file.
    write_mask(dir.path("in.nii"), &image, &mask).unwrap();
    assert_eq!(only(&dir.path("in.nii")).datatype(), NiftiType::Uint8);
    let before = dir.names();

    for name in ["x.img", "x.mgz", "x", "x.gz", "nii"] {
        let error = write_mask(dir.path(name), &image, &mask).unwrap_err();
        assert!(matches!(error.problem, Problem::OutputName), "{name}: {error}");
        assert!(check_output_name(dir.path(name)).is_err());
    }
    let error = write_mask(dir.path("no/such/x.nii"), &image, &mask).unwrap_err();
    assert!(matches!(error.problem, Problem::NoFolder(_)), "{error}");
    fs::create_dir(dir.path("d.nii")).unwrap();
    let error = write_mask(dir.path("d.nii"), &image, &mask).unwrap_err();
    assert!(matches!(error.problem, Problem::Folder), "{error}");
    let error = write_mask(dir.path("in.nii/x.nii"), &image, &mask).unwrap_err();
    assert!(matches!(error.problem, Problem::NoFolder(_)), "{error}");
    fs::remove_dir(dir.path("d.nii")).unwrap();
    assert_eq!(dir.names(), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_devices_stay_devices() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let dir = Folder::new();
    let image = only(&dir.put("in.nii", &Nii::new().bytes()));
    let error = write_mask("/dev/full", &image, &[1; VOXELS]).unwrap_err();
    assert!(error.to_string().starts_with("/dev/full: cannot be written ("), "{error}");
    write_mask("/dev/null", &image, &[1; VOXELS]).unwrap();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    // Readable by others as the umask has it, unlike temporary files.
    fs::File::create(dir.path("plain")).unwrap();
    write_mask(dir.path("m.nii"), &image, &[1; VOXELS]).unwrap();
    let mode = |name: &str| fs::metadata(dir.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("m.nii"), mode("plain"));
}

#[test]
fn every_warning_and_refusal_says_what_to_do() {
    for warning in [
        Warning::NegativePixdim([-1.0, 1.0, 1.0]),
        Warning::NoOrientation,
        Warning::FormsDisagree { sform: "RAS".into(), qform: "LAS".into(), displacement_mm: 3.0 },
        Warning::Units("metres"),
        Warning::NonFinite { count: 1, total: 2 },
        Warning::DamagedExtensions,
    ] {
        assert!(warning.to_string().contains("; "), "{warning}");
    }
    let dir = Folder::new();
    let mut metres = Nii::new();
    metres.write(&dir.path("x.nii"));
    assert!(only(&dir.path("x.nii")).warnings().is_empty());
    metres.two = true;
    let mut bytes = metres.bytes();
    bytes[500] = 1;
    assert_eq!(only(&dir.put("x.nii", &bytes)).warnings(), [Warning::Units("metres")]);
}
