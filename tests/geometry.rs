//! Whatever way a head is stored, it is the same head: its mask comes out at the same place in the world, and left
//! stays left.
//!
//! The fast tests use a phantom. [`a_real_head_in_192_guises`] takes a real one and the model named in
//! `TREPHINE_MODEL` (else the default) through 48 orientations of four grids, or with `TREPHINE_EVERY=4` through a
//! quarter of them, so that each orientation comes once:
//!
//! ```sh
//! TREPHINE_HEAD=head.nii.gz cargo test --release --test geometry -- --ignored --nocapture
//! ```
//!
//! On Colin27 (1 mm), all of them, the worst orientation of each: Dice 1.00000 as it is, 0.99574 oblique, 0.99628
//! anisotropic, 0.99546 sheared; a grid half a voxel over, without any turn, gives 0.99618. On an IXI head (2 mm), 16 of
//! them: 1.00000, 0.99266, 0.99321, 0.99276, where half a voxel over gives 0.99162.

#[expect(dead_code, reason = "other tests draw random inputs")]
mod common;
#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;

use std::fs;
use std::sync::Arc;

use common::{gpu, wait};
use glam::{DMat3, DMat4, DQuat, DVec3};
use nii::{Folder, Nii, only};
use trephine::gpu::Gpu;
use trephine::model::{self, AxisCodes, Centre, GridSpec, Intensity, Model, ModelCard, Readout, Sampling};
use trephine::ops::resample::{AxisOrder, Interpolation};
use trephine::pipeline::place::placed::PlacedVolume;
use trephine::pipeline::strip::{StripOptions, Stripped, Stripper};
use trephine::tensor::Xyz;
use trephine::volume::image::{FrameChoice, read, write_mask, write_new};
use trephine::volume::orientation::{AxisMap, axis_codes};
use trephine::volume::{FormSource, Grid, Volume, distance};

/// Every way to store three axes.
fn orientations() -> Vec<AxisMap> {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let flips = (0..8).map(|bits| [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0]);
    flips.flat_map(|flip| orders.map(|source| AxisMap { source, flip })).collect()
}

fn stored(volume: &Volume, map: AxisMap) -> Volume {
    Volume {
        shape: map.shape(volume.shape),
        affine: map.affine(&volume.affine, volume.shape),
        data: map.apply(volume.shape, &volume.data),
    }
}

/// World coordinates of every voxel, in the order of the data.
fn places(shape: Xyz<usize>, affine: DMat4) -> impl Iterator<Item = DVec3> {
    let Xyz([nx, ny, nz]) = shape;
    (0..nx * ny * nz).map(move |i| {
        let at = DVec3::new((i % nx) as f64, (i / nx % ny) as f64, (i / (nx * ny)) as f64);
        affine.transform_point3(at)
    })
}

fn dice(a: &[u8], b: &[u8]) -> f64 {
    let both = a.iter().zip(b).filter(|(a, b)| **a != 0 && **b != 0).count();
    let total = a.iter().chain(b).filter(|v| **v != 0).count();
    2.0 * both as f64 / total as f64
}

