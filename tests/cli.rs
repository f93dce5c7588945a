//! The program as users run it: files in, files out, exit codes, and what it says.

#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};

use flate2::read::MultiGzDecoder;
use nii::{Folder, Nii, gz};
use program::{has_gpu, program};
use serde_json::Value;
use trephine::model::{Centre, GridSpec, Intensity, Model, ModelCard, Sampling, initialise, residual_unet};

fn trephine(arguments: &[&str]) -> Command {
    program(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), arguments)
}

fn run(arguments: &[&str]) -> Output {
    trephine(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Runs and expects success; returns stdout and stderr.
fn succeed(arguments: &[&str]) -> [String; 2] {
    let output = run(arguments);
    let [out, err] = [text(&output.stdout), text(&output.stderr)];
    assert!(output.status.success(), "{arguments:?}: {:?}\n{out}\n{err}", output.status);
    [out, err]
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(&[arguments, &["--json"]].concat())[0]).expect("stdout is JSON")
}

/// Runs and expects this exit code and no panic; returns stderr.
fn fail(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{err}");
    assert!(!err.contains("panicked"), "{arguments:?}\n{err}");
    err
}

/// Large enough for N4 at shrink 4, small enough in mm for a plausible brain.
const SHAPE: [usize; 3] = [44, 46, 40];
const VOXELS: usize = 44 * 46 * 40;
const VOXEL_MM: f64 = 2.8;

/// Turned by 0.2 about z, stored from right to left.
const OBLIQUE: [[f64; 4]; 3] = {
    let (c, s) = (0.980_066_577_841_241_6 * VOXEL_MM, 0.198_669_330_795_061_2 * VOXEL_MM);
    [[-c, -s, 0.0, 71.0], [-s, c, 0.0, -50.0], [0.0, 0.0, VOXEL_MM, -54.0]]
};

/// How far voxel `ix` is from the middle, in units of the head's radius.
fn radius(ix: usize) -> f64 {
    let at = [ix % SHAPE[0], ix / SHAPE[0] % SHAPE[1], ix / (SHAPE[0] * SHAPE[1])];
    let scaled = (0..3).map(|a| (at[a] as f64 - (SHAPE[a] as f64 - 1.0) / 2.0) / (SHAPE[a] as f64 * 0.45));
    scaled.map(|v| v * v).sum::<f64>().sqrt()
}

/// Brain, a dark gap, a bright scalp, noise; `seed` moves the noise.
fn head_values(seed: u32) -> Vec<i16> {
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
fn head(seed: u32) -> Nii {
    Nii {
        dim: SHAPE.map(|n| n as i64).into(),
        pixdim: [1.0, VOXEL_MM, VOXEL_MM, VOXEL_MM, 2.0, 1.0, 1.0, 1.0],
        scaling: [0.5, 3.0],
        srow: OBLIQUE,
        data: head_values(seed).iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Nii::new()
    }
}

fn mask() -> Nii {
    let data = (0..VOXELS).map(|ix| u8::from(radius(ix) < 0.7)).collect();
    Nii { datatype: 2, bits: 8, scaling: [1.0, 0.0], data, ..head(1) }
}

/// A 4D head of two volumes.
fn series() -> Nii {
    let mut series = head(1);
    series.dim.push(2);
    series.data.extend(head(2).data);
    series
}

/// A network of random weights that calls about half of its grid brain.
fn tiny_model() -> Vec<u8> {
    let grid = GridSpec {
        shape: [16, 16, 16],
        voxel_mm: [12.0; 3],
        centre: Centre::Head { above_mm: 16.0 },
        sampling: Sampling::Area,
        intensity: Intensity::Percentile { low: 1.0, high: 99.5 },
        n4: None,
        mirror: false,
    };
    let description = residual_unet("tiny", &[4, 8], grid);
    let mut tensors = initialise(&description, 7).expect("describes a network");
    tensors.get_mut("head.bias").expect("the output has a bias").1[0] = 0.5;
    let card = ModelCard { figures: "none: random weights".into(), ..ModelCard::default() };
    Model { description, tensors, card }.to_bytes(false).expect("serialises")
}

/// A folder with a head, `head.nii.gz`, and a model, `tiny.safetensors`.
struct Desk {
    folder: Folder,
}

impl Desk {
    fn new() -> Self {
        let folder = Folder::new();
        folder.put("head.nii.gz", &gz(&head(1).bytes()));
        folder.put("tiny.safetensors", &tiny_model());
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        inflated(&self.folder.path(name))
    }
}

fn inflated(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes;
    }
    let mut out = Vec::new();
    MultiGzDecoder::new(&bytes[..]).read_to_end(&mut out).expect("valid gzip");
    out
}

fn floats(nifti: &[u8]) -> Vec<f32> {
    nifti[352..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

/// `Err` when two headers differ outside the byte ranges of `but`.
fn same_header(a: &[u8], b: &[u8], but: &[std::ops::Range<usize>]) {
    for at in (0..352).filter(|at| !but.iter().any(|range| range.contains(at))) {
        assert_eq!(a[at], b[at], "header byte {at}");
    }
}

/// cal_max and cal_min, which describe the voxels.
const CAL: std::ops::Range<usize> = 124..132;
/// datatype and bitpix.
const TYPE: std::ops::Range<usize> = 70..74;
/// scl_slope and scl_inter.
const SCALING: std::ops::Range<usize> = 112..120;

#[test]
fn help_of_every_command() {
    for command in [
        vec![],
        vec!["strip"],
        vec!["evaluate"],
        vec!["n4"],
        vec!["resample"],
        vec!["normalise"],
        vec!["index"],
        vec!["train"],
        vec!["devices"],
        vec!["model"],
        vec!["model", "info"],
        vec!["model", "list"],
        vec!["model", "convert"],
    ] {
        let [long, err] = succeed(&[&command[..], &["--help"]].concat());
        assert!(
            long.contains("Example:") && long.contains("Usage:") && err.is_empty(),
            "{command:?}\n{long}"
        );
        assert!(long.contains("--device"), "{command:?}");
        let [short, _] = succeed(&[&command[..], &["-h"]].concat());
        assert!(short.contains("Usage:") && short.len() < long.len(), "{command:?}");
    }
    assert!(succeed(&["--version"])[0].starts_with("trephine "));
}

#[test]
fn usage_errors_exit_with_2() {
    let desk = Desk::new();
    let (head, tiny) = (desk.path("head.nii.gz"), desk.path("tiny.safetensors"));
    let before = desk.folder.names();
    let cases: &[&[&str]] = &[
        &[],
        &["slice"],
        &["strip"],
        &["strip", &head, "--no-such-flag"],
        &["strip", "-i", &head, &head],
        &["strip", &head, "--n4", "--no-n4"],
        &["strip", &head, "--volume", "1", "--all"],
        &["strip", &head, "-b", "wide"],
        &["strip", &head, "--preset", "paper"],
        &["strip", &head, &head],
        &["strip", &head, &head, "-o", "out.nii.gz"],
        &["strip", &head, "-o", "out.txt"],
        &["strip", &head, "-q", "out.nii.gz"],
        &["strip", &head, "-o", &head],
        &["strip", &head, "-o", "out.nii.gz", "-m", "out.nii.gz"],
        &["strip", &head, "-o", "out.nii.gz", "-O", "out"],
        &["strip", desk.folder.0.path().to_str().expect("UTF-8")],
        &["n4", "-i", &head],
        &["n4", "-i", &head, "-o", "out.nii.gz", "--shrink", "0"],
        &["n4", "-i", &head, "-o", "out.nii.gz", "--iterations", "5,0"],
        &["n4", "-i", &head, "-o", &head],
        &["n4", "-i", &head, "-o", "out.nii.gz", "--shrink", "4,4"],
        &["n4", "-i", &head, "-o", "out.nii.gz", "--bins", "1000"],
        &["n4", "-i", &head, "-o", "out.nii.gz", "--spline-distance", "0"],
        &["n4", "-i", &head, "-o", "out.nii.gz", "--spline-distance", "200", "--control-points", "5"],
        &["n4", "-i", &head, "-o", "out.nii.gz", "--mask-label", "2"],
        &["n4", "-i", &head, "-o", "out.nii.gz", "--apply-field", &head, "--shrink", "3"],
        &["n4", "-i", &head, "-b", "out.nii.gz", "--apply-field", &head],
        &["strip", &head, "--n4=none"],
        &["resample", "-i", &head, "-o", "out.nii.gz"],
        &["resample", "-i", &head, "-o", "out.nii.gz", "--voxel", "2,2"],
        &["resample", "-i", &head, "-o", "out.nii.gz", "--voxel", "0"],
        &["resample", "-i", &head, "-o", "out.nii.gz", "--voxel", "2", "--shape", "0,1,1"],
        &["resample", "-i", &head, "-o", "out.nii.gz", "--voxel", "2", "--like", &head],
        &["normalise", "-i", &head, "-o", "out.nii.gz"],
        &["normalise", "-i", &head, "-o", "out.nii.gz", "--method", "minmax", "--above", "0"],
        &["normalise", "-i", &head, "-o", "out.nii.gz", "--method", "percentile", "--percentiles", "1,200"],
        &["index", "."],
        &["train", "--out", "run"],
        &["train", "--data", "a.tsv", "--out", "run", "--resume", "--init", &tiny],
        &["train", "--data", "a.tsv", "--out", "run", "--loss", "hinge"],
        &["evaluate"],
        &["evaluate", "--data", "a.tsv", "--figure", "a.pdf"],
        &["model"],
        &["model", "convert", &tiny, &tiny],
    ];
    for arguments in cases {
        let err = fail(2, arguments);
        assert!(err.contains("Usage:") || err.contains("--help"), "{arguments:?}\n{err}");
    }
    assert_eq!(desk.folder.names(), before);
}

#[test]
fn devices_are_listed() {
    if !has_gpu() {
        return;
    }
    let [out, _] = succeed(&["devices"]);
    assert!(out.starts_with("0  ") && out.contains("tier") && out.contains("driver"), "{out}");
    let listed = json(&["devices"]);
    assert!(listed["adapters"][0]["name"].is_string() && listed["adapters"][0]["features"].is_array());
    let desk = Desk::new();
    let strip = ["strip", &desk.path("head.nii.gz"), "--model", &desk.path("tiny.safetensors")];
    if std::env::var_os("TREPHINE_DEVICE").is_none() {
        let err = fail(1, &[&strip[..], &["--device", "no such adapter"]].concat());
        assert!(
            err.contains("error: no device matches 'no such adapter'; `trephine devices` lists: 0"),
            "{err}"
        );
        assert_eq!(desk.folder.names(), ["head.nii.gz", "tiny.safetensors"]);
    }
}

#[test]
#[cfg(unix)]
fn a_closed_pipe_is_success() {
    let desk = Desk::new();
    for arguments in [&["model", "info", &desk.path("tiny.safetensors")][..], &["--help"]] {
        // The reading end is gone before the program writes.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let status = trephine(arguments).stdout(writer).status().expect("starts");
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn models_are_shown_and_converted() {
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let [out, err] = succeed(&["model", "info", &tiny]);
    assert!(out.contains("name         tiny") && out.contains("16x16x16 voxels of 12x12x12 mm"), "{out}");
    assert!(err.is_empty());
    let info = json(&["model", "info", &tiny]);
    assert_eq!(info["description"]["input"]["shape"], serde_json::json!([16, 16, 16]));
    let listed = json(&["model", "list"]);
    assert_eq!(listed["models"].as_array().map(Vec::len), Some(trephine::model::builtin_names().len()));

    desk.folder.put("card.toml", b"licence = \"CC0-1.0\"\n");
    let half = desk.path("half.safetensors");
    succeed(&[
        "model",
        "convert",
        &tiny,
        &half,
        "--half",
        "--name",
        "small",
        "--card",
        &desk.path("card.toml"),
    ]);
    let (old, new) = (Model::read(tiny.as_ref()).expect("reads"), Model::read(half.as_ref()).expect("reads"));
    assert_eq!((new.description.name.as_str(), new.card.licence.as_str()), ("small", "CC0-1.0"));
    assert_eq!(new.card.figures, old.card.figures);
    for (name, (shape, values)) in &old.tensors {
        let (new_shape, new_values) = &new.tensors[name];
        assert_eq!(shape, new_shape);
        assert!(values.iter().zip(new_values).all(|(a, b)| (a - b).abs() <= a.abs() * 1e-3 + 1e-7), "{name}");
    }

    desk.folder.put("card.toml", b"license = \"CC0-1.0\"\n");
    let err = fail(1, &["model", "convert", &tiny, &half, "--card", &desk.path("card.toml")]);
    assert!(err.contains("card.toml: is not a model card") && err.lines().count() == 1, "{err}");
    for (file, bytes) in [("empty", &b""[..]), ("text", b"just some text, long enough for a header")] {
        let path = desk.folder.put(file, bytes);
        let err = fail(1, &["model", "info", path.to_str().expect("UTF-8")]);
        assert!(err.starts_with(&format!("error: {}: is not a safetensors file", path.display())), "{err}");
    }
    let err = fail(1, &["model", "info", "nonesuch"]);
    assert!(err.contains("nonesuch: is neither a file nor a built-in model"), "{err}");
}

#[test]
fn pairs_are_found() {
    let folder = Folder::new();
    for name in ["A00028185", "A00028352"] {
        let place = folder.path(name);
        fs::create_dir(&place).expect("made");
        for end in ["", "_brain", "_brainmask"] {
            let file = place.join(format!("sub-{name}_ses-NFB3_T1w{end}.nii.gz"));
            fs::write(file, Nii::new().bytes()).expect("written");
        }
    }
    let (data, table) = (folder.0.path().to_str().expect("UTF-8").to_owned(), folder.path("pairs.tsv"));
    let counts = json(&["index", &data, "-o", table.to_str().expect("UTF-8")]);
    assert_eq!((&counts["images"], &counts["with_mask"]), (&Value::from(2), &Value::from(2)));
    let text = fs::read_to_string(&table).expect("written");
    let wanted =
        "A00028185/sub-A00028185_ses-NFB3_T1w.nii.gz\tA00028185/sub-A00028185_ses-NFB3_T1w_brainmask.nii.gz";
    assert_eq!(text.lines().nth(1), Some(wanted));

    let empty = Folder::new();
    let [none, missing] = [empty.0.path().to_path_buf(), empty.path("missing")];
    for folder in [none, missing] {
        let name = folder.to_str().expect("UTF-8");
        let err = fail(1, &["index", name, "-o", &format!("{data}/none.tsv")]);
        assert!(err.starts_with(&format!("error: {name}: ")) && err.lines().count() == 1, "{err}");
    }
    assert!(!folder.path("none.tsv").exists());
}

#[test]
fn images_are_resampled() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head_path, out) = (desk.path("head.nii.gz"), desk.path("out.nii.gz"));
    let source = desk.read("head.nii.gz");
    // On its own grid every interpolation gives the image back, with the reference's header.
    for kind in ["linear", "cubic", "area"] {
        succeed(&["resample", "-i", &head_path, "-o", &out, "--like", &head_path, "--interpolation", kind]);
        let written = desk.read("out.nii.gz");
        same_header(&source, &written, &[CAL, TYPE, SCALING]);
        for (got, want) in floats(&written).iter().zip(head_values(1)) {
            assert!((got - (0.5 * f32::from(want) + 3.0)).abs() < 1e-2, "{kind}: {got} {want}");
        }
    }
    // Halved voxels: the outer samples lie a quarter of a voxel past the outer centres.
    for (edge, outer) in [("zero", 0.0), ("clamp", 0.5 * f32::from(head_values(1)[0]) + 3.0)] {
        let fine = ["resample", "-i", &head_path, "-o", &out, "--voxel", "1.4", "--interpolation", "linear"];
        succeed(&[&fine[..], &["--edge", edge]].concat());
        assert!((floats(&desk.read("out.nii.gz"))[0] - outer).abs() < 1e-3, "{edge}");
    }
    let done = json(&["resample", "-i", &head_path, "-o", &out, "--voxel", "5.6"]);
    assert_eq!(done["shape"], serde_json::json!([22, 23, 20]));
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    let written = floats(&desk.read("out.nii.gz"));
    assert_eq!(written.len(), 22 * 23 * 20);
    let want = mean(&head_values(1).iter().map(|&v| 0.5 * f32::from(v) + 3.0).collect::<Vec<_>>());
    assert!((mean(&written) / want - 1.0).abs() < 0.01, "{} {want}", mean(&written));
    let done = json(&["resample", "-i", &head_path, "-o", &out, "--voxel", "4,4,4", "--shape", "30,20,10"]);
    assert_eq!(done["shape"], serde_json::json!([30, 20, 10]));

    desk.folder.put("series.nii", &series().bytes());
    succeed(&["resample", "-i", &desk.path("series.nii"), "-o", &out, "--voxel", "5.6", "--all"]);
    assert_eq!(floats(&desk.read("out.nii.gz")).len(), 2 * 22 * 23 * 20);
    let err = fail(1, &["resample", "-i", &head_path, "-o", &desk.path("no/out.nii.gz"), "--voxel", "5.6"]);
    assert!(err.contains("does not exist; create it first"), "{err}");
}

#[test]
fn freesurfer_files_go_in_and_out() {
    use trephine::volume::image::{FrameChoice, is_mgh_name, read};
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, tiny, mgz) = (desk.path("head.nii.gz"), desk.path("tiny.safetensors"), desk.path("head.mgz"));
    let volume = |path: &str| read(path, FrameChoice::Only).expect("reads").frame_f32(0).expect("held");
    succeed(&["resample", "-i", &head, "-o", &mgz, "--like", &head, "--interpolation", "nearest"]);
    let (nifti, free) = (volume(&head), volume(&mgz));
    assert_eq!(nifti.data, free.data);
    assert!(nifti.affine.abs_diff_eq(free.affine, 1e-4));

    // The short form stays in the format of its input; the long form goes by the names.
    let stripped = json(&["strip", &mgz, "-O", &desk.path("out"), "--model", &tiny]);
    let outputs = &stripped["heads"][0]["outputs"];
    let [brain, mask] = ["brain", "mask"].map(|name| outputs[name].as_str().expect("written").to_owned());
    assert!(brain.ends_with("head_brain.mgz") && mask.ends_with("head_mask.mgz"), "{outputs}");
    let (by_name, by_nifti) = (desk.path("m.nii.gz"), desk.path("n.mgh"));
    succeed(&["strip", "-i", &mgz, "-m", &by_name, "--model", &tiny]);
    succeed(&["strip", "-i", &head, "-m", &by_nifti, "--model", &tiny]);
    let mask = volume(&mask).data;
    assert!(mask.contains(&1.0) && mask.contains(&0.0));
    assert!(mask == volume(&by_name).data && mask == volume(&by_nifti).data);
    for ((brain, head), mask) in volume(&brain).data.iter().zip(&free.data).zip(&mask) {
        assert_eq!(*brain, head * mask);
    }
    for command in
        [&["n4", "--iterations", "2", "--auto-mask", "none"][..], &["normalise", "--method", "zscore"]]
    {
        let out = desk.path("o.mgz");
        succeed(&[command, &["-i", &mgz, "-o", &out]].concat());
        assert!(is_mgh_name(&out) && volume(&out).affine == free.affine);
    }
    desk.folder.put("pairs.tsv", b"image\tmask\nhead.mgz\tn.mgh\n");
    let evaluated = json(&["evaluate", "--data", &desk.path("pairs.tsv"), "--model", &tiny]);
    assert_eq!(evaluated["heads"][0]["dice"].as_f64(), Some(1.0));
}

#[test]
fn a_header_that_disagrees_with_itself_is_told() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let two = Nii { codes: [1, 2], quatern: [0.0; 3], qoffset: [0.0; 3], ..head(1) };
    desk.folder.put("two.nii", &two.bytes());
    let [_, err] =
        succeed(&["resample", "-i", &desk.path("two.nii"), "-o", &desk.path("o.nii"), "--voxel", "5.6"]);
    assert!(err.contains("sform (LAS) and qform (RAS) disagree by up to"), "{err}");
}

#[test]
fn intensities_are_normalised() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, out) = (desk.path("head.nii.gz"), desk.path("out.nii"));
    let normalise = |more: &[&str]| {
        succeed(&[&["normalise", "-i", &head, "-o", &out, "--method"][..], more].concat());
        floats(&desk.read("out.nii"))
    };
    let range = |values: &[f32]| {
        values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[a, b], &v| [a.min(v), b.max(v)])
    };
    let z = normalise(&["zscore"]);
    let mean = z.iter().sum::<f32>() / VOXELS as f32;
    let variance = z.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / VOXELS as f32;
    assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
    assert_eq!(range(&normalise(&["minmax"])), [0.0, 1.0]);
    assert_eq!(range(&normalise(&["minmax", "--range", "-1,255"])), [-1.0, 255.0]);
    let clipped = normalise(&["percentile", "--percentiles", "10,90"]);
    assert_eq!(range(&clipped), [0.0, 1.0]);
    assert!(clipped.iter().filter(|&&v| v == 1.0).count() > VOXELS / 20);
    same_header(&desk.read("head.nii.gz"), &desk.read("out.nii"), &[CAL, TYPE, SCALING]);
}

