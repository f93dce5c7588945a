//! Several heads.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use trephine::gpu::{Gpu, GpuOptions};
use trephine::model::Model;
use trephine::pipeline::PipelineError;
use trephine::pipeline::batch::{self, BatchOptions, Finished, Job, Outputs, Row};
use trephine::pipeline::strip::{StripOptions, Stripper};
use trephine::volume::image::FrameChoice;

use crate::desk::{Desk, fail, head, json_of_failure, sha256, succeed, text, trephine};
use crate::nii::{Nii, gz};
use crate::program::has_gpu;

#[test]
fn a_batch_goes_on_after_failures() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let heads = desk.folder.path("heads");
    fs::create_dir_all(heads.join("sub-2")).expect("made");
    let first = gz(&head(1).bytes());
    fs::write(heads.join("a.nii.gz"), &first).expect("written");
    fs::write(heads.join("broken.nii.gz"), &first[..first.len() / 2]).expect("written");
    let mut with_nan = head(2);
    with_nan.pixdim[1] = -with_nan.pixdim[1];
    with_nan.write(&heads.join("sub-2/a.nii"));
    // A derivative is no head.
    fs::write(heads.join("a_brain.nii.gz"), &first).expect("written");
    let (other, missing) = (desk.path("head.nii.gz"), desk.path("missing.nii"));
    let out = desk.path("out");
    let heads = heads.to_str().expect("UTF-8");
    let batch = ["strip", heads, &other, &missing, "-O", &out, "--model", &tiny];
    let err = fail(1, &batch);
    assert_eq!(err.matches("error: ").count(), 2, "{err}");
    assert_eq!(err.matches("a.nii: negative voxel size in the header").count(), 1, "{err}");
    assert!(err.contains("5 heads, 2 failed; report: "), "{err}");
    for done in ["a", "sub-2/a", "head"] {
        for end in ["_brain.nii.gz", "_mask.nii.gz", "_qc.png"] {
            assert!(Path::new(&out).join(format!("{done}{end}")).exists(), "{done}{end}");
        }
    }
    assert_eq!(fs::read_dir(&out).expect("made").count(), 3 + 3 + 1 + 2);
    let mut report = csv::Reader::from_path(Path::new(&out).join("report.csv")).expect("written");
    let header: Vec<String> = report.headers().expect("a header").iter().map(str::to_owned).collect();
    assert_eq!(&header[..5], ["path", "status", "brain_ml", "score", "seconds"]);
    for column in ["peak_memory_mb", "seconds_read", "seconds_network", "seconds_write", "warnings", "error"]
    {
        assert!(header.iter().any(|h| h == column), "{column} is not in {header:?}");
    }
    let rows: Vec<csv::StringRecord> = report.records().map(|r| r.expect("a row")).collect();
    let status: Vec<&str> = rows.iter().map(|row| &row[1]).collect();
    assert_eq!(status, ["ok", "failed", "ok", "ok", "failed"]);
    assert!(rows[0][2].parse::<f64>().is_ok_and(|ml| ml > 0.0));
    assert!(rows[0][3].parse::<f64>().is_ok_and(|score| (0.0..=1.0).contains(&score)));
    assert!((2..4).all(|column| rows[1][column].is_empty()), "a head that failed: {:?}", rows[1]);
    let cell = |row: usize, column: &str| {
        rows[row][header.iter().position(|h| h == column).expect("a column")].to_owned()
    };
    assert!(cell(1, "error").contains("broken.nii.gz: is truncated"), "{:?}", rows[1]);

    let err = fail(1, &batch);
    assert!(err.contains("report.csv: exists already") && err.lines().count() == 1, "{err}");
    for (column, wanted) in [("version", env!("CARGO_PKG_VERSION")), ("model", "tiny")] {
        assert!((0..rows.len()).all(|row| cell(row, column) == wanted), "{column}");
    }
    assert_eq!(cell(0, "model_sha256"), sha256(&fs::read(&tiny).expect("a model")));
    let options: Value = serde_json::from_str(&cell(0, "options")).expect("JSON");
    assert_eq!((options["border"].as_f64(), options["model"].as_str()), (Some(0.0), Some(tiny.as_str())));
}

/// What a batch writes beside the outputs of its heads.
const REPORTS: [&str; 2] = ["report.csv", "report.json"];

