//! Volumes that exceed a binding give what they give in one piece.

mod common;

use std::borrow::Cow;
use std::sync::Arc;

use common::{assert_close, gpu, limited, rng, wait};
use glam::{DMat4, DVec3};
use rand::Rng;
use trephine::gpu::Gpu;
use trephine::ops::resample::{Edge, Interpolation};
use trephine::pipeline::PipelineError;
use trephine::pipeline::bias::{FitRegion, N4Error, N4Options, correct_bias, divide_by_field};
use trephine::pipeline::normalise::{Method, normalise};
use trephine::pipeline::place::slabs;
use trephine::pipeline::resample::{Sampler, resample};
use trephine::tensor::{Xyz, Zyx};
use trephine::volume::{Grid, Volume};

const SHAPE: [usize; 3] = [31, 26, 47];

/// A smooth bright object under a field, with noise, on oblique anisotropic voxels.
fn volume() -> Volume {
    let affine = DMat4::from_translation(DVec3::new(-70.0, -80.0, -90.0))
        * DMat4::from_rotation_x(0.2)
        * DMat4::from_scale(DVec3::new(4.0, 5.5, 3.5));
    let mut volume = Volume::zeros(Xyz(SHAPE), affine);
    let mut rng = rng("slabs");
    for ix in 0..volume.data.len() {
        let at = [ix % 31, ix / 31 % 26, ix / (31 * 26)];
        let [x, y, z] = [0, 1, 2].map(|a| 2.0 * at[a] as f32 / SHAPE[a] as f32 - 1.0);
        let radius = (x * x + y * y + z * z).sqrt();
        let tissue = if radius < 0.5 {
            300.0
        } else if radius < 0.85 {
            180.0
        } else {
            8.0
        };
        volume.data[ix] = (tissue + rng.random_range(-5.0..5.0f32)) * (0.4 * z - 0.3 * x * y).exp();
    }
    volume
}

/// The device, and the same with bindings of a third of the volume.
fn devices() -> Option<[Arc<Gpu>; 2]> {
    let whole = gpu()?;
    let bytes: usize = SHAPE.iter().product::<usize>() * 4;
    let small = Arc::new(limited(&whole, bytes as u64 / 3));
    assert_eq!((slabs::slabs(&whole, Xyz(SHAPE)).len(), slabs::slabs(&small, Xyz(SHAPE)).len()), (1, 4));
    Some([whole, small])
}