#[test]
fn bias_fields_are_corrected() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, out, field) = (desk.path("head.nii.gz"), desk.path("n4.nii.gz"), desk.path("field.nii.gz"));
    let brain = desk.folder.put("mask.nii", &mask().bytes());
    let brain = brain.to_str().expect("UTF-8");
    let quick = ["--shrink", "1", "--iterations", "5,5"];
    let with_mask = [&["n4", "-i", &head, "-o", &out, "-b", &field, "-x", brain][..], &quick].concat();
    let done = json(&with_mask);
    assert_eq!(done["levels"][0].as_array().map(Vec::len), Some(2));
    let (corrected, field_values) = (floats(&desk.read("n4.nii.gz")), floats(&desk.read("field.nii.gz")));
    for ((c, f), v) in corrected.iter().zip(&field_values).zip(head_values(1)) {
        let v = 0.5 * f32::from(v) + 3.0;
        assert!(*f > 0.0 && (c * f - v).abs() <= 1e-4 * v.abs(), "{c} * {f} is not {v}");
    }
    let [_, err] = succeed(&[&["n4", "-i", &head, "-o", &out][..], &quick].concat());
    assert!(err.contains("no mask: the field was fitted to the head"), "{err}");
    assert!(err.contains("--auto-mask none takes every voxel"), "{err}");
    let every = ["n4", "-i", &head, "-o", &out, "--auto-mask", "none"];
    let [_, err] = succeed(&[&every[..], &quick].concat());
    assert!(err.contains("no mask: the field was fitted to every voxel above 0"), "{err}");
    let article = ["n4", "-i", &head, "-o", &out, "--preset", "article", "--shrink", "2,2,1"];
    let [_, err] = succeed(&article);
    assert!(err.contains("every voxel, the background too") && err.contains("20, 10, 10, 5"), "{err}");
    let [_, err] = succeed(&[&["n4", "-i", &head, "-o", &out, "--quiet"][..], &quick].concat());
    assert_eq!(err, "");

    // Bad masks are refused before the device is opened.
    let mut away = mask();
    away.srow[2][3] += 500.0;
    let empty = Nii { data: vec![0; VOXELS], ..mask() };
    fs::remove_file(desk.folder.path("n4.nii.gz")).expect("written above");
    for (name, bad, words) in
        [("away.nii", away, "lies nowhere in its image"), ("empty.nii", empty, "is empty")]
    {
        let path = desk.folder.put(name, &bad.bytes());
        let path = path.to_str().expect("UTF-8");
        for option in ["-x", "--weight", "--apply-field"] {
            if name == "away.nii" || option == "-x" {
                let err = fail(1, &["n4", "-i", &head, "-o", &out, option, path]);
                assert!(err.starts_with(&format!("error: {path}: {words}")), "{option}: {err}");
            }
        }
        let err = fail(1, &["n4", "-i", &head, "-o", &out, "-x", path]);
        assert!(err.starts_with(&format!("error: {path}: {words}")) && err.lines().count() == 1, "{err}");
        assert!(!desk.folder.path("n4.nii.gz").exists());
    }
}

