//! N4 against SimpleITK's log fields (`tests/fixtures/n4_*.safetensors`, made by
//! `tools/make_fixtures.py`), and its sharp edges.

#[expect(dead_code, reason = "the operators' test uses the rest")]
mod common;

use common::{gpu, rng, wait};
use safetensors::SafeTensors;
use trephine::gpu::{Gpu, GpuTensor};
use trephine::ops::Fill;
use trephine::pipeline::bias::{N4Error, N4Options, RegionTensors, divide_in_place, n4};
use trephine::tensor::{TensorDesc, Xyz, Zyx};

/// A fixture: tensors by name, as numbers.
struct Fixture(Vec<u8>);

impl Fixture {
    fn open(name: &str) -> Self {
        let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = SafeTensors::deserialize(&self.0).expect("a safetensors file");
        let view = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let data = match view.dtype() {
            safetensors::Dtype::F32 => {
                view.data().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
            }
            safetensors::Dtype::U8 => view.data().iter().map(|&byte| f32::from(byte)).collect(),
            other => panic!("{name} is {other:?}"),
        };
        (view.shape().to_vec(), data)
    }

    fn scalar(&self, name: &str) -> f32 {
        self.get(name).1[0]
    }

    /// A volume `[x, y, z]` of the fixture as `[D, H, W]`.
    fn volume(&self, name: &str) -> (TensorDesc, Vec<f32>) {
        let (shape, data) = self.get(name);
        transpose(&shape, &data)
    }

    fn mask(&self, shape: &[usize]) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.0).expect("a safetensors file");
        if tensors.tensor("mask").is_ok() {
            return self.volume("mask").1;
        }
        let bits = self.get("mask_bits").1;
        let mask: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|i| f32::from(u8::from((bits[i / 8] as u8 >> (i % 8)) & 1 == 1)))
            .collect();
        transpose(shape, &mask).1
    }
}

/// Reverses the order of the axes.
fn transpose(shape: &[usize], data: &[f32]) -> (TensorDesc, Vec<f32>) {
    let [a, b, c] = [shape[0], shape[1], shape[2]];
    let mut out = Vec::with_capacity(data.len());
    for k in 0..c {
        for j in 0..b {
            out.extend((0..a).map(|i| data[(i * b + j) * c + k]));
        }
    }
    (TensorDesc::f32(&[c, b, a]), out)
}

/// Compares the field of one setting of a fixture with SimpleITK's.
fn matches_simpleitk(name: &str, variant: &str) {
    let Some(gpu) = gpu() else { return };
    let fixture = Fixture::open(name);
    let (desc, volume) = fixture.volume("volume");
    let offset = fixture.get("shrink_offset").1;
    let options = N4Options {
        shrink: Zyx([fixture.scalar("shrink") as usize; 3]),
        iterations: fixture.get("iterations").1.iter().map(|&n| n as usize).collect(),
        offset: Some(Xyz([0, 1, 2].map(|axis| offset[axis] as usize)).into()),
        ..N4Options::article()
    };
    let native: Vec<usize> = desc.shape.iter().rev().copied().collect();
    let volume = wait(gpu.upload(&desc, &volume)).expect("upload");
    let mask = (variant == "mask").then(|| upload_mask(&gpu, &desc, &fixture.mask(&native)));
    let result = wait(n4(&gpu, &volume, RegionTensors { mask: mask.as_ref(), confidence: None }, &options))
        .expect("N4 runs");
    let ran: Vec<usize> = result.fit.levels.iter().map(|level| level.iterations).collect();
    assert_eq!(ran, options.iterations, "tolerance 0 runs all iterations");
    // ITK's own offset, too.
    let own = wait(n4(
        &gpu,
        &volume,
        RegionTensors { mask: mask.as_ref(), confidence: None },
        &N4Options { offset: None, ..options },
    ))
    .expect("N4 runs");
    assert_eq!(
        own.fit.lattice, result.fit.lattice,
        "the default offset is ITK's, and runs repeat to the bit"
    );

    let field: Vec<f32> = wait(gpu.download(&result.log_field)).expect("download");
    let step = fixture.scalar("field_step") as usize;
    let (want_desc, want) = fixture.volume(&format!("{variant}.log_field"));
    let [d, h, w] = [want_desc.shape[0], want_desc.shape[1], want_desc.shape[2]];
    let mut squares = 0.0f64;
    let mut worst = 0.0f64;
    for z in 0..d {
        for y in 0..h {
            for x in 0..w {
                let got = field[(z * step * desc.shape[1] + y * step) * desc.shape[2] + x * step];
                let error = f64::from(got - want[(z * h + y) * w + x]).abs();
                squares += error * error;
                worst = worst.max(error);
            }
        }
    }
    let rms = (squares / want.len() as f64).sqrt();
    eprintln!("{name} {variant}: rms {rms:.2e}, max {worst:.2e}");
    let (bar_rms, bar_max) = (f64::from(fixture.scalar("bar_rms")), f64::from(fixture.scalar("bar_max")));
    assert!(rms <= bar_rms && worst <= bar_max, "{name} {variant}: rms {rms:.2e}, max {worst:.2e}");
}

