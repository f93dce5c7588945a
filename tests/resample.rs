//! `trephine resample` as users run it: labels that stay what they are, grids that cannot be meant.

#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;
#[path = "common/program.rs"]
mod program;

use std::path::Path;

use nii::{Folder, Nii, REAL_TYPES, VOXELS, only, value_bytes};
use program::{has_gpu, program};
use trephine::tensor::Xyz;
use trephine::volume::image::NiftiType;

/// Runs; returns the exit code and stderr.
fn run(arguments: &[&str]) -> (i32, String) {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let output = program(&cache, arguments).output().expect("the program starts");
    let err = String::from_utf8(output.stderr).expect("output is UTF-8");
    assert!(!err.contains("panicked"), "{arguments:?}\n{err}");
    (output.status.code().expect("not killed"), err)
}

struct Desk(Folder);

impl Desk {
    fn put(&self, name: &str, nii: &Nii) -> String {
        self.0.put(name, &nii.bytes()).to_str().expect("UTF-8").to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).to_str().expect("UTF-8").to_owned()
    }
}

/// 7 x 6 x 5 voxels of 2 mm.
fn grid(mut nii: Nii) -> Nii {
    nii.srow = [[2.0, 0.0, 0.0, -6.0], [0.0, 2.0, 0.0, -5.0], [0.0, 0.0, 2.0, -4.0]];
    nii.pixdim[1..4].fill(2.0);
    nii
}

/// Labels that f32 takes for one another.
fn atlas() -> (Nii, Vec<u32>) {
    let ids = [0, 997, 312_782_546, 312_782_550, 312_782_554, u32::MAX, u32::MAX - 1];
    let labels: Vec<u32> = (0..VOXELS).map(|ix| ids[ix * ix % 11 % 7]).collect();
    let data = labels.iter().flat_map(|v| v.to_le_bytes()).collect();
    (grid(Nii { scaling: [1.0, 0.0], data, ..Nii::with(768, 32, false) }), labels)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|v| u32::from_le_bytes(*v)).collect()
}

#[test]
fn nearest_keeps_labels_bit_for_bit() {
    let desk = Desk(Folder::new());
    let (atlas, labels) = atlas();
    let (input, out) = (desk.put("atlas.nii", &atlas), desk.path("out.nii.gz"));
    let nearest = ["resample", "-i", &input, "-o", &out, "--interpolation", "nearest"];
    // No device is needed, so none is asked for.
    let (code, err) = run(&[&nearest[..], &["--voxel", "1", "--edge", "clamp"]].concat());
    assert!(code == 0 && !err.contains("device:"), "{err}");
    let image = only(Path::new(&out));
    assert_eq!((image.shape(), image.datatype()), (Xyz([14, 12, 10]), NiftiType::Uint32));
    let want: Vec<u32> = (0..14 * 12 * 10)
        .map(|ix| labels[ix % 14 / 2 + 7 * (ix / 14 % 12 / 2) + 42 * (ix / 168 / 2)])
        .collect();
    assert_eq!(words(image.raw()), want);

    // On the grid of a reference of another type: its place, the labels' type.
    let mut like = grid(Nii::new());
    like.srow[0][3] += 4.0;
    like.scaling = [0.25, 7.0];
    let like = desk.put("like.nii", &like);
    let (code, err) = run(&[&nearest[..], &["--like", &like, "--fill", "4294967290"]].concat());
    assert_eq!(code, 0, "{err}");
    let image = only(Path::new(&out));
    assert_eq!(image.affine(), only(Path::new(&like)).affine());
    assert_eq!(image.datatype(), NiftiType::Uint32);
    let want: Vec<u32> =
        (0..VOXELS).map(|ix| if ix % 7 < 5 { labels[ix + 2] } else { u32::MAX - 5 }).collect();
    assert_eq!(words(image.raw()), want);
    assert_eq!(image.info().scaling, (1.0, 0.0));

    // A format without such integers says so instead of rounding them.
    let mgz = desk.path("out.mgz");
    let (code, err) =
        run(&["resample", "-i", &input, "-o", &mgz, "--interpolation", "nearest", "--voxel", "2"]);
    assert!(code == 1 && err.contains("cannot hold the value 4294967295 in its format exactly"), "{err}");
    assert!(!Path::new(&mgz).exists());
    let fits: Vec<u8> = labels.iter().flat_map(|&v| (v.min(312_782_554)).to_le_bytes()).collect();
    let input = desk.put("fits.nii", &Nii { data: fits.clone(), ..atlas });
    let (code, err) =
        run(&["resample", "-i", &input, "-o", &mgz, "--interpolation", "nearest", "--voxel", "2"]);
    assert_eq!(code, 0, "{err}");
    let image = only(Path::new(&mgz));
    assert_eq!(image.datatype(), NiftiType::Int32);
    let stored: Vec<u32> = image.raw().as_chunks::<4>().0.iter().map(|v| u32::from_be_bytes(*v)).collect();
    assert_eq!(stored, words(&fits));
}

