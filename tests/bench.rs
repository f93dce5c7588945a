//! `trephine bench` and `trephine tune` as users run them: what they print, what they refuse, what they keep.

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollster::block_on;
use program::{has_gpu, program};
use serde_json::Value;
use trephine::gpu::{Gpu, GpuOptions};
use trephine::graph::Tuning;

use trephine::lab::timing::Budget;
use trephine::lab::tune::{Progress, TuneOptions, tune};
use trephine::lab::{FailureKind, Watchdog};
use trephine::tensor::DType;

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
    let right = "value_of(first) + value_of(b[i])";
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

    fs::write(
        &own,
        source.replace(right, &format!("{right} + select(Value(0.0), Value(1e-3), i == params.n - 1u)")),
    )
    .expect("writes");
    let (code, report, err) = json(folder.path(), &arguments);
    assert_eq!((code, report["rows"].as_array().map(Vec::len)), (Some(1), Some(1)), "{err}");
    assert!(report["rows"][0]["shader"].is_null());
    assert!(report["failures"][0]["reason"].as_str().expect("a reason").contains("wrong result"));
    let output = trephine(folder.path(), &arguments);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("own.wgsl"), "printed among the results");

    let broken = source.replace(right, "value_of(first) +");
    let line =
        1 + broken.lines().position(|line| line.contains("value_of(first) +)")).expect("the broken line");
    fs::write(&own, &broken).expect("writes");
    let (code, _, err) = json(folder.path(), &arguments);
    assert_eq!(code, Some(1));
    let text = broken.lines().nth(line - 1).expect("the broken line");
    let column = 1 + text.find(");").expect("where an operand lacks");
    assert!(err.contains(&format!("own.wgsl:{line}:{column}: ")), "{err}");
    let excerpt = err.lines().position(|l| l.starts_with(&line.to_string()) && l.ends_with(text));
    let below = excerpt.and_then(|at| err.lines().nth(at + 1)).expect("the line and what is wrong with it");
    assert!(below.contains('^'), "{err}");
}

/// Exit code, stdout and stderr.
fn run(cache: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = trephine(cache, arguments);
    let [out, err] = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    (output.status.code(), out, err)
}

/// Writes a kernel to a file of this name and returns its path.
fn own_shader(folder: &Path, name: &str, source: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, source).expect("writes");
    path.to_str().expect("UTF-8").to_owned()
}

/// Variant and shader of every row.
fn rows(report: &Value) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().map(|row| (text(&row["variant"]).expect("a variant"), text(&row["shader"]))).collect()
}

#[test]
fn a_kernel_takes_the_place_that_its_name_or_replaces_says() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path();
    let direct = include_str!("../shaders/conv3d/direct.wgsl");
    let named = own_shader(cache, "direct.wgsl", direct);
    let unnamed = own_shader(cache, "mine.wgsl", direct);
    for arguments in [
        &["--shader", &named][..],
        &["--shader", &unnamed, "--replaces", "conv3d/direct.wgsl"],
        &["--shader", &unnamed, "--replaces", "shaders/conv3d/direct.wgsl", "--variant", "auto"],
    ] {
        let (code, report, err) = json(cache, &[&CONV[..], &["--check"], arguments].concat());
        assert_eq!(code, Some(0), "{err}");
        let [(ours, None), (theirs, Some(label))] = &rows(&report)[..] else { panic!("{report}") };
        assert_eq!((&**ours, &**theirs), ("direct", "direct"), "{arguments:?}");
        assert!(label.ends_with(" for conv3d/direct.wgsl"), "{label}");
    }
    // Nothing is measured before a mistake is found, not even the roofline.
    for (arguments, code, says) in [
        (&["--shader", &unnamed][..], 2, "direct (conv3d/pack.wgsl, conv3d/direct.wgsl)"),
        (
            &["--shader", &unnamed, "--replaces", "conv3d/none.wgsl"],
            2,
            "conv3d has no kernel conv3d/none.wgsl",
        ),
        (&["--shader", &named, "--variant", "naive"], 2, "naive (conv3d/"),
        (&["--shader", "away.wgsl"], 1, "away.wgsl: cannot be read"),
        (&["--variant", "none"], 2, "no variant 'none'"),
    ] {
        let (got, out, err) = run(cache, &[&CONV[..], arguments].concat());
        assert_eq!(got, Some(code), "{arguments:?}: {err}");
        assert!(err.contains(says), "{arguments:?}: {err}");
        assert!(!out.contains("roofline"), "{arguments:?}: {out}");
    }
    let (code, out, err) = run(cache, &["bench", "network", "--model", "away.safetensors"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("away.safetensors") && !out.contains("roofline"), "{out}{err}");
}