#[test]
fn a_saved_bias_field_applies_again() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, out, field) = (desk.path("head.nii.gz"), desk.path("n4.nii.gz"), desk.path("field.nii.gz"));
    // Label 3 in the brain, 5 in a slab of the scalp.
    let labels =
        (0..VOXELS).map(|ix| if radius(ix) < 0.7 { 3 } else { 5 * u8::from(ix < VOXELS / 3) }).collect();
    let labels = desk.folder.put("labels.nii", &Nii { data: labels, ..mask() }.bytes());
    let labels = labels.to_str().expect("UTF-8");
    let brain = desk.folder.put("mask.nii", &mask().bytes());
    let brain = brain.to_str().expect("UTF-8");
    let estimate = |region: &[&str]| -> (Vec<f32>, Vec<f32>) {
        let quick = ["--shrink", "1", "--iterations", "4,4", "--spline-distance", "90"];
        succeed(&[&["n4", "-i", &head, "-o", &out, "-b", &field], region, &quick].concat());
        (floats(&desk.read("n4.nii.gz")), floats(&desk.read("field.nii.gz")))
    };
    let (corrected, estimated) = estimate(&["-x", brain]);
    assert_eq!(estimate(&["-x", labels, "--mask-label", "3"]).1, estimated);
    assert_ne!(estimate(&["-x", labels]).1, estimated);
    assert_eq!(estimate(&["--weight", brain]).1, estimated);
    let again = desk.path("again.nii.gz");
    succeed(&["n4", "-i", &head, "-o", &again, "--apply-field", &field]);
    for (a, b) in floats(&desk.read("again.nii.gz")).iter().zip(&corrected) {
        assert!((a - b).abs() <= 1e-5 * b.abs(), "{a} is not {b}");
    }
    let err = fail(1, &["n4", "-i", &head, "-o", &out, "-x", labels, "--mask-label", "4"]);
    assert!(err.starts_with(&format!("error: {labels}: has no voxel of label 4")), "{err}");
    let err = fail(1, &["n4", "-i", &head, "-o", &again, "--apply-field", brain]);
    assert!(err.starts_with(&format!("error: {brain}: holds 0; a multiplicative bias field")), "{err}");
}

