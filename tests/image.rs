//! Compositions of image operators against plain definitions on the CPU.

#[expect(dead_code, reason = "other tests limit what the device binds")]
mod common;

use common::{assert_close, gpu, rng, wait};
use trephine::gpu::Gpu;
use trephine::graph::run_op;
use trephine::ops::Fill;
use trephine::ops::label::Components;
use trephine::ops::resample::{
    AxisOrder, Edge, Interpolation, Resample, grid_matrix, index_matrix, prefilters,
};
use trephine::pipeline::normalise::{Method, normalise_tensor};
use trephine::pipeline::postprocess::{brain_mask, distance, with_border};
use trephine::tensor::{TensorDesc, Zyx};

/// Runs a normalisation of a `[D, H, W]` volume.
fn normalised(gpu: &Gpu, shape: [usize; 3], data: &[f32], method: &Method) -> Vec<f64> {
    let volume = wait(gpu.upload(&TensorDesc::f32(&shape), data)).expect("upload");
    let result = normalise_tensor(gpu, &volume, method).expect("normalises");
    wait(gpu.download::<f32>(&result)).expect("download").into_iter().map(f64::from).collect()
}

#[test]
fn methods_ignore_nan_and_keep_constants_finite() {
    let Some(gpu) = gpu() else { return };
    let shape = [9, 8, 7];
    let mut rng = rng("normalise");
    let noise = Fill::Normal(100.0).sample(&mut rng, &TensorDesc::f32(&shape));
    let mut data: Vec<f32> = noise.data.iter().map(|&v| 300.0 + v as f32).collect();
    data[3] = f32::NAN;
    data[100] = f32::INFINITY;
    data[101] = f32::NEG_INFINITY;
    let mut sorted: Vec<f64> = data.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v)).collect();
    sorted.sort_by(f64::total_cmp);
    let mean = sorted.iter().sum::<f64>() / 501.0;
    let std = (sorted.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 501.0).sqrt();
    // 501 values: the 1% and 99% quantiles are the 6th from either end.
    for (method, low, high, zero) in [
        (Method::MinMax { low: 0.0, high: 255.0 }, sorted[0], sorted[500], true),
        (
            Method::Percentiles { quantiles: [0.01, 0.99], low: 0.0, high: 255.0 },
            sorted[5],
            sorted[495],
            true,
        ),
        (Method::ZScore { above: None }, mean, mean + std, false),
    ] {
        let want: Vec<f64> = data
            .iter()
            .map(|&v| {
                let t = (f64::from(v) - low) / (high - low);
                match (v.is_finite(), zero) {
                    (false, _) => 0.0,
                    (true, true) => 255.0 * t.clamp(0.0, 1.0),
                    (true, false) => t,
                }
            })
            .collect();
        let got = normalised(&gpu, shape, &data, &method);
        assert_close(&format!("{method:?}"), &got, &want, if zero { 1e-3 } else { 1e-5 });
        for value in [0.0f32, -7.25, 1e6, f32::NAN] {
            let flat = normalised(&gpu, shape, &[value; 504], &method);
            assert!(flat.iter().all(|v| v.abs() <= 1.0), "{method:?} of a constant {value}: {}", flat[0]);
        }
    }
}

/// A ball with a cavity, an island, and speckles below the threshold.
fn phantom(shape: [usize; 3], radius: f64) -> Vec<f32> {
    let mut data = Vec::new();
    for d in 0..shape[0] {
        for h in 0..shape[1] {
            for w in 0..shape[2] {
                let r = [d, h, w]
                    .iter()
                    .zip(shape)
                    .map(|(&i, n)| (i as f64 - n as f64 / 2.0).powi(2))
                    .sum::<f64>()
                    .sqrt();
                let island = d < 3 && h < 3 && w < 3;
                data.push(if (r < radius && r > 2.5) || island { 0.9 } else { 0.4 });
            }
        }
    }
    data
}

#[test]
fn brain_mask_is_the_filled_largest_component() {
    let Some(gpu) = gpu() else { return };
    let shape = [24, 28, 26];
    let radius = 9.0;
    let upload = wait(gpu.upload(&TensorDesc::f32(&shape), &phantom(shape, radius))).expect("upload");
    let mask = wait(brain_mask(&gpu, upload)).expect("runs");
    let got: Vec<u32> = wait(gpu.download(&mask)).expect("download");
    let mut want = Vec::new();
    for d in 0..shape[0] {
        for h in 0..shape[1] {
            for w in 0..shape[2] {
                let r2 = (d as f64 - 12.0).powi(2) + (h as f64 - 14.0).powi(2) + (w as f64 - 13.0).powi(2);
                want.push(u32::from(r2.sqrt() < radius));
            }
        }
    }
    assert_eq!(got, want);
    // Borders: a dilated and an eroded mask against the definition with a ball, voxels of 2 x 1 x 0.5 mm.
    let size = [2.0, 1.0, 0.5];
    let signed = distance(&gpu, &mask, Zyx(size)).expect("runs");
    let at = |i: usize| [i / (28 * 26), i / 26 % 28, i % 26];
    for border in [0.0, 1.0, 2.0, 2.5, -0.5, -1.0, -2.0] {
        let got: Vec<u32> =
            wait(gpu.download(&with_border(&gpu, &signed, border).expect("runs"))).expect("download");
        let grown = border >= 0.0;
        for (i, &value) in got.iter().enumerate() {
            let near = |j: usize| {
                let (a, b) = (at(i), at(j));
                let d2: f64 = (0..3).map(|k| ((a[k] as f64 - b[k] as f64) * size[k]).powi(2)).sum();
                d2 <= border * border
            };
            // Only voxels of the class that spreads, within the ball's box, can matter.
            let centre = at(i);
            let spreads = u32::from(grown);
            let mut reached = want[i] == spreads;
            for d in centre[0].saturating_sub(2)..(centre[0] + 3).min(shape[0]) {
                for h in centre[1].saturating_sub(3)..(centre[1] + 4).min(shape[1]) {
                    for w in centre[2].saturating_sub(6)..(centre[2] + 7).min(shape[2]) {
                        let j = (d * shape[1] + h) * shape[2] + w;
                        reached |= want[j] == spreads && near(j);
                    }
                }
            }
            let expected = u32::from(reached == grown);
            assert_eq!(value, expected, "border {border} mm at {centre:?}");
        }
    }
}

