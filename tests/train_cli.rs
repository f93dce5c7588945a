//! `trephine train` as users run it: a run that is stopped, goes on, goes on for longer, begins with another model; and
//! what it refuses.

#[path = "common/heads.rs"]
mod heads;
#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use heads::{head, image, mask, radius};
use nii::{Folder, gz};
use program::{has_gpu, program};
use serde_json::Value;
use trephine::model::{AnswerKind, Model, WeightFile};

fn run(arguments: &[&str]) -> Command {
    program(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), arguments)
}

/// A folder with heads, their table `train.tsv`, and `run.toml`: a tiny network for two epochs of two steps.
struct Desk(Folder);

const RUN: &str = "batch = 1\nepochs = 2\nsteps_per_epoch = 2\nvalidation_fraction = 0.3\nwarmup_steps = 1\ncosine = false\n\
                   [network]\nkind = \"residual-unet\"\nname = \"tiny\"\nwidths = [4, 8]\nshape = [16, 16, 16]\nfold = 1\n\
                   voxel_mm = 12.0\n";

impl Desk {
    fn new() -> Self {
        let desk = Self(Folder::new());
        for seed in 1..=3 {
            desk.0.put(&format!("head{seed}.nii.gz"), &gz(&head(seed).bytes()));
            desk.0.put(&format!("head{seed}_mask.nii.gz"), &gz(&mask().bytes()));
        }
        desk.table("train.tsv", &[1, 2, 3]);
        desk.0.put("run.toml", RUN.as_bytes());
        desk
    }

    fn table(&self, name: &str, seeds: &[u32]) {
        let rows = seeds.iter().map(|seed| format!("head{seed}.nii.gz\thead{seed}_mask.nii.gz\n"));
        self.0.put(name, format!("image\tmask\n{}", rows.collect::<String>()).as_bytes());
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// `train --data train.tsv --out OUT` with these options.
    fn command(&self, out: &str, options: &[&str]) -> Command {
        let (data, out) = (self.path("train.tsv"), self.path(out));
        let data: &[&str] = if options.contains(&"--data") { &[] } else { &["--data", &data] };
        run(&[&["train", "--out", &out], data, options].concat())
    }

    /// Runs it.
    fn train(&self, out: &str, options: &[&str]) -> Output {
        self.command(out, options).output().expect("the program starts")
    }

    /// As [`Desk::train`], which must succeed; returns stderr.
    fn succeed(&self, out: &str, options: &[&str]) -> String {
        let output = self.train(out, options);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{options:?}: {:?}\n{err}", output.status);
        err
    }

    /// As [`Desk::train`], which must end with this code and without a panic; returns stderr.
    fn fail(&self, code: i32, out: &str, options: &[&str]) -> String {
        let output = self.train(out, options);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{options:?}\n{err}");
        assert!(!err.contains("panicked"), "{options:?}\n{err}");
        err
    }

    /// Names, shapes and bytes of a file's tensors.
    fn tensors(&self, name: &str) -> Vec<(String, Vec<usize>, Vec<u8>)> {
        let bytes = self.read(name);
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
        let mut all: Vec<_> = file
            .iter()
            .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec()))
            .collect();
        all.sort();
        assert!(!all.is_empty());
        all
    }

    fn same(&self, a: &str, b: &str) {
        for file in ["checkpoint.safetensors", "best.safetensors", "last.safetensors"] {
            assert!(
                self.tensors(&format!("{a}/{file}")) == self.tensors(&format!("{b}/{file}")),
                "{file} differs"
            );
        }
    }

    fn put_mask(&self, name: &str, value: impl Fn(usize) -> f32) {
        self.0.put(name, &gz(&image(value).bytes()));
    }
}

