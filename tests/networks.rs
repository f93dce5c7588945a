//! What networks see of a head and how their answers come back, as their descriptions say it: grids over voxels, a network that
//! looks first, several sets of weights. The networks themselves compare with a threshold, so that the right mask is known.

#[expect(dead_code, reason = "other tests also compare with tolerances")]
mod common;

use std::sync::Arc;

use common::{gpu, wait};
use glam::{DMat4, DVec3};
use trephine::model::{
    ActivationKind, AnswerKind, Centre, Description, Fit, Layer, LayerKind, Model, ModelCard, Tensors,
    published,
};
use trephine::pipeline::strip::{StripOptions, Stripper};
use trephine::tensor::{DType, Xyz};
use trephine::volume::Volume;
use trephine::volume::orientation::AxisMap;

/// Half axes of the head's brain, off the middle of the field of view.
const HALF_MM: DVec3 = DVec3::new(55.0, 70.0, 50.0);
const CENTRE_MM: DVec3 = DVec3::new(8.0, -12.0, 10.0);

/// Distance from the brain's centre, 1 at its surface.
fn radius(volume: &Volume, ix: usize) -> f64 {
    let Xyz([nx, ny, _]) = volume.shape;
    let at = DVec3::new((ix % nx) as f64, (ix / nx % ny) as f64, (ix / nx / ny) as f64);
    ((volume.affine.transform_point3(at) - CENTRE_MM) / HALF_MM).length()
}

/// A brain that is bright within 0.8 of its radius, darker beyond, and has nothing around.
fn head() -> Volume {
    let affine = DMat4::from_translation(DVec3::new(-84.0, -112.5, -90.0))
        * DMat4::from_scale(DVec3::new(3.0, 2.5, 3.0));
    let mut volume = Volume { shape: Xyz([57, 84, 66]), affine, data: vec![0.0; 57 * 84 * 66] };
    for ix in 0..volume.data.len() {
        volume.data[ix] = match radius(&volume, ix) {
            ..0.8 => 100.0,
            ..1.0 => 40.0,
            _ => 0.0,
        };
    }
    volume
}

fn dice_with(volume: &Volume, mask: &[u8], within: f64) -> f64 {
    let (mut both, mut total) = (0, 0);
    for (ix, &value) in mask.iter().enumerate() {
        let truth = radius(volume, ix) < within;
        both += usize::from(truth && value != 0);
        total += usize::from(truth) + usize::from(value != 0);
    }
    2.0 * both as f64 / total as f64
}

/// A network that sees what `like` sees on a coarser grid, and marks what is brighter than `threshold`.
fn brighter(like: Description, threshold: f32, least: usize, voxel_mm: f64) -> Model {
    let mut description = like;
    let channels = match description.answer {
        AnswerKind::TwoClasses => 2,
        _ => 1,
    };
    description.layers = vec![Layer {
        name: "compare".into(),
        inputs: vec!["input".into()],
        kind: LayerKind::Conv3d {
            out_channels: channels,
            kernel: [1; 3],
            stride: [1; 3],
            dilation: [1; 3],
            padding: None,
            bias: true,
            activation: ActivationKind::None,
        },
    }];
    description.output = "compare".into();
    description.input.shape = [least; 3];
    description.input.voxel_mm = [voxel_mm; 3];
    if let Centre::Voxels { fit: Fit::Padded { multiple, .. }, .. } = &mut description.input.centre {
        *multiple = 16;
    }
    Model { tensors: weights(description.answer, threshold), description, card: ModelCard::default() }
}

fn weights(answer: AnswerKind, threshold: f32) -> Tensors {
    const STEEP: f32 = 40.0;
    let (weight, bias) = match answer {
        AnswerKind::Logit => (vec![STEEP], vec![-STEEP * threshold]),
        AnswerKind::TwoClasses => (vec![0.0, STEEP], vec![0.0, -STEEP * threshold]),
        AnswerKind::DistanceMm { border_mm } => (vec![-STEEP], vec![STEEP * threshold + border_mm]),
    };
    let channels = weight.len();
    Tensors::from([
        ("compare.weight".into(), (vec![channels, 1, 1, 1, 1], weight)),
        ("compare.bias".into(), (vec![channels], bias)),
    ])
}

/// deepbet's two networks, on coarse grids.
fn two_networks() -> Model {
    let network = || brighter(published::deepbet(4), 0.4, 40, 4.0);
    let mut model = network();
    model.look_first(network());
    model.description.input.shape = [64; 3];
    model
}

