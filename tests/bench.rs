//! `trephine bench` and `trephine tune` as users run them: what they print, what they refuse, what they keep.

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use program::{has_gpu, program};
use serde_json::Value;

fn trephine(cache: &Path, arguments: &[&str]) -> Output {
    program(cache, arguments).output().expect("the program starts")
}

/// Exit code, the JSON on stdout, and stderr.
fn json(cache: &Path, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let output = trephine(cache, &[arguments, &["--json"]].concat());
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!err.contains("panicked"), "{arguments:?}: {err}");
    let value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {err}"));
    (output.status.code(), value, err)
}

const QUICK: [&str; 4] = ["--seconds", "0", "--samples", "3"];
const CONV: [&str; 6] = ["bench", "conv3d", "--shape", "2,3,6,7,9", "--out-channels", "5"];

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_json_follows_the_contract() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (csv, html) = (folder.path().join("rows.csv"), folder.path().join("report.html"));
    for (direction, variants) in [("forward", 3), ("grad-input", 3), ("grad-weight", 2)] {
        let mut arguments = [&CONV[..], &QUICK, &["--variant", "all", "--direction", direction]].concat();
        arguments.extend(["--csv", csv.to_str().expect("UTF-8"), "--html", html.to_str().expect("UTF-8")]);
        let (code, report, err) = json(folder.path(), &arguments);
        assert_eq!(code, Some(0), "{err}");
        for key in ["name", "backend", "driver", "type"] {
            assert!(report["adapter"][key].is_string(), "adapter.{key}");
        }
        assert!(number(&report["peak"]["fma_gflops"]) > 0.0 && number(&report["peak"]["copy_gbps"]) > 0.0);
        assert!(report["versions"]["trephine"].is_string() && report["date"].is_string());
        let rows = report["rows"].as_array().expect("rows");
        assert!(rows.len() >= variants, "{direction}: {} rows", rows.len());
        for row in rows {
            assert_eq!((&row["op"], &row["direction"]), (&"conv3d".into(), &direction.into()));
            assert_eq!(row["shape"], serde_json::json!([2, 3, 6, 7, 9]));
            assert!(row["variant"].is_string() && row["dtype"].is_string());
            let [median, min, max] = ["median", "min", "max"].map(|key| number(&row["ms"][key]));
            assert!(0.0 < min && min <= median && median <= max, "{row}");
            assert!(["gflops", "gbps", "roofline_fraction"].iter().all(|key| number(&row[key]) > 0.0));
            assert!(number(&row["error"]["rel_l2"]) < 1e-2, "{row}");
        }
        let written = fs::read_to_string(&csv).expect("the CSV file");
        assert_eq!(written.lines().count(), 1 + rows.len());
        let page = fs::read_to_string(&html).expect("the page");
        assert!(
            page.contains("<svg") && page.contains("conv3d") && !page.contains("http"),
            "not self-contained"
        );
    }
}

#[test]
fn a_wrong_kernel_is_a_failure_and_no_result() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = include_str!("../shaders/elementwise/add.wgsl");
    let right = "f32(a[i]) + f32(b[i])";
    assert!(source.contains(right));
    let own = folder.path().join("own.wgsl");
    let arguments =
        [&["bench", "add", "--shape", "1,4,8,8,8", "--shader", own.to_str().expect("UTF-8")][..], &QUICK]
            .concat();

    fs::write(&own, source).expect("writes");
    let (code, report, err) = json(folder.path(), &arguments);
    assert_eq!(code, Some(0), "{err}");
    let shaders: Vec<bool> =
        report["rows"].as_array().expect("rows").iter().map(|row| row["shader"].is_string()).collect();
    assert_eq!(shaders, [false, true], "ours and the same kernel as the user's own");

    fs::write(&own, source.replace(right, "f32(a[i]) + f32(b[i]) + select(0.0, 1e-3, i == params.n - 1u)"))
        .expect("writes");
    let (code, report, err) = json(folder.path(), &arguments);
    assert_eq!((code, report["rows"].as_array().map(Vec::len)), (Some(1), Some(1)), "{err}");
    assert!(report["rows"][0]["shader"].is_null());
    assert!(report["failures"][0]["reason"].as_str().expect("a reason").contains("wrong result"));
    let output = trephine(folder.path(), &arguments);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("own.wgsl"), "printed among the results");

    let broken = source.replace(right, "f32(a[i]) +");
    let line = 1 + broken.lines().position(|line| line.contains("f32(a[i]) +)")).expect("the broken line");
    fs::write(&own, broken).expect("writes");
    let (code, _, err) = json(folder.path(), &arguments);
    assert_eq!(code, Some(1));
    assert!(err.contains(&format!("own.wgsl:{line}")), "{err}");
}

