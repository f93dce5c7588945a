//! Trephine in other programs' clothes: under SynthStrip's command line, and in Python.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::desk::{Desk, SHAPE, floats, head_values, inflated, series, succeed, text, trephine};
use crate::program::has_gpu;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A script that is the program as tests run it.
#[cfg(unix)]
pub fn stand_in(folder: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let command = trephine(&[]);
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().expect("UTF-8"));
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, value) in command.get_envs() {
        script += &format!("export {}={}\n", name.to_str().expect("UTF-8"), quoted(value.expect("is set")));
    }
    let words: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    script += &format!("exec {} \"$@\"\n", words.join(" "));
    let path = folder.join("trephine");
    fs::write(&path, script).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
#[cfg(unix)]
fn synthstrips_command_line_is_understood() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let program = stand_in(&desk.folder.path("."));
    let shim = |arguments: &[&str]| -> Output {
        let shim = Path::new(ROOT).join("tools/mri_synthstrip");
        Command::new(shim).args(arguments).env("TREPHINE", &program).output().expect("starts")
    };
    let (head, tiny) = (desk.path("head.nii.gz"), desk.path("tiny.safetensors"));
    let [brain, mask, sdt] = ["b.nii.gz", "m.nii.gz", "d.nii.gz"].map(|name| desk.path(name));
    // Its border is 1 mm by default, its distance that to the brain's own border, its fill value 0.
    let done = shim(&["-i", &head, "-o", &brain, "-m", &mask, "-d", &sdt, "--model", &tiny, "-t", "2"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let [own_brain, own_mask, own_sdt] = ["ob.nii.gz", "om.nii.gz", "od.nii.gz"].map(|name| desk.path(name));
    succeed(&["strip", "-i", &head, "-o", &own_brain, "-m", &own_mask, "-b", "1", "--model", &tiny]);
    succeed(&["strip", "-i", &head, "-d", &own_sdt, "--model", &tiny]);
    for (a, b) in [(&brain, &own_brain), (&mask, &own_mask), (&sdt, &own_sdt)] {
        assert_eq!(inflated(Path::new(a)), inflated(Path::new(b)), "{a}");
    }
    // Long names, values behind = and without a blank; a fill value; more border, more brain.
    let long = [format!("--image={head}"), format!("--out={brain}"), format!("--mask={mask}")];
    let done = shim(&[&long[0], &long[1], &long[2], "-b6", "--fill", "-3", "--model", &tiny]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let wider = inflated(Path::new(&mask));
    let (count, own) =
        (|bytes: &[u8]| bytes[352..].iter().filter(|&&v| v == 1).count(), inflated(Path::new(&own_mask)));
    assert!(count(&wider) > count(&own));
    let stored = inflated(Path::new(&brain));
    // The head stores halves with an offset of 3: -3 is -12 in its voxels.
    let outside = wider[352..].iter().position(|&v| v == 0).expect("not all is brain");
    assert_eq!(stored[352 + 2 * outside..][..2], (-12i16).to_le_bytes());
    assert_eq!(floats(&inflated(Path::new(&sdt))).len(), head_values(1).len());
    // Of a series, every volume.
    desk.folder.put("series.nii", &series().bytes());
    let done = shim(&["-i", &desk.path("series.nii"), "-m", &mask, "--model", &tiny]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(inflated(Path::new(&mask)).len(), 352 + 2 * SHAPE.iter().product::<usize>());

    for (arguments, code, wanted) in [
        (&["-o", &brain][..], 2, "-i names the image"),
        (&["-i", &head], 2, "name at least one of -o, -m, -d"),
        (&["-i", &head, "-m"], 2, "-m needs a value"),
        (&["-i", &head, "-m", &mask, "--what"], 2, "--what is no option"),
        (&["-i", &head, "-m", &mask, "-t", "x"], 2, "-t needs a number"),
        (&["-i", &head, "-m", &mask, "--no-csf", "--model", &tiny], 1, "does not offer --no-csf"),
        (&["-i", &desk.path("none.nii"), "-m", &mask], 1, "none.nii"),
    ] {
        let done = shim(arguments);
        let err = text(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {err}");
        assert!(err.contains(wanted), "{arguments:?}: {err}");
    }
    let help = shim(&["--help"]);
    let help = text(&help.stdout);
    for flag in [
        "--image",
        "--out",
        "--mask",
        "--sdt",
        "--border",
        "--fill",
        "--threads",
        "--gpu",
        "--no-csf",
        "--model",
    ] {
        assert!(help.contains(flag), "{flag}: {help}");
    }
}

#[test]
#[cfg(unix)]
fn python_gets_images_and_nipype_a_node() {
    if !has_gpu() {
        return;
    }
    let python = std::env::var("TREPHINE_PYTHON").unwrap_or("python3".into());
    let imports = |module: &str| {
        let output = Command::new(&python).args(["-c", &format!("import {module}")]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !imports("nibabel") {
        eprintln!("SKIPPED: {python} has no nibabel");
        return;
    }
    if !imports("nipype") {
        eprintln!("SKIPPED in part: {python} has no nipype");
    }
    let desk = Desk::new();
    let output = Command::new(&python)
        .args(["-B", "-m", "unittest", "-v", "test_trephine"])
        .current_dir(Path::new(ROOT).join("python/tests"))
        .env("PYTHONPATH", Path::new(ROOT).join("python"))
        .env("TREPHINE", stand_in(&desk.folder.path(".")))
        .envs([("HEAD", desk.path("head.nii.gz")), ("MODEL", desk.path("tiny.safetensors"))])
        .output()
        .expect("starts");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