#[test]
fn every_way_to_see_a_head_finds_its_brain_wherever_its_axes_point() {
    let Some(gpu) = gpu() else { return };
    let upright = head();
    for (name, model) in [
        ("deepbet", two_networks()),
        ("synthstrip", brighter(published::synthstrip(4), 0.3, 32, 3.0)),
        ("mindgrab", brighter(published::mindgrab(4, 1), 0.3, 72, 3.0)),
        ("hd-bet", brighter(published::hd_bet(4), 0.5, 32, 3.0)),
    ] {
        let mut stripper = wait(Stripper::new(&gpu, &model)).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (source, flip) in [([0, 1, 2], [false; 3]), ([2, 0, 1], [true, false, true])] {
            let map = AxisMap { source, flip };
            let data = map.apply(upright.shape, &upright.data);
            let affine = map.affine(&upright.affine, upright.shape);
            let stored = Volume { shape: map.shape(upright.shape), affine, data };
            let got = wait(stripper.strip(&stored, &StripOptions::default())).expect("strips");
            let dice = dice_with(&stored, &got.mask, 1.0);
            assert!(dice > 0.97, "{name}, axes {source:?}: Dice {dice}");
        }
    }
}

#[test]
fn a_network_that_looks_first_brings_the_other_closer() {
    let Some(gpu) = gpu() else { return };
    let volume = head();
    let dice = |model: &Model| {
        let mut stripper = wait(Stripper::new(&gpu, model)).expect("compiles");
        dice_with(
            &volume,
            &wait(stripper.strip(&volume, &StripOptions::default())).expect("strips").mask,
            1.0,
        )
    };
    // As many voxels over the whole field of view.
    let mut both = two_networks();
    both.description.input.shape = [24; 3];
    let alone = brighter(published::deepbet(4), 0.4, 24, 4.0);
    let (both, alone) = (dice(&both), dice(&alone));
    assert!(both > alone + 0.005, "Dice {both} with two networks, {alone} with one");
}

#[test]
fn a_first_network_that_finds_nothing_is_an_error() {
    let Some(gpu) = gpu() else { return };
    let mut model = two_networks();
    for (name, (_, values)) in &mut model.tensors {
        if name == "first.compare.bias" {
            values[1] = -1e6;
        }
    }
    let mut stripper = wait(Stripper::new(&gpu, &model)).expect("compiles");
    let error = wait(stripper.strip(&head(), &StripOptions::default())).expect_err("finds nothing");
    assert!(error.to_string().starts_with("no brain found"), "{error}");
}

#[test]
fn sets_of_weights_answer_by_their_mean() {
    let Some(gpu) = gpu() else { return };
    let volume = head();
    let one = |threshold| brighter(published::synthstrip(4), threshold, 32, 3.0);
    let mut two = one(0.55);
    // On their own, the one leaves the darker part out and the other takes it in.
    two.add_fold(weights(two.description.answer, 0.15));
    two = Model::from_bytes(&two.to_bytes(false).expect("serialises"), "two").expect("parses");
    for (model, within) in [(one(0.55), 0.8), (one(0.15), 1.0), (two, 1.0)] {
        let mut stripper = wait(Stripper::new(&gpu, &model)).expect("compiles");
        let got = wait(stripper.strip(&volume, &StripOptions::default())).expect("strips");
        let dice = dice_with(&volume, &got.mask, within);
        assert!(dice > 0.96, "{} folds: Dice {dice} with {within}", model.description.folds);
    }
}

#[test]
fn several_models_give_their_mean_and_how_far_they_disagree() {
    let Some(gpu) = gpu() else { return };
    let volume = head();
    let [narrow, wide] = [0.55, 0.15].map(|threshold| brighter(published::synthstrip(4), threshold, 32, 3.0));
    for (models, within) in [([&narrow, &wide, &wide], 1.0), ([&narrow, &wide, &narrow], 0.8)] {
        let models = models.map(Model::clone);
        let mut stripper =
            wait(Stripper::of_several(&gpu, &models, DType::F32, &Arc::default())).expect("compiles");
        let got = wait(stripper.strip(&volume, &StripOptions::default())).expect("strips");
        let dice = dice_with(&volume, &got.mask, within);
        assert!(dice > 0.96, "Dice {dice} with {within}");
        // What lies between the radii 0.8 and 1.
        let disagreement = got.disagreement.expect("several looked");
        assert!((disagreement - (1.0 - 0.8f64.powi(3))).abs() < 0.03, "{disagreement}");
    }
    let mut corrected = wide.clone();
    corrected.description.input.n4 = Some("default".into());
    let mut stripper =
        wait(Stripper::of_several(&gpu, &[wide, corrected], DType::F32, &Arc::default())).expect("compiles");
    let error = wait(stripper.strip(&volume, &StripOptions::default())).expect_err("is no one's wish");
    assert!(error.to_string().contains("different bias corrections"), "{error}");
}