#[test]
fn a_watched_kernel_is_measured_whenever_it_is_saved() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = folder.path().join("own.wgsl");
    let source = include_str!("../shaders/elementwise/add.wgsl");
    fs::write(&own, source).expect("writes");
    let arguments =
        ["bench", "add", "--shape", "1,4,8,8,8", "--watch", "--shader", own.to_str().expect("UTF-8")];
    let mut child = program(folder.path(), &[&arguments[..], &QUICK].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut rounds = Vec::from([Vec::new()]);
    for line in lines.map_while(Result::ok) {
        if line.starts_with("watching ") {
            // Another time of modification, also on file systems that keep it coarsely.
            std::thread::sleep(Duration::from_millis(30));
            match rounds.len() {
                1 => fs::write(&own, source.replace("f32(a[i]) +", "f32(a[i]) + +;")).expect("writes"),
                2 => fs::write(&own, source).expect("writes"),
                _ => break,
            }
            rounds.push(Vec::new());
        } else if line.starts_with("error: add ") {
            // Drivers may have errors of their own to tell.
            rounds.last_mut().expect("one").push(line);
        }
    }
    child.kill().expect("runs until then");
    child.wait().expect("ends");
    let errors: Vec<usize> = rounds.iter().map(Vec::len).collect();
    assert_eq!(errors, [0, 1, 0], "{rounds:?}");
    assert!(rounds[1][0].contains("own.wgsl:"), "{rounds:?}");
}

#[test]
fn kernels_are_dumped_with_their_translations() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dump = folder.path().join("dump");
    let arguments = [&CONV[..], &["--check", "--dump", dump.to_str().expect("UTF-8")]].concat();
    assert_eq!(json(folder.path(), &arguments).0, Some(0));
    let mut extensions: Vec<String> = fs::read_dir(&dump)
        .expect("the folder")
        .map(|entry| entry.expect("readable").path().extension().expect("one").to_string_lossy().into_owned())
        .collect();
    extensions.sort();
    extensions.dedup();
    assert_eq!(extensions, ["hlsl", "metal", "spv", "wgsl"]);
}

#[test]
fn comparisons_mark_what_lies_outside_the_noise() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("old.json");
    let (_, mut old, _) = json(folder.path(), &[&CONV[..], &QUICK].concat());
    for key in ["median", "min", "max"] {
        let slower = number(&old["rows"][0]["ms"][key]) * 1000.0;
        old["rows"][0]["ms"][key] = slower.into();
    }
    fs::write(&file, old.to_string()).expect("writes");
    let arguments = [&CONV[..], &QUICK, &["--compare", file.to_str().expect("UTF-8")]].concat();
    let (code, report, err) = json(folder.path(), &arguments);
    assert_eq!(code, Some(0), "{err}");
    let change = &report["compare"][0];
    assert!(number(&change["ratio"]) > 10.0 && change["significant"] == true, "{change}");
    fs::write(&file, "{}").expect("writes");
    let output = trephine(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("old.json: is not a report"));
}

#[test]
fn networks_are_checked_timed_and_profiled() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trace = folder.path().join("trace.json");
    let network = ["bench", "network", "--shape", "16,16,16", "--direction"];
    let (code, report, err) = json(
        folder.path(),
        &[&network[..], &["forward", "--trace", trace.to_str().expect("UTF-8")], &QUICK].concat(),
    );
    assert_eq!(code, Some(0), "{err}");
    let total = &report["total"];
    assert!(number(&total["ms"]["median"]) > 0.0 && number(&total["peak_buffer_bytes"]) > 0.0);
    assert_eq!(total["submissions"], 1, "a forward pass is one submission");
    if report["clock"] == "gpu-timestamps" {
        let share: f64 =
            report["kernels"].as_array().expect("kernels").iter().map(|k| number(&k["share"])).sum();
        assert!((share - 1.0).abs() < 1e-6, "shares add up to {share}");
        let trace: Value = serde_json::from_str(&fs::read_to_string(&trace).expect("a trace")).expect("JSON");
        assert!(trace["traceEvents"].as_array().expect("events").len() > 10);
    }
    let (code, report, err) = json(folder.path(), &[&network[..], &["train"], &QUICK].concat());
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(report["total"]["submissions"], 1, "a training step is one submission");
}

