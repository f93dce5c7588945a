//! What the registry's cases cannot say about losses, optimiser and dropout: batches cut into pieces,
//! sums over millions of voxels, gradients that are not finite, and masks with the right share of zeros.

mod common;

use std::sync::Arc;

use common::{assert_close, gpu, limited, rng, wait};
use trephine::gpu::{Gpu, GpuTensor};
use trephine::graph::run_op;
use trephine::ops::activation::Activate;
use trephine::ops::concat::Concat;
use trephine::ops::dropout::Dropout;
use trephine::ops::loss::{Loss, LossGrad, OverlapCounts};
use trephine::ops::optimizer::{AccumulateSumOfSquares, Adam, AdamForm, ClipFactor};
use trephine::ops::softmax::Softmax;
use trephine::ops::{Fill, Operator};
use trephine::tensor::{HostTensor, TensorDesc};

fn upload(gpu: &Gpu, tensor: &HostTensor) -> GpuTensor {
    wait(gpu.upload(&tensor.desc, &tensor.to_words())).expect("upload")
}

fn scalar(gpu: &Gpu, value: f32) -> GpuTensor {
    wait(gpu.upload(&TensorDesc::f32(&[1]), &[value])).expect("upload")
}

fn read(gpu: &Gpu, tensor: &GpuTensor) -> Vec<f32> {
    wait(gpu.download(tensor)).expect("download")
}

const TRAINING_LOSS: Loss =
    Loss::DiceBce { smooth: 1.0, per_sample: true, dice_weight: 1.0, bce_weight: 1.0 };

/// A batch that is bound sample by sample gives the same bits as one that is bound whole.
#[test]
fn pieces_of_a_batch_agree_with_the_whole() {
    let Some(gpu) = gpu() else { return };
    // No less than a sample of any tensor below, less than any batch.
    let small = limited(&gpu, 4 * 8 * 8 * 8 * 4);
    let mut rng = rng("pieces");
    let flat = TensorDesc::f32(&[5, 1, 8, 8, 8]);
    let mut batch_wise = TRAINING_LOSS;
    if let Loss::DiceBce { per_sample, .. } = &mut batch_wise {
        *per_sample = false;
    }
    let z = Fill::Normal(3.0).sample(&mut rng, &flat);
    let y = Fill::Uniform(0.0, 1.0).sample(&mut rng, &flat);
    let sums = |rows| HostTensor::new(TensorDesc::f32(&[rows, 4]), (0..rows * 4).map(|v| v as f64).collect());
    let one = HostTensor::new(TensorDesc::f32(&[1]), vec![1.5]);
    let wide = TensorDesc::f32(&[3, 2, 8, 8, 8]);
    let a = Fill::Normal(1.0).sample(&mut rng, &wide);
    let b = Fill::Normal(1.0).sample(&mut rng, &wide);
    let seed = HostTensor::new(TensorDesc::u32(&[2]), vec![11.0, 12.0]);
    let cases: Vec<(Box<dyn Operator>, Vec<&HostTensor>)> = vec![
        (Box::new(TRAINING_LOSS), vec![&z, &y]),
        (Box::new(batch_wise.clone()), vec![&z, &y]),
        (Box::new(OverlapCounts { threshold: 0.5 }), vec![&z, &y]),
        (Box::new(Activate::Sigmoid), vec![&z]),
        (Box::new(Dropout { rate: 0.4, stream: 1 }), vec![&z, &seed]),
        (Box::new(Softmax), vec![&a]),
        (Box::new(Concat), vec![&a, &b]),
    ];
    let compare = |op: &dyn Operator, inputs: &[&HostTensor]| {
        let run = |gpu: &Gpu| -> Vec<Vec<u32>> {
            let tensors: Vec<GpuTensor> = inputs.iter().map(|t| upload(gpu, t)).collect();
            let outputs = run_op(gpu, op, &tensors.iter().collect::<Vec<_>>()).expect("runs");
            outputs.iter().map(|t| wait(gpu.download(t)).expect("download")).collect()
        };
        assert_eq!(run(&gpu), run(&small), "{op:?}");
    };
    for (op, inputs) in &cases {
        compare(op.as_ref(), inputs);
    }
    let (per_sample, whole) = (sums(5), sums(1));
    compare(&LossGrad(TRAINING_LOSS), &[&z, &y, &per_sample, &one]);
    compare(&LossGrad(batch_wise), &[&z, &y, &whole, &one]);
}