/// Shapes that make long chains: a serpentine that fills the volume, and a comb whose teeth meet at the end.
#[test]
fn winding_components_stay_whole() {
    let Some(gpu) = gpu() else { return };
    let shape = [33, 65, 64];
    let index = |d: usize, h: usize, w: usize| (d * shape[1] + h) * shape[2] + w;
    let mut serpentine = vec![0u32; shape.iter().product()];
    let mut comb = serpentine.clone();
    for d in (0..shape[0]).step_by(2) {
        for h in 0..shape[1] {
            for w in 0..shape[2] {
                // Even rows are full, odd rows join them at alternating ends.
                let end = if h % 4 == 1 { shape[2] - 1 } else { 0 };
                if h % 2 == 0 || w == end {
                    serpentine[index(d, h, w)] = 1;
                }
                if w % 2 == 0 || h == shape[1] - 1 {
                    comb[index(d, h, w)] = 1;
                }
            }
        }
        if d + 1 < shape[0] {
            // One voxel joins a slice to the next.
            let h = if d % 4 == 0 { shape[1] - 1 } else { 0 };
            serpentine[index(d + 1, h, 0)] = 1;
            comb[index(d + 1, shape[1] - 1, shape[2] - 2)] = 1;
        }
    }
    for (name, mask) in [("serpentine", serpentine), ("comb", comb)] {
        let tensor = wait(gpu.upload(&TensorDesc::u32(&shape), &mask)).expect("upload");
        let mut runs = Vec::new();
        for _ in 0..2 {
            let labels = run_op(&gpu, &Components, &[&tensor]).expect("runs");
            runs.push(wait(gpu.download::<u32>(&labels[0])).expect("download"));
        }
        assert_eq!(runs[0], runs[1], "{name}: two runs differ");
        assert_eq!(runs[0], mask, "{name}: one component, whose first voxel is the volume's");
    }
}

/// Down to a coarser, reoriented grid and back: a smooth volume must return to where it was.
#[test]
fn grids_and_axis_orders_compose() {
    use glam::{DMat4, DVec3, DVec4};
    let Some(gpu) = gpu() else { return };
    // A file of 20 x 24 x 18 voxels (x, y, z) of 1 x 1 x 1.25 mm, x to the left.
    let native = DMat4::from_cols(
        DVec4::new(-1.0, 0.0, 0.0, 0.0),
        DVec4::new(0.0, 1.0, 0.0, 0.0),
        DVec4::new(0.0, 0.0, 1.25, 0.0),
        DVec4::new(10.0, -12.0, -9.0, 1.0),
    );
    let network = DMat4::from_cols(
        DVec4::new(1.5, 0.0, 0.0, 0.0),
        DVec4::new(0.0, 1.5, 0.0, 0.0),
        DVec4::new(0.0, 0.0, 1.5, 0.0),
        DVec4::new(-11.0, -12.0, -10.0, 1.0),
    );
    let world = |p: DVec3| (p.x * 0.11).sin() + 0.5 * (p.y * 0.13).cos() + 0.03 * p.z;
    // Stored as the file stores it: [z, y, x].
    let mut data = Vec::new();
    for z in 0..18 {
        for y in 0..24 {
            for x in 0..20 {
                data.push(world(native.transform_point3(DVec3::new(x as f64, y as f64, z as f64))) as f32);
            }
        }
    }
    let upload = wait(gpu.upload(&TensorDesc::f32(&[18, 24, 20]), &data)).expect("upload");
    let to_network = Resample {
        matrix: index_matrix(grid_matrix(native, network), AxisOrder::Zyx, AxisOrder::Xyz),
        shape: [15, 17, 14],
        interpolation: Interpolation::Cubic,
        edge: Edge::Clamp,
        outside: f32::MAX,
    };
    // 1.5 mm against 1 mm in x and y and 1.25 mm in z: every axis is filtered.
    let axes: Vec<usize> = prefilters(&to_network.matrix).iter().map(|(op, _)| op.axis).collect();
    assert_eq!(axes, [0, 1, 2]);
    let coarse = run_op(&gpu, &to_network, &[&upload]).expect("runs").swap_remove(0);
    let got: Vec<f32> = wait(gpu.download(&coarse)).expect("download");
    let mut checked = 0;
    for (i, &value) in got.iter().enumerate() {
        let (x, y, z) = (i / (17 * 14), i / 14 % 17, i % 14);
        let point = network.transform_point3(DVec3::new(x as f64, y as f64, z as f64));
        let voxel = native.inverse().transform_point3(point).to_array();
        if (0..3).all(|a| voxel[a] >= 1.0 && voxel[a] <= [18.0, 22.0, 16.0][a]) {
            assert!((f64::from(value) - world(point)).abs() < 2e-3, "at {x} {y} {z}");
            checked += 1;
        }
    }
    assert!(checked > 1000);
}