#[test]
fn head_without_mask_matches_simpleitk() {
    matches_simpleitk("n4_head", "no_mask");
}

#[test]
fn head_with_mask_matches_simpleitk() {
    matches_simpleitk("n4_head", "mask");
}

#[test]
fn anisotropic_head_with_a_mask_of_255s_matches_simpleitk() {
    matches_simpleitk("n4_anisotropic", "mask");
}

/// A ball of two tissues under a smooth field in an empty background: volume, mask, true log field.
fn phantom(shape: [usize; 3]) -> (TensorDesc, Vec<f32>, Vec<f32>, Vec<f64>) {
    let desc = TensorDesc::f32(&shape);
    let noise = Fill::Normal(2.0).sample(&mut rng("n4 phantom"), &desc);
    let [d, h, w] = shape;
    let (mut volume, mut mask, mut truth) = (Vec::new(), Vec::new(), Vec::new());
    for z in 0..d {
        for y in 0..h {
            for x in 0..w {
                let at = |i: usize, n: usize| 2.0 * i as f64 / (n - 1) as f64 - 1.0;
                let (u, v, s) = (at(x, w), at(y, h), at(z, d));
                let field = 0.25 * (u * 0.8 + v * v - 0.5 * s);
                let inside = u * u + v * v + s * s < 0.8;
                let tissue = if (9.0 * u).sin() * (8.0 * v).cos() * (7.0 * s + 1.0).sin() > 0.0 {
                    150.0
                } else {
                    100.0
                };
                let value = (tissue + noise.data[truth.len()]) * field.exp();
                volume.push(if inside { value as f32 } else { 0.0 });
                mask.push(f32::from(u8::from(inside)));
                truth.push(field);
            }
        }
    }
    (desc, volume, mask, truth)
}

fn upload(gpu: &Gpu, desc: &TensorDesc, data: &[f32]) -> GpuTensor {
    wait(gpu.upload(desc, data)).expect("upload")
}

fn upload_mask(gpu: &Gpu, desc: &TensorDesc, labels: &[f32]) -> GpuTensor {
    let labels: Vec<u32> = labels.iter().map(|&label| label as u32).collect();
    wait(gpu.upload(&TensorDesc::u32(&desc.shape), &labels)).expect("upload")
}

/// Standard deviation of the difference inside the mask: a constant factor is no error.
fn spread(field: &[f32], truth: &[f64], mask: &[f32]) -> f64 {
    let errors: Vec<f64> =
        (0..mask.len()).filter(|&i| mask[i] > 0.0).map(|i| f64::from(field[i]) - truth[i]).collect();
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    (errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / errors.len() as f64).sqrt()
}

