//! Stripping with the built-in model: what must hold whatever the weights are.

#[expect(dead_code, reason = "other tests draw random inputs")]
mod common;

use common::gpu;
use glam::{DMat4, DVec3};
use trephine::model;
use trephine::pipeline::strip::{N4Choice, StripOptions, Stripper};
use trephine::volume::Volume;
use trephine::volume::orientation::AxisMap;

/// A head in world coordinates (mm): scalp, dark skull, brain of two tissues, dark air, an eye on each side and
/// a bright spot on the left, so that left and right differ.
fn intensity(p: DVec3) -> f32 {
    let inside = |centre: DVec3, radii: DVec3| ((p - centre) / radii).length() < 1.0;
    let brain = DVec3::new(0.0, -10.0, 20.0);
    if inside(brain, DVec3::new(58.0, 74.0, 56.0)) {
        return if inside(brain, DVec3::new(46.0, 62.0, 44.0)) { 150.0 } else { 100.0 };
    }
    if inside(brain, DVec3::new(64.0, 80.0, 62.0)) {
        return 15.0;
    }
    if inside(DVec3::new(-72.0, 0.0, 20.0), DVec3::splat(8.0)) {
        return 240.0;
    }
    let eye = |side: f64| inside(DVec3::new(30.0 * side, 72.0, -12.0), DVec3::splat(13.0));
    if eye(1.0) || eye(-1.0) {
        return 60.0;
    }
    let head = inside(brain, DVec3::new(73.0, 90.0, 71.0));
    let neck = p.z < -20.0 && p.z > -95.0 && (p.x / 55.0).hypot((p.y + 20.0) / 60.0) < 1.0;
    if head || neck { 170.0 } else { 2.0 }
}

fn phantom(shape: [usize; 3], affine: DMat4) -> Volume {
    let mut volume = Volume::zeros(shape, affine);
    for z in 0..shape[2] {
        for y in 0..shape[1] {
            for x in 0..shape[0] {
                let at = volume.index(x, y, z);
                volume.data[at] =
                    intensity(affine.transform_point3(DVec3::new(x as f64, y as f64, z as f64)));
            }
        }
    }
    volume
}

fn upright() -> Volume {
    let affine = DMat4::from_translation(DVec3::new(-84.0, -112.5, -90.0))
        * DMat4::from_scale(DVec3::new(3.0, 2.5, 3.0));
    phantom([57, 84, 66], affine)
}

/// The volume stored with its axes permuted and flipped: the same head at the same place in the world.
fn restored(volume: &Volume, source: [usize; 3], flip: [bool; 3]) -> (Volume, AxisMap) {
    let map = AxisMap { source, flip };
    let data = map.apply(volume.shape, &volume.data);
    let stored =
        Volume { shape: map.shape(volume.shape), affine: map.affine(&volume.affine, volume.shape), data };
    (stored, map)
}

fn dice(a: &[u8], b: &[u8]) -> f64 {
    let both = a.iter().zip(b).filter(|(a, b)| **a != 0 && **b != 0).count();
    let total = a.iter().chain(b).filter(|v| **v != 0).count();
    2.0 * both as f64 / total as f64
}

fn stripper() -> Option<Stripper> {
    let gpu = gpu()?;
    Some(Stripper::new(&gpu, &model::load("default").expect("built in")).expect("compiles"))
}

#[test]
fn the_mask_does_not_depend_on_the_stored_orientation() {
    let Some(stripper) = stripper() else { return };
    let volume = upright();
    let want = stripper.strip(&volume, &StripOptions::default()).expect("strips");
    assert!(want.brain_ml > 300.0, "the phantom's brain holds {} mL", want.brain_ml);
    for (source, flip) in [
        ([0, 1, 2], [true, false, false]),
        ([0, 1, 2], [true, true, false]),
        ([1, 2, 0], [false, true, true]),
        ([2, 0, 1], [true, false, true]),
        ([2, 1, 0], [false, false, false]),
    ] {
        let (stored, map) = restored(&volume, source, flip);
        let got = stripper.strip(&stored, &StripOptions::default()).expect("strips");
        let back = map.inverse().apply(stored.shape, &got.mask);
        let agreement = dice(&back, &want.mask);
        assert!(agreement > 0.999, "axes {source:?} flipped {flip:?}: Dice {agreement}");
    }
}

