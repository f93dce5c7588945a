//! Synthetic heads: one seed makes one head, masks stay on brains, backgrounds are what was asked for.

#[expect(dead_code, reason = "shared with the tests of operators")]
mod common;
#[path = "common/heads.rs"]
mod heads;
#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;
#[path = "common/program.rs"]
mod program;

use std::path::{Path, PathBuf};

use common::{gpu, wait};
use glam::DVec3;
use nii::{Folder, Nii};
use trephine::gpu::Gpu;
use trephine::pipeline::synth::list;
use trephine::pipeline::synth::tissue::Family;
use trephine::pipeline::synth::{LabelMap, Synthesis, SyntheticHead};
use trephine::tensor::Xyz;
use trephine::volume::image;

/// Extents of the map, voxels of 3 mm.
const SHAPE: [usize; 3] = [60, 68, 64];
const VOXEL_MM: f64 = 3.0;

const FAMILY: &str = "name = \"ellipsoids\"\n[labels]\nbackground = [[0]]\nwhite = [[1]]\ngrey = [[2]]\n\
                      ventricle = [[3]]\ncsf = [[4]]\nskull = [[5]]\nskin = [[6]]\n";

/// How far from the middle, in units of the head's half axes.
fn radius(ix: usize) -> f64 {
    let at = [ix % SHAPE[0], ix / SHAPE[0] % SHAPE[1], ix / SHAPE[0] / SHAPE[1]];
    let scaled: [f64; 3] = std::array::from_fn(|a| {
        (at[a] as f64 - (SHAPE[a] as f64 - 1.0) / 2.0) / (SHAPE[a] as f64 * [0.42, 0.45, 0.44][a])
    });
    scaled.map(|v| v * v).iter().sum::<f64>().sqrt()
}

fn label(ix: usize) -> u8 {
    match radius(ix) {
        r if r < 0.12 => 3,
        r if r < 0.6 => 1,
        r if r < 0.7 => 2,
        r if r < 0.78 => 4,
        r if r < 0.88 => 5,
        r if r < 1.0 => 6,
        _ => 0,
    }
}

/// Labels of 8 bits in this place.
fn nii(srow: [[f64; 4]; 3], data: Vec<u8>) -> Nii {
    Nii {
        dim: SHAPE.map(|n| n as i64).into(),
        datatype: 2,
        bits: 8,
        pixdim: [1.0, VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0, 1.0, 1.0, 1.0],
        srow,
        data,
        ..Nii::new()
    }
}

/// The places of voxels along RAS axes, the origin in the middle.
fn upright() -> [[f64; 4]; 3] {
    std::array::from_fn(|row| {
        let mut line = [0.0, 0.0, 0.0, -VOXEL_MM * (SHAPE[row] as f64 - 1.0) / 2.0];
        line[row] = VOXEL_MM;
        line
    })
}

/// A map of concentric ellipsoids with its family beside it.
fn map(folder: &Folder) -> PathBuf {
    folder.put("labels.toml", FAMILY.as_bytes());
    folder.put("map.nii", &nii(upright(), (0..SHAPE.iter().product()).map(label).collect()).bytes())
}

fn read(folder: &Folder) -> LabelMap {
    LabelMap::read(&map(folder), &Family::parse(FAMILY).unwrap(), None).unwrap()
}

fn make(
    gpu: &Gpu,
    map: &LabelMap,
    synthesis: &Synthesis,
    seed: u64,
    background: Option<f32>,
) -> SyntheticHead {
    wait(SyntheticHead::make(gpu, map, synthesis, seed, 0, VOXEL_MM, background)).unwrap()
}

/// Neither shape nor noise: heads that lie where their map does.
fn still() -> Synthesis {
    Synthesis {
        flip: 0.0,
        rotation: 0.0,
        scale: 0.0,
        elastic_mm: 0.0,
        skull: 0.0,
        squeezed: 0.0,
        atrophy: 0.0,
        epi: 0.0,
        noise: 0.0,
        faults: 0.0,
        ..Synthesis::default()
    }
}

#[test]
fn a_seed_makes_one_head_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let map = read(&folder);
    let synthesis = Synthesis::default();
    for seed in 0..4 {
        let [once, again] = [0; 2].map(|_| make(&gpu, &map, &synthesis, seed, None));
        assert_eq!(once.image, again.image, "seed {seed}");
        assert_eq!(wait(once.mask(&gpu)).unwrap(), wait(again.mask(&gpu)).unwrap(), "seed {seed}");
        let other = make(&gpu, &map, &synthesis, seed + 100, None);
        assert_ne!(once.image.data, other.image.data, "seed {seed}");
    }
}