#[test]
fn recovers_a_known_field_and_ignores_the_background() {
    let Some(gpu) = gpu() else { return };
    let (desc, volume, mask, truth) = phantom([44, 52, 48]);
    let options = N4Options { shrink: Zyx([2; 3]), iterations: vec![20, 20], ..N4Options::default() };
    let image = upload(&gpu, &desc, &volume);
    let masked = wait(n4(&gpu, &image, RegionTensors::mask(&upload_mask(&gpu, &desc, &mask)), &options))
        .expect("N4 runs");
    // Without a mask the zeros of the background are no voxels: the same mask results.
    let unmasked = wait(n4(&gpu, &image, RegionTensors::default(), &options)).expect("N4 runs");
    assert_eq!(masked.fit.lattice, unmasked.fit.lattice);
    assert_eq!(masked.fit.voxels, unmasked.fit.voxels);

    let field: Vec<f32> = wait(gpu.download(&masked.log_field)).expect("download");
    let error = spread(&field, &truth, &mask);
    let before = spread(&vec![0.0; field.len()], &truth, &mask);
    eprintln!("known field: rms {error:.4} of {before:.4}");
    assert!(error < 0.15 * before, "rms {error:.4} of {before:.4} is left");

    divide_in_place(&gpu, &image, &masked.log_field).expect("corrects");
    let corrected: Vec<f32> = wait(gpu.download(&image)).expect("download");
    for i in 0..field.len() {
        let want = volume[i] / field[i].exp();
        assert!((corrected[i] - want).abs() <= 1e-5 * want.abs(), "voxel {i}");
    }
}

/// Stops exactly where a run of that many iterations ends, although the device is asked every few
/// iterations only.
#[test]
fn the_tolerance_stops_at_its_iteration() {
    let Some(gpu) = gpu() else { return };
    let (desc, volume, mask, _) = phantom([40, 36, 44]);
    let (image, mask) = (upload(&gpu, &desc, &volume), upload_mask(&gpu, &desc, &mask));
    let options =
        N4Options { shrink: Zyx([2; 3]), iterations: vec![50, 50], tolerance: 2e-3, ..N4Options::default() };
    let stopped = wait(n4(&gpu, &image, RegionTensors::mask(&mask), &options)).expect("N4 runs");
    let ran: Vec<usize> = stopped.fit.levels.iter().map(|level| level.iterations).collect();
    eprintln!("levels: {:?}", stopped.fit.levels);
    assert!(ran.iter().all(|&n| n < 50), "converged: {ran:?}");
    assert!(stopped.fit.levels.iter().all(|level| level.convergence <= options.tolerance));
    let counted = N4Options { iterations: ran.clone(), tolerance: 0.0, ..options.clone() };
    let counted = wait(n4(&gpu, &image, RegionTensors::mask(&mask), &counted)).expect("N4 runs");
    assert_eq!(counted.fit.lattice, stopped.fit.lattice);
    // One iteration fewer had not converged.
    let fewer = N4Options { iterations: vec![ran[0] - 1], tolerance: 0.0, ..options };
    let fewer = wait(n4(&gpu, &image, RegionTensors::mask(&mask), &fewer)).expect("N4 runs");
    assert!(fewer.fit.levels[0].convergence > options.tolerance);
}

#[test]
fn voxels_that_are_no_intensities_leave_the_mask() {
    let Some(gpu) = gpu() else { return };
    let (desc, mut volume, mut mask, _) = phantom([32, 36, 40]);
    let options = N4Options { shrink: Zyx([1; 3]), iterations: vec![3], ..N4Options::default() };
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -5.0, 0.0];
    let centre = (16 * 36 + 18) * 40 + 20;
    for (ix, value) in bad.into_iter().enumerate() {
        volume[centre + ix] = value;
    }
    // Any label counts.
    let labels: Vec<f32> = mask.iter().map(|m| m * 255.0).collect();
    let image = upload(&gpu, &desc, &volume);
    let got = wait(n4(&gpu, &image, RegionTensors::mask(&upload_mask(&gpu, &desc, &labels)), &options))
        .expect("N4 runs");
    mask[centre..centre + bad.len()].fill(0.0);
    let want = wait(n4(&gpu, &image, RegionTensors::mask(&upload_mask(&gpu, &desc, &mask)), &options))
        .expect("N4 runs");
    assert_eq!(got.fit.lattice, want.fit.lattice);
    assert_eq!(got.fit.voxels, mask.iter().filter(|&&m| m > 0.0).count());
    assert!(got.fit.lattice.data.iter().all(|v| v.is_finite()));
}

