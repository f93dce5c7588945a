//! A desk to work at: a head, a model, the program.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use trephine::model::{
    AxisCodes, Centre, GridSpec, Intensity, Model, ModelCard, Readout, Sampling, initialise, residual_unet,
};

use crate::nii::{self, Folder, Nii, gz};
use crate::program::program;

pub fn trephine(arguments: &[&str]) -> Command {
    program(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), arguments)
}

pub fn run(arguments: &[&str]) -> Output {
    trephine(arguments).output().expect("the program starts")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Runs and expects success; returns stdout and stderr.
pub fn succeed(arguments: &[&str]) -> [String; 2] {
    let output = run(arguments);
    let [out, err] = [text(&output.stdout), text(&output.stderr)];
    assert!(output.status.success(), "{arguments:?}: {:?}\n{out}\n{err}", output.status);
    [out, err]
}

pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(&[arguments, &["--json"]].concat())[0]).expect("stdout is JSON")
}

/// Runs and expects this exit code and no panic; returns stderr.
pub fn fail(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{err}");
    assert!(!err.contains("panicked"), "{arguments:?}\n{err}");
    err
}

/// Large enough for N4 at shrink 4, small enough in mm for a plausible brain.
pub const SHAPE: [usize; 3] = [44, 46, 40];
pub const VOXELS: usize = 44 * 46 * 40;
pub const VOXEL_MM: f64 = 2.8;

/// Turned by 0.2 about z, stored from right to left.
pub const OBLIQUE: [[f64; 4]; 3] = {
    let (c, s) = (0.980_066_577_841_241_6 * VOXEL_MM, 0.198_669_330_795_061_2 * VOXEL_MM);
    [[-c, -s, 0.0, 71.0], [-s, c, 0.0, -50.0], [0.0, 0.0, VOXEL_MM, -54.0]]
};

/// How far voxel `ix` is from the middle, in units of the head's radius.
pub fn radius(ix: usize) -> f64 {
    let at = [ix % SHAPE[0], ix / SHAPE[0] % SHAPE[1], ix / (SHAPE[0] * SHAPE[1])];
    let scaled = (0..3).map(|a| (at[a] as f64 - (SHAPE[a] as f64 - 1.0) / 2.0) / (SHAPE[a] as f64 * 0.45));
    scaled.map(|v| v * v).sum::<f64>().sqrt()
}

/// Brain, a dark gap, a bright scalp, noise; `seed` moves the noise.
pub fn head_values(seed: u32) -> Vec<i16> {
    let mut state = seed;
    (0..VOXELS)
        .map(|ix| {
            let tissue = match radius(ix) {
                r if r < 0.7 => 400,
                r if r < 0.85 => 80,
                r if r < 1.0 => 700,
                _ => 5,
            };
            tissue + i16::from(nii::lcg(&mut state) >> 3)
        })
        .collect()
}

/// An int16 head with slope 0.5 and intercept 3, oblique.
pub fn head(seed: u32) -> Nii {
    Nii {
        dim: SHAPE.map(|n| n as i64).into(),
        pixdim: [1.0, VOXEL_MM, VOXEL_MM, VOXEL_MM, 2.0, 1.0, 1.0, 1.0],
        scaling: [0.5, 3.0],
        srow: OBLIQUE,
        data: head_values(seed).iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Nii::new()
    }
}

pub fn mask() -> Nii {
    let data = (0..VOXELS).map(|ix| u8::from(radius(ix) < 0.7)).collect();
    Nii { datatype: 2, bits: 8, scaling: [1.0, 0.0], data, ..head(1) }
}

/// A 4D head of two volumes.
pub fn series() -> Nii {
    let mut series = head(1);
    series.dim.push(2);
    series.data.extend(head(2).data);
    series
}

/// A network of random weights that calls about half of its grid brain.
pub fn tiny_model() -> Vec<u8> {
    let grid = GridSpec {
        shape: [16, 16, 16],
        voxel_mm: [12.0; 3],
        centre: Centre::Head { above_mm: 16.0 },
        sampling: Sampling::Area,
        intensity: Intensity::Percentile { low: 1.0, high: 99.5 },
        n4: None,
        patches: None,
        mirror: false,
        mirror_axes: [false; 3],
        axes: AxisCodes::RAS,
        readout: Readout::Linear,
    };
    let description = residual_unet("tiny", &[4, 8], 1, grid);
    let mut tensors = initialise(&description, 7).expect("describes a network");
    tensors.get_mut("head.bias").expect("the output has a bias").1[0] = 0.5;
    let card = ModelCard { figures: "none: random weights".into(), ..ModelCard::default() };
    Model { description, tensors, card }.to_bytes(false).expect("serialises")
}

/// A folder with a head, `head.nii.gz`, and a model, `tiny.safetensors`.
pub struct Desk {
    pub folder: Folder,
}

impl Desk {
    pub fn new() -> Self {
        let folder = Folder::new();
        folder.put("head.nii.gz", &gz(&head(1).bytes()));
        folder.put("tiny.safetensors", &tiny_model());
        Self { folder }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// The head as float32 with a voxel that is NaN.
    pub fn nan_head(&self) -> Vec<u8> {
        let mut values: Vec<f32> = head_values(1).into_iter().map(f32::from).collect();
        values[0] = f32::NAN;
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Nii { datatype: 16, bits: 32, scaling: [1.0, 0.0], data, ..head(1) }.bytes()
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        inflated(&self.folder.path(name))
    }
}

pub fn inflated(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes;
    }
    let mut out = Vec::new();
    MultiGzDecoder::new(&bytes[..]).read_to_end(&mut out).expect("valid gzip");
    out
}

pub fn floats(nifti: &[u8]) -> Vec<f32> {
    nifti[352..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

/// `Err` when two headers differ outside the byte ranges of `but`.
pub fn same_header(a: &[u8], b: &[u8], but: &[std::ops::Range<usize>]) {
    for at in (0..352).filter(|at| !but.iter().any(|range| range.contains(at))) {
        assert_eq!(a[at], b[at], "header byte {at}");
    }
}

/// cal_max and cal_min, which describe the voxels.
pub const CAL: std::ops::Range<usize> = 124..132;
/// datatype and bitpix.
pub const TYPE: std::ops::Range<usize> = 70..74;
/// scl_slope and scl_inter.
pub const SCALING: std::ops::Range<usize> = 112..120;

pub fn json_of_failure(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    serde_json::from_str(&text(&output.stdout)).expect("stdout is JSON")
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
