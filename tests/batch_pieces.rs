//! Operators that split a batch whose tensors exceed the binding limit give the same bits as unsplit.

#[expect(dead_code, reason = "other tests also compare with tolerances")]
mod common;

use common::{gpu, limited, rng, wait};
use trephine::gpu::{Gpu, GpuTensor};
use trephine::graph::{run_op, run_op_variant};
use trephine::ops::activation::Activation;
use trephine::ops::cast::Cast;
use trephine::ops::conv::{Conv3d, Conv3dGradInput, Conv3dGradWeight, Window};
use trephine::ops::norm::{BatchNormInference, Norm, NormGradInput, NormGradReduce, NormKind};
use trephine::ops::pool::{MaxPool3d, MaxPool3dGrad};
use trephine::ops::upsample::{Upsample, UpsampleGrad, UpsampleMode, UpsampleTo};
use trephine::ops::{Fill, Operator};
use trephine::tensor::{DType, TensorDesc};

fn run(gpu: &Gpu, op: &dyn Operator, inputs: &[TensorDesc]) -> Vec<Vec<u32>> {
    let mut rng = rng(op.name());
    let tensors: Vec<GpuTensor> = inputs
        .iter()
        .map(|desc| {
            wait(gpu.upload(desc, &Fill::Normal(1.0).sample(&mut rng, desc).to_words())).expect("upload")
        })
        .collect();
    let outputs = run_op(gpu, op, &tensors.iter().collect::<Vec<_>>()).expect("runs");
    outputs.iter().map(|tensor| wait(gpu.download(tensor)).expect("download")).collect()
}

/// The three kernels of `winograd_3d` go through a volume in slabs of as many windows as a binding holds.
#[test]
fn slabs_of_a_volume_change_nothing() {
    let Some(whole) = gpu() else { return };
    let op = Conv3d::new(Window::same([3; 3]), true);
    let descs = [&[2, 4, 4, 8, 16][..], &[5, 4, 3, 3, 3], &[5]].map(TensorDesc::f32);
    let slabs = limited(&whole, descs[0].bytes());
    let lowered = op.lower(&descs, &op.infer(&descs).expect("shapes fit"), slabs.caps(), "winograd_3d");
    // Of 64 windows a sample, the 16 products of each at 64 points leave room for 4.
    assert_eq!(lowered.dispatches.len(), 1 + 2 * 16 * 3);
    let run = |gpu: &Gpu| {
        let mut rng = rng("slabs");
        let tensors = descs.each_ref().map(|desc| {
            let words = Fill::Normal(1.0).sample(&mut rng, desc).to_words();
            wait(gpu.upload(desc, &words)).expect("upload")
        });
        let y = wait(run_op_variant(gpu, &op, &tensors.each_ref(), "winograd_3d", async |_| Ok(())))
            .expect("runs");
        wait(gpu.download::<u32>(&y[0])).expect("download")
    };
    assert_eq!(run(&whole), run(&slabs));
}

/// Kernels that need copies larger than the tensors are left out where a binding does not hold the copies.
#[test]
fn copies_that_exceed_a_binding_are_not_made() {
    let Some(whole) = gpu() else { return };
    let op = Conv3dGradWeight { window: Window::same([2; 3]), two_inputs: false, kernel: [2; 3] };
    // Channels are filled up to four.
    let inputs = [3, 2].map(|channels| TensorDesc::f32(&[1, channels, 6, 5, 8]));
    let tight = limited(&whole, inputs[0].bytes());
    assert_eq!(op.variants(&inputs, whole.caps()), ["split", "naive"]);
    assert_eq!(op.variants(&inputs, tight.caps()), ["naive"]);
    let [one, other] = [&whole, &tight].map(|gpu| run(gpu, &op, &inputs));
    let gap = one[0].iter().zip(&other[0]).map(|(a, b)| (f32::from_bits(*a) - f32::from_bits(*b)).abs());
    assert!(gap.fold(0.0, f32::max) < 1e-3);
}

