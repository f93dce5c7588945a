//! Whole networks against PyTorch in f64 (`tools/make_fixtures.py`): logits, loss, every gradient, three
//! optimiser steps, running statistics, inference, and folding.

#[expect(dead_code, reason = "other tests also compare with tolerances")]
mod common;
#[path = "common/networks.rs"]
mod networks;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{gpu, wait};
use networks::{fixture, logits, numbers, relative_l2};
use trephine::graph::{Executor, ExecutorOptions};
use trephine::model::{
    Description, GridSpec, LayerKind, LossKind, Mode, Model, ModelCard, OptimiserSpec, Tensors,
    TrainingGraph, article, build, fold_for_inference, initialise, published, residual_unet, split_channels,
    spread_over_blocks,
};
use trephine::ops::Fill;
use trephine::tensor::{DType, TensorDesc};

struct Golden(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Golden {
    fn read(name: &str) -> Self {
        let bytes = fixture(name);
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("fixture parses");
        Self(
            file.iter()
                .filter(|(_, view)| view.dtype() == safetensors::Dtype::F32)
                .map(|(name, view)| {
                    let values = view.data().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
                    (name.to_owned(), (view.shape().to_vec(), values))
                })
                .collect(),
        )
    }

    fn get(&self, name: &str) -> &[f32] {
        &self.0.get(name).unwrap_or_else(|| panic!("fixture has no '{name}'")).1
    }

    fn with_prefix(&self, prefix: &str) -> Tensors {
        self.0
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone())))
            .collect()
    }
}

fn check(what: &str, got: &[f32], want: &[f32], bar: f64) {
    let error = relative_l2(got, want);
    assert!(error <= bar, "{what}: relative L2 error {error:.2e}, allowed {bar:.1e}");
}

fn any_grid() -> GridSpec {
    article(2, 1, 0.0).input
}

fn train_and_compare(fixture: &str, description: &Description, optimiser: OptimiserSpec) {
    let Some(gpu) = gpu() else { return };
    let golden = Golden::read(fixture);
    let shape = &golden.0["input"].0;
    let (batch, extents) = (shape[0], [shape[2], shape[3], shape[4]]);
    let training =
        TrainingGraph::new(description, batch, extents, LossKind::DiceBce, &optimiser).expect("builds");
    let mut graph = training.graph.clone();
    graph.mark_output(training.logits);
    for &gradient in training.gradients.values() {
        graph.mark_output(gradient);
    }
    let executor = Executor::new(&gpu, graph, ExecutorOptions::default()).expect("compiles");
    wait(training.load(&executor, &golden.with_prefix("init."))).expect("loads");
    wait(executor.write(training.input, golden.get("input"))).expect("write");
    wait(executor.write(training.target, golden.get("target"))).expect("write");
    for step in 1..=3u64 {
        let state = optimiser.adam().step_state(step, 1e-3, 1.0);
        wait(executor.write(training.step_state, &state)).expect("write");
        executor.run().expect("runs");
        let loss: Vec<f32> = wait(executor.read(training.loss)).expect("read");
        check(&format!("loss of step {step}"), &loss, &golden.get("losses")[step as usize - 1..][..1], 2e-6);
        if step == 1 {
            let logits: Vec<f32> = wait(executor.read(training.logits)).expect("read");
            check("logits", &logits, golden.get("logits"), 3e-6);
            for (name, &value) in &training.gradients {
                let gradient: Vec<f32> = wait(executor.read(value)).expect("read");
                let want = golden.get(&format!("grad.{name}"));
                // The gradient by a convolution's bias before batch norm is 0 in exact arithmetic.
                if name.ends_with("conv.bias") {
                    let largest = gradient.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    assert!(largest < 1e-6, "gradient of {name} should vanish, is {largest:e}");
                } else {
                    check(&format!("gradient of {name}"), &gradient, want, 2e-5);
                }
            }
        }
    }
    let after = wait(training.save(&executor)).expect("saves");
    for (name, (_, want)) in golden.with_prefix("after3.") {
        // Biases before batch norm move by noise, see above; three steps of 1e-3 bound them.
        if name != "eval_logits" && !name.ends_with("conv.bias") {
            check(&format!("{name} after 3 steps"), &after[&name].1, &want, 2e-5);
        }
    }

    // Inference with the golden weights, as described and folded.
    let mut trained = golden.with_prefix("after3.");
    let (_, want) = trained.remove("eval_logits").expect("in the fixture");
    let (folded, folded_tensors) = fold_for_inference(description, &trained);
    let folds = description.layers.iter().any(|l| matches!(l.kind, LayerKind::BatchNorm { .. }));
    assert_eq!(folded.layers.len() < description.layers.len(), folds, "batch norms fold away");
    for (description, tensors) in [(description, &trained), (&folded, &folded_tensors)] {
        let network = build(description, batch, extents, Mode::Inference(DType::F32)).expect("builds");
        let executor = Executor::new(&gpu, network.graph, ExecutorOptions::default()).expect("compiles");
        for (name, (_, values)) in tensors {
            let value = executor.graph().find(name).unwrap_or_else(|| panic!("no value '{name}'"));
            wait(executor.write(value, values)).expect("write");
        }
        wait(executor.write(network.input, golden.get("input"))).expect("write");
        executor.run().expect("runs");
        let logits: Vec<f32> = wait(executor.read(network.logits)).expect("read");
        check("logits after 3 steps", &logits, &want, 1e-5);
    }
}