/// Checks brain and mask of the head against it, byte by byte.
fn check_stripped(source: &[u8], brain: &[u8], mask: &[u8], fill: i16) {
    same_header(source, brain, &[CAL]);
    same_header(source, mask, &[CAL, TYPE, SCALING]);
    assert_eq!(brain.len(), source.len());
    assert_eq!(&mask[TYPE], [2, 0, 8, 0]);
    assert_eq!(&mask[SCALING], [1.0_f32.to_le_bytes(), 0.0_f32.to_le_bytes()].concat());
    assert_eq!(mask.len() - 352, (source.len() - 352) / 2);
    let count = mask[352..].iter().filter(|&&v| v == 1).count();
    assert!(count > 100 && count + 100 < mask.len(), "{count} voxels of brain");
    for (ix, label) in mask[352..].iter().enumerate() {
        let at = 352 + 2 * ix..354 + 2 * ix;
        match label {
            1 => assert_eq!(brain[at.clone()], source[at], "voxel {ix}"),
            0 => assert_eq!(brain[at], fill.to_le_bytes(), "voxel {ix}"),
            other => panic!("label {other}"),
        }
    }
}

#[test]
fn outputs_keep_the_geometry_and_the_voxels() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, tiny) = (desk.path("head.nii.gz"), desk.path("tiny.safetensors"));
    let names =
        ["brain.nii.gz", "mask.nii", "sdt.nii.gz", "prob.nii.gz", "field.nii.gz", "n4.nii.gz", "check.png"];
    let [brain, mask, sdt, prob, field, n4, picture] = names.map(|name| desk.path(name));
    let done = json(&[
        "strip",
        "-i",
        &head,
        "--model",
        &tiny,
        "-o",
        &brain,
        "-m",
        &mask,
        "-d",
        &sdt,
        "-p",
        &prob,
        "-q",
        &picture,
        "--bias",
        &field,
        "--corrected",
        &n4,
        "-f",
        "-47",
    ]);
    let row = &done["heads"][0];
    assert_eq!((&row["status"], done["heads"].as_array().map(Vec::len)), (&Value::from("ok"), Some(1)));
    let source = desk.read("head.nii.gz");
    let labels = desk.read("mask.nii");
    // -47 under slope 0.5 and intercept 3 is stored as -100.
    check_stripped(&source, &desk.read("brain.nii.gz"), &labels, -100);
    let voxels = labels[352..].iter().filter(|&&v| v == 1).count();
    assert!(row["seconds"]["network"].is_number());
    let ml = row["brain_ml"].as_f64().expect("a number");
    assert!((ml - voxels as f64 * VOXEL_MM.powi(3) / 1000.0).abs() < 0.01, "{ml} mL, {voxels} voxels");
    for name in &names[2..6] {
        let written = desk.read(name);
        same_header(&source, &written, &[CAL, TYPE, SCALING]);
        assert_eq!(floats(&written).len(), VOXELS, "{name}");
    }
    for (distance, label) in floats(&desk.read("sdt.nii.gz")).iter().zip(&labels[352..]) {
        assert_eq!(*distance < 0.0, *label == 1);
    }
    assert!(floats(&desk.read("prob.nii.gz")).iter().all(|p| (0.0..=1.0).contains(p)));
    let corrected = floats(&desk.read("n4.nii.gz")).into_iter().zip(floats(&desk.read("field.nii.gz")));
    for ((c, f), v) in corrected.zip(head_values(1)) {
        let v = 0.5 * f32::from(v) + 3.0;
        assert!((c * f - v).abs() <= 1e-4 * v.abs());
    }
    let picture = image::open(picture).expect("a PNG");
    assert_eq!(picture.width(), 1600);
    let outline = image::Rgba([255, 72, 48, 255]);
    assert!(picture.to_rgba8().pixels().any(|p| *p == outline));

    // A border moves outward, and only what is named is written.
    let wide = desk.path("wide.nii.gz");
    succeed(&["strip", &head, "--model", &tiny, "-m", &wide, "-b", "9", "--quiet"]);
    let wide = desk.read("wide.nii.gz");
    assert!(labels[352..].iter().zip(&wide[352..]).all(|(a, b)| a <= b) && labels[352..] != wide[352..]);
    let mut expected: Vec<&str> = names.into();
    expected.extend(["head.nii.gz", "tiny.safetensors", "wide.nii.gz"]);
    expected.sort_unstable();
    assert_eq!(desk.folder.names(), expected);
}