#[test]
fn nearest_keeps_every_type_and_scaling() {
    let desk = Desk(Folder::new());
    let out = desk.path("out.nii");
    for (datatype, bits) in REAL_TYPES {
        for big in [false, true] {
            let nii = grid(Nii { scaling: [2.5, -3.0], ..Nii::with(datatype, bits, big) });
            let input = desk.put("in.nii", &nii);
            let (code, err) =
                run(&["resample", "-i", &input, "-o", &out, "--voxel", "2", "--interpolation", "nearest"]);
            assert_eq!(code, 0, "{err}");
            let image = only(Path::new(&out));
            assert_eq!(image.raw(), value_bytes(datatype, big, 1), "{datatype} {big}");
            assert_eq!(image.info().scaling, (2.5, -3.0));
            assert_eq!(image.datatype(), only(Path::new(&input)).datatype());
        }
    }
    // All volumes of a series.
    let mut series = grid(Nii { data: value_bytes(4, false, 3), ..Nii::new() });
    series.dim.push(3);
    let input = desk.put("series.nii", &series);
    let (code, err) =
        run(&["resample", "-i", &input, "-o", &out, "--voxel", "2", "--interpolation", "nearest", "--all"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::read(&out).expect("written")[352..], series.data);
}

#[test]
fn the_value_outside_is_the_one_asked_for() {
    let desk = Desk(Folder::new());
    let mut like = grid(Nii::new());
    like.srow[1][3] += 6.0;
    let (input, like) = (desk.put("in.nii", &grid(Nii::new())), desk.put("like.nii", &like));
    let out = desk.path("out.nii");
    let outside = |kind: &str, fill: &str| {
        let arguments =
            ["resample", "-i", &input, "-o", &out, "--like", &like, "--interpolation", kind, "--fill", fill];
        let (code, err) = run(&arguments);
        if code != 0 {
            return Err(err);
        }
        let values = only(Path::new(&out)).frame_f32(0).expect("held").data;
        Ok([values[0], values[7 * 5]])
    };
    let first = (7 * 3 * 7 - 300) as f32;
    assert_eq!(outside("nearest", "-1024"), Ok([first, -1024.0]));
    if has_gpu() {
        for kind in ["linear", "cubic", "area"] {
            let [inside, beyond] = outside(kind, "-1024.5").expect("samples");
            assert!((inside - first).abs() < 1e-2 && beyond == -1024.5, "{kind}: {inside} {beyond}");
        }
    }
    for fill in ["40000", "nan"] {
        let err = outside("nearest", fill).expect_err("int16 does not hold it");
        assert!(err.contains("its voxels are Int16 and cannot hold --fill"), "{err}");
    }
}

#[test]
fn grids_that_cannot_be_meant_are_refused_before_the_work() {
    let desk = Desk(Folder::new());
    let input = desk.put("in.nii", &grid(Nii::new()));
    let out = desk.path("out.nii");
    for kind in ["nearest", "linear", "area"] {
        for (more, words) in [
            (&["--voxel", "1e9"][..], "is larger than the whole image along its axis x (14.0 mm)"),
            (&["--voxel", "1,1,40"], "is larger than the whole image along its axis z (10.0 mm)"),
            (&["--voxel", "1e-5"], "voxels; 2.147e9 (8 GiB of float32) are the most"),
            (&["--voxel", "1e-300"], "(8 GiB of float32) are the most"),
            (&["--voxel", "2", "--shape", "40000,40000,40000"], "6.400e13 voxels"),
        ] {
            let (code, err) =
                run(&[&["resample", "-i", &input, "-o", &out, "--interpolation", kind], more].concat());
            assert!(code == 2 && err.contains(words), "{more:?}: {code} {err}");
        }
        let (code, err) = run(&[
            "resample",
            "-i",
            &input,
            "-o",
            &out,
            "--interpolation",
            kind,
            "--voxel",
            "2",
            "--shape",
            "40000,2,2",
        ]);
        assert!(code == 1 && err.contains("cannot hold a grid of [40000, 2, 2]"), "{err}");
        let mut away = grid(Nii::new());
        away.srow[2][3] += 100.0;
        let like = desk.put("away.nii", &away);
        let (code, err) =
            run(&["resample", "-i", &input, "-o", &out, "--interpolation", kind, "--like", &like]);
        let start = format!("error: {input}: no voxel of the new grid falls in the image");
        assert!(
            code == 1 && err.starts_with(&start) && err.contains("corners up to 100.0 mm apart"),
            "{err}"
        );
        assert!(!Path::new(&out).exists());
    }
}