/// Paths below `folder`, with `/`.
pub fn below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).expect("a folder") {
            let path = entry.expect("readable").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    found.push(path.strip_prefix(folder).expect("below").to_string_lossy().replace('\\', "/"))
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn heads_of_one_name_get_outputs_of_their_own() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = desk.path("tiny.safetensors");
    let heads = desk.folder.path("heads");
    for (seed, name) in [(1, "sub-1/anat/T1w.nii"), (2, "sub-2/anat/T1w.nii"), (3, "sub-2/anat/other.nii")] {
        fs::create_dir_all(heads.join(name).parent().expect("a folder")).expect("made");
        head(seed).write(&heads.join(name));
    }
    let file = |name: &str| heads.join(name).to_str().expect("UTF-8").to_owned();
    let names = |stem: &str| ["brain.nii.gz", "mask.nii.gz", "qc.png"].map(|end| format!("{stem}_{end}"));
    // From several folders, as a glob names them: the folders below the one that they share are kept.
    let out = desk.folder.path("folders");
    let [_, err] = succeed(&[
        "strip",
        &file("sub-1/anat/T1w.nii"),
        &file("sub-2/anat/T1w.nii"),
        &file("sub-2/anat/other.nii"),
        &file("sub-2/anat/other.nii"),
        "-O",
        out.to_str().expect("UTF-8"),
        "--model",
        &tiny,
    ]);
    assert!(err.contains("other.nii: is named more than once and stripped once"), "{err}");
    let mut wanted = REPORTS.map(str::to_owned).to_vec();
    wanted.extend(["sub-1/anat/T1w", "sub-2/anat/T1w", "sub-2/anat/other"].map(names).concat());
    assert_eq!(below(&out), wanted);
    assert_ne!(
        fs::read(out.join("sub-1/anat/T1w_brain.nii.gz")).expect("written"),
        fs::read(out.join("sub-2/anat/T1w_brain.nii.gz")).expect("written")
    );

    // In one folder with other extensions: whole names. FreeSurfer's would share only the picture.
    let same = desk.folder.path("same");
    fs::create_dir_all(&same).expect("made");
    head(1).write(&same.join("a.nii"));
    fs::write(same.join("a.nii.gz"), gz(&head(2).bytes())).expect("written");
    let mgz = same.join("a.mgz");
    let source = file("sub-1/anat/T1w.nii");
    succeed(&["resample", "-i", &source, "-o", mgz.to_str().expect("UTF-8"), "--like", &source]);
    let out = desk.folder.path("extensions");
    succeed(&["strip", same.to_str().expect("UTF-8"), "-O", out.to_str().expect("UTF-8"), "--model", &tiny]);
    let mut wanted = [names("a.nii"), names("a.nii.gz")].concat();
    wanted.extend(["a.mgz_brain.mgz", "a.mgz_mask.mgz", "a.mgz_qc.png"].map(str::to_owned));
    wanted.extend(REPORTS.map(str::to_owned));
    wanted.sort();
    assert_eq!(below(&out), wanted);

    // Nor is a head overwritten that is to be stripped itself.
    let [plain, brain] = ["b.nii.gz", "b_brain.nii.gz"].map(|name| {
        fs::write(same.join(name), gz(&head(3).bytes())).expect("written");
        same.join(name).to_str().expect("UTF-8").to_owned()
    });
    let before = fs::read(&brain).expect("written");
    let both = ["strip", &plain, &brain, "-O", same.to_str().expect("UTF-8"), "--force", "--model", &tiny];
    let failed = json_of_failure(&both);
    assert_eq!(
        (&failed["heads"][0]["status"], &failed["heads"][1]["status"]),
        (&"failed".into(), &"ok".into())
    );
    assert!(failed["error"]["message"].as_str().expect("text").contains("would overwrite"), "{failed}");
    assert_eq!(fs::read(&brain).expect("kept"), before);
}

