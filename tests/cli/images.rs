//! Resampling, normalising, bias fields, FreeSurfer files.

use std::fs;
use std::path::Path;

use crate::desk::{
    CAL, Desk, SCALING, TYPE, VOXELS, fail, floats, head, head_values, inflated, json, mask, radius,
    same_header, series, succeed,
};
use crate::dicom_files::{PATIENT, Scan};
use crate::nii::{Nii, gz};
use crate::program::has_gpu;

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

/// A head of the desk as a DICOM series: axial, its voxels where the NIfTI file has them but for the tilt.
fn series_of_dicom(uid: &'static str) -> Scan {
    let values = head_values(1).into_iter().map(i16::cast_unsigned).collect();
    let [columns, rows, slices] = crate::desk::SHAPE;
    let mm = crate::desk::VOXEL_MM;
    Scan {
        columns,
        rows,
        slices,
        orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        spacing: [mm; 2],
        origin: [-60.0, -62.0, -54.0],
        step: [0.0, 0.0, mm],
        values,
        uid,
        ..Scan::new()
    }
}

#[test]
fn a_folder_of_dicom_is_a_head() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (series, tiny) = (desk.path("scan"), desk.path("tiny.safetensors"));
    let scan = series_of_dicom("1.2.3.4");
    scan.write(Path::new(&series));
    let [brain, mask] = ["b.nii", "m.nii.gz"].map(|name| desk.path(name));
    succeed(&["strip", "-i", &series, "-o", &brain, "-m", &mask, "--model", &tiny]);
    let read = |path: &str| trephine::volume::image::read_single(path).expect("reads");
    let (brain_image, mask_image, own) = (read(&brain), read(&mask), read(&series));
    assert!(mask_image.affine().abs_diff_eq(own.affine(), 1e-3));
    let [brain_values, mask_values, values] =
        [brain_image, mask_image, own].map(|image| image.frame_f32(0).expect("held").data);
    assert!(mask_values.contains(&1.0) && mask_values.contains(&0.0));
    for ((brain, mask), value) in brain_values.iter().zip(&mask_values).zip(&values) {
        assert_eq!(*brain, mask * value);
    }
    let bytes = fs::read(&brain).expect("reads");
    assert!(!bytes.windows(PATIENT.len()).any(|text| text == PATIENT.as_bytes()));

    // In a batch, a folder is one head and so are the files of a series.
    let second = series_of_dicom("1.2.3.9");
    second.write(Path::new(&desk.path("other")));
    let files = trephine::volume::image::files(Path::new(&desk.path("other")));
    let files: Vec<String> = files[..3].iter().map(|file| file.display().to_string()).collect();
    let out = desk.path("batch");
    let head = desk.path("head.nii.gz");
    let arguments = ["strip", &series, &files[0], &files[1], &files[2], &head, "-O", &out, "--save", "mask"];
    let [_, err] = succeed(&[&arguments[..], &["--model", &tiny]].concat());
    assert!(err.contains("stands for its DICOM series; 2 more files of it were named"), "{err}");
    let report = fs::read_to_string(Path::new(&out).join("report.csv")).expect("a report");
    assert_eq!(report.lines().count(), 4, "{report}");
    assert!(Path::new(&out).join("scan_mask.nii.gz").exists());

    // Images beside them make a batch of the folder; two series are listed.
    second.write(Path::new(&desk.path("scan/more")));
    let err = fail(1, &["strip", &series, "-O", &desk.path("none")]);
    assert!(
        err.contains("several DICOM series") && err.contains("series 3, t1 sag: 40 slices of 44x46"),
        "{err}"
    );
    fs::copy(&head, desk.path("scan/head.nii.gz")).expect("copies");
    let done = json(&["strip", &series, "-O", &desk.path("images"), "--save", "mask", "--model", &tiny]);
    assert_eq!(done["heads"].as_array().map(Vec::len), Some(1));
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

#[test]
fn free_text_of_the_header_stays_behind_on_demand() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let mut bytes = head(1).bytes();
    // data_type, db_name, descrip, aux_file, intent_name.
    for (at, text) in [
        (4, "Erika"),
        (14, "Mustermann"),
        (148, "Erika M., 1957-08-12"),
        (228, "erika.nii"),
        (328, "for Erika"),
    ] {
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    desk.folder.put("named.nii", &bytes);
    let [named, brain, mask, sdt] =
        ["named.nii", "brain.nii", "mask.nii", "sdt.nii"].map(|name| desk.path(name));
    let strip = |more: &[&str]| {
        let start = ["strip", "-i", &named, "-o", &brain, "-m", &mask, "-d", &sdt, "--model", &tiny];
        succeed(&[&start[..], more].concat());
        ["brain.nii", "mask.nii", "sdt.nii"].map(|name| desk.read(name))
    };
    let names = |bytes: &[u8]| bytes.windows(5).any(|five| five.eq_ignore_ascii_case(b"erika"));
    let kept = strip(&[]);
    assert!(kept.iter().all(|bytes| names(bytes)));
    let cleared = strip(&["--anonymise"]);
    for (kept, cleared) in kept.iter().zip(&cleared) {
        assert!(!names(cleared));
        same_header(kept, cleared, &[4..32, 148..252, 328..344]);
        assert_eq!(kept[352..], cleared[352..]);
    }
    // FreeSurfer's files end in names and commands.
    let [mgz, out] = ["named.mgz", "brain.mgz"].map(|name| desk.path(name));
    succeed(&["resample", "-i", &named, "-o", &mgz, "--like", &named]);
    let mut tagged = inflated(Path::new(&mgz));
    tagged.extend(b"\0\0\0\x03\0\0\0\0\0\0\0\x18mri_convert erika.dcm x.mgz");
    fs::write(&mgz, gz(&tagged)).expect("written");
    for (more, wanted) in [(&[][..], true), (&["--anonymise"], false)] {
        succeed(&[&["strip", "-i", &mgz, "-o", &out, "--model", &tiny], more].concat());
        assert_eq!(names(&inflated(Path::new(&out))), wanted, "{more:?}");
    }
}