/// Three quarters of the voxels that `tile.wgsl` gives a workgroup, and half of the depth.
#[test]
fn a_kernel_states_its_own_launch() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut source = include_str!("../shaders/conv3d/tile.wgsl").to_owned();
    for (ours, own) in [
        ("const TILE_D: u32 = 4u", "const TILE_D: u32 = 2u"),
        ("@workgroup_size(256)", "@workgroup_size(128)"),
        ("i < DEPTH * HALO; i += 256u", "i < DEPTH * HALO; i += 128u"),
        ("i < DEPTH * QUADS; i += 256u", "i < DEPTH * QUADS; i += 128u"),
        ("local / 128u", "local / 64u"),
        ("local / 32u % 4u", "local / 32u % 2u"),
    ] {
        assert_eq!(source.matches(ours).count(), 1, "{ours}");
        source = source.replace(ours, own);
    }
    let bench = |source: &str| {
        let own = own_shader(folder.path(), "tile.wgsl", source);
        let shape = ["bench", "conv3d", "--shape", "2,3,7,9,35", "--out-channels", "17", "--check"];
        json(folder.path(), &[&shape[..], &["--shader", &own]].concat())
    };
    // With the launch of ours, half of the voxels are left out.
    let (code, report, err) = bench(&source);
    assert_eq!((code, report["failures"][0]["kind"].as_str()), (Some(1), Some("wrong-result")), "{err}");
    let tiles = "ceil(out_d / TILE_D) * ceil(out_h / TILE_H) * ceil(out_w / TILE_W)";
    let (code, report, err) = bench(&format!("//! launch: {tiles}, 1, groups.z\n{source}"));
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(report["rows"][1]["error"]["checked"], "all outputs", "{report}");
    assert!(rows(&report)[1].1.is_some(), "{report}");
    let (code, report, err) =
        bench(&format!("//! launch: {}, 1, groups.z\n{source}", tiles.replace("out_d", "depth")));
    assert_eq!((code, report["failures"][0]["kind"].as_str()), (Some(1), Some("does-not-compile")), "{err}");
    assert!(err.contains("tile.wgsl:1: launch: ") && err.contains("names `depth`"), "{err}");
    assert!(err.contains("out_d") && err.contains("TILE_D"), "what there is: {err}");
}

#[test]
fn a_launch_that_does_not_end_is_reported() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = include_str!("../shaders/elementwise/add.wgsl");
    let first = "let i = flat_index";
    assert!(source.contains(first));
    // The compiler cannot know that a sum of inputs is not 1e30.
    let endless = format!(
        "while total(value_of(a[0])) < 1e30 {{ y[0] = stored_of(value_of(y[0]) * 0.5 + value_of(a[0])); }}\n    {first}"
    );
    let own = own_shader(folder.path(), "add.wgsl", &source.replace(first, &endless));
    let begun = Instant::now();
    let arguments = ["bench", "add", "--shape", "1,4,8,8,8", "--limit", "1", "--shader", &own];
    let (code, report, err) = json(folder.path(), &arguments);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("did not end within 1 s"), "{err}");
    assert_eq!(report["failures"][0]["kind"], "did-not-end");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// Where the reference computes a sample of the outputs alone, a kernel of one's own has to agree with ours in the
/// rest: it runs without bounds checks next.
#[test]
fn a_kernel_that_is_wrong_in_one_voxel_of_a_large_volume_is_found() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = include_str!("../shaders/conv3d/direct.wgsl");
    let right = "store(channel, base, out_volume, a0);";
    assert_eq!(source.matches(right).count(), 1);
    let wrong = "store(channel, base, out_volume, a0 + select(0.0, 9.0, voxel == out_volume / 2u + 7u));";
    let own = own_shader(folder.path(), "direct.wgsl", &source.replace(right, wrong));
    let shape = ["bench", "conv3d", "--shape", "1,16,24,40,40", "--check", "--shader", &own];
    let (code, report, err) = json(folder.path(), &shape);
    assert_eq!(report["rows"][0]["error"]["checked"], "a sample of the outputs", "{err}");
    assert_eq!((code, rows(&report).len()), (Some(1), 1), "{err}");
    assert_eq!(report["failures"][0]["kind"], "wrong-result", "{err}");
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
                1 => fs::write(&own, source.replace("value_of(first) +", "value_of(first) + +;"))
                    .expect("writes"),
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
    let trace = folder.path().join("trace.json");
    let traced = [&n4[..], &QUICK, &["--trace", trace.to_str().expect("UTF-8")]].concat();
    if value["clock"] != "gpu-timestamps" {
        assert!(run(folder.path(), &traced).2.contains("has no timestamps"));
    } else {
        let (code, _, err) = json(folder.path(), &traced);
        assert_eq!(code, Some(0), "{err}");
        let trace: Value = serde_json::from_str(&fs::read_to_string(&trace).expect("a trace")).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        let begins: Vec<f64> = events.iter().filter_map(|event| event["ts"].as_f64()).collect();
        assert!(begins.len() > 45 * 10 && begins.is_sorted(), "one after the other: {begins:?}");
        let kernels = value["kernels"].as_array().expect("kernels");
        let sharpen = kernels.iter().find(|kernel| kernel["kernel"] == "n4/sharpen.wgsl");
        // The article's 20 + 10 + 10 + 5 iterations.
        assert_eq!(sharpen.expect("every iteration sharpens")["calls"], 45);
        let shares: f64 = kernels.iter().map(|kernel| number(&kernel["share"])).sum();
        assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    }
}