/// The two-stage sums over a head at 2 mm keep six digits.
#[test]
fn sums_over_two_million_voxels_stay_accurate() {
    let Some(gpu) = gpu() else { return };
    let desc = TensorDesc::f32(&[1, 1, 96, 128, 160]);
    let mut rng = rng("two million voxels");
    let z = Fill::Normal(3.0).sample(&mut rng, &desc);
    let y = Fill::Uniform(0.0, 1.0).sample(&mut rng, &desc);
    let (z_gpu, y_gpu) = (upload(&gpu, &z), upload(&gpu, &y));
    for op in [&TRAINING_LOSS as &dyn Operator, &OverlapCounts { threshold: 0.5 }] {
        let got = run_op(&gpu, op, &[&z_gpu, &y_gpu]).expect("runs");
        for (got, want) in got.iter().zip(op.reference(&[&z, &y])) {
            for (got, &want) in read(&gpu, got).iter().zip(&want.data) {
                assert_close(&format!("{op:?}"), &[f64::from(*got)], &[want], 1e-6 * want.abs());
            }
        }
    }
}

/// Three steps on a quadratic against the definition, with clipping by the norm of two gradients; then a
/// gradient with an infinity or a NaN changes nothing.
#[test]
fn adam_clips_and_survives_gradients_that_are_not_finite() {
    let Some(gpu) = gpu() else { return };
    let desc = TensorDesc::f32(&[777]);
    let mut rng = rng("adam");
    let adam = Adam {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-7,
        weight_decay: 0.01,
        form: AdamForm::PyTorch,
        rate: 1.0,
    };
    let mut state: Vec<HostTensor> = vec![
        Fill::Normal(1.0).sample(&mut rng, &desc),
        HostTensor::zeros(desc.clone()),
        HostTensor::zeros(desc.clone()),
    ];
    let device: Vec<GpuTensor> = state.iter().map(|t| upload(&gpu, t)).collect();
    let factor_of = |grads: &[&GpuTensor]| -> (GpuTensor, f32) {
        let accumulator = scalar(&gpu, 0.0);
        for grad in grads {
            run_op(&gpu, &AccumulateSumOfSquares, &[&accumulator, grad]).expect("runs");
        }
        let factor = run_op(&gpu, &ClipFactor { max_norm: 1.0 }, &[&accumulator]).expect("runs").remove(0);
        (factor, read(&gpu, &accumulator)[0])
    };
    let step = |t: u64, grad: &GpuTensor, clip: &GpuTensor| -> HostTensor {
        let words = adam.step_state(t, 0.01, 0.5);
        let step_state = wait(gpu.upload(&TensorDesc::f32(&[8]), &words)).expect("upload");
        let inputs = [&device[0], &device[1], &device[2], grad, &step_state, clip];
        run_op(&gpu, &adam, &inputs).expect("runs");
        HostTensor::new(TensorDesc::f32(&[8]), words.map(f64::from).to_vec())
    };
    for t in 1..=3 {
        let grads = [Fill::Normal(1.0).sample(&mut rng, &desc), Fill::Normal(2.0).sample(&mut rng, &desc)];
        let on_device = grads.each_ref().map(|g| upload(&gpu, g));
        let (clip, _) = factor_of(&[&on_device[0], &on_device[1]]);
        let norm = grads.iter().flat_map(|g| &g.data).map(|g| g * g).sum::<f64>().sqrt();
        let want_clip = HostTensor::new(TensorDesc::f32(&[1]), vec![1.0 / (norm + 1e-6)]);
        assert_close("clip factor", &[f64::from(read(&gpu, &clip)[0])], &want_clip.data, 1e-8);
        let step_state = step(t, &on_device[0], &clip);
        state = adam.reference(&[&state[0], &state[1], &state[2], &grads[0], &step_state, &want_clip]);
        for (got, want) in device.iter().zip(&state) {
            let got: Vec<f64> = read(&gpu, got).into_iter().map(f64::from).collect();
            let scale = want.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            assert_close("adam", &got, &want.data, 2e-6 * scale);
        }
    }
    let before: Vec<Vec<f32>> = device.iter().map(|t| read(&gpu, t)).collect();
    for bad in [f32::INFINITY, f32::NAN, 1e30] {
        let mut values = vec![0.25f32; 777];
        values[500] = bad;
        let grad = wait(gpu.upload(&desc, &values)).expect("upload");
        let (clip, sum) = factor_of(&[&grad]);
        assert!(!sum.is_finite(), "{bad} must show in the accumulator, which is {sum}");
        assert_eq!(read(&gpu, &clip), [0.0]);
        step(4, &grad, &clip);
        let after: Vec<Vec<f32>> = device.iter().map(|t| read(&gpu, t)).collect();
        assert_eq!(before, after, "a step with a gradient of {bad}");
    }
    // An infinite threshold detects without clipping.
    let detector = ClipFactor { max_norm: f32::INFINITY };
    let factor = run_op(&gpu, &detector, &[&scalar(&gpu, 1e12)]).expect("runs").remove(0);
    assert_eq!(read(&gpu, &factor), [1.0]);
}

