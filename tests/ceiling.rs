//! Below a ceiling for the device's buffers, and on a device with too little memory, results are what they are without, bit
//! for bit.

#[expect(dead_code, reason = "other tests compare values")]
mod common;

use std::sync::Arc;

use common::{gpu, limited, rng, wait};
use glam::{DMat4, DVec3};
use rand::Rng;
use trephine::gpu::{Gpu, GpuOptions};
use trephine::model::{
    AxisCodes, Centre, GridSpec, Intensity, Model, ModelCard, Readout, Sampling, initialise, residual_unet,
};
use trephine::ops::resample::{AxisOrder, Edge, Interpolation};
use trephine::pipeline::bias::N4Options;
use trephine::pipeline::place::slabs;
use trephine::pipeline::place::source::Source;
use trephine::pipeline::strip::{N4Choice, StripOptions, Stripped, Stripper};
use trephine::pipeline::window::Window;
use trephine::tensor::{Xyz, Zyx};
use trephine::volume::{Grid, Volume};

const MIB: u64 = 1 << 20;

/// A bright ball in a shell, with noise, on oblique anisotropic voxels that measure 200 mm together along each axis.
fn volume(shape: [usize; 3]) -> Volume {
    let size = DVec3::from_array(shape.map(|n| 200.0 / n as f64));
    let affine = DMat4::from_translation(DVec3::new(-110.0, -80.0, -120.0))
        * DMat4::from_rotation_x(0.2)
        * DMat4::from_scale(size);
    let mut volume = Volume::zeros(Xyz(shape), affine);
    let mut rng = rng("ceiling");
    for ix in 0..volume.data.len() {
        let at = [ix % shape[0], ix / shape[0] % shape[1], ix / (shape[0] * shape[1])];
        let [x, y, z] = [0, 1, 2].map(|a| 2.0 * at[a] as f32 / shape[a] as f32 - 1.0);
        let tissue = match (x * x + y * y + z * z).sqrt() {
            ..0.5 => 300.0,
            ..0.7 => 40.0,
            ..0.9 => 400.0,
            _ => 8.0,
        };
        volume.data[ix] = (tissue + rng.random_range(-5.0..5.0f32)) * (0.3 * z - 0.2 * x * y).exp();
    }
    volume
}

fn open(like: &Gpu, ceiling: Option<u64>, memory: Option<u64>) -> Arc<Gpu> {
    let device = Some(like.summary.index.to_string());
    let options = GpuOptions { device, checked: true, ceiling, memory, ..GpuOptions::default() };
    Arc::new(wait(Gpu::open(&options)).expect("the adapter opened before"))
}

/// Random weights on a grid of 40x48x44 voxels: some 12 MiB of buffers.
fn network() -> Model {
    let grid = GridSpec {
        shape: [40, 48, 44],
        voxel_mm: [4.5; 3],
        centre: Centre::Head { above_mm: 16.0 },
        sampling: Sampling::Area,
        intensity: Intensity::Percentile { low: 1.0, high: 99.5 },
        n4: None,
        mirror: true,
        mirror_axes: [false; 3],
        patches: None,
        axes: AxisCodes::RAS,
        readout: Readout::Linear,
    };
    let description = residual_unet("small", &[8, 16], 1, grid);
    let mut tensors = initialise(&description, 7).expect("describes a network");
    tensors.get_mut("head.bias").expect("the output has a bias").1[0] = 0.5;
    Model { description, tensors, card: ModelCard::default() }
}

fn bits(values: Option<&Vec<f32>>) -> Vec<u32> {
    values.expect("asked for").iter().map(|v| v.to_bits()).collect()
}

/// Where a volume is does not change its samples, beyond faces that it is mirrored at neither.
#[test]
fn samples_do_not_depend_on_where_a_volume_is() {
    let Some(whole) = gpu() else { return };
    let volume = volume([31, 26, 47]);
    let small = limited(&whole, volume.data.len() as u64 * 4 / 3);
    let window = Window::of(&volume).expect("shows something");
    assert!(slabs::slabs(&small, volume.shape).len() > 1);
    let [device, memory] = [&whole, &small].map(|gpu| wait(Source::of(gpu, &volume, &window)).expect("runs"));
    assert!(matches!(device, Source::Device(_)) && matches!(memory, Source::Memory { .. }));
    let own = Grid::of(&volume);
    assert_eq!((device.grid(), memory.grid()), (own, own));
    // Larger than the volume, its planes across the volume's.
    let across = Grid {
        shape: Xyz([21, 23, 24]),
        affine: DMat4::from_translation(DVec3::new(-150.0, -120.0, -140.0))
            * DMat4::from_rotation_y(0.9)
            * DMat4::from_scale(DVec3::splat(13.0)),
    };
    let mirror = |low, high| Some(Edge::Mirror { low, high });
    for edges_mm in [None, Some(DVec3::splat(11.0))] {
        let (mut device, mut memory) = (device.clone(), memory.clone());
        if let Some(edges_mm) = edges_mm {
            device = wait(device.averaged_over(&whole, edges_mm)).expect("runs");
            memory = wait(memory.averaged_over(&small, edges_mm)).expect("runs");
        }
        let values = [(&whole as &Gpu, &device), (&small, &memory)];
        let [want, got] = values.map(|(gpu, source)| wait(source.values(gpu)).expect("runs"));
        assert!(bits(Some(&got)) == bits(Some(&want)), "values, {edges_mm:?}");
        for edge in
            [None, mirror([7, 0, 3], [0, 5, 0]), mirror([0; 3], [9, 9, 9]), mirror([4, 0, 0], [4, 0, 0])]
        {
            for (axes, interpolation) in [
                (AxisOrder::Xyz, Interpolation::Linear),
                (AxisOrder::Zyx, Interpolation::Cubic),
                (AxisOrder::Xyz, Interpolation::Nearest),
            ] {
                let [want, got] = values.map(|(gpu, source)| {
                    let sampled =
                        wait(source.sampled(gpu, &across, axes, interpolation, edge)).expect("runs");
                    (sampled.desc.clone(), wait(gpu.download::<f32>(&sampled)).expect("runs"))
                });
                assert_eq!(got.0, want.0);
                assert!(want.1.iter().filter(|&&v| v > 100.0).count() > 200);
                let differ = got.1.iter().zip(&want.1).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!(differ, 0, "{edges_mm:?} {edge:?} {axes:?} {interpolation:?}");
            }
        }
    }
}