#[test]
fn the_unit_of_the_image_does_not_matter() {
    let Some(gpu) = gpu() else { return };
    let (desc, volume, _, _) = phantom([32, 36, 40]);
    let options = N4Options { shrink: Zyx([2; 3]), iterations: vec![10], ..N4Options::default() };
    let field = |factor: f32| -> Vec<f32> {
        let scaled: Vec<f32> = volume.iter().map(|v| v * factor).collect();
        let result = wait(n4(&gpu, &upload(&gpu, &desc, &scaled), RegionTensors::default(), &options))
            .expect("N4 runs");
        wait(gpu.download(&result.log_field)).expect("download")
    };
    let (plain, small) = (field(1.0), field(1.0 / 255.0));
    let worst = plain.iter().zip(&small).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "the fields differ by {worst}");
}

#[test]
fn what_cannot_be_corrected_is_an_error() {
    let Some(gpu) = gpu() else { return };
    let (desc, volume, mask, _) = phantom([32, 36, 40]);
    let options = N4Options { shrink: Zyx([2; 3]), ..N4Options::default() };
    let image = upload(&gpu, &desc, &volume);
    let run = |image: &GpuTensor, mask: Option<&[f32]>, options: &N4Options| {
        let mask = mask.map(|mask| upload_mask(&gpu, &desc, mask));
        wait(n4(&gpu, image, RegionTensors { mask: mask.as_ref(), confidence: None }, options))
            .expect_err("must fail")
    };
    let n = desc.len();
    assert!(matches!(run(&image, Some(&vec![0.0; n]), &options), N4Error::TooFewVoxels { voxels: 0, .. }));
    let mut one = vec![0.0; n];
    one[n / 2] = 1.0;
    assert!(matches!(run(&image, Some(&one), &options), N4Error::TooFewVoxels { .. }));
    let constant = upload(&gpu, &desc, &vec![100.0; n]);
    assert!(matches!(run(&constant, None, &options), N4Error::Constant));
    for wrong in [
        N4Options { shrink: Zyx([2, 0, 2]), ..options.clone() },
        N4Options { iterations: vec![1; 20], ..options.clone() },
        N4Options { iterations: vec![], ..options.clone() },
        N4Options { iterations: vec![5, 0], ..options.clone() },
        N4Options { bins: 257, ..options.clone() },
        N4Options { fwhm: 0.0, ..options.clone() },
        N4Options { tolerance: f32::NAN, ..options.clone() },
        N4Options { control_points: Zyx([4, 3, 4]), ..options.clone() },
    ] {
        assert!(matches!(run(&image, Some(&mask), &wrong), N4Error::Options(_)), "{wrong:?}");
    }
    let other = upload_mask(&gpu, &TensorDesc::f32(&[36, 32, 40]), &mask);
    assert!(matches!(
        wait(n4(&gpu, &image, RegionTensors::mask(&other), &options)),
        Err(N4Error::Shape { .. })
    ));
    let flat = upload(&gpu, &TensorDesc::f32(&[n]), &volume);
    assert!(matches!(wait(n4(&gpu, &flat, RegionTensors::default(), &options)), Err(N4Error::Shape { .. })));
}

