//! Training below the command line: what is refused before the first step, how samples are made, and cards.

#[expect(dead_code, reason = "shared with the tests of operators")]
mod common;
#[path = "common/heads.rs"]
mod heads;
#[expect(dead_code, reason = "shared with the tests of the volume layer")]
#[path = "volume/nii.rs"]
mod nii;

use std::path::PathBuf;

use common::{gpu, wait};
use heads::{SHAPE, VOXELS, head, image, mask, radius};
use nii::{Folder, Nii};
use trephine::gpu::{Gpu, GpuTensor};
use trephine::graph::run_op1;
use trephine::model::{
    ActivationKind, AnswerKind, AxisCodes, Centre, Description, GridSpec, Intensity, Layer, LayerKind, Model,
    ModelCard, Readout, Sampling, Tensors, WeightFile, initialise, residual_unet,
};
use trephine::ops::activation::Activate;
use trephine::ops::elementwise::Add;
use trephine::pipeline::PipelineError;
use trephine::pipeline::strip::{StripOptions, Stripper};
use trephine::pipeline::train::augment::Augmentation;
use trephine::pipeline::train::config::{NetworkConfig, TrainConfig};
use trephine::pipeline::train::data::{Labelled, Row, Split, check_rows};
use trephine::pipeline::train::head::StoredHead;
use trephine::pipeline::train::loader::HeadCache;
use trephine::volume::pairs::{Pair, PairTable, Weight};

fn pair(image: PathBuf, mask: PathBuf) -> Pair {
    Pair { image, mask: Some(mask), extra: Vec::new() }
}

/// Writes an image and its mask.
fn put(folder: &Folder, name: &str, image: &Nii, mask: &Nii) -> Pair {
    let image = folder.put(&format!("{name}.nii"), &image.bytes());
    pair(image, folder.put(&format!("{name}_mask.nii"), &mask.bytes()))
}

fn brain(ix: usize) -> bool {
    radius(ix) < 0.7
}

#[test]
fn every_bad_row_is_named_at_once() {
    let folder = Folder::new();
    let masked = |name: &str, value: &dyn Fn(usize) -> f32| put(&folder, name, &head(1), &image(value));
    let shown = |name: &str, value: &dyn Fn(usize) -> f32| put(&folder, name, &image(value), &mask());
    let one = |inside: bool| f32::from(u8::from(inside));
    let good = put(&folder, "good", &head(1), &mask());
    let truncated = put(&folder, "truncated", &head(1), &mask());
    let bytes = head(1).bytes();
    folder.put("truncated.nii", &bytes[..bytes.len() / 2]);
    let bad = [
        (masked("scaled", &|ix| 0.4 * one(brain(ix))), "scaled_mask.nii", "holds 0 and 0.4 only"),
        (masked("empty", &|_| 0.0), "empty_mask.nii", "is empty"),
        (masked("full", &|_| 1.0), "full_mask.nii", "marks every voxel"),
        (masked("inverted", &|ix| one(!brain(ix))), "inverted_mask.nii", "looks inverted"),
        (masked("nan", &|ix| if brain(ix) { 1.0 } else { f32::NAN }), "nan_mask.nii", "NaN"),
        (
            masked("percent", &|ix| 99.5 * (1.0 - radius(ix) as f32).max(0.0)),
            "percent_mask.nii",
            "nor probabilities",
        ),
        (
            masked("faint", &|ix| 0.45 * (1.0 - radius(ix) as f32).max(0.0)),
            "faint_mask.nii",
            "the greatest of them",
        ),
        (shown("void", &|_| f32::NAN), "void.nii", "no finite voxel"),
        (shown("flat", &|_| 7.0), "flat.nii", "every voxel is 7"),
        (
            shown("holed", &|ix| if ix % 10 == 0 { f32::NAN } else { ix as f32 }),
            "holed.nii",
            "NaN or infinite values in",
        ),
        (
            shown("hollow", &|ix| if brain(ix) { 0.0 } else { ix as f32 }),
            "hollow.nii",
            "is 0, its least value, throughout its mask",
        ),
        (truncated, "truncated.nii", "truncated"),
        (pair(good.image.clone(), folder.path("absent.nii")), "absent.nii", "does not exist"),
        (pair(good.image.clone(), good.image.clone()), "good.nii", "as image and as mask"),
        (Pair { mask: None, ..good.clone() }, "good.nii", "has no mask in the table"),
    ];
    let mut pairs: Vec<Pair> = bad.iter().map(|(pair, ..)| pair.clone()).collect();
    pairs.push(good);
    let total = pairs.len();
    let Err(error) = check_rows(pairs, &|| {}) else { panic!("bad rows are taken") };
    let text = error.to_string();
    let PipelineError::Rows { faults, total: counted } = error else { panic!("{error}") };
    assert_eq!((faults.len(), counted), (bad.len(), total), "{text}");
    for ((_, file, words), fault) in bad.iter().zip(&faults) {
        let fault = fault.to_string();
        let start = format!("{}: ", folder.path(file).display());
        assert!(fault.starts_with(&start) && fault.contains(words), "{file}, {words}: {fault}");
        assert!(text.contains(&fault), "{text}");
    }
}