fn assert_equal(got: &Stripped, want: &Stripped, what: &str) {
    assert!(got.mask == want.mask, "{what}: the mask");
    assert!(bits(got.probability.as_ref()) == bits(want.probability.as_ref()), "{what}: the probability");
    assert_eq!(got.score, want.score, "{what}");
}

#[test]
fn a_ceiling_changes_no_result() {
    let Some(gpu) = gpu() else { return };
    let quick = N4Options { shrink: Zyx([4; 3]), iterations: vec![4, 3], ..N4Options::default() };
    // 0.4 MiB, and 4 MiB that go in slabs.
    let (little, more) = ([40, 56, 44], [90, 120, 96]);
    for (shape, n4, ceilings) in [
        (little, N4Choice::Off, &[20, 17][..]),
        (more, N4Choice::Off, &[20]),
        (more, N4Choice::On(quick), &[40]),
    ] {
        let volume = volume(shape);
        let options = StripOptions { n4, probability: true, ..StripOptions::default() };
        let unlimited = open(&gpu, None, None);
        let mut stripper = wait(Stripper::new(&unlimited, &network())).expect("compiles");
        assert!(stripper.network_bytes() > 9 * MIB, "{}", stripper.network_bytes());
        let want = wait(stripper.strip(&volume, &options)).expect("strips");
        assert!(want.mask.contains(&1) && want.mask.contains(&0));
        for &mib in ceilings {
            let below = open(&gpu, Some(mib * MIB), None);
            let mut stripper = wait(Stripper::new(&below, &network())).expect("compiles");
            assert_eq!(stripper.network_bytes() == 0, mib < 40, "below {mib} MiB");
            assert_eq!(slabs::slabs(&below, volume.shape).len() > 1, shape == more, "below {mib} MiB");
            let got = wait(stripper.strip(&volume, &options)).expect("strips");
            assert_equal(&got, &want, &format!("{shape:?} below {mib} MiB"));
            assert!(below.peak_bytes() <= mib * MIB && stripper.lowered_ceiling().is_none());
        }
    }
}

#[test]
fn a_ceiling_that_is_too_low_says_what_would_do() {
    let Some(gpu) = gpu() else { return };
    let error = wait(Stripper::new(&open(&gpu, Some(4 * MIB), None), &network())).err().expect("is refused");
    let text = error.to_string();
    assert!(text.contains("layer '") && text.contains("MiB at once"), "{text}");
    assert!(text.contains("the ceiling is 4 MiB") && text.contains("raise --max-memory"), "{text}");
    // Nor does a single tensor go below it.
    let small = open(&gpu, Some(2 * MIB), None);
    let desc = trephine::tensor::TensorDesc::f32(&[3 << 18]);
    let text = small.empty(&desc).expect_err("is refused").to_string();
    assert!(text.contains("raise --max-memory"), "{text}");
    assert!(small.peak_bytes() < MIB);
    // What is gone makes room.
    let half = trephine::tensor::TensorDesc::f32(&[3 << 17]);
    for _ in 0..4 {
        let tensor = small.unfilled(&half).expect("fits");
        drop(tensor);
        small
            .unfilled(&trephine::tensor::TensorDesc::f32(&[(3 << 17) + 64]))
            .expect("fits once the other makes room");
    }
}

/// A network that the device does not hold whole is run in pieces, and that is told.
#[test]
fn a_network_that_finds_too_little_memory_goes_in_pieces() {
    let Some(gpu) = gpu() else { return };
    let volume = volume([60, 84, 66]);
    let options = StripOptions { n4: N4Choice::Off, probability: true, ..StripOptions::default() };
    let [want, got] = [None, Some(8 * MIB)].map(|memory| {
        let gpu = open(&gpu, None, memory);
        let mut stripper = wait(Stripper::new(&gpu, &network())).expect("compiles");
        assert_eq!(stripper.lowered_ceiling().is_some(), memory.is_some());
        match memory {
            None => wait(stripper.strip(&volume, &options)).expect("strips"),
            // The head would need more than is left, and says so: whoever strips opens the device anew.
            Some(_) => match wait(stripper.strip(&volume, &options)) {
                Ok(stripped) => stripped,
                Err(error) => {
                    assert!(error.is_out_of_memory(), "{error}");
                    let lower = open(&gpu, Some(17 * MIB), None);
                    let mut stripper = wait(Stripper::new(&lower, &network())).expect("compiles");
                    wait(stripper.strip(&volume, &options)).expect("strips")
                }
            },
        }
    });
    assert_equal(&got, &want, "in pieces");
}
