//! BIDS data sets.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::batch::below;
use crate::desk::{Desk, fail, head, json, sha256, succeed, text};
#[cfg(unix)]
use crate::dropin::stand_in;
use crate::nii::gz;
use crate::program::has_gpu;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .expect("JSON")
}

/// What BIDS itself says of a data set: errors by the validator of the specification (PyPI's `bids-validator-deno`). That of npm
/// knows no derivatives, and calls every name of theirs an error.
fn validate(data_set: &Path) {
    let validator = std::env::var("TREPHINE_BIDS_VALIDATOR").unwrap_or("bids-validator-deno".into());
    let Ok(output) = Command::new(&validator).args(["--ignoreWarnings", "--verbose"]).arg(data_set).output()
    else {
        eprintln!("SKIPPED in part: no {validator} to ask whether the derivatives are valid BIDS");
        return;
    };
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}");
    // It has found the masks, and not nothing at all.
    assert!(said.contains("2 - Subjects"), "{said}");
}

#[test]
fn a_bids_data_set_becomes_derivatives() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let data = desk.folder.path("ds");
    let put = |name: &str, bytes: &[u8]| {
        let path = data.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    };
    put(
        "dataset_description.json",
        br#"{"Name": "Two", "BIDSVersion": "1.10.0", "License": "CC0", "DatasetDOI": "doi:10.1/x"}"#,
    );
    let [one, two] = [gz(&head(1).bytes()), gz(&head(2).bytes())];
    put("sub-01/anat/sub-01_T1w.nii.gz", &one);
    put("sub-01/anat/sub-01_T2w.nii.gz", &two);
    put("sub-01/func/sub-01_task-rest_bold.nii.gz", b"never read");
    put("sub-02/ses-a/anat/sub-02_ses-a_acq-fast_T1w.nii.gz", &two);
    put("sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz", &one[..500]);
    let (bids, out) = (data.to_str().expect("UTF-8").to_owned(), data.join("derivatives/trephine"));
    let out_text = out.to_str().expect("UTF-8").to_owned();
    let words = |level: &str, more: &[&str]| -> Vec<String> {
        let start = ["bids", &bids, &out_text, level, "--model", &tiny];
        start.iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let run = |level: &str, more: &[&str]| {
        succeed(&words(level, more).iter().map(String::as_str).collect::<Vec<_>>())
    };
    let refuse = |level: &str, more: &[&str]| {
        fail(1, &words(level, more).iter().map(String::as_str).collect::<Vec<_>>())
    };

    // In parts, as a cluster does it.
    let [_, err] = run("participant", &["--participant-label", "01", "--suffix", "T1w", "T2w"]);
    assert!(err.contains("2 heads, 0 failed; derivatives: "), "{err}");
    let err = refuse("participant", &["--participant_label", "sub-02"]);
    assert!(err.contains("sub-02_ses-b_T1w.nii.gz: ") && err.contains("2 heads, 1 failed"), "{err}");
    let anat = |name: &str| format!("sub-01/anat/sub-01_desc-brain{name}");
    let session = "sub-02/ses-a/anat/sub-02_ses-a_acq-fast_desc-brain";
    let mut wanted = vec![
        ".bidsignore".to_owned(),
        "dataset_description.json".to_owned(),
        "sub-01/figures/sub-01_desc-brain_T1w.png".to_owned(),
        "sub-01/figures/sub-01_desc-brain_T2w.png".to_owned(),
        "sub-02/figures/sub-02_ses-a_acq-fast_desc-brain_T1w.png".to_owned(),
    ];
    for end in ["nii.gz", "json"] {
        wanted.extend(["_mask", "_T1w", "T2w_mask", "_T2w"].map(|name| format!("{}.{end}", anat(name))));
        wanted.extend(["_mask", "_T1w"].map(|name| format!("{session}{name}.{end}")));
    }
    let scans = ["sub-01_T1w", "sub-01_T2w", "sub-02_ses-a_acq-fast_T1w", "sub-02_ses-b_T1w"];
    wanted.extend(scans.map(|name| format!("logs/{name}.json")));
    wanted.sort();
    assert_eq!(below(&out), wanted);

    let sidecar = read(&out.join("sub-01/anat/sub-01_desc-brain_T1w.json"));
    assert_eq!(sidecar["SkullStripped"], true);
    assert_eq!(sidecar["Sources"][0], "bids:raw:sub-01/anat/sub-01_T1w.nii.gz");
    assert_eq!(sidecar["Sources"][1], "bids::sub-01/anat/sub-01_desc-brain_mask.nii.gz");
    let made = &read(&out.join("sub-01/anat/sub-01_desc-brainT2w_mask.json"))["Trephine"];
    assert_eq!(made["InputSHA256"], sha256(&two));
    assert_eq!(made["ModelSHA256"], sha256(&fs::read(&tiny).expect("a model")));
    assert!(
        made["Score"].as_f64().is_some() && made["BrainVolumeML"].as_f64().is_some_and(|ml| ml > 0.0),
        "{made}"
    );
    assert_eq!(made["Parameters"]["strip"]["border_mm"], 0.0);
    let description = read(&out.join("dataset_description.json"));
    assert_eq!((&description["License"], &description["DatasetType"]), (&"CC0".into(), &"derivative".into()));
    assert_eq!(description["DatasetLinks"]["raw"], "../..");
    assert_eq!(description["GeneratedBy"][0]["Version"], env!("CARGO_PKG_VERSION"));
    validate(&out);

    // Once more: what is finished stays, what failed is tried again.
    put("sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz", &one);
    let [stdout, err] = run("participant", &["--json"]);
    assert!(err.contains("3 heads, 0 failed, 2 finished before"), "{err}");
    assert!(err.contains("left out scans of other suffixes (T2w: 1); --suffix takes them"), "{err}");
    let done: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(done["heads"].as_array().expect("rows").len(), 3);

    // All that is known becomes one report; a scan that nobody stripped is named.
    put("sub-03/anat/sub-03_T1w.nii.gz", &one);
    let [_, err] = run("group", &[]);
    assert!(err.contains("sub-03_T1w.nii.gz: has no record; run the level participant for it"), "{err}");
    assert!(err.contains("4 heads, 0 failed; "), "{err}");
    let mut report = csv::Reader::from_path(out.join("report.csv")).expect("written");
    assert_eq!(report.records().count(), 4);
    let report = read(&out.join("report.json"));
    assert_eq!(report["heads"][0]["outputs"]["mask"], "sub-01/anat/sub-01_desc-brain_mask.nii.gz");
    let page = fs::read_to_string(out.join("report.html")).expect("written");
    assert!(page.contains("sub-02_ses-a_acq-fast_T1w.nii.gz") && page.contains("<title>ds: brains</title>"));
    // `report` finds the records by itself.
    let again = json(&["report", &out_text, "-o", &desk.path("page.html")]);
    assert_eq!(again["heads"], 4);
    validate(&out);

    // Masks find their scans again.
    let pairs = desk.path("pairs.tsv");
    succeed(&["index", &bids, "-o", &pairs]);
    let table = fs::read_to_string(&pairs).expect("written");
    for (image, mask) in [("sub-01_T1w", "desc-brain_mask"), ("sub-01_T2w", "desc-brainT2w_mask")] {
        let line = table.lines().find(|line| line.contains(image)).unwrap_or_else(|| panic!("{table}"));
        assert!(line.contains(mask), "{line}");
    }

    // Mistakes.
    let err = refuse("participant", &["--participant-label", "9"]);
    assert!(err.contains("ds: has no participant sub-9; it has sub-01, sub-02, sub-03"), "{err}");
    let err = fail(1, &["bids", &bids, &bids, "participant", "--model", &tiny]);
    assert!(err.contains("is the data set itself"), "{err}");
    let other = data.join("derivatives/other");
    put("derivatives/other/dataset_description.json", br#"{"GeneratedBy": [{"Name": "fMRIPrep"}]}"#);
    let err = fail(1, &["bids", &bids, other.to_str().expect("UTF-8"), "participant", "--model", &tiny]);
    assert!(err.contains("describes the data set of another program"), "{err}");
    let err = fail(1, &["bids", out.join("sub-01").to_str().expect("UTF-8"), &out_text, "group"]);
    assert!(err.contains("is no BIDS data set"), "{err}");
}

#[test]
#[cfg(unix)]
fn snakemake_runs_a_cohort() {
    if !has_gpu() {
        return;
    }
    let snakemake = std::env::var("TREPHINE_SNAKEMAKE").unwrap_or("snakemake".into());
    if Command::new(&snakemake).arg("--version").output().is_err() {
        eprintln!("SKIPPED: no {snakemake} to run the workflow with");
        return;
    }
    let desk = Desk::new();
    let data = desk.folder.path("ds");
    fs::create_dir_all(&data).expect("made");
    fs::write(data.join("dataset_description.json"), br#"{"Name": "Six", "BIDSVersion": "1.10.0"}"#)
        .expect("written");
    for n in 1..=6 {
        let bytes = gz(&head(n).bytes());
        let folder = data.join(format!("sub-{n}/anat"));
        fs::create_dir_all(&folder).expect("made");
        let whole = if n == 4 { bytes.len() / 2 } else { bytes.len() };
        fs::write(folder.join(format!("sub-{n}_T1w.nii.gz")), &bytes[..whole]).expect("written");
    }
    let out = data.join("derivatives/trephine");
    let program = stand_in(&desk.folder.path("."));
    let run = |more: &[&str]| -> String {
        let output = Command::new(&snakemake)
            .args([
                "-s",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tools/cohort/Snakefile"),
                "--cores",
                "2",
                "--keep-going",
            ])
            .args(["--resources", "gpu=1"])
            .args(more)
            .arg("--config")
            .args([format!("bids={}", data.display()), format!("out={}", out.display())])
            .args([
                format!("trephine={program}"),
                format!("options=--model {}", desk.path("tiny.safetensors")),
            ])
            .current_dir(desk.folder.path("."))
            .env("XDG_CACHE_HOME", desk.folder.path("cache"))
            .output()
            .expect("starts");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{said}");
        said
    };
    run(&[]);
    let report = read(&out.join("report.json"));
    let status = |report: &Value| -> Vec<String> {
        let rows = report["heads"].as_array().expect("rows").iter();
        rows.map(|row| row["status"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(status(&report), ["ok", "ok", "ok", "failed", "ok", "ok"]);
    assert!(out.join("report.html").exists() && out.join("sub-6/anat/sub-6_desc-brain_mask.nii.gz").exists());
    // Again: nothing to do. A mended scan: that one, and the report.
    assert!(run(&[]).contains("Nothing to be done"));
    fs::write(data.join("sub-4/anat/sub-4_T1w.nii.gz"), gz(&head(4).bytes())).expect("written");
    let before = report["heads"][0]["seconds"].clone();
    run(&[]);
    let report = read(&out.join("report.json"));
    assert_eq!(status(&report), ["ok"; 6]);
    assert_eq!(report["heads"][0]["seconds"], before);
}