/// A step state is 1 - beta^t to f32 precision from the first step to the last.
#[test]
fn step_state_is_accurate() {
    let adam =
        Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-7, weight_decay: 0.0, form: AdamForm::Keras, rate: 1.0 };
    assert_eq!(adam.step_state(1, 0.5, 2.0), [0.5, 0.1, 0.001, 2.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(adam.step_state(2, 0.5, 1.0)[1..3], [0.19, 0.001_999]);
    assert_eq!(adam.step_state(1_000_000, 0.5, 1.0)[1..3], [1.0, 1.0]);
}

/// The share of zeros is the rate, what is kept is scaled, and step and stream change the mask.
#[test]
fn dropout_drops_its_share() {
    let Some(gpu) = gpu() else { return };
    let desc = TensorDesc::f32(&[1, 2, 16, 32, 64]);
    let ones = wait(gpu.upload(&desc, &vec![1.0f32; desc.len()])).expect("upload");
    let run = |gpu: &Arc<Gpu>, stream: u32, step: u32| -> Vec<f32> {
        let seed = wait(gpu.upload(&TensorDesc::u32(&[2]), &[5u32, step])).expect("upload");
        let op = Dropout { rate: 0.05, stream };
        read(gpu, &run_op(gpu, &op, &[&ones, &seed]).expect("runs")[0])
    };
    let base = run(&gpu, 0, 1);
    let zeros = base.iter().filter(|&&v| v == 0.0).count() as f64;
    let n = desc.len() as f64;
    assert_close("share of zeros", &[zeros / n], &[0.05], 5.0 * (0.05 * 0.95 / n).sqrt());
    assert!(base.iter().all(|&v| v == 0.0 || (f64::from(v) - 1.0 / 0.95).abs() < 1e-6));
    assert_eq!(base, run(&gpu, 0, 1));
    for other in [run(&gpu, 1, 1), run(&gpu, 0, 2)] {
        let both = base.iter().zip(&other).filter(|&(&a, &b)| a == 0.0 && b == 0.0).count() as f64;
        assert_close("joint zeros", &[both / n], &[0.0025], 5.0 * (0.0025 / n).sqrt());
    }
}