#[test]
fn odd_rows_are_taken_with_a_remark() {
    let folder = Folder::new();
    let label = |ix: usize| if brain(ix) { 2.0 + (ix % 3) as f32 } else { 0.0 };
    let pairs = vec![
        put(&folder, "plain", &head(1), &image(|ix| 255.0 * f32::from(u8::from(brain(ix))))),
        put(&folder, "labels", &head(1), &image(label)),
        put(&folder, "soft", &head(1), &image(|ix| (1.2 - radius(ix) as f32).clamp(0.0, 1.0))),
        put(&folder, "sparse", &image(|ix| if ix == 5 { f32::NAN } else { ix as f32 }), &mask()),
    ];
    let rows = check_rows(pairs.clone(), &|| {}).expect("all of them are usable");
    assert_eq!(rows.heads.len(), 4);
    let remark = |name: &str| {
        let of = rows.remarks.iter().filter(|remark| remark.contains(name));
        of.cloned().collect::<String>()
    };
    assert_eq!(remark("plain"), "");
    assert!(
        remark("labels").contains("holds 3 labels up to 4 besides 0, all of which count"),
        "{:?}",
        rows.remarks
    );
    assert!(remark("soft").contains("holds fractions, which are learnt as they are"), "{:?}", rows.remarks);
    assert!(remark("sparse").contains("NaN or infinite count as background"), "{:?}", rows.remarks);
    // What training takes is what was said.
    let taken: Vec<Vec<f32>> =
        pairs.iter().map(|pair| Labelled::read(&pair.clone().into()).expect("read").mask.data).collect();
    let hard = |inside: &dyn Fn(usize) -> bool| -> Vec<f32> {
        (0..VOXELS).map(|ix| f32::from(u8::from(inside(ix)))).collect()
    };
    assert!(taken[0] == hard(&brain) && taken[1] == hard(&brain));
    assert!(
        taken[2] == (0..VOXELS).map(|ix| (1.2 - radius(ix) as f32).clamp(0.0, 1.0)).collect::<Vec<f32>>()
    );
}

#[test]
fn weights_are_read_from_tables_and_images_and_judged() {
    let folder = Folder::new();
    put(&folder, "a", &head(1), &mask());
    put(&folder, "b", &head(2), &mask());
    let values = |name: &str, value: &dyn Fn(usize) -> f32| folder.put(name, &image(value).bytes());
    values("half.nii", &|ix| if ix % 2 == 0 { 0.25 } else { 1.5 });
    let rows = |cells: &str| -> Result<Vec<Row>, String> {
        let path = folder.put(
            "t.tsv",
            format!(
                "image\tmask\tweight\tweight_image\na.nii\ta_mask.nii\t{cells}\nb.nii\tb_mask.nii\t\tn/a\n"
            )
            .as_bytes(),
        );
        let table = PairTable::read(&path).expect("a table");
        let weights = table.weights(&path).map_err(|e| e.to_string())?;
        Ok(table.pairs.into_iter().zip(weights).map(|(pair, weight)| Row { pair, weight }).collect())
    };
    let good = rows("2.5\thalf.nii").expect("weights");
    assert_eq!(good[0].weight, Weight { factor: 2.5, image: Some(folder.path("half.nii")) });
    assert_eq!(good[1].weight, Weight::default());
    let taken = Labelled::read(&good[0]).expect("a head").weight.expect("asked for").data;
    assert!(taken.iter().enumerate().all(|(ix, &w)| w == if ix % 2 == 0 { 0.25 } else { 1.5 }));
    for cell in ["0", "-1", "heavy", "inf"] {
        let error = rows(&format!("{cell}\t")).expect_err("no weight");
        assert!(error.contains(&format!("a.nii is '{cell}', no number above 0")), "{error}");
    }
    values("negative.nii", &|ix| if ix == 7 { -1.0 } else { 1.0 });
    values("nothing.nii", &|_| 0.0);
    let mut apart = image(|_| 1.0);
    apart.srow[0][3] += 3.0;
    folder.put("apart.nii", &apart.bytes());
    for (file, words) in [
        ("negative.nii", "holds -1; weights of voxels are numbers from 0 on"),
        ("nothing.nii", "is 0 throughout"),
        ("apart.nii", "another grid"),
        ("none.nii", "does not exist"),
    ] {
        let rows = rows(&format!("\t{file}")).expect("a table");
        let Err(error) = Labelled::read(&rows[0]) else { panic!("{file} was taken") };
        let error = error.to_string();
        assert!(error.contains(file) && error.contains(words), "{error}");
    }
    // Other weights are other heads, and the table of a run names them.
    let heads = |rows: Vec<Row>| check_rows(rows, &|| {}).expect("usable").heads;
    let split = Split { training: heads(good), validation: Vec::new() };
    let records = split.records();
    let again = |cells: &str| Split::again(&records, heads(rows(cells).expect("weights")), Vec::new());
    assert!(again("2.5\thalf.nii").is_ok());
    for other in ["2\thalf.nii", "2.5\t"] {
        let changed = again(other).map(|_| ()).expect_err("other weights");
        assert!(changed.contains("1 changed since"), "{changed}");
    }
    split.write_table(&folder.path("heads.tsv")).expect("writes");
    let written = std::fs::read_to_string(folder.path("heads.tsv")).expect("text");
    assert!(written.starts_with("image\tmask\trole\tweight\tweight_image\n"), "{written}");
    assert!(written.contains("a_mask.nii\ttraining\t2.5\thalf.nii\n"), "{written}");
}