#[test]
fn article_network_matches_keras_semantics() {
    let keras = OptimiserSpec { keras: true, ..OptimiserSpec::default() };
    train_and_compare("article_unet.safetensors", &article(2, 4, 0.0), keras);
}

#[test]
fn residual_network_matches_pytorch() {
    let adamw = OptimiserSpec { weight_decay: 1e-2, ..OptimiserSpec::default() };
    train_and_compare("residual_unet.safetensors", &residual_unet("test", &[4, 6, 8], 1, any_grid()), adamw);
}

#[test]
fn article_network_has_the_articles_parameter_count() {
    let description = article(16, 4, 0.05);
    let tensors = trephine::model::initialise(&description, 0).expect("initialises");
    let model = trephine::model::Model { description, tensors, card: Default::default() };
    assert_eq!(model.parameter_counts(), (5_298_273, 5_300_257));
}

#[test]
fn a_model_survives_its_file() {
    let description = residual_unet("test", &[4, 6, 8], 1, any_grid());
    let tensors = trephine::model::initialise(&description, 3).expect("initialises");
    let model = trephine::model::Model { description, tensors, card: Default::default() };
    let full = model.to_bytes(false).expect("serialises");
    let back = trephine::model::Model::from_bytes(&full, "test").expect("parses");
    assert_eq!(back.description, model.description);
    assert_eq!(back.tensors, model.tensors);
    let half = model.to_bytes(true).expect("serialises");
    assert!(half.len() * 10 < full.len() * 6);
    let back = trephine::model::Model::from_bytes(&half, "test").expect("parses");
    check("half precision", &back.tensors["mid.conv1.weight"].1, &model.tensors["mid.conv1.weight"].1, 5e-4);
    assert!(trephine::model::Model::from_bytes(&full[..full.len() / 2], "cut").is_err());
    assert!(trephine::model::Model::from_bytes(b"no", "bad").is_err());
}

