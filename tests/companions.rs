//! Two images in one command, as users have them: in another orientation, on another grid, elsewhere.

#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;
#[path = "common/program.rs"]
mod program;

use std::path::Path;

use glam::{DMat4, DVec3, DVec4};
use nii::{Folder, Nii};
use program::{has_gpu, program};
use trephine::model::{
    AxisCodes, Centre, GridSpec, Intensity, Model, ModelCard, Readout, Sampling, initialise, residual_unet,
};
use trephine::tensor::Xyz;
use trephine::volume::orientation::AxisMap;

const SHAPE: [usize; 3] = [24, 26, 22];
const VOXELS: usize = 24 * 26 * 22;

/// Runs; returns the exit code, stdout and stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let output = program(&cache, arguments).output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("output is UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{arguments:?}\n{err}");
    (output.status.code().expect("not killed"), out, err)
}

fn head() -> Nii {
    let value = |ix: usize| {
        let [x, y, z] = [ix % 24, ix / 24 % 26, ix / (24 * 26)].map(|v| v as f64 / 12.0 - 1.0);
        (500.0 * (0.3 * x + 0.2 * z * z).exp() * if x * x + y * y + z * z < 0.7 { 1.0 } else { 0.1 }) as i16
    };
    Nii {
        dim: SHAPE.map(|n| n as i64).into(),
        scaling: [1.0, 0.0],
        srow: [[-3.0, 0.0, 0.0, 40.0], [0.0, 3.0, 0.0, -30.0], [0.0, 0.0, 3.0, -20.0]],
        data: (0..VOXELS).flat_map(|ix| value(ix).to_le_bytes()).collect(),
        ..Nii::new()
    }
}

/// A mask without any symmetry.
fn mask() -> Nii {
    let data = (0..VOXELS).map(|ix| u8::from(ix % 24 < 15 && ix / 24 % 26 > 4 && ix / 624 < 19)).collect();
    Nii { datatype: 2, bits: 8, data, ..head() }
}

/// Positive values without any symmetry.
fn field() -> Nii {
    let value = |ix: usize| (1.0 + 0.01 * (ix % 24) as f32).powi(2) + 0.02 * (ix / 624) as f32;
    Nii {
        datatype: 16,
        bits: 32,
        data: (0..VOXELS).flat_map(|ix| value(ix).to_le_bytes()).collect(),
        ..head()
    }
}

