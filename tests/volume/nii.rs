//! NIfTI files field by field, independent of the code under test, and folders to put them in.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use glam::DMat4;
use tempfile::TempDir;
use trephine::volume::image::{FrameChoice, Image, read};

pub const SHAPE: [usize; 3] = [7, 6, 5];
pub const VOXELS: usize = 210;

/// A header to write, field by field, with every field that must survive set to something.
#[derive(Clone)]
pub struct Nii {
    pub two: bool,
    pub big: bool,
    pub pair: bool,
    pub dim: Vec<i64>,
    pub datatype: i16,
    pub bits: i16,
    pub pixdim: [f64; 8],
    pub offset: Option<f64>,
    pub scaling: [f64; 2],
    pub codes: [i16; 2],
    pub quatern: [f64; 3],
    pub qoffset: [f64; 3],
    pub srow: [[f64; 4]; 3],
    pub extensions: Vec<u8>,
    pub data: Vec<u8>,
}

/// Oblique, sheared, not RAS: rows of a matrix.
pub const OBLIQUE: [[f64; 4]; 3] =
    [[-0.9, 0.1, 0.02, 30.0], [0.1, 0.95, 0.05, -40.0], [0.0, -0.05, 1.2, -20.0]];

impl Nii {
    /// int16 voxels `7 i - 300`, sform only.
    pub fn new() -> Self {
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

    pub fn with(datatype: i16, bits: i16, big: bool) -> Self {
        Self { datatype, bits, big, data: value_bytes(datatype, big, 1), ..Self::new() }
    }

    pub fn version_two(mut self) -> Self {
        self.two = true;
        self
    }

    pub fn header_size(&self) -> usize {
        if self.two { 540 } else { 348 }
    }

    /// The header and what follows it up to the voxels.
    pub fn head(&self) -> Vec<u8> {
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

    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.data.clone()].concat()
    }

    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).unwrap();
    }
}

pub const REAL_TYPES: [(i16, i16); 10] =
    [(2, 8), (4, 16), (8, 32), (16, 32), (64, 64), (256, 8), (512, 16), (768, 32), (1024, 64), (1280, 64)];

pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, and the folders that it lies in.
    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Voxel `i` of the test images; non-negative below 256 for the unsigned types, so that every
/// type holds the same numbers exactly.
pub fn value(datatype: i16, i: usize) -> i64 {
    match datatype {
        2 | 256 => (i % 100) as i64,
        512 | 768 | 1280 => 7 * i as i64,
        _ => 7 * i as i64 - 300,
    }
}

pub fn value_bytes(datatype: i16, big: bool, frames: usize) -> Vec<u8> {
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

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn only(path: &Path) -> Image {
    read(path, FrameChoice::Only).unwrap()
}

pub fn values(image: &Image) -> Vec<f32> {
    image.frame_f32(0).unwrap().data
}

pub fn expected(datatype: i16) -> Vec<f32> {
    (0..VOXELS).map(|i| value(datatype, i) as f32).collect()
}

pub fn rows(affine: &DMat4) -> [[f64; 4]; 3] {
    std::array::from_fn(|r| std::array::from_fn(|c| affine.col(c)[r]))
}

/// One extension record: size, code, data padded to 16 bytes.
pub fn extension(code: i32, data: &[u8]) -> Vec<u8> {
    let size = (8 + data.len()).next_multiple_of(16);
    let mut out = (size as i32).to_le_bytes().to_vec();
    out.extend(code.to_le_bytes());
    out.extend(data);
    out.resize(size, 0);
    out
}

/// The next byte of a reproducible stream.
pub fn lcg(state: &mut u32) -> u8 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 24) as u8
}
