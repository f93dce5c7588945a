//! Networks that nnU-Net trained: checkpoints and folders as it writes them (`tools/nnunet_networks.py`), and what comes out of the
//! whole of its inference.

#[expect(dead_code, reason = "other tests also use programs and heads")]
mod common;
#[path = "common/networks.rs"]
mod networks;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{gpu, wait};
use glam::{DMat4, DVec3};
use networks::{fixture, numbers, path, relative_l2};
use trephine::gpu::Gpu;
use trephine::model::published::nnunet;
use trephine::model::{AxisCodes, Intensity, Model, Patches, fold_for_inference, initialise, read_tensors};
use trephine::pipeline::strip::{StripOptions, Stripper};
use trephine::tensor::Xyz;
use trephine::volume::Volume;

fn golden() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    read_tensors(&fixture("nnunet.safetensors"), "nnunet.safetensors").expect("reads").into_iter().collect()
}

fn checkpoint(file: &str) -> Model {
    nnunet::of_checkpoint(&fixture(file), file, AxisCodes::RAS).expect("reads").expect("is nnU-Net's")
}

/// What a model's network says of `numbers("input", ..)`.
fn logits(gpu: &Arc<Gpu>, model: &Model, extents: [usize; 3]) -> Vec<f32> {
    let (description, tensors) = fold_for_inference(&model.description, &model.tensors);
    let input = numbers("input", extents.iter().product());
    networks::logits(gpu, &description, &tensors, &input, extents)
}

#[test]
fn networks_of_plans_match_pytorch() {
    let Some(gpu) = gpu() else { return };
    let golden = golden();
    for name in ["nnunet-plain", "nnunet-residual"] {
        let model = checkpoint(&format!("{}.pth", name.replace('-', "_")));
        let extents: Vec<usize> = golden[&format!("{name}.extents")].1.iter().map(|&n| n as usize).collect();
        let [d, h, w] = extents[..] else { panic!("three extents") };
        let all = logits(&gpu, &model, [d, h, w]);
        let kept: Vec<f32> =
            (0..all.len()).filter(|ix| ix / w % h % 2 == 0 && ix % w % 2 == 0).map(|ix| all[ix]).collect();
        let error = relative_l2(&kept, &golden[&format!("{name}.logits")].1);
        assert!(error < 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn a_checkpoint_says_what_its_network_sees() {
    let model = checkpoint("nnunet_plain.pth");
    let input = &model.description.input;
    assert_eq!(model.description.name, "Dataset001_PlainConvUNet");
    assert_eq!((input.shape, input.voxel_mm), ([8, 16, 12], [2.0, 1.5, 1.5]));
    assert_eq!(input.patches, Some(Patches { step: 0.5, deviation: 0.125 }));
    assert_eq!(input.mirror_axes, [true, false, true]);
    assert_eq!(input.intensity, Intensity::ZScoreOfVoxels { masked: false });
    assert_eq!(String::from(input.axes), "SAR");
    // Not those that its decoder names again, nor the answer at a coarser level.
    let names = |tensors: &trephine::model::Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&model.tensors), names(&initialise(&model.description, 0).expect("initialises")));
    let back = Model::from_bytes(&model.to_bytes(false).expect("serialises"), "back").expect("parses");
    assert_eq!((back.description, back.tensors), (model.description, model.tensors));
    // Other files of PyTorch are none.
    let other = nnunet::of_checkpoint(&fixture("torch_zip.pt"), "torch_zip.pt", AxisCodes::RAS);
    assert!(other.expect("reads").is_none());
}

/// The volume of tools/nnunet_networks.py, as a file stores it along these axes: 0 around, and the box of what is not.
fn volume() -> (Volume, impl Fn(usize) -> bool) {
    let (content, before, after) = ([11, 28, 9], [1, 0, 3], [2, 2, 1]);
    let [d, h, w]: [usize; 3] = std::array::from_fn(|a| before[a] + content[a] + after[a]);
    let values = numbers("volume", content.iter().product());
    let in_box = move |ix: usize| {
        let at = [ix / (h * w), ix / w % h, ix % w];
        (0..3).all(|a| (before[a]..before[a] + content[a]).contains(&at[a]))
    };
    let mut values = values.into_iter();
    let data = (0..d * h * w)
        .map(|ix| if in_box(ix) { 8.0 + 7.0 * values.next().expect("one for each voxel") } else { 0.0 })
        .collect();
    let affine = DMat4::from_scale(DVec3::new(4.5, 4.5, 6.0));
    (Volume { shape: Xyz([w, h, d]), affine, data }, in_box)
}

#[test]
fn the_whole_of_inference_matches_numpy() {
    let Some(gpu) = gpu() else { return };
    let mut model = checkpoint("nnunet_plain.pth");
    // A head has some extent, in whatever voxels.
    model.description.input.voxel_mm = [6.0, 4.5, 4.5];
    let mut stripper = wait(Stripper::new(&gpu, &model)).expect("compiles");
    let (volume, in_box) = volume();
    for (kind, tta) in [("patches", false), ("mirrored", true)] {
        let options = StripOptions { probability: true, tta, ..StripOptions::default() };
        let got =
            wait(stripper.strip(&volume, &options)).expect("strips").probability.expect("was asked for");
        let want = &golden()[&format!("{kind}.logits")].1;
        let got: Vec<f32> = (0..got.len()).filter(|&ix| in_box(ix)).map(|ix| got[ix]).collect();
        assert_eq!(got.len(), want.len());
        let worst = got
            .iter()
            .zip(want)
            .map(|(&got, &want)| (f64::from(got) - 1.0 / (1.0 + f64::from(-want).exp())).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1e-5, "{kind}: a probability is off by {worst:e}");
    }
}

/// The folder of a trained model with the fixture's plans and these folds.
fn folder(plans: &str, folds: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("makes a folder");
    std::fs::write(folder.path().join("plans.json"), plans).expect("writes");
    let dataset = r#"{"channel_names": {"0": "T1w"}, "labels": {"background": 0, "brain": 1}}"#;
    std::fs::write(folder.path().join("dataset.json"), dataset).expect("writes");
    for fold in folds {
        let fold = folder.path().join(format!("fold_{fold}"));
        std::fs::create_dir(&fold).expect("makes a folder");
        std::fs::copy(path("nnunet_plain.pth"), fold.join("checkpoint_final.pth")).expect("copies");
    }
    folder
}

/// The plans of nnunet_plain.pth, by the words of versions before 2.4.
const PLANS: &str = r#"{
    "dataset_name": "Dataset002_Old", "transpose_forward": [0, 1, 2],
    "configurations": {"3d_fullres": {
        "patch_size": [8, 16, 12], "spacing": [2.0, 1.5, 1.5],
        "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [true],
        "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 3, "unet_max_num_features": 5,
        "n_conv_per_stage_encoder": [2, 2, 1], "n_conv_per_stage_decoder": [2, 1],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    }}
}"#;