/// A confidence of 0 and a mask that leaves the same voxels out are one; a confidence counts.
#[test]
fn a_confidence_weighs_the_fit() {
    let Some(gpu) = gpu() else { return };
    let (desc, volume, mask, truth) = phantom([32, 36, 40]);
    let options = N4Options { shrink: Zyx([2; 3]), iterations: vec![10, 10], ..N4Options::default() };
    let image = upload(&gpu, &desc, &volume);
    let weighted = |confidence: &[f32]| {
        let confidence = upload(&gpu, &desc, confidence);
        wait(n4(&gpu, &image, RegionTensors { mask: None, confidence: Some(&confidence) }, &options))
            .expect("N4 runs")
    };
    let masked = wait(n4(&gpu, &image, RegionTensors::mask(&upload_mask(&gpu, &desc, &mask)), &options))
        .expect("N4 runs");
    let same = weighted(&mask);
    assert_eq!((same.fit.voxels, &same.fit.lattice), (masked.fit.voxels, &masked.fit.lattice));
    // Powers of two: the same factor in delta and omega, to the bit.
    assert_eq!(weighted(&mask.iter().map(|m| 4.0 * m).collect::<Vec<_>>()).fit.lattice, masked.fit.lattice);
    let upper: Vec<f32> =
        mask.iter().enumerate().map(|(i, m)| m * if i < mask.len() / 2 { 0.1 } else { 1.0 }).collect();
    let uneven = weighted(&upper);
    assert_eq!(uneven.fit.voxels, masked.fit.voxels);
    // What counts more is fitted more closely, but to the same image.
    let fields = [&masked.log_field, &uneven.log_field]
        .map(|field| wait(gpu.download::<f32>(field)).expect("download"));
    let moved = fields[0].iter().zip(&fields[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(moved > 1e-4, "the field moved by {moved} only");
    let errors = fields.map(|field| spread(&field, &truth, &mask));
    assert!(errors[1] < 2.0 * errors[0], "{errors:?}");
}

/// Padding is a domain that is wider than the volume: the same as a volume with a margin outside its mask.
#[test]
fn knots_every_few_mm_pad_the_domain() {
    let Some(gpu) = gpu() else { return };
    let (desc, volume, mask, _) = phantom([20, 36, 30]);
    let options = N4Options { shrink: Zyx([1, 3, 2]), iterations: vec![5, 5], ..N4Options::default() }
        .with_spline_distance(30.0, Xyz([30, 36, 20]), Xyz([1.5, 1.0, 3.0]))
        .expect("positive");
    // 57, 35 and 43.5 mm: 2 spans each, 60 mm, so 3, 25 and 16.5 mm of padding.
    assert_eq!(options.control_points, Zyx([5, 5, 5]));
    assert_eq!(options.padding, Zyx([[0, 1], [12, 13], [5, 6]]));
    let image = upload(&gpu, &desc, &volume);
    let mask_tensor = upload_mask(&gpu, &desc, &mask);
    let got = wait(n4(&gpu, &image, RegionTensors::mask(&mask_tensor), &options)).expect("N4 runs");

    let [d, h, w] = [20 + 1, 36 + 25, 30 + 11];
    let (mut wide, mut wide_mask) = (vec![7.0; d * h * w], vec![0.0; d * h * w]);
    for z in 0..20 {
        for y in 0..36 {
            let (from, to) = ((z * 36 + y) * 30, (z * h + y + 12) * w + 5);
            wide[to..to + 30].copy_from_slice(&volume[from..from + 30]);
            wide_mask[to..to + 30].copy_from_slice(&mask[from..from + 30]);
        }
    }
    let wide_desc = TensorDesc::f32(&[d, h, w]);
    let region = upload_mask(&gpu, &wide_desc, &wide_mask);
    let unpadded = N4Options { padding: Zyx([[0; 2]; 3]), ..options };
    let want = wait(n4(&gpu, &upload(&gpu, &wide_desc, &wide), RegionTensors::mask(&region), &unpadded))
        .expect("N4 runs");
    assert_eq!((got.fit.voxels, &got.fit.lattice), (want.fit.voxels, &want.fit.lattice));
    let (got, want): (Vec<f32>, Vec<f32>) = (
        wait(gpu.download(&got.log_field)).expect("download"),
        wait(gpu.download(&want.log_field)).expect("download"),
    );
    for z in 0..20 {
        for y in 0..36 {
            let (from, to) = ((z * 36 + y) * 30, (z * h + y + 12) * w + 5);
            assert_eq!(got[from..from + 30], want[to..to + 30], "row {z}, {y}");
        }
    }
}

#[test]
fn thick_slices_are_shrunken_less() {
    let options = N4Options::default().shrunken_to(3.0, Xyz([1.0, 0.7, 4.0]));
    assert_eq!(options.shrink, Zyx([1, 4, 3]));
}
