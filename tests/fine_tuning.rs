//! Models that others published, small copies of them, trained on: what they see, what they learn from, what stays.

#[expect(dead_code, reason = "shared with the tests of operators")]
mod common;
#[path = "common/heads.rs"]
mod heads;
#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;
#[path = "common/program.rs"]
mod program;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use common::{gpu, wait};
use heads::{head, image, mask, radius};
use nii::{Folder, gz};
use program::{has_gpu, program};
use trephine::graph::{Executor, ExecutorOptions, Graph, run_op1};
use trephine::model::{
    ActivationKind, AnswerKind, Centre, Description, Fit, Intensity, Layer, LayerKind, LossKind, Model,
    ModelCard, OptimiserSpec, Tensors, TrainingGraph, initialise, published, residual_unet,
};
use trephine::ops::activation::Activate;
use trephine::ops::elementwise::Add;
use trephine::pipeline::strip::{StripOptions, Stripper};
use trephine::pipeline::train::augment::Augmentation;
use trephine::pipeline::train::config::{NetworkConfig, TrainConfig};
use trephine::pipeline::train::data::Labelled;
use trephine::pipeline::train::head::StoredHead;
use trephine::tensor::TensorDesc;
use trephine::volume::pairs::Pair;

/// A network with random weights.
fn model(mut description: Description, shape: usize, voxel_mm: f64) -> Model {
    description.input.shape = [shape; 3];
    description.input.voxel_mm = [voxel_mm; 3];
    Model {
        tensors: initialise(&description, 5).expect("initialises"),
        description,
        card: ModelCard::default(),
    }
}

fn deepbet() -> Model {
    let mut both = model(published::deepbet(4), 32, 6.0);
    both.look_first(model(published::deepbet(4), 32, 6.0));
    both.description.input.shape = [32; 3];
    both
}

fn hd_bet() -> Model {
    let mut both = model(published::hd_bet(2), 32, 7.5);
    both.add_fold(initialise(&both.description, 6).expect("initialises"));
    both.card.licence = "Apache-2.0".into();
    both
}

struct Desk(Folder);

impl Desk {
    fn new() -> Self {
        let desk = Self(Folder::new());
        let mut table = "image\tmask\n".to_owned();
        for seed in 1..=3 {
            desk.0.put(&format!("head{seed}.nii.gz"), &gz(&head(seed).bytes()));
            desk.0.put(&format!("head{seed}_mask.nii.gz"), &gz(&mask().bytes()));
            table += &format!("head{seed}.nii.gz\thead{seed}_mask.nii.gz\n");
        }
        desk.0.put("train.tsv", table.as_bytes());
        desk
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn put(&self, name: &str, model: &Model) -> String {
        self.0.put(name, &model.to_bytes(false).expect("serialises"));
        self.path(name)
    }

    /// Trains; returns whether that went well, and stderr.
    fn train(&self, out: &str, options: &[&str]) -> (bool, String) {
        let (data, out) = (self.path("train.tsv"), self.path(out));
        let arguments = [&["train", "--data", &data, "--out", &out], options].concat();
        let mut command = program(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), &arguments);
        let output = command.output().expect("the program starts");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!err.contains("panicked"), "{options:?}\n{err}");
        (output.status.success(), err)
    }

    fn succeed(&self, out: &str, options: &[&str]) -> String {
        let (well, err) = self.train(out, options);
        assert!(well, "{options:?}\n{err}");
        err
    }

    fn fail(&self, out: &str, options: &[&str]) -> String {
        let (well, err) = self.train(out, options);
        assert!(!well, "{options:?}\n{err}");
        err
    }

    fn last(&self, run: &str) -> Model {
        Model::read(&self.0.path(run).join("last.safetensors")).expect("a model")
    }
}

const SHORT: [&str; 4] = ["--epochs", "1", "--steps", "2"];