#[test]
fn a_network_with_folds_begins_with_the_logits_of_one_without() {
    let Some(gpu) = gpu() else { return };
    let [coarse, fine] = [1, 2].map(|fold| residual_unet("test", &[4, 6, 8], fold, any_grid()));
    let mut tensors = initialise(&coarse, 3).expect("initialises");
    tensors.get_mut("head.bias").expect("has one").1[0] = 0.7;
    let parent = Model { description: coarse.clone(), tensors, card: ModelCard::default() };
    let spread = spread_over_blocks(&parent, &fine).expect("differ by the folds");

    let [d, h, w] = [4, 8, 12];
    let mut rng = common::rng("folds");
    let x = Fill::Normal(1.0).sample(&mut rng, &TensorDesc::f32(&[d, h, w])).data;
    let blocks = |values: &[f32]| -> Vec<f32> {
        let at = |ix: usize| (ix / (4 * h * w) / 2 * h + ix / (2 * w) % (2 * h) / 2) * w + ix % (2 * w) / 2;
        (0..8 * d * h * w).map(|ix| values[at(ix)]).collect()
    };
    let x: Vec<f32> = x.iter().map(|&v| v as f32).collect();
    let want = logits(&gpu, &coarse, &parent.tensors, &x, [d, h, w]);
    let got = logits(&gpu, &fine, &spread, &blocks(&x), [2 * d, 2 * h, 2 * w]);
    // Sums of eighths in another order.
    check("logits of blocks", &got, &blocks(&want), 2e-6);

    // Only where one folds and the other does not.
    assert!(spread_over_blocks(&parent, &coarse).is_none());
    let folded = Model { description: fine.clone(), tensors: spread, card: ModelCard::default() };
    assert!(spread_over_blocks(&folded, &fine).is_none());
}

/// The weights that tools/published_networks.py gives a network.
fn formula_weights(description: &Description) -> Tensors {
    let mut tensors = initialise(description, 0).expect("initialises");
    for (name, (shape, values)) in &mut tensors {
        *values = numbers(name, values.len());
        if let [_, row @ ..] = shape.as_slice()
            && row.len() == 4
        {
            let scale = (6.0 / row.iter().product::<usize>() as f64).sqrt() as f32;
            values.iter_mut().for_each(|v| *v *= scale);
        } else if name.ends_with(".weight") {
            values.iter_mut().for_each(|v| *v = 1.0 + *v / 8.0);
        } else {
            values.iter_mut().for_each(|v| *v /= 8.0);
        }
    }
    tensors
}

