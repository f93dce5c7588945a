//! Resampling against nilearn, SimpleITK and SciPy, metrics against MONAI: the files of
//! `tools/make_fixtures.py`, whose arrays are indexed [x, y, z].

#[expect(dead_code, reason = "other tests draw random inputs")]
mod common;

use std::collections::HashMap;
use std::sync::Arc;

use common::{assert_close, gpu, wait};
use glam::{DMat4, DVec4};
use safetensors::SafeTensors;
use trephine::gpu::{Gpu, GpuTensor};
use trephine::graph::run_op;
use trephine::ops::Operator;
use trephine::ops::resample::{
    AxisOrder, Edge, Interpolation, Resample, grid_matrix, index_matrix, prefilters,
};
use trephine::tensor::{HostTensor, TensorDesc, Xyz};
use trephine::volume::metrics::compare;

/// A fixture: shape and values by name.
struct Golden(HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Golden {
    fn read(name: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let bytes = std::fs::read(&path).expect("the golden file is in the repository");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let values = |view: &safetensors::tensor::TensorView<'_>| match view.dtype() {
            safetensors::Dtype::U8 => view.data().iter().map(|&v| f64::from(v)).collect(),
            _ => view
                .data()
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4 bytes"))))
                .collect(),
        };
        Self(
            file.iter()
                .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), values(&view))))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.0.get(name).unwrap_or_else(|| panic!("the fixture has no '{name}'"))
    }

    fn affine(&self, name: &str) -> DMat4 {
        let (_, v) = self.get(name);
        let row = |r: usize| DVec4::new(v[4 * r], v[4 * r + 1], v[4 * r + 2], v[4 * r + 3]);
        DMat4::from_cols(row(0), row(1), row(2), row(3)).transpose()
    }
}

/// The operator's output on the device and by its reference in f64.
fn both(gpu: &Arc<Gpu>, op: &dyn Operator, inputs: &[&HostTensor]) -> [HostTensor; 2] {
    let tensors: Vec<GpuTensor> = inputs
        .iter()
        .map(|t| {
            let data: Vec<f32> = t.data.iter().map(|&v| v as f32).collect();
            wait(gpu.upload(&t.desc, &data)).expect("upload")
        })
        .collect();
    let output = run_op(gpu, op, &tensors.iter().collect::<Vec<_>>()).expect("runs").swap_remove(0);
    let data: Vec<f32> = wait(gpu.download(&output)).expect("download");
    let device = HostTensor::new(output.desc.clone(), data.into_iter().map(f64::from).collect());
    [device, op.reference(inputs).swap_remove(0)]
}

fn host(golden: &Golden, name: &str) -> HostTensor {
    let (shape, values) = golden.get(name);
    HostTensor::new(TensorDesc::f32(shape), values.clone())
}

/// The grid of `want` sampled from `case`'s source.
fn resample(golden: &Golden, case: &str, want: &str, interpolation: Interpolation, edge: Edge) -> Resample {
    let [from, to] =
        ["source_affine", "target_affine"].map(|affine| golden.affine(&format!("{case}{affine}")));
    let matrix = index_matrix(grid_matrix(from, to), AxisOrder::Xyz, AxisOrder::Xyz);
    let shape = golden.get(want).0[..].try_into().expect("3D");
    Resample { matrix, shape, interpolation, edge, outside: 0.0 }
}

#[test]
fn resampling_matches_nilearn_and_simpleitk() {
    use Edge::{Clamp, Zero};
    use Interpolation::{Cubic, Linear, Nearest};
    let Some(gpu) = gpu() else { return };
    let golden = Golden::read("resample.safetensors");
    for (case, want, interpolation, edge) in [
        ("", "nearest", Nearest, Zero),
        ("", "linear", Linear, Zero),
        ("", "cubic", Cubic, Zero),
        ("", "clamped.nearest", Nearest, Clamp),
        ("", "clamped.linear", Linear, Clamp),
        ("", "clamped.cubic", Cubic, Clamp),
        ("ties.", "ties.nearest", Nearest, Zero),
        ("ties.", "ties.linear", Linear, Zero),
    ] {
        let op = resample(&golden, case, want, interpolation, edge);
        let source = host(&golden, &format!("{case}source"));
        // A nearest voxel is the same voxel or another one; SimpleITK computes in f32.
        let tolerance = if interpolation == Nearest { 0.0 } else { 3e-6 };
        for (got, by) in both(&gpu, &op, &[&source]).iter().zip(["device", "reference"]) {
            assert_close(&format!("{want} by the {by}"), &got.data, &golden.get(want).1, tolerance);
        }
    }
}

#[test]
fn area_averages_match_scipy() {
    let Some(gpu) = gpu() else { return };
    let golden = Golden::read("resample.safetensors");
    for case in ["area_thick", "area_halve", "area_turned"] {
        let want = format!("{case}.output");
        let op = resample(&golden, &format!("{case}."), &want, Interpolation::Linear, Edge::Clamp);
        let source = host(&golden, &format!("{case}.source"));
        let [mut device, mut reference] = [source.clone(), source];
        let filters = prefilters(&op.matrix);
        assert_eq!(filters.len(), if case == "area_thick" { 2 } else { 3 });
        for (filter, weights) in filters {
            let data = weights.iter().map(|&w| f64::from(w)).collect();
            let weights = HostTensor::new(TensorDesc::f32(&[weights.len()]), data);
            device = both(&gpu, &filter, &[&device, &weights])[0].clone();
            reference = both(&gpu, &filter, &[&reference, &weights])[1].clone();
        }
        let got = &both(&gpu, &op, &[&device])[0];
        assert_close(&format!("{case} on the device"), &got.data, &golden.get(&want).1, 3e-6);
        let got = &both(&gpu, &op, &[&reference])[1];
        assert_close(&format!("{case} by the reference"), &got.data, &golden.get(&want).1, 1e-6);
    }
}

#[test]
fn metrics_match_monai() {
    let golden = Golden::read("metrics.safetensors");
    // [x, y, z] with z fastest, read as x fastest: the axes are z, y, x.
    let mask = |name: &str| -> Vec<u8> { golden.get(name).1.iter().map(|&v| v as u8).collect() };
    let shape = &golden.get("truth").0;
    let shape = [shape[2], shape[1], shape[0]];
    for kind in ["wobbly", "hollow"] {
        for voxel in ["isotropic", "thick"] {
            let size = &golden.get(&format!("{voxel}.voxel_size")).1;
            let got = compare(&mask(kind), &mask("truth"), Xyz(shape), [size[2], size[1], size[0]])
                .expect("compares");
            for (name, got) in [
                ("dice", got.dice),
                ("iou", got.iou),
                ("hd95", got.hd95_mm),
                ("assd", got.assd_mm),
                ("volume_error_percent", got.volume_error_percent),
            ] {
                let want = golden.get(&format!("{kind}.{voxel}.{name}")).1[0];
                // MONAI computes in f32.
                assert_close(&format!("{kind} {voxel} {name}"), &[got], &[want], 2e-6 * want.abs().max(1.0));
            }
        }
    }
}