#[test]
fn left_stays_left_through_every_file() {
    let dir = Folder::new();
    let source = only(&dir.put("s.nii", &Nii::new().bytes()));
    // Oblique, anisotropic, the middle not at the origin.
    let turn = DMat4::from_quat(DQuat::from_rotation_z(0.3) * DQuat::from_rotation_x(-0.2));
    let affine = DMat4::from_translation(DVec3::new(-14.0, 3.0, 5.0))
        * turn
        * DMat4::from_scale(DVec3::new(2.5, 3.0, 4.0));
    // As bright as it lies to the right: left and right cannot be confused.
    let shape = [12, 9, 7];
    let data = places(Xyz(shape), affine).map(|p| p.x as f32).collect();
    let volume = Volume { shape: Xyz(shape), affine, data };
    let mut seen = std::collections::BTreeSet::new();
    for map in orientations() {
        let head = stored(&volume, map);
        seen.insert(axis_codes(&head.affine));
        for (name, form) in
            [("s.nii.gz", FormSource::Sform), ("q.nii", FormSource::Qform), ("m.mgz", FormSource::Mgh)]
        {
            let path = dir.path(name);
            write_new(&path, head.shape, &head.affine, &head.data, &source).expect("writes");
            if form == FormSource::Qform {
                let mut bytes = fs::read(&path).expect("written");
                bytes[254..256].fill(0);
                fs::write(&path, bytes).expect("writes");
            }
            let image = only(&path);
            assert_eq!(image.form_source(), form);
            let back = image.frame_f32(0).expect("held");
            let right: Vec<u8> = places(back.shape, back.affine)
                .zip(&back.data)
                .map(|(place, value)| {
                    assert!((place.x - f64::from(*value)).abs() < 1e-4, "{map:?} {name}: {place} {value}");
                    u8::from(place.x > 0.0)
                })
                .collect();
            // And what is written on its grid lies there too, in either format.
            for out in ["o.nii.gz", "o.mgz"] {
                write_mask(dir.path(out), &image, &right).expect("writes");
                let mask = only(&dir.path(out)).frame_f32(0).expect("held");
                for (place, value) in places(mask.shape, mask.affine).zip(&mask.data) {
                    assert!((place.x > 0.0) == (*value == 1.0) || place.x.abs() < 1e-4, "{map:?} {out}");
                }
            }
        }
    }
    assert_eq!(seen.len(), 48);
}

/// A head whose right hemisphere is larger than its left, and brighter.
fn asymmetric(shape: [usize; 3], affine: DMat4) -> Volume {
    let inside = |p: DVec3, centre: DVec3, radii: DVec3| ((p - centre) / radii).length() < 1.0;
    let data = places(Xyz(shape), affine).map(|p| {
        let width = if p.x > 0.0 { 60.0 } else { 46.0 };
        let middle = DVec3::new(0.0, -8.0, 20.0);
        if inside(p, middle, DVec3::new(width, 74.0, 56.0)) {
            if p.x > 0.0 { 150.0 } else { 120.0 }
        } else if inside(p, middle, DVec3::new(width + 7.0, 81.0, 63.0)) {
            15.0
        } else if inside(p, middle, DVec3::new(76.0, 91.0, 72.0)) {
            170.0
        } else {
            2.0
        }
    });
    Volume { shape: Xyz(shape), affine, data: data.collect() }
}

fn phantom() -> Volume {
    let affine = DMat4::from_translation(DVec3::new(-84.0, -112.5, -66.0))
        * DMat4::from_scale(DVec3::new(3.0, 2.5, 3.0));
    asymmetric([57, 84, 58], affine)
}

/// A small network of random weights: orientation must not matter whatever it computes.
fn random_model() -> Model {
    let grid = GridSpec {
        shape: [16, 16, 16],
        voxel_mm: [12.0; 3],
        centre: Centre::Head { above_mm: 16.0 },
        sampling: Sampling::Area,
        intensity: Intensity::Percentile { low: 1.0, high: 99.5 },
        n4: None,
        patches: None,
        mirror: false,
        mirror_axes: [false; 3],
        axes: AxisCodes::RAS,
        readout: Readout::Linear,
    };
    let description = model::residual_unet("random", &[4, 8], 1, grid);
    let mut tensors = model::initialise(&description, 1).expect("describes a network");
    tensors.get_mut("head.bias").expect("the output has a bias").1[0] = 0.5;
    Model { description, tensors, card: ModelCard::default() }
}

fn strip(stripper: &mut Stripper, volume: &Volume) -> Stripped {
    wait(stripper.strip(volume, &StripOptions { distance: true, ..StripOptions::default() })).expect("strips")
}

#[test]
fn all_48_orientations_give_one_mask() {
    let Some(gpu) = gpu() else { return };
    let mut stripper = wait(Stripper::new(&gpu, &random_model())).expect("compiles");
    let head = phantom();
    let want = strip(&mut stripper, &head).mask;
    let mut mirrored = head.clone();
    mirrored.data = AxisMap { flip: [true, false, false], ..AxisMap::IDENTITY }.apply(head.shape, &head.data);
    // Were left and right swapped on the way, it would show.
    assert!(dice(&strip(&mut stripper, &mirrored).mask, &want) < 0.99);
    for map in orientations() {
        let turned = stored(&head, map);
        let got = map.inverse().apply(turned.shape, &strip(&mut stripper, &turned).mask);
        let agreement = dice(&got, &want);
        assert!(agreement > 0.999, "{map:?}: Dice {agreement}");
    }
}