/// A network of random weights that calls about half of its grid brain.
fn tiny_model() -> Vec<u8> {
    let grid = GridSpec {
        shape: [16, 16, 16],
        voxel_mm: [8.0; 3],
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

fn affine(nii: &Nii) -> DMat4 {
    let [x, y, z] = nii.srow.map(DVec4::from_array);
    DMat4::from_cols(x, y, z, DVec4::W).transpose()
}

/// Stored in another order of axes, in the same place.
fn turned(nii: &Nii) -> Nii {
    let map = AxisMap { source: [2, 0, 1], flip: [true, false, true] };
    let cells: Vec<&[u8]> = nii.data.chunks(nii.data.len() / VOXELS).collect();
    Nii {
        dim: map.shape(Xyz(SHAPE)).map(|n| n as i64).0.into(),
        srow: nii::rows(&map.affine(&affine(nii), Xyz(SHAPE))),
        data: map.apply(Xyz(SHAPE), &cells).concat(),
        ..nii.clone()
    }
}

fn moved(nii: &Nii, mm: DVec3) -> Nii {
    Nii { srow: nii::rows(&(DMat4::from_translation(mm) * affine(nii))), ..nii.clone() }
}

struct Desk(Folder);

impl Desk {
    fn new() -> Self {
        let desk = Self(Folder::new());
        desk.put("head.nii", &head());
        desk
    }

    fn put(&self, name: &str, nii: &Nii) -> String {
        self.0.put(name, &nii.bytes()).to_str().expect("UTF-8").to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Corrects the head with these companions; the output's bytes and stderr.
    fn n4(&self, arguments: &[&str]) -> Result<(Vec<u8>, String), String> {
        let (head, out) = (self.path("head.nii"), self.path("out.nii"));
        let quick = ["--iterations", "3,3", "--shrink", "1"];
        let quick = if arguments.contains(&"--apply-field") { &[][..] } else { &quick[..] };
        let (code, _, err) = run(&[&["n4", "-i", &head, "-o", &out], arguments, quick].concat());
        match code {
            0 => Ok((std::fs::read(&out).expect("written"), err)),
            1 => Err(err),
            _ => panic!("exit code {code}: {err}"),
        }
    }
}

#[test]
fn companions_of_n4_are_found_where_they_lie() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    for (option, companion) in [("-x", mask()), ("--weight", field()), ("--apply-field", field())] {
        let straight = desk.put("straight.nii", &companion);
        let (want, err) = desk.n4(&[option, &straight]).expect("corrects");
        assert!(!err.contains("warning"), "{option}: {err}");
        let other = desk.put("turned.nii", &turned(&companion));
        let (got, err) = desk.n4(&[option, &other]).expect("corrects");
        assert!(got == want && !err.contains("warning"), "{option}: {err}");

        let off = desk.put("off.nii", &moved(&companion, DVec3::new(6.0, 0.0, 0.0)));
        let words = "lies on another grid than its image (24x26x22 voxels of 3x3x3 mm, LAS";
        match desk.n4(&[option, &off]) {
            Ok((got, err)) => {
                assert!(
                    option == "-x" && err.contains(&format!("warning: {off}: {words}")),
                    "{option}: {err}"
                );
                assert_ne!(got, want);
            }
            Err(err) => {
                assert!(option != "-x" && err.contains(&format!("error: {off}: {words}")), "{option}: {err}")
            }
        }
        let away = desk.put("away.nii", &moved(&companion, DVec3::new(0.0, 0.0, 300.0)));
        let err = desk.n4(&[option, &away]).expect_err("is refused");
        assert!(err.contains(&format!("error: {away}: lies nowhere in its image")), "{option}: {err}");
    }
    // Every second voxel of the mask along each axis.
    let half = [12, 13, 11];
    let data = (0..12 * 13 * 11)
        .map(|ix| mask().data[2 * (ix % 12) + 24 * (2 * (ix / 12 % 13) + 26 * (2 * (ix / 156)))])
        .collect();
    let step = DMat4::from_translation(DVec3::splat(0.5)) * DMat4::from_scale(DVec3::splat(2.0));
    let coarse = Nii { dim: half.to_vec(), srow: nii::rows(&(affine(&mask()) * step)), data, ..mask() };
    let coarse = desk.put("coarse.nii", &coarse);
    let (_, err) = desk.n4(&["-x", &coarse]).expect("corrects");
    assert!(
        err.contains("(12x13x11 voxels of 6x6x6 mm, LAS, where the image has 24x26x22 voxels of 3x3x3 mm"),
        "{err}"
    );
}

#[test]
fn advice_about_a_series_of_masks_can_be_followed() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let mut one = mask();
    one.dim.push(1);
    let one = desk.put("one.nii", &one);
    let (_, err) = desk.n4(&["-x", &one]).expect("corrects");
    assert!(!err.contains("warning"), "{err}");
    let mut two = mask();
    two.dim.push(2);
    two.data.extend(mask().data);
    let two = desk.put("two.nii", &two);
    let err = desk.n4(&["-x", &two]).expect_err("which one?");
    assert!(err.contains("is 4D with 2 volumes") && !err.contains("--volume"), "{err}");
    // In a table there is no option for it either.
    std::fs::write(desk.path("pairs.tsv"), "image\tmask\ntwo.nii\thead.nii\n").expect("writes");
    let (code, _, err) = run(&["evaluate", "--data", &desk.path("pairs.tsv")]);
    assert!(code == 1 && err.contains("is 4D with 2 volumes") && !err.contains("--volume"), "{err}");
}

#[test]
fn voxels_left_out_of_a_mask_are_counted_where_they_are_many() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let mask = desk.put("mask.nii", &mask());
    let (_, err) = desk.n4(&["-x", &mask]).expect("corrects");
    assert!(!err.contains("left out"), "{err}");
    // Of the mask's 15 planes along x, 8 hold no intensity.
    let mut head = head();
    for ix in (0..VOXELS).filter(|ix| ix % 24 < 8) {
        head.data[2 * ix..2 * ix + 2].copy_from_slice(&(-(ix as i16 % 3)).to_le_bytes());
    }
    desk.put("head.nii", &head);
    let (_, err) = desk.n4(&["-x", &mask]).expect("corrects");
    let words = "53% of the voxels that the field should be fitted to are 0 or negative and were left out";
    assert!(err.contains(&format!("warning: {}: {words}", desk.path("head.nii"))), "{err}");
    // Where ITK's way is asked for, they count.
    let (_, err) = desk.n4(&["-x", &mask, "--preset", "article"]).expect("corrects");
    assert!(!err.contains("left out"), "{err}");
}