#[test]
fn weights_move_with_their_voxels() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let pair = grey_mask(&folder);
    let weight = folder.put("w.nii", &image(|ix| if brain(ix) { 3.0 } else { 0.0 }).bytes());
    let row = Row { pair, weight: Weight { factor: 2.0, image: Some(weight) } };
    for augmentation in
        [Augmentation::none(), Augmentation { rotation: 0.5, flip: 1.0, ..Augmentation::none() }]
    {
        for crop in [None, Some([8, 10, 12])] {
            let head = wait(StoredHead::read(&gpu, &row, &network(grid()), true)).expect("a head");
            assert_eq!(head.factor, 2.0);
            let [_, y] = values(
                &gpu,
                wait(head.augmented(&gpu, &grid(), &augmentation, 3, 4, crop)).expect("samples"),
            );
            let w =
                wait(head.weights(&gpu, &augmentation, 3, 4, crop)).expect("samples").expect("has weights");
            let w: Vec<f32> = wait(gpu.download(&w)).expect("downloads");
            // Beyond the image voxels count 1.
            let gap = |y: f32, w: f32| (3.0 * y - w).abs().min((w - 1.0).abs());
            let mean = y.iter().zip(&w).map(|(y, w)| gap(*y, *w)).sum::<f32>() / y.len() as f32;
            assert!(mean < 0.05 && w.iter().any(|&w| w > 2.9) && w.contains(&0.0), "{mean}");
            let brain = y.iter().zip(&w).filter(|(y, _)| **y == 1.0);
            assert!(brain.clone().count() > 20 && brain.clone().all(|(_, w)| *w > 2.5));
        }
    }
}

#[test]
fn masks_are_taken_by_where_they_lie() {
    let folder = Folder::new();
    let upright = Labelled::read(&put(&folder, "upright", &head(1), &mask()).into()).expect("a head");
    // Stored from right to left.
    let mut turned = image(|ix| {
        let x = ix % SHAPE[0];
        f32::from(u8::from(brain(ix - x + SHAPE[0] - 1 - x)))
    });
    turned.srow[0] = [-turned.srow[0][0], 0.0, 0.0, -turned.srow[0][3]];
    let turned = Labelled::read(&put(&folder, "turned", &head(1), &turned).into()).expect("a head");
    assert!(turned.mask == upright.mask && turned.remarks.is_empty());
    // On another grid, more than half a voxel away.
    let mut moved = mask();
    moved.srow[1][3] += 4.5;
    let moved = Labelled::read(&put(&folder, "moved", &head(1), &moved).into()).expect("a head");
    let same = moved.mask.data.iter().zip(&upright.mask.data).filter(|(a, b)| a == b).count();
    assert!(same < VOXELS && same > VOXELS * 9 / 10, "{same} of {VOXELS}");
    assert!(moved.remarks[0].1.contains("lies on another grid"), "{:?}", moved.remarks);
    let mut away = mask();
    away.srow[2][3] += 400.0;
    let Err(error) = Labelled::read(&put(&folder, "away", &head(1), &away).into()) else { panic!("taken") };
    assert!(error.to_string().contains("away_mask.nii: lies nowhere in its image"), "{error}");
}