#[test]
#[cfg(unix)]
fn a_killed_run_goes_on_bit_for_bit() {
    use std::os::unix::process::ExitStatusExt;
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    desk.0.put("falling.toml", RUN.replace("cosine = false", "cosine = true").as_bytes());
    let config = desk.path("falling.toml");
    // Steps enough that the second epoch lasts until it is killed.
    let options = ["--config", &config, "--steps", "12"];
    desk.succeed("whole", &options);
    let mut child = desk.command("killed", &options).stderr(Stdio::piped()).spawn().expect("starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.map(|line| line.expect("text")).find(|line| line.starts_with("epoch 1/2: "));
    assert!(first.is_some(), "no line for the first epoch");
    child.kill().expect("killed");
    assert_eq!(child.wait().expect("ended").signal(), Some(9), "the run ended before it was killed");
    let checkpoint = |run: &str| desk.tensors(&format!("{run}/checkpoint.safetensors"));
    assert!(checkpoint("killed") != checkpoint("whole"));

    let err = desk.fail(1, "killed", &options);
    assert!(err.contains("holds the checkpoint of an earlier run; go on with --resume"), "{err}");
    let err = desk.succeed("killed", &["--resume"]);
    assert!(err.contains("epoch 2/2: ") && !err.contains("epoch 1/2: "), "{err}");
    desk.same("killed", "whole");

    // What it made is a model.
    let (head, model) = (desk.path("head1.nii.gz"), desk.path("whole/last.safetensors"));
    let mut strip = run(&["strip", "-i", &head, "-p", &desk.path("p.nii"), "--model", &model]);
    let output = strip.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_run_that_stops_in_time_goes_on_from_a_compact_checkpoint() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    desk.0.put("compact.toml", format!("compact_checkpoint = true\n{RUN}").as_bytes());
    let config = desk.path("compact.toml");
    desk.succeed("whole", &["--config", &config, "--epochs", "3"]);
    let first = desk.succeed("parts", &["--config", &config, "--epochs", "3", "--stop-after", "0"]);
    assert!(first.contains("stopped after epoch 1 of 3") && !first.contains("epoch 2/3: "), "{first}");
    let second = desk.succeed("parts", &["--resume", "--stop-after", "0"]);
    assert!(second.contains("epoch 2/3: ") && second.contains("stopped after epoch 2 of 3"), "{second}");
    // Nothing but the checkpoint is needed.
    fs::create_dir(desk.0.path("moved")).expect("a new folder");
    desk.0.put("moved/checkpoint.safetensors", &desk.read("parts/checkpoint.safetensors"));
    let third = desk.succeed("moved", &["--resume", "--stop-after", "0"]);
    assert!(third.contains("best.safetensors is not in the folder"), "{third}");
    assert!(third.contains("epoch 3/3: ") && !third.contains("stopped"), "{third}");
    for file in ["checkpoint.safetensors", "last.safetensors"] {
        let [whole, moved] = ["whole", "moved"].map(|run| desk.tensors(&format!("{run}/{file}")));
        assert!(whole == moved, "{file} differs");
    }
    desk.succeed("plain", &["--config", &desk.path("run.toml"), "--epochs", "1"]);
    let bytes = |run: &str| -> usize {
        desk.tensors(&format!("{run}/checkpoint.safetensors")).iter().map(|(.., data)| data.len()).sum()
    };
    assert!(bytes("moved") * 7 < bytes("plain") * 2, "{} of {} bytes", bytes("moved"), bytes("plain"));
    let refused = desk.fail(2, "bad", &["--config", &config, "--stop-after=-1"]);
    assert!(refused.contains("--stop-after is -1"), "{refused}");
}

#[test]
fn a_run_goes_on_with_the_configuration_of_its_checkpoint() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let config = desk.path("run.toml");
    desk.succeed("whole", &["--config", &config, "--epochs", "3"]);
    desk.succeed("parts", &["--config", &config]);
    for file in ["config.toml", "heads.tsv", "log.csv", "training.svg"] {
        assert!(desk.0.path("parts").join(file).exists(), "{file}");
    }
    // What is on disk for people does not decide.
    desk.0.put("parts/config.toml", b"batch = 2\nepochs = 1\n");

    let done = desk.succeed("parts", &["--resume"]);
    assert!(done.contains("all 2 epochs are done") && !done.contains("epoch 3/"), "{done}");
    let longer = desk.succeed("parts", &["--resume", "--epochs", "3"]);
    assert!(longer.contains("epochs: 3 from here on, 2 until now"), "{longer}");
    assert!(longer.contains("epoch 3/3: ") && !longer.contains("epoch 2/3: "), "{longer}");
    desk.same("parts", "whole");
    // The second time, the longer run is the run.
    let done = desk.succeed("parts", &["--resume"]);
    assert!(done.contains("all 3 epochs are done"), "{done}");
    assert!(String::from_utf8_lossy(&desk.read("parts/config.toml")).contains("epochs = 3"));

    let refused = desk.fail(1, "parts", &["--resume", "--batch", "2"]);
    assert!(refused.contains("batch is 1 in the checkpoint and 2 now"), "{refused}");
    desk.0.put("wide.toml", b"[network]\nwidths = [8, 8]\n[augmentation]\nflip = 0.25\n");
    let refused = desk.fail(1, "parts", &["--resume", "--config", &desk.path("wide.toml")]);
    for words in ["network.widths is [4, 8] in the checkpoint and [8, 8] now", "augmentation.flip is 0.5"] {
        assert!(refused.contains(words), "{refused}");
    }
    let refused = desk.fail(1, "parts", &["--resume", "--epochs", "1"]);
    assert!(refused.contains("3 epochs are done"), "{refused}");
    let missing = desk.fail(1, "nowhere", &["--resume"]);
    assert!(missing.starts_with(&format!("error: {}", desk.path("nowhere"))), "{missing}");
    assert!(missing.contains("checkpoint.safetensors: cannot be read"), "{missing}");
}