/// Tensors that differ.
fn moved<'a>(before: &'a Tensors, after: &Tensors) -> HashSet<&'a str> {
    assert!(before.keys().eq(after.keys()));
    before.iter().filter(|(name, tensor)| after[*name] != **tensor).map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_model_that_looks_first_trains_its_second_network_and_freezes_layers_by_pattern() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let parent = deepbet();
    let file = desk.put("parent.safetensors", &parent);
    desk.0.put("run.toml", b"[optimiser.layers]\n\"*\" = 0.0\n\"conv.*\" = 0.5\n\"tp_conv2\" = 1.0\n");
    let config = desk.path("run.toml");
    let options = ["--init", &file, "--config", &config];
    let words = desk.succeed("run", &[&options[..], &["--epochs", "2", "--steps", "2"]].concat());
    for said in
        ["are those of the model 'deepbet'", "looks first: it stays as it is", "before the first step: "]
    {
        assert!(words.contains(said), "{said}: {words}");
    }
    let child = desk.last("run");
    let same = Description { name: "run".into(), ..parent.description.clone() };
    assert_eq!(child.description, same);
    let wanted = HashSet::from(["conv.0.weight", "conv.0.bias", "tp_conv2.weight", "tp_conv2.bias"]);
    assert_eq!(moved(&parent.tensors, &child.tensors), wanted);
    // What is resumed equals what is not, with its rates and its first network.
    desk.succeed("parts", &[&options[..], &["--epochs", "2", "--steps", "2", "--stop-after", "0"]].concat());
    desk.succeed("parts", &["--resume"]);
    assert_eq!(desk.last("parts").tensors, child.tensors);

    desk.0.put("run.toml", b"[optimiser.layers]\n\"enc*\" = 0.0\n");
    let refused = desk.fail("other", &options);
    assert!(
        refused.contains(
            "the pattern 'enc*' matches no layer; those with weights are conv.0, down0.block1.double_conv.0"
        ),
        "{refused}"
    );
    desk.0.put("run.toml", b"[optimiser.layers]\n\"*\" = 0.0\n");
    assert!(desk.fail("other", &options).contains("freezes"));
    desk.0.put("run.toml", b"[network]\nkind = \"residual-unet\"\n");
    let refused = desk.fail("other", &options);
    assert!(
        refused.contains("is another network than the one to train: answer is \"two_classes\" in the model"),
        "{refused}"
    );
    assert!(refused.contains("leave out [network]"), "{refused}");
    desk.0.put("run.toml", b"[network]\nkind = \"model\"\n");
    assert!(desk.fail("other", &["--config", &config]).contains("name that with --init"));
    assert!(!desk.0.path("other").exists());
}

#[test]
fn a_model_with_folds_on_fitted_grids_trains_its_first_on_windows() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let parent = hd_bet();
    let file = desk.put("parent.safetensors", &parent);
    let words = desk.succeed("child", &[&["--init", &file, "--name", "mine"], &SHORT[..]].concat());
    assert!(words.contains("has 2 sets of weights: the first is trained"), "{words}");
    let child = desk.last("child");
    assert_eq!((child.description.folds, child.description.name.as_str()), (1, "mine"));
    assert_eq!(child.card.licence, "Apache-2.0");
    assert!(child.tensors.keys().all(|name| !name.starts_with("fold1.")));
    let config = fs::read_to_string(desk.0.path("child/config.toml")).expect("text");
    assert!(config.contains("crop = [") && config.contains("kind = \"model\""), "{config}");
    // Its own settings, given again, are no conflict.
    desk.succeed(
        "again",
        &[&["--init", &file, "--config", &desk.path("child/config.toml")], &SHORT[..]].concat(),
    );
    assert_eq!(desk.last("again").tensors, child.tensors);
    desk.0.put("run.toml", b"crop = [32, 24, 32]\nloss = \"distance\"\n");
    let refused = desk.fail("other", &["--init", &file, "--config", &desk.path("run.toml")]);
    assert!(refused.contains("crop is [32, 24, 32], must be multiples of [16, 16, 16]"), "{refused}");
    assert!(
        refused.contains("loss is distance, must be dice-bce for 'other', which answers with logits"),
        "{refused}"
    );
}