/// Where a voxel lies in the map, by what its neighbours within a voxel or two say.
#[test]
fn the_mask_stays_on_the_brain_wherever_the_field_of_view_ends() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let map = read(&folder);
    let synthesis = Synthesis { field_of_view: 1.0, padding: 0.0, slices: 0.0, coarse: 0.0, ..still() };
    let to_map = map.grid.affine.inverse();
    let mut cut = 0;
    for seed in 0..12 {
        let head = make(&gpu, &map, &synthesis, seed, None);
        let mask = wait(head.mask(&gpu)).unwrap();
        let Xyz([nx, ny, _]) = head.image.shape;
        let mut marked = 0;
        for (ix, &value) in mask.iter().enumerate() {
            let at = DVec3::new((ix % nx) as f64, (ix / nx % ny) as f64, (ix / nx / ny) as f64);
            let at = to_map.transform_point3(head.image.affine.transform_point3(at));
            let scaled = (at - (DVec3::from_array(SHAPE.map(|n| n as f64)) - 1.0) / 2.0)
                / (DVec3::new(0.42, 0.45, 0.44) * DVec3::from_array(SHAPE.map(|n| n as f64)));
            let r = scaled.length();
            marked += usize::from(value != 0);
            // The brain ends at 0.7, the film 2 mm beyond; a voxel is about 0.035 of the radius.
            assert!(value == 0 || r < 0.79, "seed {seed}: marked at {r}");
            assert!(value != 0 || r > 0.66, "seed {seed}: not marked at {r}");
        }
        let whole = map.brain_ml / head.image.voxel_volume_ml();
        cut += usize::from((marked as f64) < 0.95 * whole);
    }
    assert!(cut > 2, "hardly any field of view cuts the brain: {cut} of 12");
}

/// How far each marked voxel of a head lies out, in units of the ellipsoids' half axes, and each that is not.
fn radii(map: &LabelMap, head: &SyntheticHead, mask: &[u8]) -> [Vec<f64>; 2] {
    let to_map = map.grid.affine.inverse() * head.image.affine;
    let extents = DVec3::from_array(SHAPE.map(|n| n as f64));
    let Xyz([nx, ny, _]) = head.image.shape;
    let mut found = [Vec::new(), Vec::new()];
    for (ix, &value) in mask.iter().enumerate() {
        let at = DVec3::new((ix % nx) as f64, (ix / nx % ny) as f64, (ix / nx / ny) as f64);
        let scaled =
            (to_map.transform_point3(at) - (extents - 1.0) / 2.0) / (DVec3::new(0.42, 0.45, 0.44) * extents);
        found[usize::from(value == 0)].push(scaled.length());
    }
    found
}

/// Tissue and ventricles end at 0.7, fluid at 0.78: in a squeezed head the skull comes nearer and the film gets thinner.
#[test]
fn the_fluid_round_the_brain_is_told_from_it_and_can_be_squeezed() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let map = read(&folder);
    let whole =
        Synthesis { field_of_view: 0.0, padding: 0.0, slices: 0.0, coarse: 0.0, blur_mm: 0.0, ..still() };
    let squeezed = Synthesis { squeezed: 1.0, ..whole.clone() };
    for seed in 0..4 {
        let head = make(&gpu, &map, &whole, seed, None);
        let (brain, inner) = (wait(head.mask(&gpu)).unwrap(), wait(head.mask_without_csf(&gpu)).unwrap());
        assert!(inner.iter().zip(&brain).all(|(inner, brain)| inner <= brain), "seed {seed}");
        let [marked, others] = radii(&map, &head, &inner);
        assert!(marked.iter().all(|&r| r < 0.73), "seed {seed}: fluid is marked");
        assert!(others.iter().all(|&r| r > 0.66), "seed {seed}: tissue or a ventricle is not marked");
        let film = |head: &SyntheticHead| {
            let part = |part| wait(gpu.download::<f32>(part)).unwrap().iter().sum::<f32>();
            part(&head.brain.tensor) - part(&head.no_csf.tensor)
        };
        let thin = film(&make(&gpu, &map, &squeezed, seed, None));
        assert!(thin < 0.9 * film(&head), "seed {seed}: {thin} of {}", film(&head));
    }
}