#[test]
fn other_heads_are_noticed() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let config = desk.path("run.toml");
    desk.table("train.tsv", &[1, 2]);
    desk.table("validation.tsv", &[3]);
    let validation = desk.path("validation.tsv");
    let first = desk.succeed("run", &["--config", &config, "--validation", &validation, "--epochs", "1"]);
    assert!(first.contains("2 heads to train on, 1 to validate on"), "{first}");
    let heads = String::from_utf8(desk.read("run/heads.tsv")).expect("UTF-8");
    let rows: Vec<&str> = heads.lines().collect();
    assert_eq!(rows[0], "image\tmask\trole");
    let role = |row: &&str, role: &str| row.ends_with(&format!("\t{role}"));
    assert!(rows[1..3].iter().all(|row| role(row, "training")) && rows.len() == 4, "{heads}");
    assert!(rows[3].contains("head3.nii.gz") && role(&rows[3], "validation"), "{heads}");

    // The same heads in another order, compressed anew and from another folder.
    fs::create_dir(desk.0.path("moved")).expect("a new folder");
    for name in ["head1", "head2", "head1_mask", "head2_mask"] {
        let bytes = desk.read(&format!("{name}.nii.gz"));
        desk.0.put(&format!("moved/{name}.nii.gz"), &bytes);
    }
    desk.0.put(
        "moved/train.tsv",
        b"image\tmask\nhead2.nii.gz\thead2_mask.nii.gz\nhead1.nii.gz\thead1_mask.nii.gz\n",
    );
    let moved = desk.path("moved/train.tsv");
    let resume = ["--resume", "--validation", &validation];
    desk.succeed("run", &[&resume[..], &["--data", &moved, "--epochs", "2"]].concat());

    let more = ["--resume", "--epochs", "3"];
    let refused = desk.fail(1, "run", &more);
    assert!(refused.contains("1 gone from the tables") && refused.contains("head3.nii.gz"), "{refused}");
    desk.table("all.tsv", &[1, 2, 3]);
    let all = desk.path("all.tsv");
    let refused = desk.fail(1, "run", &[&more[..], &["--data", &all, "--validation", &validation]].concat());
    assert!(refused.contains("1 new in the tables"), "{refused}");
    desk.put_mask("head1_mask.nii.gz", |ix| f32::from(u8::from(radius(ix) < 0.6)));
    let refused = desk.fail(1, "run", &[&more[..], &["--validation", &validation]].concat());
    assert!(refused.contains("head1_mask.nii.gz"), "{refused}");
    // Heads that are trained on flatter validation.
    let shared = desk.succeed("shared", &["--config", &config, "--validation", &all, "--epochs", "1"]);
    assert!(shared.contains("warning: ") && shared.contains("are trained on as well"), "{shared}");
}