/// Half precision is checked and reported as such; an adapter without it says so.
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
    // What was gained, by operator and in all.
    let gains = tuned["gains"].as_array().expect("gains");
    assert_eq!(gains.len(), tuned["entries"].as_array().map_or(0, Vec::len));
    assert!(
        gains.iter().all(|gain| number(&gain["ratio"]) >= 1.0 && number(&gain["runs"]) >= 1.0),
        "{gains:?}"
    );
    let sum: f64 = gains.iter().map(|gain| number(&gain["after_ms"]) * number(&gain["runs"])).sum();
    assert!((sum / number(&tuned["total"]["after_ms"]) - 1.0).abs() < 1e-9, "{tuned}");
    let done = format!("[{0}/{0}] ", gains.len());
    assert!(err.contains(&done) && err.contains(" ms, the fastest as before"), "{err}");
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
fn tuning_makes_sure_of_its_file_before_it_measures() {
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let blocked = folder.path().join("file");
    fs::write(&blocked, "not a folder").expect("writes");
    let nonsense = folder.path().join("nonsense");
    fs::create_dir(&nonsense).expect("a folder");
    fs::write(nonsense.join("tuning.json"), "nonsense").expect("writes");
    for (cache, says) in [(&blocked, "file"), (&nonsense, "tuning.json: is not a tuning file")] {
        let (code, _, err) = run(cache, &["tune", "--shape", "16,16,16", "--forward-only", "--seconds", "0"]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains(says) && !err.contains("device:"), "{err}");
    }
}

/// A variant that cannot be used is called what it is, and the others are tuned.
#[test]
fn tuning_says_why_a_variant_is_not_used() {
    if !has_gpu() {
        return;
    }
    let options =
        GpuOptions { device: std::env::var("TREPHINE_DEVICE").ok(), checked: true, ..GpuOptions::default() };
    let gpu = Arc::new(block_on(Gpu::open(&options)).expect("there is an adapter"));
    let watchdog = Watchdog::new(&gpu, 600.0, |failure| panic!("{failure:?}"));
    let naive = include_str!("../shaders/conv3d/naive.wgsl");
    gpu.replace_shader("conv3d/naive.wgsl", naive.replace("fma(", "0.5 * fma("));
    gpu.replace_shader("conv3d/direct.wgsl", "nonsense".to_owned());
    let model = trephine::model::load("default").expect("a built-in model");
    let options = TuneOptions {
        forward: true,
        dtype: DType::F32,
        train: false,
        shape: Some([16; 3]),
        batch: 1,
        budget: Budget { seconds: 0.0, samples: 1 },
        limit_s: 60.0,
    };
    let mut told = Vec::new();
    let tuned = block_on(tune(&gpu, &model, &options, &Tuning::default(), &watchdog, &mut |progress| {
        if let Progress::Rejected(failure) = progress {
            told.push(failure.variant.clone());
        }
    }))
    .expect("the others are tuned");
    assert!(!tuned.entries.is_empty());
    let kinds = |variant: &str| {
        let of = tuned.failures.iter().filter(|failure| failure.variant == variant);
        of.map(|failure| failure.kind).collect::<Vec<_>>()
    };
    for (variant, kind) in [("naive", FailureKind::WrongResult), ("direct", FailureKind::DoesNotCompile)] {
        let kinds = kinds(variant);
        assert!(!kinds.is_empty() && kinds.iter().all(|k| *k == kind), "{variant}: {kinds:?}");
        assert!(told.iter().any(|name| name == variant), "{told:?}");
    }
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
        (&["bench", "conv3d", "--trace", "t.json"], "--profile and --trace belong to"),
        (&["bench", "n4", "--batch", "2"], "--model and --batch belong to"),
        (&["bench", "network", "--variant", "all"], "belong to operators"),
        (&["bench", "add", "--limit", "0"], "--limit must be more than 0"),
        (&["tune", "--batch", "0"], "at least 1"),
        (&["tune", "--limit=-1"], "--limit must be more than 0"),
    ] {
        let output = trephine(folder.path(), arguments);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(says), "{arguments:?}: {err}");
    }
}