#[test]
fn a_folder_without_heads_says_what_it_holds() {
    let desk = Desk::new();
    let stripped = desk.folder.path("stripped");
    fs::create_dir_all(&stripped).expect("made");
    for name in ["a_brain.nii.gz", "b_brain.nii.gz", "b_mask.nii.gz"] {
        fs::write(stripped.join(name), b"").expect("written");
    }
    let (folder, out) = (stripped.to_str().expect("UTF-8"), desk.path("out"));
    for arguments in [&["strip", folder, "-O", &out][..], &["index", folder, "-o", &out]] {
        let err = fail(1, arguments);
        assert!(err.starts_with(&format!("error: {folder}: holds no raw head, only images ")), "{err}");
        assert!(err.contains("2 made from a head by their names (a_brain.nii.gz, ...)"), "{err}");
        assert!(err.contains("(b_mask.nii.gz)") && err.lines().count() == 1, "{err}");
        assert!(!Path::new(&out).exists());
    }
    let empty = desk.folder.path("empty");
    fs::create_dir_all(&empty).expect("made");
    let err = fail(1, &["strip", empty.to_str().expect("UTF-8"), "-O", &out]);
    assert!(err.contains("empty: holds no image (.nii"), "{err}");
    // Beside others, such a folder is a failure of its own.
    if has_gpu() {
        let tiny = desk.path("tiny.safetensors");
        let done =
            json_of_failure(&["strip", &desk.path("head.nii.gz"), folder, "-O", &out, "--model", &tiny]);
        let status: Vec<_> =
            done["heads"].as_array().expect("rows").iter().map(|row| &row["status"]).collect();
        assert_eq!(status, ["ok", "failed"]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn names_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let heads = desk.folder.path("heads");
    fs::create_dir_all(&heads).expect("made");
    let odd = heads.join(OsStr::from_bytes(b"kopf_\xe4.nii"));
    head(1).write(&odd);
    let (tiny, out) = (desk.path("tiny.safetensors"), desk.path("out"));
    // By its name, and found in its folder.
    for (input, out) in [(odd.as_path(), format!("{out}/one")), (&heads, format!("{out}/all"))] {
        let mut command = trephine(&["strip", "-O", &out, "--model", &tiny, "--json"]);
        let output = command.arg(input).output().expect("starts");
        let err = text(&output.stderr);
        assert!(output.status.success(), "{err}");
        assert!(err.contains("warning: ") && err.contains("the name is not UTF-8"), "{err}");
        let done: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
        let named = done["heads"][0]["path"].as_str().expect("text");
        assert!(named.ends_with("kopf_\u{fffd}.nii"), "{named}");
        for end in ["brain.nii.gz", "mask.nii.gz", "qc.png"] {
            let name = [&b"kopf_\xe4_"[..], end.as_bytes()].concat();
            assert!(Path::new(&out).join(OsStr::from_bytes(&name)).exists(), "{end}");
        }
    }
    assert!(
        fs::read_to_string(format!("{out}/all/report.csv")).expect("UTF-8").contains("kopf_\u{fffd}.nii")
    );
}

#[test]
#[cfg(unix)]
fn an_interrupted_batch_finishes_what_is_begun() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let heads: Vec<String> = (1..=12)
        .map(|seed| {
            let name = format!("head{seed:02}.nii");
            desk.folder.put(&name, &head(seed).bytes());
            desk.path(&name)
        })
        .collect();
    let (tiny, out) = (desk.path("tiny.safetensors"), desk.path("out"));
    let mut arguments: Vec<&str> = heads.iter().map(String::as_str).collect();
    arguments.insert(0, "strip");
    arguments.extend(["-O", &out, "--model", &tiny, "--json"]);
    let mut child =
        trephine(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.by_ref().map(|line| line.expect("text")).find(|line| line.starts_with("[1/12] "));
    assert!(first.is_some(), "no head was done");
    interrupt(&child);
    let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
    let mut out_text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut out_text).expect("text");
    assert_eq!(child.wait().expect("ended").code(), Some(130), "{rest:?}");
    let done: Value = serde_json::from_str(&out_text).expect("stdout is JSON");
    let (rows, left) = (done["heads"].as_array().expect("rows"), done["left"].as_array().expect("a list"));
    assert!(!left.is_empty() && rows.len() + left.len() == 12, "{} done, {} left", rows.len(), left.len());
    assert_eq!(left[0].as_str(), Some(heads[rows.len()].as_str()));
    assert!(done["error"]["message"].as_str().expect("text").contains("are left, the next is"), "{done}");
    // All outputs of what was done, none of what was not, and nothing half-written.
    let written = below(Path::new(&out));
    assert_eq!(written.len(), 3 * rows.len() + 2, "{written:?}");
    assert!(!written.iter().any(|name| name.ends_with(".part")), "{written:?}");
    let report: Value =
        serde_json::from_slice(&fs::read(Path::new(&out).join("report.json")).expect("written"))
            .expect("JSON");
    assert_eq!(
        (&report["heads"].as_array().expect("rows").len(), &report["left"]),
        (&rows.len(), &done["left"])
    );

    // The same command with --resume does the rest, and only that.
    arguments.push("--resume");
    let resumed: Value = serde_json::from_str(&succeed(&arguments)[0]).expect("stdout is JSON");
    assert_eq!(resumed["heads"].as_array().expect("rows").len(), 12);
    assert_eq!(below(Path::new(&out)).len(), 3 * 12 + 2);
    let kept = |ix: usize| resumed["heads"][ix]["seconds"] == done["heads"][ix]["seconds"];
    assert!((0..rows.len()).all(kept), "{resumed}");
    let err = fail(1, &arguments[..arguments.len() - 2]);
    assert!(err.contains("report.csv: exists already; go on with it with --resume"), "{err}");
}

#[test]
#[cfg(unix)]
fn a_second_interrupt_stops_at_once_and_loses_nothing() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let heads = desk.folder.path("heads");
    fs::create_dir_all(&heads).expect("made");
    for seed in 1..=6 {
        head(seed).write(&heads.join(format!("{seed}.nii")));
    }
    let (folder, tiny, out) =
        (heads.to_str().expect("UTF-8"), desk.path("tiny.safetensors"), desk.path("out"));
    let arguments = ["strip", folder, "-O", &out, "--model", &tiny];
    let mut child =
        trephine(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines =
        BufReader::new(child.stderr.take().expect("piped")).lines().map(|line| line.expect("text"));
    assert!(lines.any(|line| line.starts_with("[1/6] ")), "no head was done");
    interrupt(&child);
    assert!(lines.any(|line| line.contains("once more stops at once")), "it did not hear");
    interrupt(&child);
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().expect("ended").code(), Some(130), "{rest:?}");
    // Of each head all outputs or none, and nothing half-written.
    let written = below(Path::new(&out));
    assert!(!written.iter().any(|name| name.ends_with(".part")), "{written:?}");
    for seed in 1..=6 {
        let outputs = written.iter().filter(|name| name.starts_with(&format!("{seed}_"))).count();
        assert!(outputs == 0 || outputs == 3, "{written:?}");
    }
    let [_, err] = succeed(&[&arguments[..], &["--resume"]].concat());
    assert!(err.contains("6 heads, 0 failed"), "{err}");
    assert_eq!(below(Path::new(&out)).len(), 3 * 6 + 2);
}

