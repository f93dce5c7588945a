//! One head: what is written, and what is refused.

use std::fs;
use std::path::Path;

use serde_json::Value;
use trephine::model::{Model, add_no_csf, begin_no_csf};

use crate::desk::{
    CAL, Desk, OBLIQUE, SCALING, TYPE, VOXEL_MM, VOXELS, fail, floats, head, head_values, inflated, json,
    json_of_failure, run, same_header, series, succeed,
};
use crate::nii::{Nii, gz};
use crate::program::has_gpu;

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
    let outline = image::Rgba([255, 150, 0, 255]);
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
fn the_mask_of_the_mean_lies_on_every_volume() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    // The mean is of the two that are not empty.
    let three = with_an_empty_volume();
    let first = head_values(1);
    let mean: Vec<f32> =
        first.iter().zip(head_values(2)).map(|(&a, b)| (f32::from(a) + f32::from(b)) / 2.0).collect();
    let data = mean.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mean = Nii { datatype: 16, bits: 32, scaling: [1.0, 0.0], data, ..head(1) };
    desk.folder.put("three.nii", &three.bytes());
    desk.folder.put("mean.nii", &mean.bytes());
    let [three, mean, brain, mask, sdt, own] =
        ["three.nii", "mean.nii", "brain.nii", "mask.nii", "sdt.nii", "own.nii"].map(|name| desk.path(name));
    let arguments =
        ["strip", "-i", &three, "--mean", "--model", &tiny, "-o", &brain, "-m", &mask, "-d", &sdt];
    let done = json(&arguments);
    let warnings = done["heads"][0]["warnings"].to_string();
    assert!(
        warnings.contains("volume 1 is empty") && warnings.contains("it is left out of the mean"),
        "{warnings}"
    );
    succeed(&["strip", "-i", &mean, "-m", &own, "--model", &tiny]);
    let (labels, wanted) = (desk.read("mask.nii"), desk.read("own.nii"));
    assert_eq!(labels[352..], wanted[352..]);
    assert_eq!(floats(&desk.read("sdt.nii")).len(), VOXELS);
    let brains = desk.read("brain.nii");
    assert_eq!(brains.len(), 352 + 3 * 2 * VOXELS);
    let stored = shorts(&brains);
    for (frame, values) in [(0, &first), (2, &head_values(2))] {
        let same = (0..VOXELS)
            .all(|ix| stored[frame * VOXELS + ix] == if labels[352 + ix] == 1 { values[ix] } else { 0 });
        assert!(same, "volume {frame}");
    }
    // Of one volume, it is that volume.
    let head = desk.path("head.nii.gz");
    succeed(&["strip", "-i", &head, "--mean", "-m", &mask, "--model", &tiny]);
    succeed(&["strip", "-i", &head, "-m", &own, "--model", &tiny]);
    assert_eq!(desk.read("mask.nii"), desk.read("own.nii"));
    assert!(fail(2, &["strip", "-i", &head, "--mean", "--all", "-m", &mask]).contains("--all"));
}

/// Two volumes, and an empty one in between.
fn with_an_empty_volume() -> Nii {
    let mut three = series();
    three.dim[3] = 3;
    three.scaling = [1.0, 0.0];
    three.data.splice(2 * VOXELS..2 * VOXELS, vec![0; 2 * VOXELS]);
    three
}

/// int16 voxels of a NIfTI file.
fn shorts(nifti: &[u8]) -> Vec<i16> {
    nifti[352..].chunks_exact(2).map(|b| i16::from_le_bytes(b.try_into().expect("2 bytes"))).collect()
}