#[test]
fn a_network_that_answers_with_distances_learns_distances() {
    let Some(gpu) = gpu() else { return };
    let desk = Desk::new();
    let file = desk.put("parent.safetensors", &model(published::synthstrip(1), 64, 4.0));
    desk.succeed("child", &[&["--init", &file], &SHORT[..]].concat());
    let refused = desk.fail("other", &["--init", &file, "--loss", "dice"]);
    assert!(refused.contains("loss is dice, must be distance"), "{refused}");

    // The loss is least for the distance itself, and a step towards it lowers it.
    let voxel_mm = [2.0, 1.5, 1.0];
    let shape = [1, 1, 12, 14, 16];
    let mut graph = Graph::new();
    let [logits, masks] = ["z", "y"].map(|name| graph.input(name, TensorDesc::f32(&shape)));
    let loss = LossKind::Distance.apply(&mut graph, logits, masks, None, voxel_mm).expect("fits");
    graph.mark_output(loss);
    let executor = Executor::new(&gpu, graph, ExecutorOptions::default()).expect("compiles");
    let at = |ix: usize| [ix / (14 * 16), ix / 16 % 14, ix % 16];
    let inside = |ix: usize| at(ix).iter().zip([4..9, 4..10, 5..11]).all(|(v, range)| range.contains(v));
    let n = 12 * 14 * 16;
    let mask: Vec<f32> = (0..n).map(|ix| if inside(ix) { 1.0 } else { 0.0 }).collect();
    // The border of a mask lies midway between neighbours of which one is in it.
    let mut border: Vec<[f64; 3]> = Vec::new();
    for ix in 0..n {
        for (axis, step) in [14 * 16, 16, 1].into_iter().enumerate() {
            if at(ix)[axis] + 1 < shape[axis + 2] && inside(ix) != inside(ix + step) {
                let mut point = at(ix).map(|v| v as f64);
                point[axis] += 0.5;
                border.push(point);
            }
        }
    }
    let distance = |ix: usize| -> f32 {
        let far = |point: &[f64; 3]| -> f64 {
            (0..3).map(|a| ((at(ix)[a] as f64 - point[a]) * voxel_mm[a]).powi(2)).sum::<f64>().sqrt()
        };
        let nearest = border.iter().map(far).fold(f64::INFINITY, f64::min);
        (if inside(ix) { nearest } else { -nearest }) as f32
    };
    let wanted: Vec<f32> = (0..n).map(distance).collect();
    let loss_of = |change: &dyn Fn(f32) -> f32| -> f32 {
        let z: Vec<f32> = wanted.iter().map(|&t| change(t)).collect();
        wait(executor.write(logits, &z)).expect("writes");
        wait(executor.write(masks, &mask)).expect("writes");
        executor.run().expect("runs");
        wait(executor.read::<f32>(loss)).expect("reads")[0]
    };
    assert!(loss_of(&|t| t) < 1e-10);
    // Further off on the right side is right; on the wrong side it is not.
    assert!(loss_of(&|t| if t.abs() > 5.0 { 3.0 * t } else { t }) < 1e-10);
    let half = loss_of(&|t| if t.abs() < 5.0 { t + 0.5 } else { t });
    let near = wanted.iter().filter(|t| t.abs() < 5.0).count() as f32 / n as f32;
    assert!((half - 0.125 * near).abs() < 1e-4, "{half}, {near} near the border");
    assert!(loss_of(&|t| -t) > loss_of(&|t| 0.5 * t) && loss_of(&|t| 0.5 * t) > 0.1);
}

