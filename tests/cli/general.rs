//! Help, mistakes on the command line, devices, models, tables.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use trephine::model::Model;

use crate::desk::{Desk, fail, json, json_of_failure, run, sha256, succeed, text, trephine};
use crate::nii::{Folder, Nii};
use crate::program::has_gpu;

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
        vec!["bids"],
        vec!["report"],
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
    let adapters = listed["adapters"].as_array().map_or(0, Vec::len);
    assert!(listed["adapters"][0]["name"].is_string() && listed["adapters"][0]["features"].is_array());
    let desk = Desk::new();
    let strip = ["strip", &desk.path("head.nii.gz"), "--model", &desk.path("tiny.safetensors")];
    if std::env::var_os("TREPHINE_DEVICE").is_none() {
        let err = fail(1, &[&strip[..], &["--device", "no such adapter"]].concat());
        assert!(
            err.contains("error: no device matches 'no such adapter'; `trephine devices` lists: 0: "),
            "{err}"
        );
        assert_eq!(desk.folder.names(), ["head.nii.gz", "tiny.safetensors"]);
        // Every name that holds a digit would match one of these as a part.
        for digit in 1..=9 {
            let number = format!("{digit}{digit}{digit}{digit}{digit}");
            let err = fail(1, &[&strip[..], &["--device", &number]].concat());
            assert!(
                err.contains(&format!("no device matches '{number}'")) && err.contains("lists: 0: "),
                "{err}"
            );
        }
        for digit in adapters..10 {
            let err = fail(1, &[&strip[..], &["--device", &digit.to_string()]].concat());
            assert!(err.contains(&format!("no device matches '{digit}'")), "{err}");
        }
    }
}

/// The entries of every object, whatever happened.
fn check_envelope(object: &Value, command: &str, done: bool) {
    let known = object.as_object().expect("an object");
    assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(object["command"], if command.is_empty() { Value::Null } else { command.into() });
    assert_eq!(object["status"], if done { "ok" } else { "failed" });
    assert!(known.contains_key("model") && known.contains_key("model_sha256"), "{object}");
    assert!(object["options"].is_object() && object["warnings"].is_array(), "{object}");
    assert_eq!(object["error"].is_null(), done, "{object}");
    assert_eq!(object["error"]["message"].is_string(), !done, "{object}");
}

#[test]
fn json_prints_an_object_whatever_happens() {
    let desk = Desk::new();
    let [head, tiny, missing, out] =
        ["head.nii.gz", "tiny.safetensors", "missing", "out.nii"].map(|name| desk.path(name));
    let cases: &[(i32, &str, &str, &[&str])] = &[
        (2, "", "no command is named", &[]),
        (2, "", "'slice'", &["slice"]),
        (2, "strip", "--no-such-flag", &["strip", &head, "--no-such-flag"]),
        (2, "strip", "required arguments", &["strip"]),
        (2, "strip", "end it in .nii", &["strip", &head, "-o", "out.txt"]),
        (2, "model convert", "the input and would be overwritten", &["model", "convert", &tiny, &tiny]),
        (2, "n4", "shrink", &["n4", "-i", &head, "-o", &out, "--shrink", "0"]),
        (2, "bench", "no operator 'convolve'", &["bench", "convolve"]),
        (2, "tune", "--batch", &["tune", "--batch", "0"]),
        (1, "strip", "neither a file nor a built-in model", &["strip", &head, "--model", "nonesuch"]),
        (1, "evaluate", "does not exist", &["evaluate", "--data", &missing]),
        (1, "tune", "neither a file nor a built-in model", &["tune", "--model", "nonesuch"]),
        (1, "model info", "neither a file nor a built-in model", &["model", "info", "nonesuch"]),
        (1, "index", "missing", &["index", &missing, "-o", &out]),
        (1, "train", "missing", &["train", "--data", &missing, "--out", &out]),
        (1, "resample", "does not exist", &["resample", "-i", &missing, "-o", &out, "--voxel", "2"]),
        (1, "normalise", "does not exist", &["normalize", "-i", &missing, "-o", &out, "--method", "zscore"]),
        (1, "strip", "missing", &["strip", &missing, "-O", &out, "--model", &tiny]),
    ];
    for (code, command, words, arguments) in cases {
        let output = run(&[*arguments, &["--json"]].concat());
        let object: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", text(&output.stdout)));
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}");
        check_envelope(&object, command, false);
        let message = object["error"]["message"].as_str().expect("text");
        assert!(message.contains(words) && !message.contains('\n'), "{arguments:?}: {message}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    for (command, arguments) in [
        ("model list", &["model", "list"][..]),
        ("model info", &["model", "info", &tiny]),
        ("", &["--version"]),
        ("strip", &["strip", "--help"]),
    ] {
        check_envelope(&json(arguments), command, true);
    }
    let info = json(&["model", "info", &tiny]);
    assert_eq!(info["model"], "tiny");
    // Every layer's numbers are the network's.
    let layers = info["cost"]["layers"].as_array().expect("layers");
    let sum = |key: &str| layers.iter().map(|layer| layer[key].as_f64().expect("a number")).sum::<f64>();
    assert_eq!(sum("parameters"), info["parameters"].as_f64().expect("a number"));
    let gflop = info["cost"]["gflop"].as_f64().expect("a number");
    assert!(gflop > 0.0 && (sum("gflop") - gflop).abs() < 1e-9 * gflop);
    assert_eq!(info["model_sha256"], sha256(&fs::read(&tiny).expect("a model")));
    assert_eq!(info["options"], serde_json::json!({ "model": tiny, "layers": false }));
}

