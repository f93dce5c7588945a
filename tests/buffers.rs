//! What goes to the device comes back, whatever its size, buffers are used again, and errors are blamed on their cause.

#[expect(dead_code, reason = "other tests compare tensors")]
mod common;

use common::{gpu, rng, wait};
use rand::Rng;
use trephine::gpu::{Gpu, GpuOptions, SHADERS};
use trephine::graph::run_op1;
use trephine::ops::elementwise::{Add, Scale};
use trephine::tensor::TensorDesc;

const MIB: usize = 1 << 18;

#[test]
fn transfers_in_one_piece_and_in_many() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("transfers");
    // Pieces hold 4 MiB, and three are on their way at a time.
    for n in [1, 63, MIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 12 * MIB, 17 * MIB + 5] {
        let desc = TensorDesc::u32(&[n]);
        let first: Vec<u32> = (0..n).map(|_| rng.random()).collect();
        let tensor = wait(gpu.upload(&desc, &first)).expect("upload");
        assert!(wait(gpu.download::<u32>(&tensor)).expect("download") == first, "{n} words");
        let second: Vec<u32> = first.iter().map(|v| !v).collect();
        wait(gpu.write(&tensor, &second)).expect("write");
        let copy = gpu.empty(&TensorDesc::u32(&[n + 3])).expect("allocates");
        gpu.copy(&tensor, &copy, 2).expect("copies");
        let copied: Vec<u32> = wait(gpu.download(&copy)).expect("download");
        assert!(copied[2..n + 2] == second && copied[..2] == [0; 2] && copied[n + 2] == 0, "{n} words");
    }
    assert!(wait(gpu.write(&gpu.empty(&TensorDesc::u32(&[3])).expect("allocates"), &[1u32, 2])).is_err());
}

/// A buffer whose tensor is gone is taken by the next of its size, unless that must be zero.
#[test]
fn buffers_are_used_again() {
    let Some(gpu) = gpu() else { return };
    let desc = TensorDesc::u32(&[2 * MIB + 7]);
    let upload = || wait(gpu.upload(&desc, &vec![7u32; 2 * MIB + 7])).expect("upload");
    drop(upload());
    let again = gpu.unfilled(&desc).expect("allocates");
    let values: Vec<u32> = wait(gpu.download(&again)).expect("download");
    assert!(values.iter().all(|&v| v == 7), "a new buffer would be zero");
    // A tensor of which another shares the buffer is not gone.
    let shared = again.clone();
    drop(again);
    let other = wait(gpu.upload(&desc, &vec![8u32; 2 * MIB + 7])).expect("upload");
    assert!(wait(gpu.download::<u32>(&shared)).expect("download").iter().all(|&v| v == 7));
    drop((shared, other));
    let zero: Vec<u32> = wait(gpu.download(&gpu.empty(&desc).expect("allocates"))).expect("download");
    assert!(zero.iter().all(|&v| v == 0));
}

/// A kernel that the device refuses is an error of that kernel alone, whoever else is at work on the device.
#[test]
fn errors_are_blamed_on_the_work_that_caused_them() {
    let Some(gpu) = gpu() else { return };
    let options =
        GpuOptions { device: Some(gpu.summary.index.to_string()), checked: true, ..GpuOptions::default() };
    let own = wait(Gpu::open(&options)).expect("the adapter opened before");
    // More invocations than any adapter takes, which only the driver's side of the compiler knows.
    let source = SHADERS.get_file("elementwise/scale.wgsl").and_then(|file| file.contents_utf8());
    let greedy = source.expect("an embedded shader").replace("@workgroup_size(64)", "@workgroup_size(65536)");
    own.replace_shader("elementwise/scale.wgsl", greedy);
    let x = wait(own.upload(&TensorDesc::f32(&[3]), &[1.0f32, 2.0, 3.0])).expect("upload");
    std::thread::scope(|scope| {
        let guilty = scope.spawn(|| {
            for _ in 0..100 {
                let error = run_op1(&own, &Scale { factor: 2.0 }, &[&x]).expect_err("the device refuses it");
                let text = error.to_string();
                assert!(text.contains("elementwise/scale.wgsl"), "blamed on something else: {text}");
            }
        });
        while !guilty.is_finished() {
            let sum = run_op1(&own, &Add, &[&x, &x]).expect("nothing is wrong with an addition");
            let values: Vec<f32> = wait(own.download(&sum)).expect("nor with reading");
            assert_eq!(values, [2.0, 4.0, 6.0]);
        }
    });
}