/// Mean x of the mask's voxels in the world, in mm.
fn centre_x_mm(volume: &Volume, mask: &[u8]) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for z in 0..volume.shape[2] {
        for y in 0..volume.shape[1] {
            for x in 0..volume.shape[0] {
                if mask[volume.index(x, y, z)] != 0 {
                    sum += volume.affine.transform_point3(DVec3::new(x as f64, y as f64, z as f64)).x;
                    count += 1.0;
                }
            }
        }
    }
    sum / count
}

#[test]
fn left_and_right_are_not_swapped() {
    let Some(stripper) = stripper() else { return };
    // The head lies 20 mm to the right of the world's origin, however it is stored.
    let mut volume = upright();
    volume.affine = DMat4::from_translation(DVec3::new(20.0, 0.0, 0.0)) * volume.affine;
    for (source, flip) in
        [([0, 1, 2], [false; 3]), ([0, 1, 2], [true, false, false]), ([2, 1, 0], [false; 3])]
    {
        let (stored, _) = restored(&volume, source, flip);
        let got = stripper.strip(&stored, &StripOptions::default()).expect("strips");
        let centre = centre_x_mm(&stored, &got.mask);
        assert!(
            (centre - 20.0).abs() < 5.0,
            "axes {source:?} flipped {flip:?}: the brain's centre is at {centre} mm"
        );
    }
}

#[test]
fn a_mirrored_head_gets_the_mirrored_mask() {
    let Some(stripper) = stripper() else { return };
    let volume = upright();
    let straight = stripper.strip(&volume, &StripOptions::default()).expect("strips");
    // The same voxels under an affine with the sign of x turned: another head, mirrored about x = 0.
    let mirror = DMat4::from_scale(DVec3::new(-1.0, 1.0, 1.0));
    let twin = Volume { affine: mirror * volume.affine, ..volume.clone() };
    let other = stripper.strip(&twin, &StripOptions::default()).expect("strips");
    let agreement = dice(&straight.mask, &other.mask);
    assert!(agreement > 0.999, "Dice {agreement}");
}

#[test]
fn outputs_agree_with_each_other() {
    let Some(stripper) = stripper() else { return };
    let volume = upright();
    let options = StripOptions { distance: true, probability: true, ..StripOptions::default() };
    let plain = stripper.strip(&volume, &options).expect("strips");
    let distance = plain.distance_mm.expect("asked for");
    let probability = plain.probability.expect("asked for");
    for (&mask, &distance) in plain.mask.iter().zip(&distance) {
        assert_eq!(mask == 1, distance < 0.0, "mask {mask}, distance {distance}");
    }
    assert!(probability.iter().all(|p| (0.0..=1.0).contains(p)));
    for border_mm in [4.0, -4.0] {
        let moved = stripper.strip(&volume, &StripOptions { border_mm, ..StripOptions::default() });
        let moved = moved.expect("strips");
        assert!((moved.brain_ml > plain.brain_ml) == (border_mm > 0.0));
        for (&mask, &distance) in moved.mask.iter().zip(&distance) {
            let inside = if border_mm > 0.0 {
                f64::from(distance) <= border_mm + 1e-4
            } else {
                f64::from(distance) < border_mm - 1e-4
            };
            assert_eq!(mask == 1, inside, "border {border_mm}, distance {distance}");
        }
    }
}

#[test]
fn bias_correction_and_bad_voxels_change_little() {
    let Some(stripper) = stripper() else { return };
    let volume = upright();
    let plain = stripper.strip(&volume, &StripOptions::default()).expect("strips");
    let mut spoilt = volume.clone();
    spoilt.data[7] = f32::NAN;
    spoilt.data[1000] = f32::INFINITY;
    let got = stripper.strip(&spoilt, &StripOptions::default()).expect("strips");
    assert!(dice(&got.mask, &plain.mask) > 0.99);
    let options =
        StripOptions { n4: N4Choice::On(Default::default()), corrected: true, ..Default::default() };
    let corrected = stripper.strip(&volume, &options).expect("strips");
    let field = corrected.bias.expect("asked for");
    let output = corrected.corrected.expect("asked for");
    for ix in (0..field.len()).step_by(97) {
        assert!(field[ix] > 0.0);
        let product = output[ix] * field[ix];
        assert!((product - volume.data[ix]).abs() <= 1e-4 * volume.data[ix].abs().max(1.0));
    }
}

#[test]
fn a_volume_without_a_head_is_an_error() {
    let Some(stripper) = stripper() else { return };
    let empty = Volume::zeros([20, 20, 20], DMat4::IDENTITY);
    assert!(stripper.strip(&empty, &StripOptions::default()).is_err());
}