#[test]
fn json_says_how_a_result_was_made() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, tiny, mask) = (desk.path("head.nii.gz"), desk.path("tiny.safetensors"), desk.path("m.nii"));
    let done = json(&["strip", &head, "-m", &mask, "--model", &tiny, "-b", "-1.5", "--no-n4"]);
    check_envelope(&done, "strip", true);
    assert_eq!((&done["model"], done["heads"].as_array().map(Vec::len)), (&"tiny".into(), Some(1)));
    assert_eq!(done["model_sha256"], sha256(&fs::read(&tiny).expect("a model")));
    let options = &done["options"];
    assert_eq!((&options["border"], &options["no-n4"]), (&(-1.5).into(), &true.into()));
    assert_eq!((&options["inputs"], &options["dtype"]), (&serde_json::json!([head]), &"f32".into()));
    // A head that fails is said at the top as well, a warning too.
    desk.folder.put("nan.nii", &desk.nan_head());
    let done = json(&["strip", &desk.path("nan.nii"), "-m", &mask, "--model", &tiny]);
    assert!(done["warnings"][0].as_str().expect("text").contains("nan.nii: 1 of "), "{done}");
    assert_eq!(
        done["warnings"][0],
        format!("{}: {}", desk.path("nan.nii"), done["heads"][0]["warnings"][0].as_str().expect("text"))
    );
    desk.folder.put("short.nii", &desk.read("head.nii.gz")[..5000]);
    let failed = json_of_failure(&["strip", &desk.path("short.nii"), "-m", &mask, "--model", &tiny]);
    check_envelope(&failed, "strip", false);
    assert_eq!(failed["error"]["message"], failed["heads"][0]["error"]);
}