#[test]
fn configurations_that_make_no_network_are_named_by_key() {
    type Change = fn(&mut TrainConfig);
    fn unet(config: &mut TrainConfig) -> (&mut Vec<usize>, &mut [usize; 3], &mut f64) {
        match &mut config.network {
            NetworkConfig::ResidualUnet { widths, shape, voxel_mm, .. } => (widths, shape, voxel_mm),
            _ => unreachable!("the default is a residual U-Net"),
        }
    }
    fn fold(config: &mut TrainConfig) -> &mut usize {
        // Folds by 2 leave one fault, along y.
        *unet(config).1 = [48, 56, 64];
        match &mut config.network {
            NetworkConfig::ResidualUnet { fold, .. } => fold,
            _ => unreachable!("the default is a residual U-Net"),
        }
    }
    // Without a fold, voxel by voxel.
    fn unfolded() -> TrainConfig {
        let mut config = TrainConfig::default_preset();
        *fold(&mut config) = 1;
        (*unet(&mut config).1, *unet(&mut config).2) = ([48, 56, 56], 4.0);
        config
    }
    let cases: &[(Change, &str)] = &[
        (|c| unet(c).0.clear(), "network.widths names 0 levels"),
        (|c| unet(c).0[1] = 0, "network.widths is 0"),
        (|c| unet(c).0.resize(9, 4), "network.widths names 9 levels"),
        (|c| unet(c).1[1] = 50, "network.shape is 50 voxels along y, must be a multiple of 8"),
        (|c| unet(c).1[2] = 0, "network.shape along z is 0"),
        (|c| *unet(c).1 = [8; 3], "halves 3 times, to a single voxel"),
        (|c| *fold(c) = 0, "network.fold is 0"),
        (|c| *fold(c) = 5, "network.fold is 5"),
        (
            |c| *fold(c) = 2,
            "network.shape is 56 voxels along y, must be a multiple of 16, which the network folds by 2 and halves 3 \
             times: 48 or 64",
        ),
        (|c| *unet(c).2 = 0.0, "network.voxel_mm is 0"),
        (|c| *unet(c).2 = f64::NAN, "network.voxel_mm is NaN"),
        (|c| c.crop = Some([24, 20, 24]), "crop is 20 voxels along y, must be a multiple of 8"),
        (
            |c| c.crop = Some([96, 48, 48]),
            "crop is [96, 48, 48], must fit the network's grid of [48, 56, 56]",
        ),
        (|c| c.batch = 0, "batch is 0"),
        (|c| c.batch = 1 << 40, "batch is 1099511627776"),
        (|c| c.epochs = 0, "epochs is 0"),
        (|c| c.validation_fraction = 1.0, "validation_fraction is 1"),
        (|c| c.seed = u64::MAX, "seed is 18446744073709551615"),
        (|c| c.learning_rate = 0.0, "learning_rate is 0"),
        (|c| c.learning_rate = f64::INFINITY, "learning_rate is inf"),
        (|c| c.cache_mib = usize::MAX, "cache_mib is"),
        (|c| c.optimiser.ema_decay = 1.0, "optimiser.ema_decay is 1"),
        (|c| c.optimiser.weight_decay = -1.0, "optimiser.weight_decay is -1"),
        (|c| c.optimiser.clip_norm = f32::NAN, "optimiser.clip_norm is NaN"),
        (|c| c.augmentation.flip = 1.5, "augmentation.flip is 1.5"),
        (|c| c.augmentation.scale = 0.9, "augmentation.scale is 0.9"),
        (|c| c.augmentation.noise = f64::NAN, "augmentation.noise is NaN"),
        (|c| c.network.set_name(""), "the model's name '' is empty"),
    ];
    for (change, words) in cases {
        let mut config = unfolded();
        change(&mut config);
        let faults = config.check().expect_err(words);
        assert!(faults.contains(words) && !faults.contains("; "), "{words}: {faults}");
    }
    let mut article = TrainConfig::article_preset();
    let NetworkConfig::Article { voxel_mm, .. } = &mut article.network else { unreachable!("the article's") };
    *voxel_mm = 3.0;
    let faults = article.check().expect_err("3 mm make 85 voxels");
    assert!(faults.contains("network.voxel_mm is 85 voxels along y, must be a multiple of 16"), "{faults}");
    // All faults at once, and what is built in has none.
    let mut config = TrainConfig::default_preset();
    (config.batch, config.epochs, config.augmentation.curve) = (0, 0, -1.0);
    let faults = config.check().expect_err("three faults");
    assert_eq!(faults.split("; ").count(), 3, "{faults}");
    for preset in [TrainConfig::default_preset(), TrainConfig::article_preset()] {
        preset.check().expect("a preset is sound");
    }
}

