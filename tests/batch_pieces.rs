//! Operators that split a batch whose tensors exceed the binding limit give the same bits as unsplit.

#[expect(dead_code, reason = "other tests also compare with tolerances")]
mod common;

use common::{gpu, random, rng};
use trephine::gpu::{Gpu, GpuOptions, GpuTensor};
use trephine::graph::run_op;
use trephine::ops::activation_kind::Activation;
use trephine::ops::cast::Cast;
use trephine::ops::norm::{BatchNormInference, Norm, NormGradInput, NormGradReduce, NormKind};
use trephine::ops::pool::{MaxPool3d, MaxPool3dGrad};
use trephine::ops::upsample::{Upsample, UpsampleGrad, UpsampleMode, UpsampleTo};
use trephine::ops::{Fill, Operator};
use trephine::tensor::{DType, TensorDesc};

fn run(gpu: &Gpu, op: &dyn Operator, inputs: &[TensorDesc]) -> Vec<Vec<u32>> {
    let mut rng = rng(op.name());
    let tensors: Vec<GpuTensor> = inputs
        .iter()
        .map(|desc| gpu.upload(desc, &random(&mut rng, desc, Fill::Normal(1.0)).to_words()).expect("upload"))
        .collect();
    let outputs = run_op(gpu, op, &tensors.iter().collect::<Vec<_>>()).expect("runs");
    outputs.iter().map(|tensor| gpu.download(tensor).expect("download")).collect()
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
    if whole.caps.f16 {
        let [x, half] = [&x, &half].map(|desc| TensorDesc::f16(&desc.shape));
        let norm = Norm { kind: NormKind::Instance, eps: 1e-5, activation };
        cases.push((Box::new(norm), vec![x.clone(), channels.clone(), channels.clone()]));
        cases.push((Box::new(pool), vec![x.clone()]));
        cases.push((Box::new(Cast { to: DType::F32 }), vec![x]));
        let mode = UpsampleMode::Trilinear { align_corners: false };
        cases.push((Box::new(Upsample { mode, to: UpsampleTo::Scale([2; 3]) }), vec![half]));
    }
    let mut split = Gpu::open(&GpuOptions { device: Some(whole.summary.index.to_string()), checked: true })
        .expect("the adapter opened before");
    // One sample of the larger tensor of each case, and no more.
    split.caps.max_binding = x.bytes() / 3;
    for (op, inputs) in &cases {
        assert_eq!(run(&whole, op.as_ref(), inputs), run(&split, op.as_ref(), inputs), "{op:?}");
    }
}
