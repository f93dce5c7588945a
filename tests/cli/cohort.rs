//! Batches that go on, choose their heads, and say how far they are.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::batch::below;
use crate::desk::{Desk, fail, head, json, run, sha256, succeed, text, trephine};
use crate::program::has_gpu;

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// `report.json` of a folder.
fn report(out: &str) -> Value {
    let text = fs::read(Path::new(out).join("report.json")).expect("a report");
    serde_json::from_slice(&text).expect("JSON")
}

/// The row of the head of this name, of a report or of what `--json` prints.
fn row<'a>(of: &'a Value, name: &str) -> &'a Value {
    let mut rows = of["heads"].as_array().expect("rows").iter();
    rows.find(|row| row["path"].as_str().expect("text").ends_with(name))
        .unwrap_or_else(|| panic!("{name}: {of}"))
}

#[test]
fn a_batch_goes_on_by_what_files_hold() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (tiny, out) = (desk.path("tiny.safetensors"), desk.path("out"));
    let heads = desk.folder.path("heads");
    for (seed, name) in (1..).zip(["a.nii", "b.nii", "c.nii"]) {
        write(&heads.join(name), &head(seed).bytes());
    }
    write(&heads.join("broken.nii"), &head(4).bytes()[..9000]);
    let folder = heads.to_str().expect("UTF-8");
    let first = ["strip", folder, "-O", &out, "--model", &tiny, "--save", "mask,picture", "--resume"];
    let err = fail(1, &first);
    assert!(
        err.contains("out: holds no report.json to go on from; the batch starts at its beginning"),
        "{err}"
    );
    let before = report(&out);
    assert_eq!(row(&before, "a.nii")["input_sha256"], sha256(&head(1).bytes()));
    assert_eq!(row(&before, "a.nii")["outputs"]["mask"], "a_mask.nii.gz");
    assert_eq!(row(&before, "a.nii")["made"]["model_sha256"], sha256(&fs::read(&tiny).expect("a model")));
    assert!(row(&before, "b.nii")["peak_memory_mb"].as_f64().is_none_or(|mb| mb > 10.0));

    // Nothing is left to do but what failed; the device is not even opened for the rest.
    let err = fail(1, &first);
    assert!(err.contains("4 heads, 1 failed, 3 finished before"), "{err}");
    assert!(err.contains("[1/4] ") && err.contains("a.nii: finished before"), "{err}");
    assert!(!err.contains("device: "), "{err}");

    // Another content, a missing output, a mended file; the rest stays, under whatever name.
    write(&heads.join("b.nii"), &head(5).bytes());
    fs::remove_file(Path::new(&out).join("c_mask.nii.gz")).expect("was there");
    write(&heads.join("broken.nii"), &head(4).bytes());
    let moved = desk.folder.path("moved");
    fs::rename(&heads, &moved).expect("moved");
    let stamp = |name: &str| {
        fs::metadata(Path::new(&out).join(name)).and_then(|meta| meta.modified()).expect("there")
    };
    let untouched = stamp("a_mask.nii.gz");
    let second = [&["strip", moved.to_str().expect("UTF-8")], &first[2..]].concat();
    let [_, err] = succeed(&second);
    assert!(err.contains("4 heads, 0 failed, 1 finished before"), "{err}");
    assert_eq!(stamp("a_mask.nii.gz"), untouched);
    let after = report(&out);
    assert_eq!(after["heads"].as_array().expect("rows").len(), 4, "{after}");
    assert_eq!(row(&after, "moved/a.nii")["seconds"], row(&before, "a.nii")["seconds"]);
    assert_ne!(row(&after, "moved/b.nii")["input_sha256"], row(&before, "b.nii")["input_sha256"]);
    assert!(
        Path::new(&out).join("c_mask.nii.gz").exists() && Path::new(&out).join("broken_mask.nii.gz").exists()
    );

    // Another option that changes outputs, and another output: done again. Of a few heads: the rows of the others stay.
    let a = moved.join("a.nii");
    let done = json(&[
        "strip",
        a.to_str().expect("UTF-8"),
        "-O",
        &out,
        "--model",
        &tiny,
        "--save",
        "mask",
        "--resume",
        "-b",
        "4",
    ]);
    assert_ne!(row(&done, "a.nii")["brain_ml"], row(&after, "a.nii")["brain_ml"]);
    let last = report(&out);
    assert_eq!(last["heads"].as_array().expect("rows").len(), 4, "{last}");
    assert_eq!(row(&last, "c.nii"), row(&after, "c.nii"));
    let [_, err] = succeed(&[&second[..], &["--save", "mask,distance,probability"]].concat()[..]);
    assert!(err.contains("4 heads, 0 failed; "), "{err}");
    let names = below(Path::new(&out));
    for name in ["a_distance.nii.gz", "b_probability.nii.gz", "broken_mask.nii.gz", "c_qc.png"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    // A file that is no report is not guessed at.
    write(&Path::new(&out).join("report.json"), b"{}");
    let err = fail(1, &second);
    assert!(err.contains("report.json: is no report of Trephine's"), "{err}");
    assert_eq!(run(&[&second[..], &["--force"]].concat()).status.code(), Some(2));
}