#[test]
fn the_learning_rate_rises_and_falls_to_a_hundredth() {
    let config =
        TrainConfig { learning_rate: 2.0, warmup_steps: 10, cosine: true, ..TrainConfig::default_preset() };
    assert_eq!(config.learning_rate_at(5, 110), 1.0);
    assert_eq!(config.learning_rate_at(10, 110), 2.0);
    assert!((config.learning_rate_at(60, 110) - 1.01).abs() < 1e-12);
    assert!((config.learning_rate_at(110, 110) - 0.02).abs() < 1e-12);
    let flat = TrainConfig { cosine: false, warmup_steps: 0, ..config };
    assert_eq!(flat.learning_rate_at(1, 110), 2.0);
    assert_eq!(flat.learning_rate_at(110, 110), 2.0);
}

/// Voxels of 10 mm, so that the whole head fits with room to move.
fn grid() -> GridSpec {
    GridSpec {
        shape: [16, 18, 20],
        voxel_mm: [10.0; 3],
        centre: Centre::Head { above_mm: 16.0 },
        sampling: Sampling::Area,
        intensity: Intensity::Percentile { low: 1.0, high: 99.5 },
        n4: None,
        patches: None,
        mirror: false,
        mirror_axes: [false; 3],
        axes: AxisCodes::RAS,
        readout: Readout::Linear,
    }
}

/// A network that sees that.
fn network(input: GridSpec) -> Description {
    mirror_of_the_input(input).description
}

fn values(gpu: &Gpu, tensors: [GpuTensor; 2]) -> [Vec<f32>; 2] {
    tensors.map(|tensor| wait(gpu.download(&tensor)).expect("downloads"))
}

fn largest_gap(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// An image that is its mask in grey: wherever a sample looks, one tells the other.
fn grey_mask(folder: &Folder) -> Pair {
    put(folder, "grey", &image(|ix| if brain(ix) { 1000.0 } else { 0.0 }), &mask())
}

#[test]
fn image_and_mask_move_together() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let pair = grey_mask(&folder);
    let head = wait(StoredHead::read(&gpu, &pair.clone().into(), &network(grid()), true)).expect("a head");
    let still = Augmentation::none();
    let moves = [
        Augmentation { flip: 1.0, ..still.clone() },
        Augmentation { rotation: 0.5, ..still.clone() },
        Augmentation { scale: 0.3, ..still.clone() },
        Augmentation { shift_mm: 30.0, ..still.clone() },
        Augmentation { elastic_mm: 6.0, ..still.clone() },
        Augmentation { elastic_mm: 3.0, field_of_view: 0.5, ..Augmentation::default() },
    ];
    let [_, unmoved] = values(&gpu, wait(head.plain(&gpu, &grid())).expect("samples"));
    for (ix, augmentation) in moves.into_iter().enumerate() {
        let augmentation =
            Augmentation { gamma: 0.0, invert: 0.0, curve: 0.0, bias: 0.0, noise: 0.0, ..augmentation };
        for sample in 0..8 {
            let tensors =
                wait(head.augmented(&gpu, &grid(), &augmentation, 3, sample, None)).expect("samples");
            let [x, y] = values(&gpu, tensors);
            // Half precision, and a mask of 8 bits.
            assert!(
                largest_gap(&x, &y) < 0.01,
                "augmentation {ix}, sample {sample}: {}",
                largest_gap(&x, &y)
            );
            let moved = largest_gap(&y, &unmoved);
            assert!(moved > 0.1, "augmentation {ix}, sample {sample} moved by {moved}");
            assert!(y.iter().sum::<f32>() > 0.3 * unmoved.iter().sum::<f32>());
        }
    }
}