#[test]
#[cfg(target_os = "linux")]
fn json_says_that_there_is_no_adapter() {
    let desk = Desk::new();
    let head = desk.path("head.nii.gz");
    for (command, arguments) in [
        ("devices", &["devices"][..]),
        ("strip", &["strip", &head, "-m", "/dev/null", "--model", &desk.path("tiny.safetensors")]),
    ] {
        // Not through cargo's runner, which may bring a driver; the Vulkan loader finds drivers by these.
        let mut program = Command::new(env!("CARGO_BIN_EXE_trephine"));
        program.args(arguments).arg("--json");
        for variable in ["VK_ICD_FILENAMES", "VK_DRIVER_FILES"] {
            program.env(variable, "/nonexistent.json");
        }
        let output = program.output().expect("starts");
        assert_eq!(output.status.code(), Some(1));
        let object: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
        check_envelope(&object, command, false);
        assert!(
            object["error"]["message"].as_str().expect("text").contains("no GPU adapter found"),
            "{object}"
        );
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

    let coarse = desk.path("coarse.safetensors");
    succeed(&["model", "convert", &tiny, &coarse, "--half", "--mantissa", "3"]);
    let coarse = Model::read(coarse.as_ref()).expect("reads");
    for (name, (_, values)) in &old.tensors {
        for (value, rounded) in values.iter().zip(&coarse.tensors[name].1) {
            assert_eq!(half::f16::from_f32(*rounded).to_bits() % (1 << 7), 0, "{name}: {rounded}");
            assert!((value - rounded).abs() <= value.abs() / 16.0 + 1e-6, "{name}: {value}, {rounded}");
        }
    }
    fail(2, &["model", "convert", &tiny, &half, "--mantissa", "3"]);

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
fn models_come_from_others_files_and_from_ones_own_folder() {
    let desk = Desk::new();
    let tiny = Model::read(desk.path("tiny.safetensors").as_ref()).expect("reads");
    // Weights alone, and the network in a file of its own.
    let views = tiny.tensors.iter().map(|(name, (shape, values))| {
        let bytes = bytemuck::cast_slice(values.as_slice());
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("fits"))
    });
    let weights =
        desk.folder.put("weights.safetensors", &safetensors::serialize(views, None).expect("serialises"));
    let network = serde_json::to_vec(&tiny.description).expect("serialises");
    desk.folder.put("network.json", &network);
    let (weights, network) = (weights.to_str().expect("UTF-8"), desk.path("network.json"));
    let own = desk.path("own.safetensors");
    let err = fail(1, &["model", "convert", weights, &own]);
    assert!(err.contains("the weights of no network that is known here"), "{err}");
    succeed(&["model", "convert", weights, &own, "--description", &network, "--fold", weights]);
    let made = Model::read(own.as_ref()).expect("reads");
    assert_eq!(made.description.folds, 2);
    assert_eq!(made.tensors.len(), 2 * tiny.tensors.len());
    assert_eq!(trephine::model::weights_of_fold(&made.description, &made.tensors, 0).as_ref(), &tiny.tensors);
    assert_eq!(trephine::model::weights_of_fold(&made.description, &made.tensors, 1).as_ref(), &tiny.tensors);

    // By name from a folder.
    let folder = desk.folder.path("models");
    fs::create_dir(&folder).expect("made");
    fs::copy(&own, folder.join("mine.safetensors")).expect("copied");
    fs::write(folder.join("bad.safetensors"), b"no model").expect("written");
    let output = trephine(&["model", "list"]).env("TREPHINE_MODELS_DIR", &folder).output().expect("runs");
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(out.contains("mine ") && out.contains("mine.safetensors"), "{out}");
    assert!(err.contains("bad.safetensors"), "{err}");
    let output =
        trephine(&["model", "info", "mine"]).env("TREPHINE_MODELS_DIR", &folder).output().expect("runs");
    assert!(output.status.success());

    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/torch_zip.pt");
    let err = fail(1, &["strip", &desk.path("head.nii.gz"), "--model", fixture]);
    assert!(err.contains("torch_zip.pt: holds 3 tensors"), "{err}");
    let err = fail(1, &["model", "fetch", "nonesuch"]);
    assert!(err.contains("is no model that can be fetched; these are: deepbet"), "{err}");
    let err = fail(1, &["model", "fetch", "deepbet", "--wheel", weights]);
    assert!(err.contains("is not deepbet 1.0.2 as it was published"), "{err}");
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
fn shells_and_man_learn_the_commands() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let [script, _] = succeed(&["completions", shell]);
        assert!(script.contains("trephine") && script.contains("participant-label"), "{shell}: {script}");
    }
    let man = desk.path("man");
    succeed(&["man", &man]);
    let page = |name: &str| fs::read_to_string(Path::new(&man).join(name)).expect("written");
    assert!(page("trephine.1").contains("Brain extraction") && page("trephine.1").contains("strip"));
    assert!(page("trephine-strip.1").contains("resume") && page("trephine-bids.1").contains("participant"));
}