#[test]
fn heads_are_chosen_by_folder_pattern_and_list() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let data = desk.folder.path("data");
    write(&data.join("dataset_description.json"), br#"{"Name": "x", "BIDSVersion": "1.10.0"}"#);
    let small = head(1).bytes();
    for name in [
        "sub-1/anat/sub-1_T1w.nii",
        "sub-1/anat/sub-1_T2w.nii",
        "sub-2/anat/sub-2_T1w.nii",
        "derivatives/other/sub-1/anat/sub-1_desc-preproc_T1w.nii",
        "sourcedata/sub-1.nii",
        "old/sub-1/anat/sub-1_desc-denoised_T1w.nii",
    ] {
        write(&data.join(name), &small);
    }
    write(&data.join("old/dataset_description.json"), br#"{"DatasetType": "derivative"}"#);
    let (folder, out) = (data.to_str().expect("UTF-8"), data.join("stripped"));
    let out = out.to_str().expect("UTF-8");
    let strip = |more: &[&str]| -> [String; 2] {
        let arguments =
            [&["strip", folder, "-O", out, "--model", &tiny, "--save", "mask,probability"], more].concat();
        succeed(&arguments)
    };
    let [_, err] = strip(&["--include", "*_T1w.nii*", "--exclude", "sub-2/**"]);
    for told in [
        "left out derivatives (no raw data of this BIDS data set; images: 1); name that folder itself to strip them",
        "left out sourcedata (no raw data",
        "left out old (a BIDS data set of derivatives; images: 1)",
        "2 of 3 heads are left out by --include and --exclude",
    ] {
        assert!(err.contains(told), "{told}: {err}");
    }
    let wanted = ["report.csv", "report.json", "sub-1/anat/sub-1_T1w_mask.nii.gz"];
    let wanted = [&wanted[..], &["sub-1/anat/sub-1_T1w_probability.nii.gz"]].concat();
    assert_eq!(below(Path::new(out)), wanted);
    // The outputs, which lie in the folder now, are no heads either, and finished ones stay.
    let [_, err] = strip(&["--resume", "--include", "sub-*/anat/*_T[12]w.nii"]);
    assert!(err.contains("left out stripped (the folder of the outputs; images: "), "{err}");
    assert!(err.contains("3 heads, 0 failed, 1 finished before"), "{err}");
    let err = fail(1, &["strip", folder, "-O", &desk.path("none"), "--include", "*.mgz"]);
    assert!(
        err.contains("3 of 3 heads are left out by --include and --exclude") && err.lines().count() <= 4,
        "{err}"
    );
    let err = fail(2, &["strip", folder, "-O", &desk.path("none"), "--include", "[a"]);
    assert!(err.contains("'[a' is no pattern"), "{err}");
    // A folder that is named itself is what the user wants.
    let old = data.join("old");
    let [_, err] =
        succeed(&["strip", old.to_str().expect("UTF-8"), "-O", &desk.path("old"), "--model", &tiny]);
    assert!(err.contains("1 heads, 0 failed"), "{err}");

    // A list on standard input: lines, or zero bytes between the paths.
    for (end, name) in [("\n", "lines"), ("\r\n", "crlf"), ("\0", "zeros")] {
        let out = desk.path(name);
        let arguments = ["strip", "--files-from", "-", "-O", &out, "--model", &tiny, "--save", "mask"];
        let mut command = trephine(&arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let list: String = [1, 2].map(|n| format!("{folder}/sub-{n}/anat/sub-{n}_T1w.nii{end}")).concat();
        child.stdin.take().expect("piped").write_all(list.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let masks = ["sub-1_T1w_mask.nii.gz", "sub-2_T1w_mask.nii.gz"];
        assert_eq!(below(Path::new(&out)), [&["report.csv", "report.json"][..], &masks].concat());
    }
    write(&data.join("empty.txt"), b"\n\n");
    let empty = data.join("empty.txt");
    let err = fail(1, &["strip", "--files-from", empty.to_str().expect("UTF-8"), "-O", out]);
    assert!(err.contains("empty.txt: names no file"), "{err}");
    assert!(fail(2, &["strip", "-", "-O", out]).contains("goes to --files-from -"));
    assert!(
        fail(2, &["strip", folder, "-O", out, "--save", "bias", "--no-n4"]).contains("leave out --no-n4")
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_terminal_gets_a_bar_and_other_readers_get_lines() {
    if !has_gpu() {
        return;
    }
    // util-linux's, which gives a program a terminal.
    if std::process::Command::new("script").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no `script` to make a terminal with");
        return;
    }
    let desk = Desk::new();
    let heads = desk.folder.path("heads");
    for seed in 1..=3 {
        write(&heads.join(format!("{seed}.nii")), &head(seed).bytes());
    }
    write(&heads.join("broken.nii"), b"no image");
    let (folder, tiny) = (heads.to_str().expect("UTF-8"), desk.path("tiny.safetensors"));
    let arguments = |out: &str| -> Vec<String> {
        ["strip", folder, "-O", out, "--model", &tiny, "--save", "mask"].map(str::to_owned).to_vec()
    };
    let lines = desk.path("lines");
    let err = fail(1, &arguments(&lines).iter().map(String::as_str).collect::<Vec<_>>());
    assert!(err.contains("[3/4] ") && !err.contains('\r'), "{err}");
    let bar = desk.path("bar");
    let plain = trephine(&arguments(&bar).iter().map(String::as_str).collect::<Vec<_>>());
    let quoted: Vec<String> = std::iter::once(plain.get_program())
        .chain(plain.get_args())
        .map(|word| format!("'{}'", word.to_str().expect("UTF-8")))
        .collect();
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &quoted.join(" "), "/dev/null"]).stdin(Stdio::null());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().expect("starts");
    let seen = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{seen}");
    assert!(seen.contains("/4 heads, ") && seen.contains(" left") && seen.contains(", 1 failed"), "{seen:?}");
    assert!(!seen.contains("[3/4] ") && seen.contains("broken.nii: "), "{seen:?}");
    assert_eq!(below(Path::new(&bar)), below(Path::new(&lines)));
}
