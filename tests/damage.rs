//! Files that are damaged at random: an error with a reason, or what the whole file says; never a panic, and never a success
//! that the file does not bear out.
//!
//! What has a checksum (gzip, models written here) is read as it was or not at all. What has none (plain NIfTI and MGH) may
//! come out with other numbers, but never with other voxels than those in the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use trephine::model::{
    AxisCodes, Centre, GridSpec, Intensity, Model, ModelCard, Readout, Sampling, initialise, load,
    residual_unet,
};
use trephine::pipeline::train::config::TrainConfig;
use trephine::volume::image::{FrameChoice, Image, is_dicom, read, write_mask};

#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;

/// What becomes of a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// An error with a reason and, of images, a remedy.
    Refused,
    /// As the whole file.
    Same,
    /// Other numbers, of a file without a checksum.
    Other,
}

/// Ways of damage.
const KINDS: [&str; 4] = ["flipped bits", "overwritten run", "bytes lost or added", "cut off"];

/// A damaged copy, and how it was damaged. Half of all damage is to the first kilobyte, where headers are.
fn damaged(sound: &[u8], rng: &mut ChaCha8Rng) -> (Vec<u8>, &'static str) {
    let mut bytes = sound.to_vec();
    let length = bytes.len();
    let place = |rng: &mut ChaCha8Rng| {
        let most = if rng.random() { length.min(1024) } else { length };
        rng.random_range(0..most)
    };
    let kind = rng.random_range(0..KINDS.len());
    match kind {
        0 => {
            for _ in 0..rng.random_range(1..=4) {
                bytes[place(rng)] ^= 1 << rng.random_range(0..8);
            }
        }
        1 => {
            let from = place(rng);
            let to = length.min(from + rng.random_range(1..=64));
            let value = [0, 0xff, rng.random()][rng.random_range(0..3)];
            bytes[from..to].fill(value);
        }
        2 => {
            let from = place(rng);
            let count = rng.random_range(1..=16);
            if rng.random() {
                bytes.drain(from..length.min(from + count));
            } else {
                let more: Vec<u8> = (0..count).map(|_| rng.random()).collect();
                bytes.splice(from..from, more);
            }
        }
        _ => bytes.truncate(place(rng)),
    }
    (bytes, KINDS[kind])
}

/// Damages a file `rounds` times; a line for each way of damage with the counts of its outcomes, and the longest time.
fn ordeal(
    sound: &[u8],
    rounds: usize,
    seed: u64,
    judge: impl Fn(&[u8]) -> Outcome,
) -> (BTreeMap<&'static str, BTreeMap<Outcome, usize>>, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut counts: BTreeMap<&str, BTreeMap<Outcome, usize>> = BTreeMap::new();
    let mut longest = 0.0_f64;
    for _ in 0..rounds {
        let (bytes, kind) = damaged(sound, &mut rng);
        let begun = Instant::now();
        let outcome = if bytes == sound { Outcome::Same } else { judge(&bytes) };
        longest = longest.max(begun.elapsed().as_secs_f64());
        *counts.entry(kind).or_default().entry(outcome).or_default() += 1;
    }
    (counts, longest)
}

fn total(counts: &BTreeMap<&str, BTreeMap<Outcome, usize>>, outcome: Outcome) -> usize {
    counts.values().filter_map(|of| of.get(&outcome)).sum()
}

/// What becomes of an image whose bytes are put in the place of a sound one. Voxels that come out are those of the file.
fn judge_image(path: &Path, bytes: &[u8], sound: &Image) -> Outcome {
    fs::write(path, bytes).expect("writes");
    match read(path, FrameChoice::All) {
        Err(error) => {
            let text = error.to_string();
            let reason = text.strip_prefix(&format!("{}: ", path.display()));
            assert!(reason.is_some_and(|reason| reason.contains("; ")), "{text}");
            Outcome::Refused
        }
        Ok(image) => {
            let values = image.voxels() * image.frames();
            assert_eq!(image.raw().len(), values * image.datatype().size_of());
            assert!(image.affine().is_finite() && image.voxel_volume_ml() > 0.0);
            assert!(image.shape().iter().all(|&length| length > 1));
            assert_eq!(image.frame_f32(image.frames() - 1).expect("held").data.len(), image.voxels());
            let unchanged = image.raw() == sound.raw()
                && image.affine() == sound.affine()
                && (image.shape(), image.frames()) == (sound.shape(), sound.frames())
                && image.info().scaling == sound.info().scaling;
            if bytes.starts_with(&[0x1f, 0x8b]) {
                assert!(unchanged, "{}: what the checksum does not bear out was read", path.display());
            } else {
                let held = image.raw();
                assert!(bytes.windows(held.len()).any(|window| window == held), "voxels from nowhere");
            }
            if unchanged { Outcome::Same } else { Outcome::Other }
        }
    }
}