/// The input, times a factor, less an offset: probabilities tell what the network saw.
fn mirror_of_the_input(mut description: Description, factor: f32, offset: f32) -> Model {
    let kind = LayerKind::Conv3d {
        out_channels: 1,
        kernel: [1; 3],
        stride: [1; 3],
        dilation: [1; 3],
        padding: None,
        bias: true,
        activation: ActivationKind::None,
    };
    description.layers = vec![Layer { name: "out".into(), inputs: vec!["input".into()], kind }];
    description.output = "out".into();
    description.answer = AnswerKind::Logit;
    let tensors = Tensors::from([
        ("out.weight".into(), (vec![1; 5], vec![factor])),
        ("out.bias".into(), (vec![1], vec![-offset])),
    ]);
    Model { description, tensors, card: ModelCard::default() }
}

#[test]
fn published_networks_are_trained_on_what_strip_shows_them() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let brain = |ix: usize| radius(ix) < 0.6;
    let seen = image(|ix| match ix {
        _ if brain(ix) => 1400.0 + (ix % 7) as f32,
        _ if radius(ix) < 1.0 => 500.0 + (ix % 5) as f32,
        _ => 10.0 + (ix % 3) as f32,
    });
    let pair = Pair {
        image: folder.put("head.nii", &seen.bytes()),
        mask: Some(folder.put("mask.nii", &image(|ix| f32::from(u8::from(brain(ix)))).bytes())),
        extra: Vec::new(),
    };
    let volume = Labelled::read(&pair.clone().into()).expect("a head").image;
    let on_grid = |mut description: Description, shape: usize, voxel_mm: f64| {
        description.input.shape = [shape; 3];
        description.input.voxel_mm = [voxel_mm; 3];
        if let Centre::Voxels { fit: Fit::Padded { multiple, .. }, .. } = &mut description.input.centre {
            *multiple = 16;
        }
        description
    };
    let mut two = mirror_of_the_input(on_grid(published::deepbet(2), 20, 7.5), 1.0, 0.3);
    let mut first = mirror_of_the_input(on_grid(published::deepbet(2), 20, 7.5), 1.0, 0.0);
    first.description.input.intensity = Intensity::Percentile { low: 0.0, high: 100.0 };
    first.tensors.insert("out.bias".into(), (vec![1], vec![-0.7]));
    two.look_first(first);
    two.description.input.shape = [20; 3];
    for model in [
        mirror_of_the_input(on_grid(published::hd_bet(2), 16, 7.5), 1.0, 0.5),
        mirror_of_the_input(on_grid(published::synthstrip(1), 16, 7.5), 1.0, 0.3),
        two,
    ] {
        let name = &model.description.name;
        let offset = model.tensors["out.bias"].1[0];
        let stripper = &mut wait(Stripper::new(&gpu, &model)).expect("compiles");
        let options = StripOptions { probability: true, ..StripOptions::default() };
        let shown =
            wait(stripper.strip(&volume, &options)).expect("some brain").probability.expect("asked for");

        let spec = &model.description.input;
        let stored =
            wait(StoredHead::read(&gpu, &pair.clone().into(), &model.description, false)).expect("a head");
        let [x, y] = wait(stored.plain(&gpu, spec)).expect("samples");
        let offsets = wait(gpu.upload(&x.desc, &vec![offset; x.desc.len()])).expect("fits");
        let logits = run_op1(&gpu, &Add, &[&x, &offsets]).expect("adds");
        let sampled = run_op1(&gpu, &Activate::Sigmoid, &[&logits]).expect("runs");
        let sampled: Vec<f32> = wait(gpu.download(&sampled)).expect("downloads");
        // Volumes of another grid are read out at their nearest voxel or between: every probability that is the network's
        // own, and no mean of neighbours, is that of a sample.
        let bits: HashSet<u32> = sampled.iter().map(|p| p.to_bits()).collect();
        let own = shown.iter().filter(|p| bits.contains(&p.to_bits())).count();
        // What lies beyond the grid round the brain has no sample.
        let least = if model.description.first.is_some() { 0.15 } else { 0.95 };
        assert!(own as f64 > least * shown.len() as f64, "{name}: {own} of {}", shown.len());
        assert!(bits.len() > 8, "{name}: {} values", bits.len());
        // Image and mask lie alike: what is brightest is brain.
        let brightest = sampled.iter().copied().fold(0.0, f32::max);
        let masks: Vec<f32> = wait(gpu.download(&y)).expect("downloads");
        let inside: Vec<f32> =
            masks.iter().zip(&sampled).filter(|(_, p)| **p == brightest).map(|(m, _)| *m).collect();
        assert!(inside.iter().all(|&m| m > 0.5), "{name}: {inside:?}");

        // Moved and toned, it stays on the network's scale.
        let stored =
            wait(StoredHead::read(&gpu, &pair.clone().into(), &model.description, true)).expect("a head");
        let moves = Augmentation { rotation: 0.1, gamma: 0.2, ..Augmentation::none() };
        let [other, _] = wait(stored.augmented(&gpu, spec, &moves, 1, 1, None)).expect("samples");
        let other: Vec<f32> = wait(gpu.download(&other)).expect("downloads");
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        let plain: Vec<f32> = wait(gpu.download(&x)).expect("downloads");
        let spread = plain.iter().map(|v| (v - mean(&plain)).abs()).sum::<f32>() / plain.len() as f32;
        let gap = (mean(&other) - mean(&plain)).abs();
        assert!(gap < 0.3 * spread, "{name}: {} and {}, spread {spread}", mean(&other), mean(&plain));
    }
}