/// The smallest grid with these axes (columns: voxel edges in mm) that holds all of a volume.
fn covering(volume: &Volume, axes: DMat3) -> Grid {
    let inverse = axes.inverse();
    let (mut low, mut high) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
    for corner in 0..8 {
        let at = [0, 1, 2].map(|a| if corner >> a & 1 == 1 { volume.shape[a] as f64 - 1.0 } else { 0.0 });
        let p = inverse * volume.affine.transform_point3(DVec3::from_array(at));
        (low, high) = (low.min(p), high.max(p));
    }
    let shape = (high - low).to_array().map(|n| n.ceil() as usize + 1);
    Grid { shape: Xyz(shape), affine: DMat4::from_translation(axes * low) * DMat4::from_mat3(axes) }
}

/// Grids on which to store a volume anew, by name.
fn guises(volume: &Volume) -> [(&'static str, Grid); 4] {
    let own = DMat3::from_mat4(volume.affine);
    let turn = DMat3::from_quat(
        DQuat::from_rotation_x(0.26) * DQuat::from_rotation_y(-0.21) * DQuat::from_rotation_z(0.35),
    );
    let thick = DMat3::from_diagonal(DVec3::new(0.9, 1.0, 2.0));
    let shear = DMat3::from_cols(DVec3::X, DVec3::new(0.2, 1.0, 0.0), DVec3::new(-0.1, 0.15, 1.0));
    [
        ("as it is", Grid { shape: volume.shape, affine: volume.affine }),
        ("oblique", covering(volume, turn * own)),
        ("anisotropic", covering(volume, own * thick)),
        ("sheared", covering(volume, shear * own)),
    ]
}

fn resampled(gpu: &Arc<Gpu>, volume: &Volume, grid: &Grid, kind: Interpolation) -> Volume {
    let placed = wait(PlacedVolume::upload(gpu, volume)).expect("uploads");
    let sampled = placed.interpolated(gpu, grid, AxisOrder::Zyx, kind).expect("resamples");
    Volume {
        shape: grid.shape,
        affine: grid.affine,
        data: wait(gpu.download(&sampled.tensor)).expect("downloads"),
    }
}

/// Where the signed distance on one grid is below 0 on another.
fn mask_on(gpu: &Arc<Gpu>, from: &Grid, distance_mm: &[f32], to: &Grid) -> Vec<u8> {
    // Positive past the edge of the grid, where samples are 0.
    let data = distance_mm.iter().map(|d| (1e3 - d).max(0.0)).collect();
    let volume = Volume { shape: from.shape, affine: from.affine, data };
    resampled(gpu, &volume, to, Interpolation::Linear).data.iter().map(|&v| u8::from(v > 1e3)).collect()
}

/// What a mask loses by being resampled to another grid and back, as a Dice.
fn ceiling(gpu: &Arc<Gpu>, mask: &[u8], grid: &Grid, other: &Grid) -> f64 {
    let signed = |mask: &[u8], grid: &Grid| {
        distance::signed(mask, grid.shape, grid.voxel_size().into()).expect("fits the grid")
    };
    let there = mask_on(gpu, grid, &signed(mask, grid), other);
    dice(&mask_on(gpu, other, &signed(&there, other), grid), mask)
}

/// The same axes, half a voxel over: what sampling at other places costs without any turn.
fn half_a_voxel_over(volume: &Volume) -> Grid {
    let step = DMat4::from_translation(DVec3::splat(0.5));
    Grid { shape: volume.shape, affine: volume.affine * step }
}

/// Dice of the mask of `volume` stored as `map` of `grid`, mapped back, with `want`.
fn agreement(
    gpu: &Arc<Gpu>,
    stripper: &mut Stripper,
    volume: &Volume,
    grid: &Grid,
    map: AxisMap,
    want: &[u8],
) -> f64 {
    let copy = stored(&resampled(gpu, volume, grid, Interpolation::Cubic), map);
    let distance_mm = strip(stripper, &copy).distance_mm.expect("asked for");
    let place = Grid { shape: copy.shape, affine: copy.affine };
    let home = Grid { shape: volume.shape, affine: volume.affine };
    dice(&mask_on(gpu, &place, &distance_mm, &home), want)
}

/// The bar is that of real heads, 0.995 with what interpolating mask and image costs. The image's part is what sampling along
/// the same axes, half a voxel over, costs: on voxels of 2.5 to 3 mm this phantom's mask then agrees to a Dice of 0.988.
#[test]
fn oblique_anisotropic_and_sheared_grids_give_one_mask() {
    let Some(gpu) = gpu() else { return };
    let mut stripper =
        wait(Stripper::new(&gpu, &model::load("default").expect("built in"))).expect("compiles");
    let head = phantom();
    let want = strip(&mut stripper, &head).mask;
    let home = Grid { shape: head.shape, affine: head.affine };
    let maps = orientations();
    let over = agreement(&gpu, &mut stripper, &head, &half_a_voxel_over(&head), AxisMap::IDENTITY, &want);
    eprintln!("half a voxel over: Dice {over:.5}");
    assert!(over >= 0.98, "half a voxel over: Dice {over}");
    for (ix, (name, grid)) in guises(&head).into_iter().enumerate() {
        let got = agreement(&gpu, &mut stripper, &head, &grid, maps[7 + 11 * ix], &want);
        let loss = 1.0 - ceiling(&gpu, &want, &home, &grid);
        eprintln!("{name}: Dice {got:.5}, of which interpolating the mask loses {loss:.5}");
        let loss_of_image = 1.0 - over;
        assert!(
            got + loss + loss_of_image >= 0.995,
            "{name}: Dice {got}, of which interpolating the mask loses {loss}, the image {loss_of_image}"
        );
    }
}

#[test]
#[ignore = "takes minutes: names a head in TREPHINE_HEAD"]
fn a_real_head_in_192_guises() {
    let gpu = gpu().expect("an adapter");
    let path = std::env::var_os("TREPHINE_HEAD").expect("TREPHINE_HEAD names a head");
    let name = std::env::var("TREPHINE_MODEL").unwrap_or_else(|_| "default".into());
    let mut stripper = wait(Stripper::new(&gpu, &model::load(&name).expect("a model"))).expect("compiles");
    let head = read(&path, FrameChoice::Only).expect("reads").frame_f32(0).expect("held");
    let want = strip(&mut stripper, &head);
    println!("{}, model {name}: {:.0} mL upright", path.display(), want.brain_ml);
    let every = std::env::var("TREPHINE_EVERY").map_or(1, |n| n.parse().expect("a number"));
    let home = Grid { shape: head.shape, affine: head.affine };
    let over =
        agreement(&gpu, &mut stripper, &head, &half_a_voxel_over(&head), AxisMap::IDENTITY, &want.mask);
    println!("half a voxel over, as it is otherwise: Dice {over:.5}");
    let mut worst = 1.0_f64;
    for (ix, (name, grid)) in guises(&head).into_iter().enumerate() {
        let ceiling = ceiling(&gpu, &want.mask, &home, &grid);
        let maps = orientations().into_iter().skip(ix % every).step_by(every);
        let mut all: Vec<f64> =
            maps.map(|map| agreement(&gpu, &mut stripper, &head, &grid, map, &want.mask)).collect();
        all.sort_by(f64::total_cmp);
        println!(
            "{name:12} {:?}, {} orientations: Dice worst {:.5}, median {:.5}; the mask there and back {ceiling:.5}",
            grid.shape,
            all.len(),
            all[0],
            all[all.len() / 2]
        );
        worst = worst.min(all[0] + (1.0 - ceiling) + (1.0 - over));
    }
    assert!(worst >= 0.995, "{worst} with what interpolating mask and image costs");
}