#[test]
fn damaged_images_are_refused_or_read_as_they_are() {
    let dir = nii::Folder::new();
    let plain = nii::Nii { scaling: [0.5, 3.0], ..nii::Nii::new() };
    let mut two = plain.clone().version_two();
    two.big = true;
    two.data = nii::value_bytes(4, true, 1);
    plain.write(&dir.path("sound.nii"));
    let image = read(dir.path("sound.nii"), FrameChoice::All).expect("reads");
    write_mask(dir.path("sound.mgh"), &image, &vec![1; image.voxels()]).expect("writes");
    write_mask(dir.path("sound.mgz"), &image, &vec![1; image.voxels()]).expect("writes");
    let mgh = |name: &str| fs::read(dir.path(name)).expect("reads");
    for (seed, (name, bytes)) in [
        ("a.nii", plain.bytes()),
        ("b.nii", two.bytes()),
        ("c.nii.gz", nii::gz(&plain.bytes())),
        ("d.mgh", mgh("sound.mgh")),
        ("e.mgz", mgh("sound.mgz")),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.put(name, &bytes);
        let sound = read(&path, FrameChoice::All).expect("reads");
        let (counts, longest) = ordeal(&bytes, 200, seed as u64, |bytes| judge_image(&path, bytes, &sound));
        let refused = total(&counts, Outcome::Refused);
        assert!(refused > 40, "{name}: {counts:?}");
        assert!(longest < 10.0, "{name}: {longest} s");
        assert!(!is_dicom(&path));
    }
}

fn tiny_model() -> Model {
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
    let description = residual_unet("tiny", &[4, 8], 1, grid);
    let tensors = initialise(&description, 7).expect("describes a network");
    Model { description, tensors, card: ModelCard { figures: "none".into(), ..ModelCard::default() } }
}

fn judge_model(bytes: &[u8], sound: &Model) -> Outcome {
    match Model::from_bytes(bytes, "net.safetensors") {
        Err(error) => {
            assert!(error.to_string().starts_with("net.safetensors: "), "{error}");
            Outcome::Refused
        }
        Ok(model) => {
            assert!(model.tensors.values().all(|(_, values)| values.iter().all(|v| v.is_finite())));
            let same = model.description == sound.description
                && model.tensors == sound.tensors
                && model.card == sound.card;
            if same { Outcome::Same } else { Outcome::Other }
        }
    }
}

#[test]
fn damaged_weights_are_refused() {
    let model = tiny_model();
    for half in [false, true] {
        let bytes = model.to_bytes(half).expect("serialises");
        let sound = Model::from_bytes(&bytes, "sound").expect("reads");
        let (counts, longest) = ordeal(&bytes, 300, 11, |bytes| judge_model(bytes, &sound));
        assert_eq!(total(&counts, Outcome::Other), 0, "{counts:?}");
        assert!(total(&counts, Outcome::Refused) > 250, "{counts:?}");
        assert!(longest < 10.0, "{longest} s");
    }
}

/// The file of a model with these metadata in the place of its own.
fn with_metadata(model: &Model, description: &str, hash: Option<&str>) -> Vec<u8> {
    let tensors: Vec<(&str, &Vec<usize>, Vec<u8>)> = (model.tensors.iter())
        .map(|(name, (shape, values))| (name.as_str(), shape, bytemuck::cast_slice(values).to_vec()))
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*name, view.expect("is one"))
    });
    let mut metadata =
        std::collections::HashMap::from([("trephine.description".to_owned(), description.to_owned())]);
    metadata.extend(hash.map(|hash| ("trephine.sha256".to_owned(), hash.to_owned())));
    safetensors::serialize(views, Some(metadata)).expect("serialises")
}