#[test]
fn weights_and_probabilities_of_a_table_reach_the_loss() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    let file = desk.put("parent.safetensors", &hd_bet());
    desk.0.put("soft.nii", &image(|ix| (1.2 - radius(ix) as f32).clamp(0.0, 1.0)).bytes());
    desk.0.put("ones.nii", &image(|_| 1.0).bytes());
    desk.0.put("half.nii", &image(|ix| if radius(ix) < 0.8 { 1.0 } else { 0.0 }).bytes());
    let validation = desk.path("train.tsv");
    let run = |out: &str, mask: &str, cells: &str| -> (f64, String) {
        let rows: String = (1..=2)
            .map(|seed| format!("head{seed}.nii.gz\t{mask}\t{}\n", cells.replace('#', &seed.to_string())))
            .collect();
        desk.0.put("rows.tsv", format!("image\tmask\tweight\tweight_image\n{rows}").as_bytes());
        let (data, out) = (desk.path("rows.tsv"), desk.path(out));
        let arguments =
            ["train", "--data", &data, "--validation", &validation, "--out", &out, "--init", &file];
        let more = ["--epochs", "1", "--steps", "1", "--batch", "2", "--seed", "4"];
        let mut command =
            program(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), &[&arguments[..], &more].concat());
        let output = command.output().expect("the program starts");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{err}");
        let log = fs::read_to_string(Path::new(&out).join("log.csv")).expect("text");
        // Epoch, step, learning rate, loss.
        let loss = log.lines().nth(1).and_then(|row| row.split(',').nth(3)).expect("a row");
        (loss.parse().expect("a number"), err)
    };
    let (plain, _) = run("plain", "head1_mask.nii.gz", "\t");
    let (ones, words) = run("ones", "head1_mask.nii.gz", "1\tones.nii");
    assert!(words.contains("2 of 2 by voxel (column weight_image)"), "{words}");
    assert!((plain - ones).abs() < 1e-6, "weights of 1 change nothing: {plain} and {ones}");
    let (part, _) = run("part", "head1_mask.nii.gz", "1\thalf.nii");
    let (uneven, words) = run("uneven", "head1_mask.nii.gz", "#\t");
    assert!(words.contains("heads count 1 to 2 times (column weight), 0 of 2 by voxel"), "{words}");
    let (soft, words) = run("soft", "soft.nii", "\t");
    assert!(words.contains("holds fractions, which are learnt as they are"), "{words}");
    for other in [part, uneven, soft] {
        assert!((other - plain).abs() > 1e-5, "{other} and {plain}");
    }
}