/// A cord of white matter down to the lower face is no brain, whichever way the map is stored.
#[test]
fn the_cord_is_no_brain() {
    let folder = Folder::new();
    let whole = read(&folder).brain_ml;
    let family = Family::parse(FAMILY).unwrap();
    for upside_down in [false, true] {
        let mut srow = upright();
        if upside_down {
            srow[2] = srow[2].map(|entry| -entry);
        }
        let label_at = |ix: usize| {
            let [x, y, z] = [ix % SHAPE[0], ix / SHAPE[0] % SHAPE[1], ix / SHAPE[0] / SHAPE[1]];
            let z = if upside_down { SHAPE[2] - 1 - z } else { z };
            let cord = z < SHAPE[2] / 2 && x.abs_diff(SHAPE[0] / 2) < 2 && y.abs_diff(SHAPE[1] / 2) < 2;
            let upright = x + SHAPE[0] * (y + SHAPE[1] * z);
            if cord && radius(upright) > 0.6 { 1 } else { label(upright) }
        };
        let data = (0..SHAPE.iter().product()).map(label_at).collect();
        let map = LabelMap::read(&folder.put("cord.nii", &nii(srow, data).bytes()), &family, None).unwrap();
        // 9 cm2 of cord over the 12 mm that stay, and what closes round it.
        let more = map.brain_ml - whole;
        assert!((0.0..12.0).contains(&more), "{upside_down}: {whole} mL and {more} mL more");
    }
}

#[test]
fn air_has_the_value_that_was_asked_for() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let map = read(&folder);
    // Air is the first class: its mean is at most 0.06 of the brightest tissue.
    let synthesis = Synthesis {
        sequence: 1.0,
        padding: 0.0,
        field_of_view: 0.0,
        slices: 0.0,
        coarse: 0.0,
        bias: 0.0,
        gamma: 0.0,
        blur_mm: 0.0,
        ..still()
    };
    for value in [0.0, 250.0, -1024.0] {
        let head = make(&gpu, &map, &synthesis, 3, Some(value));
        let (corner, gain) = (head.image.data[0], head.units.gain);
        assert!((corner - value).abs() < 0.15 * gain, "{corner} for {value}, gain {gain}");
        let least = head.image.data.iter().copied().fold(f32::INFINITY, f32::min);
        assert!((least - value).abs() < 0.15 * gain, "{least} for {value}");
        let most = head.image.data.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(most > value + 0.3 * gain, "no contrast: {least} to {most}");
    }
    // Padding is exactly the value.
    let padded = Synthesis { padding: 1.0, ..synthesis };
    let mut exact = 0;
    for seed in 0..6 {
        let head = make(&gpu, &map, &padded, seed, Some(-7.5));
        exact += head.image.data.iter().filter(|&&v| v == -7.5).count();
    }
    assert!(exact > 1000, "{exact} padded voxels");
}

#[test]
fn faults_of_settings_and_maps_are_told_in_words() {
    let faults = Synthesis { share: 1.5, rotation: -0.1, ..Synthesis::default() }.faults();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("synthesis.share is 1.5, must be 0 to 1"), "{faults:?}");
    assert!(Synthesis::default().faults().is_empty());

    let folder = Folder::new();
    let map = map(&folder);
    let error =
        |family: &str| LabelMap::read(&map, &Family::parse(family).unwrap(), None).err().unwrap().to_string();
    let unknown =
        error("name = \"few\"\n[labels]\nbackground = [[0]]\ngrey = [[2]]\nwhite = [[1]]\ncsf = [[4]]");
    assert!(unknown.contains("map.nii") && unknown.contains("3, 5, 6"), "{unknown}");
    let none = "name = \"none\"\n[labels]\nbackground = [[0, 1, 2, 3, 4, 5]]\ngrey = [[9]]\nskin = [[6]]";
    assert!(error(none).contains("shows no brain"));

    // A folder described by labels.toml, and a table with a family that is none.
    assert_eq!(list::list(&folder.path("")).unwrap().len(), 1);
    let table = folder.put("maps.tsv", b"image\tfamily\nmap.nii\tno-such\n");
    assert!(list::list(&table).unwrap_err().to_string().contains("synthseg-v2"));
}