/// A network that says both: what it says of the brain is untouched by what it says of the brain without CSF.
#[test]
fn no_csf_asks_the_network_s_other_output() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let [tiny, head] = ["tiny.safetensors", "head.nii.gz"].map(|name| desk.path(name));
    let mut both = Model::read(tiny.as_ref()).expect("reads");
    add_no_csf(&mut both.description);
    assert!(begin_no_csf(&mut both.tensors, &both.description));
    both.tensors.get_mut("head_no_csf.bias").expect("has a bias").1[0] -= 0.3;
    let both = desk.folder.put("both.safetensors", &both.to_bytes(false).expect("serialises"));
    let both = both.to_str().expect("UTF-8");
    let mask_of = |name: &str, extra: &[&str]| {
        let mask = desk.path(name);
        succeed(&[&["strip", "-i", &head, "-m", &mask][..], extra].concat());
        inflated(Path::new(&mask))[352..].to_vec()
    };
    let alone = mask_of("alone.nii.gz", &["--model", &tiny]);
    assert!(mask_of("brain.nii.gz", &["--model", both]) == alone);
    let inner = mask_of("inner.nii.gz", &["--model", both, "--no-csf"]);
    let marked = |mask: &[u8]| mask.iter().filter(|&&v| v == 1).count();
    assert!(inner.iter().zip(&alone).all(|(inner, brain)| inner <= brain));
    assert!((1..marked(&alone)).contains(&marked(&inner)), "{} of {}", marked(&inner), marked(&alone));
    // In a batch, what is finished with the one is not finished with the other.
    let (folder, out) = (desk.path(""), desk.path("out"));
    let batch = |extra: &[&str]| {
        let given = ["strip", &folder, "-O", &out, "--model", both, "--save", "mask", "--resume"];
        succeed(&[&given[..], extra].concat());
        inflated(&Path::new(&out).join("head_mask.nii.gz"))[352..].to_vec()
    };
    assert!(batch(&[]) == alone);
    assert!(batch(&["--no-csf"]) == inner);
}

#[test]
fn an_empty_volume_of_a_series_fails_alone() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let mut three = with_an_empty_volume();
    let file = desk.folder.put("three.nii", &three.bytes());
    let file = file.to_str().expect("UTF-8");
    let [brain, mask, distance, probability] =
        ["brain.nii", "mask.nii", "sdt.nii", "prob.nii"].map(|name| desk.path(name));
    let arguments = [
        "strip",
        "-i",
        file,
        "--all",
        "--model",
        &tiny,
        "-o",
        &brain,
        "-m",
        &mask,
        "-d",
        &distance,
        "-p",
        &probability,
    ];
    let err = fail(1, &arguments);
    assert!(
        err.contains(&format!("error: {file}: volume 1 is empty (every voxel is 0); check how it was made")),
        "{err}"
    );
    let done = json_of_failure(&arguments);
    assert_eq!(done["heads"][0]["status"], "partial");
    assert_eq!(done["heads"][0]["outputs"]["mask"], mask);
    let labels = desk.read("mask.nii");
    let of = |frame: usize| &labels[352 + frame * VOXELS..352 + (frame + 1) * VOXELS];
    assert_eq!(labels.len(), 352 + 3 * VOXELS);
    assert!([of(0), of(1), of(2)].map(|mask| mask.contains(&1)) == [true, false, true]);
    assert_eq!(desk.read("brain.nii").len(), 352 + 3 * 2 * VOXELS);
    assert!(floats(&desk.read("sdt.nii"))[VOXELS..2 * VOXELS].iter().all(|v| *v == f32::INFINITY));
    assert!(floats(&desk.read("prob.nii"))[VOXELS..2 * VOXELS].iter().all(|v| *v == 0.0));
    // Chosen by itself it is named as well; where nothing is of use, the file is.
    let err = fail(1, &["strip", "-i", file, "--volume", "1", "--model", &tiny, "-m", &mask]);
    assert!(err.starts_with(&format!("error: {file}: volume 1 is empty")), "{err}");
    for command in [&["n4"][..], &["normalise", "--method", "zscore"], &["resample", "--voxel", "5.6"]] {
        let err = fail(1, &[command, &["-i", file, "-o", &brain, "--all"]].concat());
        assert!(err.starts_with(&format!("error: {file}: volume 1 is empty")), "{command:?}: {err}");
    }
    three.data = vec![0; 6 * VOXELS];
    desk.folder.put("three.nii", &three.bytes());
    let err = fail(1, &arguments);
    assert!(err.starts_with(&format!("error: {file}: is empty (every voxel is 0)")), "{err}");
}