#[test]
fn extents_are_multiples_of_the_coarsest_level() {
    let unet = residual_unet("r", &[2, 2, 2], 2, published::deepbet(2).input);
    for (description, multiple) in [
        (published::deepbet(2), 32),
        (published::synthstrip(1), 64),
        (published::mindgrab(1, 1), 1),
        (published::hd_bet(2), 16),
        (unet, 8),
    ] {
        assert_eq!(description.multiple().expect("a network"), [multiple; 3], "{}", description.name);
    }
}

#[test]
fn frozen_layers_have_no_gradient_and_slow_ones_move_less() {
    let Some(gpu) = gpu() else { return };
    let description = residual_unet("r", &[2, 4], 1, published::deepbet(2).input);
    let weights = initialise(&description, 3).expect("initialises");
    let step = |layers: &[(&str, f64)]| -> (usize, Tensors) {
        let layers: BTreeMap<String, f64> = layers.iter().map(|(p, rate)| ((*p).to_owned(), *rate)).collect();
        let optimiser = OptimiserSpec { clip_norm: 1.0, layers, ..OptimiserSpec::default() };
        let training =
            TrainingGraph::new(&description, 1, [8; 3], LossKind::DiceBce, &optimiser).expect("builds");
        let executor =
            Executor::new(&gpu, training.graph.clone(), ExecutorOptions::default()).expect("compiles");
        wait(training.load(&executor, &weights)).expect("loads");
        let values = |seed: usize| -> Vec<f32> {
            (0..512).map(|ix| ((ix * 37 + seed * 11) % 19) as f32 / 19.0).collect()
        };
        wait(executor.write(training.input, &values(1))).expect("writes");
        wait(executor.write(training.target, &values(2))).expect("writes");
        wait(executor.write(training.step_state, &optimiser.adam().step_state(1, 1e-3, 1.0)))
            .expect("writes");
        executor.run().expect("runs");
        (training.gradients.len(), wait(training.save(&executor)).expect("saves"))
    };
    let (all, plain) = step(&[]);
    let (fewer, slow) = step(&[("mid.*", 0.0), ("mid.conv2", 0.25), ("head", 0.5)]);
    assert_eq!(all, weights.len());
    assert_eq!(fewer, all - weights.keys().filter(|name| name.starts_with("mid.")).count() + 1);
    let change = |tensors: &Tensors, name: &str| {
        weights[name].1.iter().zip(&tensors[name].1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    // Adam's first step is as long as the rate, whatever the gradient.
    for (name, rate) in [("mid.conv1.weight", 0.0), ("mid.conv2.weight", 0.25), ("head.weight", 0.5)] {
        assert!((change(&plain, name) - 1e-3).abs() < 1e-5, "{name}: {}", change(&plain, name));
        assert!((change(&slow, name) - 1e-3 * rate as f32).abs() < 1e-5, "{name}: {}", change(&slow, name));
    }
    assert_eq!(change(&slow, "enc1.conv1.weight"), change(&plain, "enc1.conv1.weight"));
}

#[test]
fn settings_that_do_not_suit_a_network_are_named() {
    let description = published::synthstrip(1);
    let mut config = TrainConfig::fine_tuning(&description);
    assert_eq!((config.crop, config.loss), (Some([192; 3]), LossKind::Distance));
    assert_eq!(config.check_for(&description), Ok(()));
    config.crop = None;
    let faults = config.check_for(&description).expect_err("faults");
    assert!(faults.contains("crop is absent, must be the window"), "{faults}");
    let deepbet = TrainConfig::fine_tuning(&published::deepbet(2));
    assert_eq!((deepbet.crop, deepbet.loss), (None, LossKind::DiceBce));
    assert!(matches!(&deepbet.network, NetworkConfig::Model { name } if name == "deepbet"));
}