#[test]
fn the_command_writes_a_pair_and_keeps_what_exists() {
    if !program::has_gpu() {
        return;
    }
    let folder = Folder::new();
    let labels = map(&folder);
    let run = |extra: &[&str]| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        let [head, mask] = ["head.nii.gz", "mask.nii.gz"].map(|name| folder.path(name).display().to_string());
        let labels = labels.display().to_string();
        let mut arguments = vec!["synth", "--labels", &labels, "--seed", "5", "-o", &head, "-m", &mask];
        arguments.extend(["--voxel-mm", "3"].iter().chain(extra));
        program::program(&cache, &arguments).output().unwrap()
    };
    let made = run(&[]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let head = image::read_single(folder.path("head.nii.gz")).unwrap();
    let mask = image::read_single(folder.path("mask.nii.gz")).unwrap();
    assert_eq!((head.shape(), head.affine()), (mask.shape(), mask.affine()));
    let marked = mask.frame_f32(0).unwrap().data.iter().filter(|&&v| v == 1.0).count();
    assert!(marked > 1000, "{marked}");

    let again = run(&[]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
    let first = std::fs::read(folder.path("head.nii.gz")).unwrap();
    assert!(run(&["--force"]).status.success());
    assert_eq!(std::fs::read(folder.path("head.nii.gz")).unwrap(), first, "one seed, one file");
}

/// A run with heads made from the map: stopped and resumed it ends where one without a stop does, and it wants its maps.
#[test]
fn a_run_with_label_maps_resumes_exactly() {
    if !program::has_gpu() {
        return;
    }
    const RUN: &str = "batch = 2\nsteps_per_epoch = 3\nvalidation_fraction = 0.3\nwarmup_steps = 1\ncosine = false\n\
                       [network]\nkind = \"residual-unet\"\nname = \"tiny\"\nwidths = [4, 8]\nshape = [16, 16, 16]\n\
                       voxel_mm = 12.0\nno_csf = true\n[augmentation]\nfaults = 1.0\n[synthesis]\nshare = 0.5\n";
    let folder = Folder::new();
    map(&folder);
    let maps = folder.put("maps.tsv", b"image\tfamily\nmap.nii\tlabels.toml\n").display().to_string();
    for seed in 1..=3 {
        folder.put(&format!("head{seed}.nii"), &heads::head(seed).bytes());
        folder.put(&format!("head{seed}_mask.nii"), &heads::mask().bytes());
    }
    let rows = (1..=3).map(|seed| format!("head{seed}.nii\thead{seed}_mask.nii\n")).collect::<String>();
    let data = folder.put("train.tsv", format!("image\tmask\n{rows}").as_bytes()).display().to_string();
    let config = folder.put("run.toml", RUN.as_bytes()).display().to_string();
    let run = |out: &str, options: &[&str]| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        let out = folder.path(out).display().to_string();
        let mut arguments = vec!["train", "--data", &data, "--out", &out];
        arguments.extend(options);
        program::program(&cache, &arguments).output().unwrap()
    };
    let done = |output: std::process::Output| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        text
    };
    let labelled = ["--labels", &maps];
    let whole = [&["--config", &config, "--epochs", "2", "--name", "tiny"][..], &labelled].concat();
    assert!(done(run("whole", &whole)).contains("label maps: 1; 50% of the samples"));
    let half = [&["--config", &config, "--epochs", "1", "--name", "tiny"][..], &labelled].concat();
    done(run("parts", &half));
    let bare = run("parts", &["--resume", "--epochs", "2"]);
    assert!(String::from_utf8_lossy(&bare.stderr).contains("--labels"), "{bare:?}");
    done(run("parts", &[&["--resume", "--epochs", "2"][..], &labelled].concat()));
    let weights = |out: &str| {
        let model = trephine::model::Model::read(&folder.path(out).join("last.safetensors")).unwrap();
        assert!(model.tensors.values().flat_map(|(_, values)| values).all(|v| v.is_finite()));
        model.tensors
    };
    assert!(weights("whole") == weights("parts"), "a resumed run equals one without a stop");
    let without = run("other", &["--config", &config, "--epochs", "1"]);
    assert!(String::from_utf8_lossy(&without.stderr).contains("needs label maps"), "{without:?}");

    // A network with one output begins with what this one says of the brain, and this one with what that one says.
    let one = folder.put("one.toml", RUN.replace("no_csf = true\n", "").as_bytes()).display().to_string();
    let both = folder.path("whole/last.safetensors").display().to_string();
    let child =
        [&["--config", &one, "--epochs", "1", "--name", "one", "--init", &both][..], &labelled].concat();
    assert!(done(run("one", &child)).contains("the one to train will not"));
    let parent = folder.path("one/last.safetensors").display().to_string();
    let child =
        [&["--config", &config, "--epochs", "1", "--name", "two", "--init", &parent][..], &labelled].concat();
    assert!(done(run("two", &child)).contains("begins as what is brain"));
    let alone =
        folder.put("alone.toml", RUN.replace("share = 0.5", "share = 0.0").as_bytes()).display().to_string();
    let refused = run("three", &["--config", &alone, "--epochs", "1"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("network.no_csf is true"), "{refused:?}");
}