#[test]
fn a_folder_gives_its_plans_and_all_its_folds() {
    // Features double from 3 to 6, so that weights of 4 and 5 do not fit.
    let wrong = folder(PLANS, &["0"]);
    let error = nnunet::of_folder(wrong.path(), AxisCodes::RAS).expect_err("does not fit").to_string();
    assert!(error.contains("checkpoint_final.pth: ") && error.contains("has shape"), "{error}");
    // Twice as many at most what the file has at its coarsest level.
    let fitting = PLANS.replace(r#""UNet_base_num_features": 3"#, r#""UNet_base_num_features": 4"#);
    let error = nnunet::of_folder(folder(&fitting, &["0"]).path(), AxisCodes::RAS).expect_err("does not fit");
    assert!(error.to_string().contains("encoder.stages.0.0.convs.0.conv.weight"), "{error}");

    let plans = serde_json::json!({
        "dataset_name": "Dataset003_New", "transpose_forward": [0, 1, 2],
        "configurations": {"3d_fullres": {
            "patch_size": [16, 16, 16], "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [true],
            "architecture": {"network_class_name": "PlainConvUNet", "arch_kwargs": {
                "n_stages": 3, "features_per_stage": [3, 4, 5], "conv_op": "Conv3d",
                "kernel_sizes": [[1, 3, 3], 3, 3], "strides": [1, [1, 2, 2], 2],
                "n_conv_per_stage": [2, 2, 1], "n_conv_per_stage_decoder": [2, 1], "conv_bias": true,
                "norm_op": "InstanceNorm3d", "norm_op_kwargs": {"affine": true}, "nonlin": "LeakyReLU"
            }}
        }}
    })
    .to_string();
    let own = checkpoint("nnunet_plain.pth");
    for (folds, taken) in [(&["all"][..], 1), (&["1", "all", "0"], 2)] {
        let folder = folder(&plans, folds);
        let (model, files) = nnunet::of_folder(folder.path(), AxisCodes::RAS).expect("reads");
        assert_eq!((files.len(), model.description.folds), (taken, taken));
        assert_eq!(model.description.name, "Dataset003_New");
        assert_eq!(model.description.layers, own.description.layers);
        assert_eq!(model.description.input.intensity, Intensity::ZScoreOfVoxels { masked: true });
        assert!(model.tensors.len() == taken * own.tensors.len());
    }
    let error =
        nnunet::of_folder(folder(&plans, &[]).path(), AxisCodes::RAS).expect_err("is empty").to_string();
    assert!(error.contains("has no fold_*/checkpoint_final.pth"), "{error}");
    let error = nnunet::of_folder(&path("."), AxisCodes::RAS).expect_err("is no model").to_string();
    assert!(error.contains("plans.json: cannot be read"), "{error}");
}