#[test]
fn the_short_form_never_overwrites() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, tiny) = (desk.path("head.nii.gz"), desk.path("tiny.safetensors"));
    let [out, err] = succeed(&["strip", &head, "--model", &tiny]);
    assert!(out.is_empty() && err.starts_with("device: "), "{out}{err}");
    assert!(err.lines().last().is_some_and(|line| line.contains("head.nii.gz: brain ")), "{err}");
    let written = ["head_brain.nii.gz", "head_mask.nii.gz", "head_qc.png"];
    check_stripped(&desk.read("head.nii.gz"), &desk.read(written[0]), &desk.read(written[1]), -6);
    let before = fs::read(desk.folder.path(written[0])).expect("written");
    fs::write(desk.folder.path(written[1]), b"mine").expect("written");
    fs::remove_file(desk.folder.path(written[2])).expect("written above");
    let err = fail(1, &["strip", &head, "--model", &tiny]);
    assert!(err.contains("exists already; replace it with --force") && err.lines().count() == 1, "{err}");
    assert_eq!(fs::read(desk.folder.path(written[1])).expect("kept"), b"mine");
    assert!(!desk.folder.path(written[2]).exists());
    succeed(&["strip", &head, "--model", &tiny, "--force"]);
    assert_eq!(fs::read(desk.folder.path(written[0])).expect("kept"), before, "the same result twice");
    assert!(desk.folder.path(written[2]).exists() && desk.read(written[1]).len() > 352);
    succeed(&["strip", &head, "--model", &tiny, "-O", &desk.path("new/folder")]);
    assert_eq!(fs::read(desk.folder.path("new/folder/head_brain.nii.gz")).expect("written"), before);
}