#[test]
fn a_run_that_begins_with_a_model_says_so() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let config = desk.path("run.toml");
    desk.succeed("parent", &["--config", &config, "--epochs", "1", "--name", "ancestor"]);
    let parent = desk.path("parent/best.safetensors");
    // A licence and credits, as a model that is shared has them.
    let mut model = Model::read(Path::new(&parent)).expect("a model");
    assert_eq!(model.description.name, "ancestor");
    (model.card.licence, model.card.attribution) = ("CC BY-SA 3.0".into(), "IXI dataset".into());
    let shared = desk.0.put("shared.safetensors", &model.to_bytes(false).expect("serialises"));
    let shared = shared.to_str().expect("UTF-8");
    desk.0.put("plain.toml", RUN.replace("name = \"tiny\"\n", "").as_bytes());
    let plain = desk.path("plain.toml");
    let output = desk.train("child run", &["--config", &plain, "--epochs", "1", "--init", shared, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let sha256 = WeightFile::open(shared).expect("a file").sha256();
    for file in ["best.safetensors", "last.safetensors"] {
        let child = Model::read(&desk.0.path("child run").join(file)).expect("a model");
        assert_eq!(child.description.name, "child-run");
        assert_eq!(child.card.parent, format!("ancestor (sha256 {sha256})"));
        assert_eq!([child.card.licence, child.card.attribution], ["CC BY-SA 3.0", "IXI dataset"]);
    }
    assert_eq!(result["name"], "child-run");
    assert_eq!(result["card"]["parent"], format!("ancestor (sha256 {sha256})"));
    // It began there and not anew: one step of a small rate stays near the parent.
    let near = desk.train(
        "near",
        &["--config", &plain, "--epochs", "1", "--steps", "1", "--learning-rate", "1e-9", "--init", shared],
    );
    assert!(near.status.success());
    let near = Model::read(&desk.0.path("near/last.safetensors")).expect("a model");
    for (name, (_, values)) in &model.tensors {
        let gap = values.iter().zip(&near.tensors[name].1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap < 1e-5, "{name} moved by {gap}");
    }
    // A resumed run keeps its card.
    desk.succeed("child run", &["--resume", "--epochs", "2"]);
    let card = Model::read(&desk.0.path("child run/last.safetensors")).expect("a model").card;
    assert_eq!(card.parent, format!("ancestor (sha256 {sha256})"));
    assert!(
        card.command.contains("--init") && card.command.contains("--resume --epochs 2"),
        "{}",
        card.command
    );

    // On voxels half as large, of which the network reads blocks.
    let finer = RUN
        .replace("shape = [16, 16, 16]\nfold = 1", "shape = [32, 32, 32]\nfold = 2")
        .replace("12.0", "6.0");
    desk.0.put("finer.toml", finer.as_bytes());
    let finer = ["--config", &desk.path("finer.toml"), "--epochs", "1", "--init", shared];
    let words = desk.succeed("finer", &finer);
    assert!(words.contains("the model 'ancestor' begins a network with folds"), "{words}");
    let finer = Model::read(&desk.0.path("finer/last.safetensors")).expect("a model");
    assert_eq!(finer.tensors["enc1.conv1.weight"].0, [4, 8, 3, 3, 3]);
    assert_eq!(finer.tensors["head.weight"].0, [8, 4, 1, 1, 1]);
    let (head, model) = (desk.path("head1.nii.gz"), desk.path("finer/last.safetensors"));
    let mut strip = run(&["strip", "-i", &head, "-p", &desk.path("p.nii"), "--model", &model]);
    let output = strip.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let other = desk.fail(1, "other", &["--config", &config, "--init", "default"]);
    assert!(other.contains("the model 'default' to start from is another network"), "{other}");
    assert!(!desk.0.path("other").exists());
}

#[test]
fn a_network_learns_distances_and_strips() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let run_toml = RUN
        .replace("shape = [16, 16, 16]\nfold = 1", "shape = [32, 32, 32]\nfold = 2")
        .replace("12.0", "6.0")
        .replace(
            "steps_per_epoch = 2\n",
            "steps_per_epoch = 8\nlearning_rate = 0.05\nloss = \"dice-distance\"\n",
        )
        .replace("batch = 1", "batch = 2")
        + "[optimiser]\nema_decay = 0.0\n";
    desk.0.put("distance.toml", run_toml.as_bytes());
    desk.succeed("run", &["--config", &desk.path("distance.toml")]);
    let log = String::from_utf8(desk.read("run/log.csv")).expect("text");
    let column = |name: &str| -> Vec<f64> {
        let ix = log.lines().next().expect("a header").split(',').position(|title| title == name);
        let value = |line: &str| line.split(',').nth(ix.expect("a column"))?.parse().ok();
        log.lines().skip(1).map(|line| value(line).expect("a number")).collect()
    };
    let [losses, dice] = ["loss", "validation_dice"].map(column);
    assert!(losses.len() == 2 && losses[1] < 0.8 * losses[0], "{log}");
    assert!(dice[1] > 0.7, "{log}");

    // Its output is a distance in mm, and what follows reads it as one.
    let file = desk.path("run/last.safetensors");
    let model = Model::read(Path::new(&file)).expect("a model");
    assert_eq!(model.description.answer, AnswerKind::DistanceMm { border_mm: 0.0 });
    let [head, mask, sdt] = ["head1.nii.gz", "mask.nii", "sdt.nii"].map(|name| desk.path(name));
    let mut strip = run(&["strip", "-i", &head, "-m", &mask, "-d", &sdt, "-b", "5", "--model", &file]);
    let output = strip.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // Weights that give logits are no beginning for it.
    desk.succeed("logits", &["--config", &desk.path("run.toml"), "--epochs", "1", "--steps", "1"]);
    let logits = desk.path("logits/last.safetensors");
    let refused = desk.fail(1, "other", &["--config", &desk.path("distance.toml"), "--init", &logits]);
    assert!(refused.contains("is another network than the one to train"), "{refused}");
}