#[test]
#[cfg(unix)]
fn what_is_stopped_leaves_no_half_written_file() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let (head, out) = (desk.path("head.nii.gz"), desk.path("out.nii.gz"));
    let before = desk.folder.names();
    // Finer voxels take longer to write: on a fast machine the first files are done before they are noticed.
    let stopped = ["0.5", "0.35", "0.25"].iter().any(|voxel| {
        let arguments =
            ["resample", "-i", &head, "-o", &out, "--voxel", voxel, "--interpolation", "nearest", "--json"];
        let mut command = trephine(&arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
        while child.try_wait().expect("waits").is_none() {
            if desk.folder.names().iter().any(|name| name.ends_with(".part")) {
                interrupt(&child);
                break;
            }
        }
        let output = child.wait_with_output().expect("ended");
        if output.status.success() {
            fs::remove_file(&out).expect("written");
            return false;
        }
        assert_eq!(output.status.code(), Some(130));
        let done: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
        assert_eq!(done["error"]["message"], "interrupted");
        assert_eq!(desk.folder.names(), before);
        true
    });
    assert!(stopped, "the program was never seen writing");
}

/// What Ctrl-C sends.
#[cfg(unix)]
fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(sent.success());
}

/// A device with too little memory gets a ceiling, lower and lower, until the heads go below it.
#[test]
fn a_device_that_runs_out_of_memory_gets_a_ceiling() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = Model::read(desk.path("tiny.safetensors").as_ref()).expect("reads");
    let options = options();
    let mut masks = Vec::new();
    // A head of 3 MiB takes several times that much.
    for mib in [None, Some(14), Some(1)] {
        let mask = |head: u32| desk.folder.path(&format!("mask{head}.nii"));
        let jobs = (1..=2).map(|seed| {
            let file = desk.folder.path(&format!("head{seed}.nii"));
            large(seed).write(&file);
            Job::named(&file, Outputs { mask: Some(mask(seed)), ..Outputs::default() }, true)
        });
        let mut ceilings = Vec::new();
        let open = async |ceiling| -> Result<Stripper, PipelineError> {
            ceilings.push(ceiling);
            let device = std::env::var("TREPHINE_DEVICE").ok();
            let memory = mib.map(|mib| mib << 20);
            let options = GpuOptions { device, ceiling, memory, ..GpuOptions::default() };
            Stripper::new(&Arc::new(Gpu::open(&options).await?), &tiny).await
        };
        let finished = pollster::block_on(batch::run(jobs.collect(), &options, None, open, |_| {}));
        let Ok(Finished { rows, .. }) = finished else {
            // Not even the network's weights.
            assert_eq!(mib, Some(1));
            continue;
        };
        let told = |row: &Row| row.warnings.iter().filter(|w| w.contains("ran out of memory")).count();
        match mib {
            None => assert_eq!((ceilings, told(&rows[0])), (vec![None], 0)),
            Some(1) => {
                assert!(
                    rows.iter().all(|row| row.error.as_ref().is_some_and(|e| e.contains("memory"))),
                    "{rows:?}"
                );
                assert!(ceilings.len() <= 8, "{ceilings:?}");
                continue;
            }
            Some(_) => {
                assert!(told(&rows[0]) > 0 && ceilings.len() > 1, "{ceilings:?} {:?}", rows[0].warnings);
                assert!(ceilings[1..].windows(2).all(|pair| pair[1] < pair[0]), "{ceilings:?}");
                // The second head starts with what the first one found.
                assert_eq!(told(&rows[1]), 0, "{:?}", rows[1].warnings);
            }
        }
        assert!(rows.iter().all(|row| row.error.is_none()), "{rows:?}");
        masks.push([1, 2].map(|seed| fs::read(mask(seed)).expect("written")));
    }
    assert!(masks.len() == 2 && masks[0] == masks[1]);
}