#[test]
fn tones_leave_the_mask_alone() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let pair = put(&folder, "head", &head(1), &mask());
    let stored = wait(StoredHead::read(&gpu, &pair.clone().into(), &network(grid()), false)).expect("a head");
    let [x, y] = values(&gpu, wait(stored.plain(&gpu, &grid())).expect("samples"));
    let still = Augmentation::none();
    for augmentation in [
        Augmentation { gamma: 0.5, ..still.clone() },
        Augmentation { invert: 1.0, ..still.clone() },
        Augmentation { curve: 1.0, ..still.clone() },
        Augmentation { bias: 0.5, ..still.clone() },
        Augmentation { noise: 0.2, ..still.clone() },
    ] {
        let draw = |seed| {
            values(
                &gpu,
                wait(stored.augmented(&gpu, &grid(), &augmentation, seed, 4, None)).expect("samples"),
            )
        };
        let [toned, target] = draw(3);
        assert!(target == y, "{augmentation:?} changes the mask");
        assert!(largest_gap(&toned, &x) > 0.02, "{augmentation:?} changes nothing");
        assert!(toned.iter().all(|v| v.is_finite()));
        assert!(draw(3)[0] == toned && draw(4)[0] != toned, "{augmentation:?} does not follow its seed");
    }
}

#[test]
fn cuts_keep_the_brain() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let shell = |ix: usize| match radius(ix) {
        r if r < 0.7 => 1000.0,
        r if r < 1.0 => 500.0,
        // Air of several levels: one level of it would pass for padding.
        _ => (ix % 10) as f32,
    };
    let pair = put(&folder, "shell", &image(shell), &mask());
    let stored = wait(StoredHead::read(&gpu, &pair.clone().into(), &network(grid()), true)).expect("a head");
    let [x, y] = values(&gpu, wait(stored.plain(&gpu, &grid())).expect("samples"));
    let cuts = Augmentation { field_of_view: 1.0, ..Augmentation::none() };
    let mut darkened = 0;
    for sample in 0..24 {
        let tensors = wait(stored.augmented(&gpu, &grid(), &cuts, 5, sample, None)).expect("samples");
        let [cut, target] = values(&gpu, tensors);
        assert!(target == y, "a cut changes the mask");
        for ix in (0..y.len()).filter(|&ix| y[ix] > 0.5) {
            assert!(
                (cut[ix] - x[ix]).abs() < 0.01,
                "sample {sample}: {} in the brain was {}",
                cut[ix],
                x[ix]
            );
        }
        assert!(cut.iter().zip(&x).all(|(cut, x)| *cut < x + 0.01), "a cut brightens");
        darkened += cut.iter().zip(&x).filter(|(cut, x)| **cut < **x - 0.2).count();
    }
    assert!(darkened > 30, "{darkened} voxels of scalp were cut");
}

#[test]
fn crops_land_in_the_grid_and_mostly_on_the_brain() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let pair = put(&folder, "head", &head(1), &mask());
    let stored = wait(StoredHead::read(&gpu, &pair.clone().into(), &network(grid()), false)).expect("a head");
    let [x, y] = values(&gpu, wait(stored.plain(&gpu, &grid())).expect("samples"));
    let (shape, crop) = (grid().shape, [8, 6, 10]);
    let window = |values: &[f32], offset: [usize; 3]| -> Vec<f32> {
        let at = |i: usize| -> [usize; 3] { [i / (crop[1] * crop[2]), i / crop[2] % crop[1], i % crop[2]] };
        let index = |[a, b, c]: [usize; 3]| (a * shape[1] + b) * shape[2] + c;
        let voxels = 0..crop.iter().product::<usize>();
        voxels.map(|i| values[index(std::array::from_fn(|axis| offset[axis] + at(i)[axis]))]).collect()
    };
    let brain: Vec<usize> = (0..y.len()).filter(|&ix| y[ix] > 0.5).collect();
    let of = |ix: usize| [ix / (shape[1] * shape[2]), ix / shape[2] % shape[1], ix % shape[2]];
    let bounds: [[usize; 2]; 3] = std::array::from_fn(|axis| {
        let along = || brain.iter().map(|&ix| of(ix)[axis]);
        [along().min().expect("a brain"), along().max().expect("a brain")]
    });
    let rooms: Vec<[usize; 3]> = (0..=shape[0] - crop[0])
        .flat_map(|a| (0..=shape[1] - crop[1]).map(move |b| [a, b]))
        .flat_map(|[a, b]| (0..=shape[2] - crop[2]).map(move |c| [a, b, c]))
        .collect();
    let mut places = Vec::new();
    for sample in 0..40 {
        let tensors = wait(stored.augmented(&gpu, &grid(), &Augmentation::none(), 9, sample, Some(crop)));
        let [cut, target] = values(&gpu, tensors.expect("samples"));
        let place = rooms.iter().find(|&&offset| window(&x, offset) == cut);
        let place = *place.unwrap_or_else(|| panic!("sample {sample} is no window of the grid"));
        assert!(window(&y, place) == target, "sample {sample}: the mask is cut elsewhere");
        places.push(place);
    }
    let on_brain = places.iter().filter(|place| {
        // A window of the brain's box that reaches beyond the grid is pushed back into it.
        (0..3).all(|a| place[a] <= bounds[a][1] && place[a] + crop[a] > bounds[a][0])
    });
    assert!(on_brain.count() >= 30);
    places.sort_unstable();
    places.dedup();
    assert!(places.len() > 20, "{} places", places.len());
}