/// Half precision is checked and reported as such; an adapter without it says so.
#[test]
fn bias_correction_is_timed_from_host_to_host() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let n4 = ["bench", "n4", "--shape", "32,36,34", "--shrink", "1", "--profile"];
    let (code, value, err) = json(folder.path(), &[&n4[..], &QUICK].concat());
    assert_eq!(code, Some(0), "{err}");
    let total = &value["total"];
    assert_eq!(total["samples"], 3);
    let stages = total["stages"].as_array().expect("stages");
    let names: Vec<&str> = stages.iter().filter_map(|stage| stage["name"].as_str()).collect();
    assert_eq!(names, ["upload", "field", "division", "download"]);
    let parts: f64 = stages.iter().map(|stage| number(&stage["ms"]["min"])).sum();
    assert!(parts <= number(&total["ms"]["max"]), "{total}");
    assert!(number(&total["error"]["rel_l2"]) < 0.1, "{total}");
    if value["clock"] == "gpu-timestamps" {
        let kernels = value["kernels"].as_array().expect("kernels");
        let sharpen = kernels.iter().find(|kernel| kernel["kernel"] == "n4/sharpen.wgsl");
        // The article's 20 + 10 + 10 + 5 iterations.
        assert_eq!(sharpen.expect("every iteration sharpens")["calls"], 45);
        let shares: f64 = kernels.iter().map(|kernel| number(&kernel["share"])).sum();
        assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    }
}

#[test]
fn half_precision_is_measured_or_refused() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let half = ["--dtype", "f16"];
    let output = trephine(folder.path(), &[&CONV[..], &QUICK, &half].concat());
    if String::from_utf8_lossy(&output.stderr).contains("does not compute in half precision") {
        assert_eq!(output.status.code(), Some(1));
        return;
    }
    let (code, report, err) =
        json(folder.path(), &[&CONV[..], &QUICK, &["--variant", "all"], &half].concat());
    assert_eq!(code, Some(0), "{err}");
    let rows = report["rows"].as_array().expect("rows");
    assert!(rows.len() > 3 && rows.iter().all(|row| row["dtype"] == "f16"), "{rows:?}");
    let bytes = |dtype: &str| {
        let network =
            ["bench", "network", "--model", "article", "--shape", "32,32,32", "--check", "--dtype", dtype];
        let (code, report, err) = json(folder.path(), &network);
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(report["total"]["dtype"], dtype);
        number(&report["total"]["peak_buffer_bytes"])
    };
    assert!(bytes("f16") < bytes("f32"));
}

#[test]
fn tuning_is_kept_used_and_left_aside() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path();
    let tune = ["tune", "--shape", "16,16,16", "--forward-only", "--seconds", "0"];
    let (code, tuned, err) = json(cache, &tune);
    assert_eq!(code, Some(0), "{err}");
    let file = cache.join("tuning.json");
    let mut stored: Value =
        serde_json::from_str(&fs::read_to_string(&file).expect("the cache")).expect("JSON");
    assert_eq!(stored["entries"], tuned["entries"]);
    // Make the slowest variant of every operator the fastest, so that using the cache shows.
    for entry in stored["entries"].as_array_mut().expect("entries") {
        assert!(entry["timings"].as_object().expect("timings").len() > 1, "{entry}");
        entry["fastest"] = "naive".into();
    }
    fs::write(&file, stored.to_string()).expect("writes");
    let variants = |extra: &[&str]| -> Vec<String> {
        let network =
            ["bench", "network", "--shape", "16,16,16", "--profile", "--seconds", "0", "--samples", "1"];
        let (code, report, err) = json(cache, &[&network[..], extra].concat());
        assert_eq!(code, Some(0), "{err}");
        let nodes = report["nodes"].as_array().cloned().unwrap_or_default();
        nodes
            .iter()
            .filter(|node| node["op"] == "conv3d")
            .map(|node| node["variant"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let tuned = variants(&[]);
    assert!(tuned.iter().all(|variant| variant == "naive"), "{tuned:?}");
    let plain = variants(&["--no-tune"]);
    assert!(plain.len() == tuned.len() && plain.iter().any(|variant| variant != "naive"), "{plain:?}");
    // Measured with other kernels: void.
    for entry in stored["entries"].as_array_mut().expect("entries") {
        entry["source_hash"] = "0".into();
    }
    fs::write(&file, stored.to_string()).expect("writes");
    assert_eq!(variants(&[]), plain);
    // Unusable: everything works without.
    fs::write(&file, "nonsense").expect("writes");
    assert_eq!(variants(&[]), plain);
}

#[test]
fn mistakes_on_the_command_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (arguments, says) in [
        (&["bench", "convolution"][..], "no operator 'convolution'"),
        (&["bench", "conv3d", "--shape", "1,2,3"], "N,C,D,H,W"),
        (&["bench", "conv3d", "--shape", "1,2,0,4,5"], "at least 1"),
        (&["bench", "add", "--direction", "grad-input"], "--direction"),
        (&["bench", "--shape", "1,2,3,4,5"], "name one"),
        (&["bench", "conv3d", "--watch"], "--shader"),
        (&["bench", "scale", "--dtype", "f16"], "scale knows no f16"),
        (&["bench", "network", "--direction", "train", "--dtype", "f16"], "--dtype f16"),
        (&["bench", "network", "--preset", "sitk"], "belong to `bench n4`"),
        (&["tune", "--batch", "0"], "at least 1"),
    ] {
        let output = trephine(folder.path(), arguments);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(says), "{arguments:?}: {err}");
    }
}