#[test]
fn a_batch_goes_on_after_failures() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let heads = desk.folder.path("heads");
    fs::create_dir_all(heads.join("sub-2")).expect("made");
    let first = gz(&head(1).bytes());
    fs::write(heads.join("a.nii.gz"), &first).expect("written");
    fs::write(heads.join("broken.nii.gz"), &first[..first.len() / 2]).expect("written");
    let mut with_nan = head(2);
    with_nan.pixdim[1] = -with_nan.pixdim[1];
    with_nan.write(&heads.join("sub-2/a.nii"));
    // A derivative is no head.
    fs::write(heads.join("a_brain.nii.gz"), &first).expect("written");
    let (other, missing) = (desk.path("head.nii.gz"), desk.path("missing.nii"));
    let out = desk.path("out");
    let heads = heads.to_str().expect("UTF-8");
    let batch = ["strip", heads, &other, &missing, "-O", &out, "--model", &tiny];
    let err = fail(1, &batch);
    assert_eq!(err.matches("error: ").count(), 2, "{err}");
    assert_eq!(err.matches("warning: ").count(), 1, "{err}");
    assert!(err.contains("a.nii: negative voxel size in the header"), "{err}");
    assert!(err.contains("5 heads, 2 failed; report: "), "{err}");
    for done in ["a", "sub-2/a", "head"] {
        for end in ["_brain.nii.gz", "_mask.nii.gz", "_qc.png"] {
            assert!(Path::new(&out).join(format!("{done}{end}")).exists(), "{done}{end}");
        }
    }
    assert_eq!(fs::read_dir(&out).expect("made").count(), 3 + 3 + 1 + 1);
    let mut report = csv::Reader::from_path(Path::new(&out).join("report.csv")).expect("written");
    let header: Vec<String> = report.headers().expect("a header").iter().map(str::to_owned).collect();
    assert_eq!(&header[..4], ["path", "status", "brain_ml", "seconds"]);
    for column in ["seconds_read", "seconds_network", "seconds_write", "warnings", "error"] {
        assert!(header.iter().any(|h| h == column), "{column} is not in {header:?}");
    }
    let rows: Vec<csv::StringRecord> = report.records().map(|r| r.expect("a row")).collect();
    let status: Vec<&str> = rows.iter().map(|row| &row[1]).collect();
    assert_eq!(status, ["ok", "failed", "ok", "ok", "failed"]);
    assert!(rows[0][2].parse::<f64>().is_ok_and(|ml| ml > 0.0));
    assert!(
        rows[1].iter().next_back().is_some_and(|e| e.contains("broken.nii.gz: is truncated")),
        "{:?}",
        rows[1]
    );

    let err = fail(1, &batch);
    assert!(err.contains("report.csv: exists already") && err.lines().count() == 1, "{err}");
    // Two heads of one name would overwrite each other.
    let twice = json_of_failure(&[
        "strip",
        &format!("{heads}/a.nii.gz"),
        &format!("{heads}/sub-2/a.nii"),
        "-O",
        &desk.path("twice"),
        "--model",
        &tiny,
    ]);
    assert_eq!(
        (&twice["heads"][0]["status"], &twice["heads"][1]["status"]),
        (&"ok".into(), &"failed".into())
    );
}