/// A network that hands its input on, less a half: its probabilities tell what it saw.
fn mirror_of_the_input(input: GridSpec) -> Model {
    let kind = LayerKind::Conv3d {
        out_channels: 1,
        kernel: [1; 3],
        stride: [1; 3],
        dilation: [1; 3],
        padding: None,
        bias: true,
        activation: ActivationKind::None,
    };
    let layer = Layer { name: "out".into(), inputs: vec!["input".into()], kind };
    let description = Description {
        name: "input".into(),
        input,
        layers: vec![layer],
        output: "out".into(),
        answer: AnswerKind::Logit,
        no_csf: None,
        first: None,
        folds: 1,
    };
    let tensors = Tensors::from([
        ("out.weight".into(), (vec![1; 5], vec![1.0])),
        ("out.bias".into(), (vec![1], vec![-0.5])),
    ]);
    Model { description, tensors, card: ModelCard::default() }
}

#[test]
fn a_sample_without_augmentation_is_what_strip_feeds_the_network() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    // Voxels of the image are voxels of the grid, which reaches beyond it on all sides; all numbers are exact.
    const MM: f64 = 8.0;
    let origin = [-88.0, -104.0, -80.0];
    let spec = GridSpec { shape: [32, 32, 32], voxel_mm: [MM; 3], centre: Centre::WorldOrigin, ..grid() };
    let mut seen = image(|ix| match ix {
        7 => f32::NAN,
        100 | 5000 => 1e6,
        _ if brain(ix) => 1400.0 + (ix % 7) as f32,
        _ if radius(ix) < 1.0 => 1100.0 + (ix % 5) as f32,
        _ => 1000.0 + (ix % 3) as f32,
    });
    let mut mask = mask();
    for file in [&mut seen, &mut mask] {
        file.srow = [[MM, 0.0, 0.0, origin[0]], [0.0, MM, 0.0, origin[1]], [0.0, 0.0, MM, origin[2]]];
    }
    let pair = put(&folder, "head", &seen, &mask);
    let volume = Labelled::read(&pair.clone().into()).expect("a head").image;
    let stripper = &mut wait(Stripper::new(&gpu, &mirror_of_the_input(spec.clone()))).expect("compiles");
    let options = StripOptions { probability: true, ..StripOptions::default() };
    let stripped =
        wait(stripper.strip(&volume, &options)).expect("some brain").probability.expect("asked for");

    let stored =
        wait(StoredHead::read(&gpu, &pair.clone().into(), &network(spec.clone()), false)).expect("a head");
    let still = Augmentation::none();
    for [x, _] in [
        wait(stored.plain(&gpu, &spec)).expect("samples"),
        wait(stored.augmented(&gpu, &spec, &still, 1, 1, None)).expect("samples"),
    ] {
        let half = wait(gpu.upload(&x.desc, &vec![-0.5f32; x.desc.len()])).expect("fits");
        let logits = run_op1(&gpu, &Add, &[&x, &half]).expect("adds");
        let sample: Vec<f32> =
            wait(gpu.download(&run_op1(&gpu, &Activate::Sigmoid, &[&logits]).expect("runs")))
                .expect("downloads");
        // The first voxel of the grid lies at half its extent to the left, back and bottom.
        let first: [usize; 3] = std::array::from_fn(|a| ((origin[a] + MM * 16.0) / MM) as usize);
        let [nx, ny, _] = SHAPE;
        for (ix, &probability) in stripped.iter().enumerate() {
            let [i, j, k] = [ix % nx + first[0], ix / nx % ny + first[1], ix / (nx * ny) + first[2]];
            let sampled = sample[(i * 32 + j) * 32 + k];
            assert!(probability.to_bits() == sampled.to_bits(), "voxel {ix}: {probability} and {sampled}");
        }
    }
    assert!(stripped.iter().any(|&p| p > 0.6) && stripped.iter().any(|&p| p < 0.4), "no contrast was seen");
}

