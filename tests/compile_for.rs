//! `trephine bench --compile-for`: what AMD's compiler says of kernels, on machines with Mesa's driver for AMD.
#![cfg(target_os = "linux")]

use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trephine"));
    command.args(["bench", "--json"]).args(arguments).output().expect("the program runs")
}

/// The report, or `None` with an announcement where the driver is missing or too new.
fn report(arguments: &[&str]) -> Option<serde_json::Value> {
    let output = bench(arguments);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let error = report["error"]["message"].as_str().unwrap_or_default();
    if error.contains("apt-get install") || error.contains("null device") {
        eprintln!("SKIPPED: {error}");
        return None;
    }
    assert_eq!(output.status.code(), Some(0), "{report}");
    Some(report)
}

/// The preferred convolutions of a GPU hold many waves, spill nothing and spend most of their instructions on multiply-adds.
#[test]
fn preferred_kernels_keep_to_the_bars() {
    let shape = ["--shape", "1,32,48,64,80", "--compile-for", "amd:navi21"];
    for (arguments, kernel, least_share) in [
        (&["conv3d"][..], "conv3d/tile.wgsl", 0.75),
        (&["conv3d", "--direction", "grad-input"], "conv3d/tile.wgsl", 0.75),
        (&["conv3d", "--variant", "winograd_hw"], "conv3d/winograd_multiply.wgsl", 0.75),
        (&["conv3d", "--direction", "grad-weight"], "conv3d/grad_weight.wgsl", 0.70),
    ] {
        let Some(report) = report(&[arguments, &shape].concat()) else { return };
        let kernels = report["kernels"].as_array().expect("a list");
        let found = kernels.iter().find(|row| row["kernel"] == kernel).expect("the kernel");
        let count = |what: &str| found["block"][what].as_f64().expect("a number");
        let share = count("multiply_adds") / count("all");
        assert!(share >= least_share, "{kernel}: {share}");
        assert!(found["waves"].as_f64() >= Some(8.0) && found["spilled"] == 0.0, "{found}");
        assert!(found["bound"].as_f64() > Some(least_share), "{found}");
    }
}

#[test]
fn a_kernel_of_ones_own_is_compiled_beside_ours() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("direct.wgsl");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/conv3d/direct.wgsl"), &file).expect("copies");
    let path = file.to_str().expect("UTF-8");
    let arguments = ["conv3d", "--shape", "1,8,6,7,8", "--compile-for", "amd:gfx1100", "--shader", path];
    let Some(report) = report(&arguments) else { return };
    let kernels = report["kernels"].as_array().expect("a list");
    let of = |name: &str| kernels.iter().find(|row| row["kernel"] == name).expect("the kernel");
    assert_eq!(of(path)["block"], of("conv3d/direct.wgsl")["block"]);
}

#[test]
fn targets_that_cannot_be_meant_are_mistakes() {
    for target in ["navi21", "nvidia:ada", "amd:"] {
        let output = bench(&["conv3d", "--compile-for", target]);
        assert_eq!(output.status.code(), Some(2), "{target}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("amd:FAMILY"), "{target}");
    }
    assert_eq!(bench(&["n4", "--compile-for", "amd:navi21"]).status.code(), Some(2));
    // A family that nobody knows, or a machine without the driver.
    let output = bench(&["conv3d", "--compile-for", "amd:nonsense"]);
    assert_eq!(output.status.code(), Some(1));
}