/// A sample larger than a binding goes through the variants that bind it by sets of channels.
#[test]
fn sets_of_channels_change_nothing() {
    let Some(whole) = gpu() else { return };
    let shape = [16, 32, 64];
    let tensor = |channels: usize| TensorDesc::f32(&[1, channels, shape[0], shape[1], shape[2]]);
    let (x, dy, weight) = (tensor(4), tensor(5), TensorDesc::f32(&[5, 4, 3, 3, 3]));
    let sets = limited(&whole, x.bytes() / 2);
    let window = Window::same([3; 3]);
    let forward = Conv3d::new(window, true);
    let by_input = Conv3dGradInput { window, input: shape, channels: 0..4 };
    let by_weight = Conv3dGradWeight { window, two_inputs: false, kernel: [3; 3] };
    let operators: [(&dyn Operator, Vec<TensorDesc>); 3] = [
        (&forward, vec![x.clone(), weight.clone(), TensorDesc::f32(&[5])]),
        (&by_input, vec![dy.clone(), weight]),
        (&by_weight, vec![x, dy]),
    ];
    for (op, inputs) in operators {
        for variant in op.variants(&inputs, sets.caps()) {
            let run = |gpu: &Gpu| {
                let mut rng = rng(op.name());
                let tensors: Vec<GpuTensor> = inputs
                    .iter()
                    .map(|desc| {
                        let words = Fill::Normal(1.0).sample(&mut rng, desc).to_words();
                        wait(gpu.upload(desc, &words)).expect("upload")
                    })
                    .collect();
                let y =
                    wait(run_op_variant(gpu, op, &tensors.iter().collect::<Vec<_>>(), variant, async |_| {
                        Ok(())
                    }))
                    .expect("runs");
                wait(gpu.download::<f32>(&y[0])).expect("download")
            };
            let (want, got) = (run(&whole), run(&sets));
            let norm =
                |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
            let difference =
                norm(&mut want.iter().zip(&got).map(|(a, b)| a - b)) / norm(&mut want.iter().copied());
            // The gradient by the weights adds up other slabs.
            let tolerance = if op.name() == "conv3d_grad_weight" { 1e-5 } else { 0.0 };
            assert!(difference.sqrt() <= tolerance, "{} {variant}: {difference}", op.name());
        }
    }
}

#[test]
fn splitting_a_batch_changes_nothing() {
    let Some(whole) = gpu() else { return };
    let x = TensorDesc::f32(&[3, 4, 4, 8, 16]);
    let half = TensorDesc::f32(&[3, 4, 2, 4, 8]);
    let channels = TensorDesc::f32(&[4]);
    let activation = Activation::LeakyRelu(0.01);
    let mut cases: Vec<(Box<dyn Operator>, Vec<TensorDesc>)> = Vec::new();
    for (kind, stats) in [
        (NormKind::Batch, TensorDesc::f32(&[4])),
        (NormKind::Instance, TensorDesc::f32(&[3, 4])),
        (NormKind::Group { groups: 2 }, TensorDesc::f32(&[3, 2])),
    ] {
        let sums = TensorDesc::f32(&[stats.len(), 2]);
        let mut inputs =
            vec![x.clone(), x.clone(), channels.clone(), channels.clone(), stats.clone(), stats.clone()];
        cases.push((
            Box::new(Norm { kind, eps: 1e-5, activation }),
            vec![x.clone(), channels.clone(), channels.clone()],
        ));
        cases.push((Box::new(NormGradReduce { kind, activation }), inputs.clone()));
        inputs.push(sums);
        cases.push((Box::new(NormGradInput { kind, activation }), inputs));
    }
    let [a, b, c, d] = [0; 4].map(|_| channels.clone());
    cases.push((Box::new(BatchNormInference { eps: 4.0, activation }), vec![x.clone(), a, b, c, d]));
    let pool = MaxPool3d::HALVE;
    cases.push((Box::new(pool), vec![x.clone()]));
    cases.push((Box::new(MaxPool3dGrad { pool }), vec![x.clone(), half.clone()]));
    for mode in [UpsampleMode::Nearest, UpsampleMode::Trilinear { align_corners: false }] {
        cases.push((Box::new(Upsample { mode, to: UpsampleTo::Scale([2; 3]) }), vec![half.clone()]));
        cases.push((Box::new(UpsampleGrad { mode, size: [2, 4, 8] }), vec![x.clone()]));
    }
    if whole.caps().f16 {
        let [x, half] = [&x, &half].map(|desc| TensorDesc::f16(&desc.shape));
        let norm = Norm { kind: NormKind::Instance, eps: 1e-5, activation };
        cases.push((Box::new(norm), vec![x.clone(), channels.clone(), channels.clone()]));
        cases.push((Box::new(pool), vec![x.clone()]));
        cases.push((Box::new(Cast { to: DType::F32 }), vec![x]));
        let mode = UpsampleMode::Trilinear { align_corners: false };
        cases.push((Box::new(Upsample { mode, to: UpsampleTo::Scale([2; 3]) }), vec![half]));
    }
    // One sample of the larger tensor of each case, and no more.
    let split = limited(&whole, x.bytes() / 3);
    for (op, inputs) in &cases {
        assert_eq!(run(&whole, op.as_ref(), inputs), run(&split, op.as_ref(), inputs), "{op:?}");
    }
}