#[test]
fn two_masks_of_one_image_are_two_heads() {
    let Some(gpu) = gpu() else { return };
    let folder = Folder::new();
    let first = put(&folder, "head", &head(1), &mask());
    let inner = folder.put("inner.nii", &image(|ix| f32::from(u8::from(radius(ix) < 0.4))).bytes());
    let second = pair(first.image.clone(), inner);
    let cache = HeadCache::new(64);
    let volume = |pair: &Pair| -> f32 {
        let head =
            wait(cache.get_or_read(&gpu, &pair.clone().into(), &network(grid()), false)).expect("a head");
        values(&gpu, wait(head.plain(&gpu, &grid())).expect("samples"))[1].iter().sum()
    };
    let (outer, inner) = (volume(&first), volume(&second));
    assert!(inner < 0.3 * outer, "{inner} of {outer}");
    assert_eq!([volume(&first), volume(&second)], [outer, inner], "the second time, from memory");
}

#[test]
fn heads_are_known_again_by_their_content() {
    let folder = Folder::new();
    let pairs: Vec<Pair> =
        (1..=3).map(|seed| put(&folder, &format!("h{seed}"), &head(seed), &mask())).collect();
    let rows = |pairs: Vec<Pair>| check_rows(pairs, &|| {}).expect("usable").heads;
    let mut training = rows(pairs.clone());
    let validation = training.split_off(2);
    let records = Split { training, validation }.records();
    let again = |training: Vec<Pair>, validation: Vec<Pair>| {
        Split::again(&records, rows(training), rows(validation)).map(|split| split.records())
    };
    // In whatever order, and wherever the files lie.
    let moved = put(&folder, "elsewhere", &head(2), &mask());
    let shuffled = vec![pairs[2].clone(), moved, pairs[0].clone()];
    let found = again(shuffled, vec![]).expect("the same heads");
    let hashes = |records: &[_]| -> Vec<String> {
        records.iter().map(|r: &trephine::pipeline::train::data::HeadRecord| r.image_sha256.clone()).collect()
    };
    assert_eq!(hashes(&found), hashes(&records));
    let refused = |training: &[&Pair], validation: &[&Pair]| -> String {
        let of = |pairs: &[&Pair]| pairs.iter().map(|&pair| pair.clone()).collect();
        again(of(training), of(validation)).expect_err("other heads")
    };
    let [one, two, three] = &pairs[..] else { unreachable!("three heads") };
    let gone = refused(&[one, two], &[]);
    assert!(gone.contains("1 gone from the tables") && gone.contains("h3.nii"), "{gone}");
    let new = put(&folder, "h4", &head(4), &mask());
    let added = refused(&[one, two, three, &new], &[]);
    assert!(added.contains("1 new in the tables") && added.contains("h4.nii"), "{added}");
    let swapped = refused(&[one, three], &[two]);
    assert!(swapped.contains("2 moved between training and validation"), "{swapped}");
    put(&folder, "h1", &head(1), &image(|ix| f32::from(u8::from(radius(ix) < 0.6))));
    let changed = refused(&[one, two, three], &[]);
    assert!(changed.contains("1 changed since") && changed.contains("h1_mask.nii"), "{changed}");
    assert_eq!(SHAPE.iter().product::<usize>(), VOXELS);
}

#[test]
fn a_model_keeps_its_parents_name_licence_and_credits() {
    let file = WeightFile::open("default").expect("built in");
    let (parent, sha256) = (file.model().expect("a model"), file.sha256());
    assert_eq!(sha256.len(), 64);
    let mut card = ModelCard { data: "pairs.tsv".into(), ..ModelCard::default() };
    card.descend_from(&parent, &sha256);
    // It has a parent itself.
    assert_eq!(card.parent, format!("default (sha256 {sha256}), from {}", parent.card.parent));
    assert!(!card.licence.is_empty() && card.licence == parent.card.licence);
    assert!(!card.attribution.is_empty() && card.attribution == parent.card.attribution);
    // A grandchild, with words of its own.
    let description = residual_unet("child", &[4, 8], 1, grid());
    let tensors = initialise(&description, 1).expect("describes a network");
    let child = Model { description, tensors, card };
    let child = Model::from_bytes(&child.to_bytes(false).expect("serialises"), "child").expect("parses");
    let mut card = ModelCard { licence: "CC0".into(), attribution: "me".into(), ..ModelCard::default() };
    card.descend_from(&child, "abc");
    assert_eq!(card.parent, format!("child (sha256 abc), from {}", child.card.parent));
    assert!(card.licence.contains("CC0") && card.licence.contains(&parent.card.licence));
    assert_eq!(card.attribution, format!("me; {}", parent.card.attribution));
}