#[test]
fn references_are_found_where_they_lie() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, own, tiny) = (desk.path("head.nii"), desk.path("own.nii"), desk.path("tiny.safetensors"));
    std::fs::write(&tiny, tiny_model()).expect("writes");
    let (code, _, err) = run(&["strip", "-i", &head, "-m", &own, "--model", &tiny]);
    assert_eq!(code, 0, "{err}");
    let bytes = std::fs::read(&own).expect("written");
    let own = Nii { data: bytes[352..].to_vec(), ..mask() };
    let evaluate = |reference: &Nii| {
        desk.put("reference.nii", reference);
        std::fs::write(desk.path("pairs.tsv"), "image\tmask\nhead.nii\treference.nii\n").expect("writes");
        let (code, out, err) =
            run(&["evaluate", "--data", &desk.path("pairs.tsv"), "--model", &tiny, "--json"]);
        let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        (code, json["heads"][0].clone(), err)
    };
    let (code, row, err) = evaluate(&turned(&own));
    assert!(code == 0 && row["dice"].as_f64() == Some(1.0), "{row} {err}");
    let (code, row, err) = evaluate(&moved(&own, DVec3::new(6.0, 3.0, 0.0)));
    assert!(code == 0 && row["dice"].as_f64().expect("a number") < 0.95, "{row}");
    assert!(err.contains("lies on another grid than its image"), "{err}");
    assert!(row["warnings"].to_string().contains("lies on another grid than its image"), "{row}");
    let (code, row, _) = evaluate(&moved(&own, DVec3::new(0.0, 400.0, 0.0)));
    assert!(code == 1 && row["error"].to_string().contains("lies nowhere in its image"), "{row}");
}

#[test]
fn an_index_says_which_masks_do_not_fit() {
    let desk = Desk::new();
    for (name, nii) in [
        ("a.nii", head()),
        ("a_mask.nii", mask()),
        ("b.nii", head()),
        ("b_mask.nii", turned(&mask())),
        ("c.nii", head()),
        ("c_mask.nii", moved(&mask(), DVec3::new(9.0, 0.0, 0.0))),
        ("d.nii", head()),
        ("d_mask.nii", moved(&mask(), DVec3::new(900.0, 0.0, 0.0))),
    ] {
        desk.put(name, &nii);
    }
    std::fs::write(desk.path("e.nii"), b"no image").expect("writes");
    let table = desk.path("pairs.tsv");
    let (code, out, err) = run(&["index", &desk.path(""), "-o", &table, "--json"]);
    assert_eq!(code, 0, "{err}");
    let text = std::fs::read_to_string(&table).expect("written");
    assert_eq!(
        text,
        "image\tmask\na.nii\ta_mask.nii\nb.nii\tb_mask.nii\nc.nii\tc_mask.nii\nd.nii\t\nhead.nii\t\n"
    );
    let said = |name: &str, words: &str| err.contains(&format!("warning: {}: {words}", desk.path(name)));
    assert!(said("c_mask.nii", "lies on another grid than its image"), "{err}");
    assert!(said("d_mask.nii", "is left out: lies nowhere in its image"), "{err}");
    assert!(said("e.nii", "is left out: is only 8 bytes long"), "{err}");
    assert_eq!(err.lines().count(), 3, "{err}");
    assert!(out.contains("lies nowhere"), "{out}");
}

#[test]
fn a_folder_without_heads_says_what_it_holds() {
    let desk = Desk(Folder::new());
    for name in ["a_brain.nii.gz", "b_brain.nii.gz", "c_mask.nii"] {
        desk.0.put(name, b"");
    }
    let (code, _, err) = run(&["index", &desk.path(""), "-o", &desk.path("pairs.tsv")]);
    assert_eq!(code, 1);
    assert!(err.contains("2 made from a head by their names (a_brain.nii.gz, ...)"), "{err}");
    assert!(err.contains("1 masks by their names (c_mask.nii)"), "{err}");
}

#[cfg(unix)]
#[test]
fn a_name_that_no_table_holds_stops_nothing() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let desk = Desk::new();
    let name = desk.0.0.path().join(OsStr::from_bytes(b"Sch\xe4del.nii"));
    // Some file systems refuse such names.
    if std::fs::write(name, head().bytes()).is_err() {
        return;
    }
    desk.put("tab\tin.nii", &head());
    let table = desk.path("pairs.tsv");
    let (code, _, err) = run(&["index", &desk.path(""), "-o", &table]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::read_to_string(&table).expect("written"), "image\tmask\nhead.nii\t\n");
    assert_eq!(err.matches("its name is not UTF-8 or holds a tab").count(), 2, "{err}");
}