fn json_of_failure(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    serde_json::from_str(&text(&output.stdout)).expect("stdout is JSON")
}

#[test]
fn volumes_of_a_series() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    desk.folder.put("series.nii", &series().bytes());
    let strip = |more: &[&str]| {
        let [brain, mask] = ["brain.nii", "mask.nii"].map(|name| desk.path(name));
        succeed(
            &[
                &["strip", "-i", &desk.path("series.nii"), "--model", &tiny, "-o", &brain, "-m", &mask][..],
                more,
            ]
            .concat(),
        );
        [desk.read("brain.nii"), desk.read("mask.nii")]
    };
    let [brain, mask] = strip(&["--volume", "1"]);
    assert_eq!((brain.len(), mask.len()), (352 + 2 * VOXELS, 352 + VOXELS));
    let [all_brains, all_masks] = strip(&["--all"]);
    check_stripped(&series().bytes(), &all_brains, &all_masks, -6);
    assert_eq!(mask[352..], all_masks[352 + VOXELS..]);
    assert_eq!(brain[352..], all_brains[352 + 2 * VOXELS..]);
}

#[test]
fn bad_inputs_end_in_one_clear_line() {
    let desk = Desk::new();
    let whole = head(1).bytes();
    let packed = gz(&whole);
    let wrong_magic = {
        let mut bytes = whole.clone();
        bytes[344..348].copy_from_slice(b"n+9\0");
        bytes[0..4].copy_from_slice(&[1, 2, 3, 4]);
        bytes
    };
    let floats = |value: f32| Nii {
        datatype: 16,
        bits: 32,
        scaling: [1.0, 0.0],
        data: vec![value; VOXELS].iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..head(1)
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("truncated.nii.gz", packed[..packed.len() * 2 / 3].to_vec(), "truncated"),
        ("short.nii", whole[..whole.len() - 100].to_vec(), "truncated"),
        ("magic.nii", wrong_magic, "is neither a NIfTI nor an MGH file"),
        ("text.nii.gz", b"<html>404 not found</html>".to_vec(), "is only 26 bytes long"),
        ("empty.nii", vec![], "is only 0 bytes long"),
        ("flat.nii", Nii { dim: vec![44, 46], ..head(1) }.bytes(), "is not a 3D image"),
        ("series.nii.gz", gz(&series().bytes()), "is 4D with 2 volumes; choose one with --volume N"),
        (
            "zero.nii",
            Nii { scaling: [1.0, 0.0], data: vec![0; 2 * VOXELS], ..head(1) }.bytes(),
            "is empty (every voxel is 0)",
        ),
        ("nan.nii.gz", gz(&floats(f32::NAN).bytes()), "holds no finite voxel value"),
        ("constant.nii", floats(7.0).bytes(), "is empty (every voxel is 7)"),
        ("huge.nii", Nii { dim: vec![32000, 32000, 32000], ..head(1) }.bytes(), "is truncated"),
        ("huge.nii.gz", gz(&Nii { dim: vec![32767; 7], ..head(1) }.bytes()), "has a damaged header"),
        ("negative.nii", Nii { dim: vec![-44, 46, 40], ..head(1) }.bytes(), "has a damaged header"),
    ];
    for (name, bytes, _) in &cases {
        desk.folder.put(name, bytes);
    }
    let (tiny, out) = (desk.path("tiny.safetensors"), desk.path("out.nii.gz"));
    let before = desk.folder.names();
    let check = |path: &str, words: &str, arguments: &[&str]| {
        let err = fail(1, arguments);
        assert!(err.starts_with(&format!("error: {path}: ")) && err.contains(words), "{arguments:?}\n{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert_eq!(desk.folder.names(), before, "{arguments:?}");
    };
    for (name, _, words) in &cases {
        let path = desk.path(name);
        check(&path, words, &["strip", &path, "--model", &tiny]);
        check(&path, words, &["strip", "-i", &path, "-m", &out, "--model", &tiny]);
    }
    // The other commands read by the same function: one bad file each.
    let nan = desk.path("nan.nii.gz");
    check(&nan, "no finite voxel", &["n4", "-i", &nan, "-o", &out]);
    check(&nan, "no finite voxel", &["normalise", "-i", &nan, "-o", &out, "--method", "zscore"]);
    check(&nan, "no finite voxel", &["resample", "-i", &nan, "-o", &out, "--voxel", "4"]);
    let missing = desk.path("missing.nii.gz");
    check(&missing, "does not exist", &["strip", &missing, "--model", &tiny]);
    let head = desk.path("head.nii.gz");
    check(&missing, "neither a file nor a built-in model", &["strip", &head, "--model", &missing]);
    check(&head, "is not a safetensors file", &["strip", &head, "--model", &head]);
    let series = desk.path("series.nii.gz");
    check(
        &series,
        "has no volume 2; choose --volume 0 to 1",
        &["strip", &series, "--volume", "2", "--model", &tiny],
    );
    check("model tiny", "--no-csf", &["strip", &head, "--no-csf", "--model", &tiny]);
    check(
        &desk.path("no/mask.nii"),
        "does not exist; create it first",
        &["strip", &head, "-m", &desk.path("no/mask.nii"), "--model", &tiny],
    );
}

#[test]
#[cfg(unix)]
fn folders_and_disks_that_refuse() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let desk = Desk::new();
    let (head, tiny) = (desk.path("head.nii.gz"), desk.path("tiny.safetensors"));
    let locked = desk.folder.path("locked");
    fs::create_dir(&locked).expect("made");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).expect("set");
    // Root reads it all the same and finds nothing in it.
    let err = fail(1, &["strip", locked.to_str().expect("UTF-8"), "-O", &desk.path("out"), "--model", &tiny]);
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).expect("set");
    assert!(err.contains(&format!("error: {}: ", locked.display())), "{err}");
    if !has_gpu() || !Path::new("/dev/full").exists() {
        return;
    }
    let full = desk.folder.path("full.nii.gz");
    symlink("/dev/full", &full).expect("linked");
    let err = fail(1, &["strip", &head, "-m", full.to_str().expect("UTF-8"), "--model", &tiny, "--quiet"]);
    assert!(err.starts_with(&format!("error: {}: cannot be written (", full.display())), "{err}");
    // A probability to nowhere is fine.
    succeed(&["strip", &head, "-p", "/dev/null", "--model", &tiny]);
}