fn floats(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn a_slab_holds_what_a_binding_holds() {
    let Some([_, small]) = devices() else { return };
    let parts = slabs::slabs(&small, Xyz(SHAPE));
    assert_eq!(parts.iter().map(ExactSizeIterator::len).collect::<Vec<_>>(), [12, 12, 12, 11]);
    assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
}

#[test]
fn resampling_in_slabs_changes_nothing() {
    let Some([whole, small]) = devices() else { return };
    let volume = volume();
    let own = Grid::of(&volume);
    let fine = Grid {
        shape: Xyz([40, 33, 61]),
        affine: own.affine
            * DMat4::from_translation(DVec3::splat(-0.7))
            * DMat4::from_scale(DVec3::splat(0.8)),
    };
    // Its planes lie across the volume's, its voxels are larger, and some lie outside.
    let across = Grid {
        shape: Xyz([19, 23, 21]),
        affine: DMat4::from_translation(DVec3::new(-75.0, -90.0, -100.0))
            * DMat4::from_rotation_y(1.1)
            * DMat4::from_scale(DVec3::new(7.0, 8.0, 9.0)),
    };
    for grid in [own, fine, across] {
        for (filtered, interpolation, edge) in [
            (false, Interpolation::Nearest, Edge::Zero),
            (false, Interpolation::Linear, Edge::Zero),
            (false, Interpolation::Cubic, Edge::Clamp),
            (true, Interpolation::Linear, Edge::Clamp),
        ] {
            let sampler = Sampler { filtered, interpolation, edge, outside: -3.0 };
            let [want, got] = [&whole, &small]
                .map(|gpu| wait(resample(gpu, volume.clone(), &grid, sampler)).expect("runs"));
            assert!(want.iter().any(|&v| v > 100.0));
            assert_close(&format!("{sampler:?} {:?}", grid.shape), &floats(&got), &floats(&want), 0.0);
        }
    }
}

#[test]
fn normalising_in_slabs_changes_nothing() {
    let Some([whole, small]) = devices() else { return };
    let volume = volume();
    for method in [
        Method::ZScore { above: Some(20.0) },
        Method::MinMax { low: 0.0, high: 255.0 },
        Method::Percentiles { quantiles: [0.02, 0.98], low: -1.0, high: 1.0 },
    ] {
        let [want, got] = [&whole, &small].map(|gpu| wait(normalise(gpu, &volume, &method)).expect("runs"));
        assert_close(&format!("{method:?}"), &floats(&got), &floats(&want), 1e-4);
    }
}

#[test]
fn bias_fields_are_fitted_and_divided_by_in_slabs() {
    let Some([whole, small]) = devices() else { return };
    let volume = volume();
    let labels: Vec<u32> = volume.data.iter().map(|&v| u32::from(v > 60.0)).collect();
    let trust: Vec<f32> = (0..volume.data.len()).map(|ix| (ix % 5) as f32 * 0.5).collect();
    let mm = volume.voxel_size();
    let quick =
        N4Options { shrink: Zyx([2; 3]), iterations: vec![5, 5], tolerance: 0.0, ..N4Options::default() };
    let padded = quick.clone().with_spline_distance(90.0, Xyz(SHAPE), Xyz(mm.to_array())).expect("positive");
    assert!(padded.padding.0[0][0] > 1, "{padded:?}");
    let masked = FitRegion { mask: Some(&labels), ..FitRegion::default() };
    let weighted = FitRegion { confidence: Some(&trust), ..masked };
    for (what, region, options) in [
        ("a mask", masked, &quick),
        ("a mask and a confidence, padded", weighted, &padded),
        ("every voxel", FitRegion::default(), &N4Options { keep_nonpositive: true, ..quick.clone() }),
    ] {
        let [want, got] = [&whole, &small]
            .map(|gpu| wait(correct_bias(gpu, Cow::Borrowed(&volume), region, options, true)).expect("runs"));
        assert_eq!((&got.fit.lattice, got.fit.voxels), (&want.fit.lattice, want.fit.voxels), "{what}");
        let [want_field, field] = [&want, &got].map(|done| floats(done.log_field.as_ref().expect("wanted")));
        assert!(want_field.iter().any(|v| v.abs() > 0.05), "{what}");
        assert_close(what, &field, &want_field, 0.0);
        assert_close(what, &floats(&got.values), &floats(&want.values), 0.0);
        let log_field = got.log_field.expect("wanted");
        assert_eq!(wait(divide_by_field(&small, &volume, &log_field)).expect("runs"), got.values);
    }
    // The head is looked for by samples that are bound whole.
    let own = Grid::of(&volume);
    let fine =
        Grid { shape: Xyz(SHAPE.map(|n| 2 * n)), affine: own.affine * DMat4::from_scale(DVec3::splat(0.5)) };
    let sampler =
        Sampler { filtered: false, interpolation: Interpolation::Linear, edge: Edge::Clamp, outside: 0.0 };
    let data = wait(resample(&whole, volume, &fine, sampler)).expect("runs");
    let volume = Volume { shape: fine.shape, affine: fine.affine, data };
    let small = Arc::new(limited(&whole, volume.data.len() as u64 * 4 / 3));
    let head = FitRegion { head_less_mm: Some(5.0), ..FitRegion::default() };
    let [want, got] = [&whole, &small]
        .map(|gpu| wait(correct_bias(gpu, Cow::Borrowed(&volume), head, &quick, true)).expect("runs"));
    assert!(want.head_found && got.head_found);
    assert_eq!(got.fit.voxels, want.fit.voxels);
    let [want, got] = [&want, &got].map(|done| floats(done.log_field.as_ref().expect("wanted")));
    assert_close("the head", &got, &want, 0.0);
}

#[test]
fn a_shrunken_volume_must_be_bound() {
    let Some([_, small]) = devices() else { return };
    let options = N4Options { shrink: Zyx([1; 3]), ..N4Options::default() };
    match wait(correct_bias(&small, Cow::Owned(volume()), FitRegion::default(), &options, false)) {
        Err(PipelineError::N4(error @ N4Error::TooLarge { .. })) => {
            let text = error.to_string();
            assert!(text.contains("shrunken by 1") && text.contains("a larger shrink factor"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}