#[test]
fn bad_rows_and_settings_end_before_the_first_step() {
    let desk = Desk::new();
    desk.put_mask("head1_mask.nii.gz", |ix| if radius(ix) < 0.7 { 0.4 } else { 0.0 });
    desk.put_mask("head2_mask.nii.gz", |_| 0.0);
    let before = desk.0.names();
    let err = desk.fail(1, "run", &["--config", &desk.path("run.toml")]);
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 3, "{err}");
    assert!(
        lines[0].starts_with(&format!("error: {}: holds 0 and 0.4", desk.path("head1_mask.nii.gz"))),
        "{err}"
    );
    assert!(lines[1].starts_with(&format!("error: {}: is empty", desk.path("head2_mask.nii.gz"))), "{err}");
    assert!(lines[2].contains("train.tsv: 2 of 3 rows cannot be trained on"), "{err}");
    for (text, words) in [
        ("widths = []", "network.widths names 0 levels"),
        ("widths = [4, 0]", "network.widths is 0"),
        ("shape = [16, 17, 16]", "network.shape is 17 voxels along y, must be a multiple of 16"),
    ] {
        let file =
            desk.0.put("run2.toml", format!("[network]\nkind = \"residual-unet\"\n{text}\n").as_bytes());
        let err = desk.fail(1, "run", &["--config", file.to_str().expect("UTF-8")]);
        assert!(err.starts_with(&format!("error: {}: ", file.display())) && err.contains(words), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        fs::remove_file(file).expect("removed");
    }
    for options in [["--batch", "0"], ["--epochs", "0"], ["--learning-rate", "-1"], ["--name", "a/b"]] {
        desk.fail(2, "run", &options);
    }
    assert_eq!(desk.0.names(), before);
}
