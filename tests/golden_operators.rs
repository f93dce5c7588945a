//! Operators against PyTorch: outputs and gradients of every case of the golden file, on the device and by the
//! f64 references.

#[expect(dead_code, reason = "other tests draw random inputs")]
mod common;

use std::collections::HashMap;

use common::{assert_close, gpu, wait};
use safetensors::SafeTensors;
use trephine::graph::{Executor, ExecutorOptions, Graph};
use trephine::ops::activation::{Activate, Activation, GeluForm};
use trephine::ops::conv::{Conv3d, ConvTranspose3d, Window};
use trephine::ops::loss::Loss;
use trephine::ops::norm::{Norm, NormKind};
use trephine::ops::pool::MaxPool3d;
use trephine::ops::softmax::Softmax;
use trephine::ops::upsample::{Upsample, UpsampleMode, UpsampleTo};
use trephine::ops::{GradientBuilder, Operator};
use trephine::tensor::{HostTensor, TensorDesc};

fn load(file: &SafeTensors<'_>, name: &str) -> HostTensor {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let words: Vec<u32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("chunks of 4")))
        .collect();
    HostTensor::from_words(TensorDesc::f32(view.shape()), &words)
}

#[test]
fn outputs_and_gradients_match_pytorch() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ops.safetensors"))
        .expect("the golden file is in the repository");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let norm =
        |kind, eps| -> Box<dyn Operator> { Box::new(Norm { kind, eps, activation: Activation::None }) };
    let double = |mode| -> Box<dyn Operator> { Box::new(Upsample { mode, to: UpsampleTo::Scale([2; 3]) }) };
    let overlapping = MaxPool3d { kernel: [3; 3], stride: [2; 3], padding: [1; 3] };
    let cases: Vec<(&str, Box<dyn Operator>)> = vec![
        ("batch_norm_train_eps1e-3", norm(NormKind::Batch, 1e-3)),
        ("instance_norm_eps1e-5", norm(NormKind::Instance, 1e-5)),
        ("group_norm_2_eps1e-5", norm(NormKind::Group { groups: 2 }, 1e-5)),
        ("max_pool3d_k2", Box::new(MaxPool3d::HALVE)),
        ("max_pool3d_k3_stride2_pad1", Box::new(overlapping)),
        ("upsample_nearest_2", double(UpsampleMode::Nearest)),
        (
            "upsample_trilinear_2_align_corners_false",
            double(UpsampleMode::Trilinear { align_corners: false }),
        ),
        ("upsample_trilinear_2_align_corners_true", double(UpsampleMode::Trilinear { align_corners: true })),
    ];
    let conv = |window| -> Box<dyn Operator> { Box::new(Conv3d::new(window, true)) };
    let symmetric =
        |stride, dilation, padding| conv(Window::symmetric([stride; 3], [dilation; 3], [padding; 3]));
    let dice = |per_sample| -> Box<dyn Operator> { Box::new(Loss::SoftDice { smooth: 1.0, per_sample }) };
    let mut cases = cases;
    cases.extend([
        ("conv3d_k3", conv(Window::same([3; 3]))),
        ("conv3d_k3_wide", conv(Window::same([3; 3]))),
        ("conv3d_k1", conv(Window::same([1; 3]))),
        ("conv3d_k3_stride2", symmetric(2, 1, 1)),
        ("conv3d_k3_dilation2", symmetric(1, 2, 2)),
        ("conv3d_k112_pad_after", conv(Window::same([1, 1, 2]))),
        ("conv_transpose3d_k3_stride2_crop_last", Box::new(ConvTranspose3d::double(3, true))),
        ("conv_transpose3d_k2_stride2", Box::new(ConvTranspose3d::double(2, true))),
        ("relu", Box::new(Activate::Relu)),
        ("leaky_relu_slope1e-2", Box::new(Activate::LeakyRelu { slope: 0.01 })),
        ("sigmoid", Box::new(Activate::Sigmoid)),
        ("gelu_erf", Box::new(Activate::Gelu(GeluForm::Erf))),
        ("gelu_tanh", Box::new(Activate::Gelu(GeluForm::Tanh))),
        ("softmax_channels", Box::new(Softmax)),
        ("loss_dice", dice(false)),
        ("loss_dice_per_sample", dice(true)),
        ("loss_bce", Box::new(Loss::Bce)),
        ("loss_focal_gamma2_alpha025", Box::new(Loss::Focal { gamma: 2.0, alpha: 0.25 })),
    ]);
    let in_file: std::collections::BTreeSet<&str> =
        file.names().into_iter().filter_map(|name| name.rsplit_once('.')).map(|(case, _)| case).collect();
    let covered: std::collections::BTreeSet<&str> = cases.iter().map(|(name, _)| *name).collect();
    assert_eq!(in_file, covered, "cases of the golden file on the left, of this test on the right");
    for (name, op) in cases {
        let present = |part: &&&str| file.tensor(&format!("{name}.{part}")).is_ok();
        let names: Vec<&str> =
            ["input", "logits", "target", "weight", "bias"].iter().filter(present).copied().collect();
        let mut graph = Graph::new();
        let mut feeds = HashMap::new();
        let mut inputs = Vec::new();
        for input in &names {
            let tensor = load(&file, &format!("{name}.{input}"));
            let value = graph.input(input, tensor.desc.clone());
            feeds.insert(value, tensor);
            inputs.push(value);
        }
        let output = GradientBuilder::apply(&mut graph, op, &inputs).expect("shapes")[0];
        let cotangent = load(&file, &format!("{name}.grad_output"));
        let seed = graph.input("cotangent", cotangent.desc.clone());
        feeds.insert(seed, cotangent);
        let grads = graph.backward(output, seed, &inputs).expect("backward builds");
        let mut checks = vec![(output, load(&file, &format!("{name}.output")))];
        for (input, value) in names.iter().zip(&inputs).filter(|(input, _)| **input != "target") {
            checks.push((grads[value], load(&file, &format!("{name}.grad_{input}"))));
        }
        for (value, _) in &checks {
            graph.mark_output(*value);
        }
        let reference = graph.evaluate_reference(&feeds).expect("reference");
        let executor = gpu().map(|gpu| {
            let executor = Executor::new(&gpu, graph.clone(), ExecutorOptions::default()).expect("compiles");
            for (value, tensor) in &feeds {
                wait(executor.write(*value, &tensor.to_words())).expect("write");
            }
            executor.run().expect("run");
            executor
        });
        for (value, want) in checks {
            let scale = want.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let what = format!("{name}, {}", graph.values[value.0].name);
            // The golden numbers are rounded to single precision.
            let rounding = f64::from(f32::EPSILON) * scale;
            assert_eq!(reference[value.0].desc, want.desc, "{what}");
            assert_close(&what, &reference[value.0].data, &want.data, 2.0 * rounding);
            if let Some(executor) = &executor {
                let words: Vec<u32> = wait(executor.read(value)).expect("read");
                let got = HostTensor::from_words(want.desc.clone(), &words);
                // Sums of up to 256 terms and a few transcendental functions, as the registry's tests allow.
                assert_close(&what, &got.data, &want.data, 8.0 * 256f64.sqrt() * rounding);
            }
        }
    }
}