/// Small copies of published networks, by their names in the fixture.
fn small_copies() -> [(&'static str, Description); 4] {
    [
        ("deepbet", published::deepbet(4)),
        ("synthstrip", published::synthstrip(4)),
        ("mindgrab", published::mindgrab(5, 2)),
        ("hd-bet", published::hd_bet(3)),
    ]
}

#[test]
fn published_networks_match_pytorch() {
    let Some(gpu) = gpu() else { return };
    let golden = Golden::read("published.safetensors");
    for (name, description) in small_copies() {
        let tensors = formula_weights(&description);
        let (description, tensors) = fold_for_inference(&description, &tensors);
        let extents: Vec<usize> =
            golden.get(&format!("{name}.extents")).iter().map(|&n| n as usize).collect();
        let [d, h, w] = extents[..] else { panic!("{name}: three extents") };
        let all = logits(&gpu, &description, &tensors, &numbers("input", d * h * w), [d, h, w]);
        let step = golden.get(&format!("{name}.step"))[0] as usize;
        let kept: Vec<f32> = (0..all.len())
            .filter(|ix| [ix / (h * w), ix / w % h, ix % w].iter().all(|at| at % step == 0))
            .map(|ix| all[ix])
            .collect();
        check(&format!("logits of {name}"), &kept, golden.get(&format!("{name}.logits")), 1e-5);
    }
}

#[test]
fn networks_with_their_channels_in_several_tensors_say_the_same() {
    let Some(gpu) = gpu() else { return };
    let shape = [32, 64, 64];
    let input = numbers("input", shape.iter().product());
    let plane = 4 * shape.iter().product::<usize>() as u64;
    // Networks, and how many channels of the finest grid a tensor may hold: as many as the output.
    let networks = [
        ("mindgrab", published::mindgrab(5, 1), 2),
        ("hd-bet", published::hd_bet(3), 2),
        ("residual", residual_unet("residual", &[4, 6, 8], 1, any_grid()), 1),
        ("article", article(3, 2, 0.0), 1),
    ];
    for (name, description, channels) in networks {
        let mut tensors = formula_weights(&description);
        let variances = tensors.iter_mut().filter(|(name, _)| name.ends_with(".running_var"));
        variances.flat_map(|(_, (_, values))| values).for_each(|v| *v = 1.0 + v.abs());
        let want = logits(&gpu, &description, &tensors, &input, shape);
        let largest = |description: &Description| -> u64 {
            let network = build(description, 1, shape, Mode::Inference(DType::F32)).expect("builds");
            let bytes = network.layers.values().map(|&value| network.graph.desc(value).bytes());
            bytes.max().expect("has layers")
        };
        let most = channels * plane;
        let (split, parts) = split_channels(&description, &tensors, shape, DType::F32, most)
            .expect("builds")
            .unwrap_or_else(|| panic!("{name} has larger tensors"));
        assert!(largest(&description) > most && largest(&split) <= most, "{name}");
        check(name, &logits(&gpu, &split, &parts, &input, shape), &want, 1e-5);
        let whole = split_channels(&description, &tensors, shape, DType::F32, largest(&description));
        assert!(whole.expect("builds").is_none(), "{name} fits");
        let hopeless = split_channels(&description, &tensors, shape, DType::F32, plane - 1);
        assert!(hopeless.expect("builds").is_none(), "{name}: a plane does not fit");
    }
}

#[test]
fn published_networks_have_their_parameters_and_can_be_trained() {
    let counts: Vec<(&str, usize)> = published::PUBLISHED
        .iter()
        .map(|network| {
            let tensors = initialise(&(network.describe)(), 0).expect("initialises");
            (network.name, tensors.values().map(|(_, values)| values.len()).sum())
        })
        .collect();
    // Without HD-BET's two heads of deep supervision, 252 parameters.
    let want =
        [("deepbet", 2_126_258), ("synthstrip", 2_566_561), ("mindgrab", 146_237), ("hd-bet", 16_349_403)];
    assert_eq!(counts, want);

    let optimiser = OptimiserSpec { clip_norm: 1.0, ..OptimiserSpec::default() };
    for (name, description) in small_copies() {
        let training = TrainingGraph::new(&description, 1, [64; 3], LossKind::DiceBce, &optimiser)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let parameters = initialise(&description, 0).expect("initialises").len();
        assert_eq!(training.gradients.len(), parameters, "{name}: every parameter has a gradient");
    }
}

#[test]
fn reruns_of_a_training_step_are_bit_equal() {
    let Some(gpu) = gpu() else { return };
    let description = article(2, 2, 0.05);
    let run = || {
        let optimiser =
            OptimiserSpec { weight_decay: 1e-2, clip_norm: 1.0, ema_decay: 0.9, ..OptimiserSpec::default() };
        let training =
            TrainingGraph::new(&description, 1, [8, 12, 16], LossKind::DiceBce, &optimiser).expect("builds");
        let executor =
            Executor::new(&gpu, training.graph.clone(), ExecutorOptions::default()).expect("compiles");
        let tensors = trephine::model::initialise(&description, 5).expect("initialises");
        wait(training.load(&executor, &tensors)).expect("loads");
        let mut rng = common::rng("rerun");
        let noise = Fill::Normal(1.0).sample(&mut rng, &TensorDesc::f32(&[8, 12, 16]));
        let target: Vec<f32> = noise.data.iter().map(|v| f32::from(u8::from(*v > 0.5))).collect();
        wait(executor.write(training.input, &noise.to_words())).expect("write");
        wait(executor.write(training.target, &target)).expect("write");
        for step in 1..=3u32 {
            let state = optimiser.adam().step_state(step.into(), 1e-3, 1.0);
            wait(executor.write(training.step_state, &state)).expect("write");
            wait(executor.write(training.dropout_seed.expect("has dropout"), &[7u32, step])).expect("write");
            executor.run().expect("runs");
        }
        wait(training.save(&executor)).expect("saves")
    };
    let bits = |tensors: Tensors| -> Vec<u32> {
        tensors.into_values().flat_map(|(_, v)| v).map(f32::to_bits).collect()
    };
    assert_eq!(bits(run()), bits(run()));
    let _: Arc<_> = gpu;
}