#[test]
fn a_wrong_hash_absurd_sizes_and_numbers_that_are_none_are_named() {
    let mut model = tiny_model();
    let description = serde_json::to_string(&model.description).expect("serialises");
    let reason = |bytes: &[u8]| Model::from_bytes(bytes, "net").expect_err("is refused").to_string();
    let unsigned = with_metadata(&model, &description, None);
    assert!(Model::from_bytes(&unsigned, "net").is_ok(), "a file without a hash is read");
    let wrong = reason(&with_metadata(&model, &description, Some(&"0".repeat(64))));
    assert!(wrong.contains("SHA-256") && wrong.contains("get it again"), "{wrong}");

    // Every number of the description in turn becomes one that no network has.
    let mut numbers = 0;
    let bytes = description.as_bytes();
    let starts: Vec<usize> = (1..bytes.len())
        .filter(|&at| {
            bytes[at].is_ascii_digit() && !bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] != b'.'
        })
        .collect();
    for at in starts {
        let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
        for absurd in ["0", "7", "99999", "4294967296", "18446744073709551615", "1e308", "-1"] {
            let text = format!("{}{absurd}{}", &description[..at], &description[end..]);
            // Whatever it says: no panic, and no memory that the file does not hold.
            numbers += usize::from(Model::from_bytes(&with_metadata(&model, &text, None), "net").is_err());
        }
    }
    assert!(numbers > 100, "{numbers}");

    model.tensors.get_mut("head.bias").expect("is there").1[0] = f32::NAN;
    let text = reason(&with_metadata(&model, &description, None));
    assert!(text.contains("'head.bias' holds values that are not finite"), "{text}");
    let text = reason(&model.to_bytes(false).expect("serialises"));
    assert!(text.contains("not finite"), "{text}");
}

#[test]
fn damaged_configurations_are_refused_or_valid() {
    for preset in [TrainConfig::default_preset(), TrainConfig::article_preset()] {
        let sound = toml::to_string(&preset).expect("serialises");
        let judge = |bytes: &[u8]| {
            let Ok(text) = std::str::from_utf8(bytes) else { return Outcome::Refused };
            match toml::from_str::<TrainConfig>(text) {
                Ok(config) if config.check().is_ok() => {
                    // What passes the check makes a network.
                    let _ = config.description(None);
                    if config == preset { Outcome::Same } else { Outcome::Other }
                }
                _ => Outcome::Refused,
            }
        };
        let (counts, _) = ordeal(sound.as_bytes(), 400, 5, judge);
        assert!(total(&counts, Outcome::Refused) > 200, "{counts:?}");
    }
}

/// The table of docs/damage.md: 2,000 damaged copies each of a real head in several formats, and of the built-in weights.
#[test]
#[ignore = "takes minutes and a head, which TREPHINE_COLIN27 names"]
fn two_thousand_of_each() {
    const ROUNDS: usize = 2000;
    let head = std::env::var_os("TREPHINE_COLIN27").expect("TREPHINE_COLIN27 names a head");
    let dir = nii::Folder::new();
    let image = read(&head, FrameChoice::Only).expect("reads");
    let keep = vec![1; image.voxels()];
    for name in ["head.nii", "head.nii.gz", "head.mgz"] {
        trephine::volume::image::write_stripped(dir.path(name), &image, &keep, 0.0).expect("writes");
    }
    println!(
        "| file | damage | refused | read as before | other numbers | longest |\n|---|---|---|---|---|---|"
    );
    let row = |file: &str, (counts, longest): (BTreeMap<&str, BTreeMap<Outcome, usize>>, f64)| {
        for (kind, of) in &counts {
            let [refused, same, other] = [Outcome::Refused, Outcome::Same, Outcome::Other]
                .map(|outcome| of.get(&outcome).copied().unwrap_or(0));
            println!("| {file} | {kind} | {refused} | {same} | {other} | {longest:.2} s |");
        }
    };
    for (seed, name) in ["head.nii", "head.nii.gz", "head.mgz"].into_iter().enumerate() {
        let path = dir.path(name);
        let bytes = fs::read(&path).expect("reads");
        let sound = read(&path, FrameChoice::Only).expect("reads");
        row(name, ordeal(&bytes, ROUNDS, seed as u64, |bytes| judge_image(&path, bytes, &sound)));
    }
    for name in ["default", "article"] {
        let model = load(name).expect("is built in");
        let bytes = model.to_bytes(true).expect("serialises");
        let sound = Model::from_bytes(&bytes, name).expect("reads");
        let outcome = ordeal(&bytes, ROUNDS, 9, |bytes| judge_model(bytes, &sound));
        assert_eq!(total(&outcome.0, Outcome::Other), 0);
        row(&format!("{name}.safetensors"), outcome);
    }
}
