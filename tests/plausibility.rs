//! What is no whole, upright head does not give a mask of plausible volume without a word.

#[expect(dead_code, reason = "other tests draw tensors and limit devices")]
mod common;

use std::sync::{Mutex, OnceLock};

use common::{gpu, rng, wait};
use glam::{DMat4, DVec3};
use rand::Rng;
use trephine::model;
use trephine::pipeline::strip::{StripOptions, Stripper};
use trephine::tensor::Xyz;
use trephine::volume::Volume;

/// An image of 3 mm voxels, 192 x 240 x 222 mm round the world's origin, of a function of the place in mm.
fn image(mut value: impl FnMut(DVec3) -> f32) -> Volume {
    let affine =
        DMat4::from_translation(DVec3::new(-94.5, -118.5, -109.5)) * DMat4::from_scale(DVec3::splat(3.0));
    let mut volume = Volume::zeros(Xyz([64, 80, 74]), affine);
    for z in 0..74 {
        for y in 0..80 {
            for x in 0..64 {
                let at = volume.index(x, y, z);
                volume.data[at] = value(affine.transform_point3(DVec3::new(x as f64, y as f64, z as f64)));
            }
        }
    }
    volume
}

/// What the program says of an image, and its score; `None` without a device.
fn judgement(volume: &Volume) -> Option<(Vec<String>, f64)> {
    static STRIPPER: OnceLock<Option<Mutex<Stripper>>> = OnceLock::new();
    let stripper = STRIPPER
        .get_or_init(|| {
            let model = model::load("default").expect("built in");
            Some(Mutex::new(wait(Stripper::new(&gpu()?, &model)).expect("compiles")))
        })
        .as_ref()?;
    let mut stripper = stripper.lock().expect("no test panics with it");
    let stripped = wait(stripper.strip(volume, &StripOptions::default())).expect("strips");
    eprintln!("{:?}", stripped.signals);
    Some((stripped.warnings, stripped.score))
}

fn assert_doubted(what: &str, volume: &Volume) {
    let Some((warnings, score)) = judgement(volume) else { return };
    assert!(!warnings.is_empty(), "{what}: a mask without a word");
    assert!(score < 0.5, "{what}: a score of {score}");
}

#[test]
fn noise_raises_doubts() {
    let mut rng = rng("noise");
    assert_doubted("noise", &image(|_| 100.0 + rng.random_range(-20.0..20.0)));
}

#[test]
fn a_ramp_raises_doubts() {
    assert_doubted("ramp", &image(|p| p.x as f32));
}

/// Water in a round bottle: the same everywhere but for the scanner's noise.
#[test]
fn phantoms_of_water_raise_doubts() {
    let mut rng = rng("water");
    let mut noisy = |inside: bool| if inside { 1000.0 } else { 0.0 } + rng.random_range(0.0..20.0);
    assert_doubted("sphere", &image(|p| noisy(p.length() < 85.0)));
    assert_doubted("bottle", &image(|p| noisy(p.x.hypot(p.y) < 60.0 && p.z.abs() < 90.0)));
}