#[test]
fn a_ceiling_for_buffers_is_kept_and_reported() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let [head, tiny, mask, own] =
        ["head.nii.gz", "tiny.safetensors", "mask.nii", "own.nii"].map(|name| desk.path(name));
    succeed(&["strip", "-i", &head, "-m", &own, "--model", &tiny]);
    let done = json(&["strip", "-i", &head, "-m", &mask, "--model", &tiny, "--max-memory", "64M"]);
    let peak = done["heads"][0]["peak_buffer_mb"].as_f64().expect("is counted");
    assert!(peak > 4.0 && peak < 64.0, "{peak}");
    assert_eq!(desk.read("mask.nii"), desk.read("own.nii"));
    for (size, why) in [("64", "no unit"), ("1M", "64M is the least"), ("much", "no unit")] {
        let err = fail(2, &["strip", "-i", &head, "-m", &mask, "--max-memory", size]);
        assert!(err.contains(why), "{size}: {err}");
    }
}

/// The volumes before the one that is missing are written by then, under names that they never keep.
#[test]
fn a_series_that_ends_early_leaves_nothing() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let whole = series().bytes();
    let cut = desk.folder.put("cut.nii.gz", &gz(&whole[..whole.len() - 10]));
    let cut = cut.to_str().expect("UTF-8");
    let before = desk.folder.names();
    for how in ["--all", "--mean"] {
        let [mask, brain] = ["mask.nii.gz", "brain.nii.gz"].map(|name| desk.path(name));
        let err = fail(1, &["strip", "-i", cut, how, "-m", &mask, "-o", &brain, "--model", &tiny]);
        assert!(err.contains(&format!("error: {cut}: is truncated")), "{err}");
        assert_eq!(desk.folder.names(), before, "{how}");
    }
}

/// The mean needs its volumes twice, which a pipe does not give; all else takes one walk through the file.
#[cfg(unix)]
#[test]
fn a_series_may_come_through_a_pipe_but_for_its_mean() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    desk.folder.put("series.nii", &series().bytes());
    let [file, pipe, mask, brain] =
        ["series.nii", "pipe.nii", "mask.nii", "brain.nii"].map(|name| desk.path(name));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo makes a pipe");
    let through = |more: &[&str]| {
        let (from, to) = (file.clone(), pipe.clone());
        // Who reads may stop before the end.
        let feeder = std::thread::spawn(move || drop(fs::copy(from, to)));
        let done = run(&[&["strip", "-i", &pipe, "--model", &tiny, "-m", &mask][..], more].concat());
        feeder.join().expect("does not panic");
        done
    };
    let all = through(&["--all", "-o", &brain]);
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stderr));
    check_stripped(&series().bytes(), &desk.read("brain.nii"), &desk.read("mask.nii"), -6);
    assert!(through(&["--mean"]).status.success());
    let refused = through(&["--mean", "-o", &brain]);
    let err = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(err.contains("comes through a pipe") && err.contains("save it to a file first"), "{err}");
}

#[test]
fn a_fill_that_cannot_be_stored_is_refused() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (tiny, out) = (desk.path("tiny.safetensors"), desk.path("brain.nii"));
    let bytes = |scaling: [f64; 2]| Nii {
        datatype: 2,
        bits: 8,
        scaling,
        data: head_values(1).iter().map(|v| u8::try_from(v / 4).expect("below 256")).collect(),
        ..head(1)
    };
    let plain = desk.folder.put("plain.nii", &bytes([1.0, 0.0]).bytes());
    let shifted = desk.folder.put("shifted.nii", &bytes([2.0, 100.0]).bytes());
    let [plain, shifted] = [&plain, &shifted].map(|path| path.to_str().expect("UTF-8"));
    let mask = desk.path("mask.nii");
    let strip = |file, fill| {
        ["strip", "-i", file, "-o", &out, "-m", &mask, "--model", &tiny, "-f", fill].map(String::from)
    };
    for (file, fill, range) in [
        (plain, "-1024", "0 to 255"),
        (plain, "nan", "0 to 255"),
        (plain, "256", "0 to 255"),
        (plain, "inf", "0 to 255"),
        (shifted, "0", "100 to 610"),
    ] {
        let err = fail(1, &strip(file, fill).each_ref().map(String::as_str));
        assert!(
            err.starts_with(&format!("error: {file}: holds uint8 voxels, which can store {range}")),
            "{err}"
        );
        assert!(err.contains("--fill") && err.lines().count() == 1, "before any work: {err}");
        assert!(!Path::new(&out).exists());
    }
    let outside = |arguments: &[&str]| -> (u8, String) {
        let [_, err] = succeed(arguments);
        let outside = desk.read("mask.nii")[352..].iter().position(|&v| v == 0).expect("not all is brain");
        (desk.read("brain.nii")[352 + outside], err)
    };
    let (stored, err) = outside(&strip(shifted, "610").each_ref().map(String::as_str));
    assert!(stored == 255 && !err.contains("cannot store"), "{err}");
    let (stored, err) = outside(&strip(shifted, "-0").each_ref().map(String::as_str)[..9]);
    assert!(stored == 0 && err.contains("outside the brain is 100: the voxels cannot store 0"), "{err}");
    let (stored, err) = outside(&strip(plain, "7.4").each_ref().map(String::as_str));
    assert!(stored == 7 && err.contains("outside the brain is 7: the voxels cannot store 7.4"), "{err}");
    // Formats that store floats store anything.
    let mgz = desk.path("brain.mgz");
    succeed(&["strip", "-i", shifted, "-o", &mgz, "-m", &mask, "--model", &tiny, "-f", "-1024"]);
    let brain =
        trephine::volume::image::read(&mgz, trephine::volume::image::FrameChoice::Only).expect("reads");
    let brain = brain.frame_f32(0).expect("held").data;
    let outside = desk.read("mask.nii")[352..].iter().position(|&v| v == 0).expect("not all is brain");
    assert_eq!(brain[outside], -1024.0);
}