/// A head whose voxels are so many small ones.
fn large(seed: u32) -> Nii {
    const TIMES: usize = 2;
    let coarse = head(seed);
    let [nx, ny, nz] = [0, 1, 2].map(|axis| coarse.dim[axis] as usize);
    let mut fine = coarse.clone();
    for axis in 0..3 {
        fine.dim[axis] *= TIMES as i64;
        fine.pixdim[axis + 1] /= TIMES as f64;
        for row in &mut fine.srow {
            row[axis] /= TIMES as f64;
        }
    }
    fine.data = (0..nx * ny * nz * TIMES.pow(3))
        .flat_map(|ix| {
            let [x, y, z] =
                [ix % (nx * TIMES), ix / (nx * TIMES) % (ny * TIMES), ix / (nx * ny * TIMES * TIMES)]
                    .map(|at| at / TIMES);
            let at = 2 * ((z * ny + y) * nx + x);
            [coarse.data[at], coarse.data[at + 1]]
        })
        .collect();
    fine
}

fn options() -> BatchOptions {
    BatchOptions {
        frames: FrameChoice::Only,
        mean: false,
        strip: StripOptions::default(),
        fill: None,
        anonymise: false,
        create_folders: false,
        model: "tiny".into(),
        stop: Arc::default(),
    }
}

/// A device that is lost while a head is stripped costs a second try and a warning; lost again, it costs that head.
#[test]
fn a_lost_device_costs_one_try_and_no_output() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let tiny = Model::read(desk.path("tiny.safetensors").as_ref()).expect("reads");
    let options = options();
    for losses in [1, 2] {
        let mask = |head: u32| desk.folder.path(&format!("mask{losses}{head}.nii"));
        let jobs = (1..=3).map(|seed| {
            let file = desk.folder.path(&format!("head{seed}.nii"));
            head(seed).write(&file);
            Job::named(&file, Outputs { mask: Some(mask(seed)), ..Outputs::default() }, false)
        });
        let mut opened = 0;
        let open = async |_| -> Result<Stripper, PipelineError> {
            opened += 1;
            let device = std::env::var("TREPHINE_DEVICE").ok();
            let gpu = Arc::new(Gpu::open(&GpuOptions { device, ..GpuOptions::default() }).await?);
            let stripper = Stripper::new(&gpu, &tiny).await?;
            if opened <= losses {
                gpu.lose();
            }
            Ok(stripper)
        };
        let rows =
            pollster::block_on(batch::run(jobs.collect(), &options, None, open, |_| {})).expect("runs").rows;
        assert_eq!((opened, rows.len()), (losses + 1, 3));
        for (row, seed) in rows.iter().zip(1..) {
            let told = row.warnings.iter().filter(|warning| warning.contains("the device was lost")).count();
            assert_eq!(told, usize::from(seed == 1), "{:?}", row.warnings);
            let failed = losses == 2 && seed == 1;
            assert_eq!((row.error.is_some(), mask(seed).exists()), (failed, !failed), "{:?}", row.error);
        }
    }
}