#[test]
fn models_are_evaluated() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    desk.folder.put("mask.nii.gz", &gz(&mask().bytes()));
    let mut away = mask();
    away.srow[2][3] += 500.0;
    desk.folder.put("wrong.nii.gz", &gz(&away.bytes()));
    let table = "image\tmask\tcontrast\tage\n\
                 head.nii.gz\tmask.nii.gz\tT1w\t30\n\
                 head.nii.gz\twrong.nii.gz\tT1w\t31\n\
                 head.nii.gz\tmask.nii.gz\tT2w\t32\n\
                 head.nii.gz\t\tT2w\t33\n";
    desk.folder.put("pairs.tsv", table.as_bytes());
    let (pairs, tiny, scores) =
        (desk.path("pairs.tsv"), desk.path("tiny.safetensors"), desk.path("scores.csv"));
    let figure = desk.path("scores.png");
    let arguments = ["evaluate", "--data", &pairs, "--model", &tiny, "--csv", &scores, "--figure", &figure];
    let output = run(&arguments);
    let [out, err] = [text(&output.stdout), text(&output.stderr)];
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("wrong.nii.gz: has shape [44, 46, 39]") && err.contains("1 images have no mask"),
        "{err}"
    );
    assert_eq!(out.lines().count(), 1 + 2 + 6, "{out}");
    assert!(out.contains("median of 2, all") && out.contains("worst of 1, T2w"), "{out}");
    assert!(fs::read(&figure).expect("written").starts_with(b"\x89PNG"));
    let csv = fs::read_to_string(&scores).expect("written");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "image,dice,iou,hd95_mm,assd_mm,volume_error_percent,seconds,error,contrast,age");
    assert_eq!(lines.len(), 4);
    assert!(lines[1].ends_with(",,T1w,30") && lines[2].ends_with("T1w,31") && lines[3].ends_with(",,T2w,32"));
    let dice: f64 = lines[1].split(',').nth(1).and_then(|v| v.parse().ok()).expect("a number");
    assert!((0.0..=1.0).contains(&dice));
    let evaluated = json_of_failure(&arguments);
    assert_eq!(evaluated["summary"][0]["median"]["dice"].as_f64(), Some(dice));
}

#[test]
fn training_looks_at_its_input_first() {
    let desk = Desk::new();
    let mut away = mask();
    away.srow[2][3] += 500.0;
    desk.folder.put("wrong.nii.gz", &gz(&away.bytes()));
    desk.folder.put("wrong.tsv", b"image\tmask\nhead.nii.gz\twrong.nii.gz\n");
    desk.folder.put("none.tsv", b"image\tmask\nhead.nii.gz\t\n");
    desk.folder.put("columns.tsv", b"scan\tlabel\nhead.nii.gz\t\n");
    desk.folder.put("run.toml", b"epochs = 2\nlearning_rat = 3\n");
    let out = desk.path("run");
    let before = desk.folder.names();
    let cases = [
        (
            "wrong.nii.gz",
            "wrong.tsv",
            "lies nowhere in its image (44x46x40 voxels of 2.8x2.8x2.8 mm, LAS, where the image has 44x46x40",
            None,
        ),
        ("none.tsv", "none.tsv", "names no image with a mask", None),
        ("columns.tsv", "columns.tsv", "has no column `image`", None),
        ("missing.tsv", "missing.tsv", "does not exist", None),
        ("run.toml", "wrong.tsv", "unknown field", Some("run.toml")),
    ];
    for (blamed, table, words, config) in cases {
        let (table, config) = (desk.path(table), config.map(|name| desk.path(name)));
        let mut arguments = vec!["train", "--data", &table, "--out", &out];
        arguments.extend(config.iter().flat_map(|path| ["--config", path]));
        let err = fail(1, &arguments);
        assert!(err.starts_with(&format!("error: {}: ", desk.path(blamed))) && err.contains(words), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert_eq!(desk.folder.names(), before);
    }
    let err = fail(1, &["train", "--data", &desk.path("wrong.tsv"), "--out", &out, "--resume"]);
    assert!(err.starts_with(&format!("error: {out}/checkpoint.safetensors: cannot be read")), "{err}");
}