#[test]
fn messages_name_the_cause() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head_path, tiny, out) =
        (desk.path("head.nii.gz"), desk.path("tiny.safetensors"), desk.path("m.nii"));
    let err = fail(1, &["strip", &head_path, "-m", &out, "--model", &tiny, "-b", "-80"]);
    assert!(err.contains("head.nii.gz: a border of -80 mm leaves nothing of the brain"), "{err}");
    assert!(err.contains("--border") && !err.contains("orientation"), "{err}");
    for (factor, words) in [(10.0, "too large for a human head"), (0.1, "too small for a human head")] {
        let mut wrong = head(1);
        wrong.srow = OBLIQUE.map(|row| row.map(|v| v * factor));
        wrong.pixdim[1..4].iter_mut().for_each(|mm| *mm *= factor);
        let file = desk.folder.put("wrong.nii", &wrong.bytes());
        let err = fail(1, &["strip", file.to_str().expect("UTF-8"), "-m", &out, "--model", &tiny]);
        assert!(err.contains(words) && err.contains("correct the voxel size"), "{err}");
        let extent = if factor > 1.0 { "1232 x 1288 x 1120 mm" } else { "12 x 13 x 11 mm" };
        assert!(err.contains(extent), "{err}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
#[cfg(unix)]
fn a_failed_head_leaves_no_output() {
    use std::os::unix::fs::symlink;
    if !has_gpu() || !Path::new("/dev/full").exists() {
        return;
    }
    let desk = Desk::new();
    let (head, tiny) = (desk.path("head.nii.gz"), desk.path("tiny.safetensors"));
    let (brain, full) = (desk.path("brain.nii.gz"), desk.folder.path("full.nii.gz"));
    symlink("/dev/full", &full).expect("linked");
    let before = desk.folder.names();
    let err = fail(1, &["strip", &head, "-o", &brain, "-m", full.to_str().expect("UTF-8"), "--model", &tiny]);
    assert!(err.contains("full.nii.gz: cannot be written ("), "{err}");
    assert_eq!(desk.folder.names(), before);
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
    assert!(err.contains(&format!("error: {}: cannot be written (", full.display())), "{err}");
    // A probability to nowhere is fine.
    succeed(&["strip", &head, "-p", "/dev/null", "--model", &tiny]);
}

#[test]
fn several_models_are_asked() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let (both, mask) = (format!("{tiny},{tiny}"), desk.path("mask.nii.gz"));
    let said = json(&["strip", "-i", &desk.path("head.nii.gz"), "-m", &mask, "--model", &both]);
    assert_eq!(
        (&said["model"], &said["heads"][0]["disagreement"]),
        (&"tiny,tiny".into(), &0.0.into()),
        "{said}"
    );
    let alone = json(&["strip", "-i", &desk.path("head.nii.gz"), "-m", &mask, "--force", "--model", &tiny]);
    assert!(alone["heads"][0]["disagreement"].is_null(), "{alone}");
    let err = fail(1, &["strip", &desk.path("head.nii.gz"), "--model", &format!("{tiny},nonesuch")]);
    assert!(err.contains("nonesuch: is neither a file"), "{err}");
}
