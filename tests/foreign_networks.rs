//! Networks of ONNX's files and Keras': one as PyTorch exports it (`tools/onnx_network.py`) and one as Keras saves it
//! (`tools/keras_network.py`) against their homes, and the way to a model of one.

#[expect(dead_code, reason = "other tests also use programs and heads")]
mod common;
#[path = "common/networks.rs"]
mod networks;

use std::path::{Path, PathBuf};

use common::gpu;
use networks::{fixture, logits, numbers, path, relative_l2};
use trephine::model::{
    AnswerKind, Description, Model, ModelCard, fold_for_inference, foreign, published, read_tensors,
};

const EXTENTS: [usize; 3] = [8, 12, 16];

/// Whether a network gives its home's logits.
fn check(network: foreign::Network, golden: &str) {
    let mut description = published::mindgrab(4, 1);
    description.input.shape = EXTENTS;
    description.answer = network.answer;
    (description.layers, description.output) = (network.layers, network.output);
    let model = Model { description, tensors: network.tensors, card: ModelCard::default() };
    // The weights are those that the layers ask for.
    let model = Model::from_bytes(&model.to_bytes(false).expect("serialises"), "every").expect("fits");
    let Some(gpu) = gpu() else { return };
    let (description, tensors) = fold_for_inference(&model.description, &model.tensors);
    let input = numbers("input", EXTENTS.iter().product());
    let got = logits(&gpu, &description, &tensors, &input, EXTENTS);
    let want = read_tensors(&fixture(golden), golden).expect("reads").swap_remove(0).1.1;
    let error = relative_l2(&got, &want);
    assert!(error < 1e-5, "{golden}: {error:e}");
}

#[test]
fn a_network_with_every_operator_of_onnx_matches_pytorch() {
    let network = foreign::onnx::read(&fixture("every.onnx"), "every.onnx").expect("reads");
    assert_eq!((network.output.as_str(), network.answer), ("end", AnswerKind::TwoClasses));
    check(network, "onnx.safetensors");
}

#[test]
fn a_network_with_every_layer_of_keras_matches_keras() {
    for file in ["every.h5", "every.keras"] {
        let network = foreign::keras::read(&fixture(file), file).expect("reads");
        assert_eq!((network.output.as_str(), network.answer), ("conv3d_2", AnswerKind::Logit));
        assert!(network.whole_levels);
        check(network, "keras.safetensors");
    }
}

#[test]
fn damaged_files_of_keras_are_errors() {
    for file in ["every.h5", "every.keras"] {
        let whole = fixture(file);
        let step = whole.len() / 200;
        for n in (0..whole.len()).step_by(step) {
            // What lies beyond the end may be missed by nobody, but nothing may panic.
            let _ = foreign::keras::read(&whole[..n], file);
            let mut damaged = whole.clone();
            damaged[n] ^= 0x55;
            let _ = foreign::keras::read(&damaged, file);
        }
        let error = foreign::keras::read(&whole[..whole.len() / 2], file).expect_err("is half").to_string();
        assert!(error.starts_with(file), "{error}");
    }
}

/// The program on these arguments: whether it succeeded, and what it said.
fn trephine(arguments: &[&Path]) -> (bool, String) {
    let output = assert_cmd::Command::cargo_bin("trephine").expect("is built").args(arguments).output();
    let output = output.expect("runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_description_without_layers_makes_a_model_of_a_file() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let [json, made] = ["seen.json", "made.safetensors"].map(|name| folder.path().join(name));
    let [net, convert] = [path("every.onnx"), PathBuf::from("convert")];
    let arguments =
        |command: &'static str| -> Vec<&Path> { vec![Path::new("model"), Path::new(command), net.as_path()] };
    let (done, said) = trephine(&arguments("info"));
    assert!(!done && said.contains("is an ONNX file") && said.contains("--description"), "{said}");

    let mut grid = published::mindgrab(4, 1).input;
    grid.shape = EXTENTS;
    std::fs::write(&json, serde_json::json!({"name": "mine", "input": grid}).to_string()).expect("writes");
    let convert = [Path::new("model"), &convert, &net, &made, Path::new("--description"), &json];
    let (done, said) = trephine(&convert);
    assert!(done, "{said}");
    let model = Model::read(&made).expect("reads");
    let Description { name, input, answer, layers, .. } = model.description;
    assert_eq!((name.as_str(), input, answer), ("mine", grid.clone(), AnswerKind::TwoClasses));
    assert_eq!(layers.len(), 20);

    let whole = serde_json::json!({"name": "mine", "input": grid, "layers": []});
    std::fs::write(&json, whole.to_string()).expect("writes");
    let (done, said) = trephine(&convert);
    assert!(!done && said.contains("has 'layers'"), "{said}");
}
