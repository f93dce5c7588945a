//! Results against the f64 reference.

use half::f16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::error::LabError;
use super::probe::{self, Sampled};
use super::report::Error;
use super::subject::Subject;
use crate::ops::{self, Comparison};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// Flops and elements up to which the reference computes everything, so that a check takes about a second.
const WHOLE_FLOPS: f64 = 1.5e8;
const WHOLE_ELEMENTS: usize = 6 << 20;

/// What is compared with the reference.
pub(super) enum Check {
    /// All outputs.
    Whole(Vec<HostTensor>),
    /// Some of the first output.
    Sampled(Sampled),
    /// All outputs of other subjects, as the reference takes too long at these shapes and does not come in parts.
    Elsewhere {
        /// What the others are, in words.
        what: String,
        /// The others, each with its own inputs and check.
        subjects: Vec<(Subject, Vec<HostTensor>)>,
    },
}

/// Words of all inputs as the device has them, the same for every call. Long ones repeat themselves.
pub(super) fn inputs_of(subject: &Subject) -> Vec<Vec<u32>> {
    /// Words; a prime, so that no extent divides it.
    const PERIOD: usize = 4_194_301;
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    subject
        .inputs
        .iter()
        .map(|(desc, fill)| {
            if desc.words() <= PERIOD {
                return fill.sample(&mut rng, desc).to_words();
            }
            let piece = fill.sample(&mut rng, &desc.with_shape(&[PERIOD * 4 / desc.dtype.bytes() as usize]));
            piece.to_words().into_iter().cycle().take(desc.words()).collect()
        })
        .collect()
}

fn host(subject: &Subject, words: &[Vec<u32>]) -> Vec<HostTensor> {
    subject
        .inputs
        .iter()
        .zip(words)
        .map(|((desc, _), words)| HostTensor::from_words(desc.clone(), words))
        .collect()
}

fn reference(subject: &Subject, words: &[Vec<u32>]) -> Vec<HostTensor> {
    let inputs = host(subject, words);
    subject.op.reference(&inputs.iter().collect::<Vec<_>>())
}

/// The elements of a tensor as f32; `None` for integers.
fn floats_of(desc: &TensorDesc, words: &[u32]) -> Option<Vec<f32>> {
    match desc.dtype {
        DType::F32 => Some(words.iter().map(|&word| f32::from_bits(word)).collect()),
        DType::F16 => {
            let halves: &[f16] = bytemuck::cast_slice(words);
            Some(halves[..desc.len()].iter().map(|half| half.to_f32()).collect())
        }
        DType::U32 => None,
    }
}

/// Whether the reference computes all outputs in about a second.
fn is_quick(subject: &Subject) -> bool {
    let descs = subject.descs();
    let Ok(outputs) = subject.op.infer(&descs) else { return false };
    let elements: usize = descs.iter().chain(&outputs).map(TensorDesc::len).sum();
    elements <= WHOLE_ELEMENTS && subject.op.reference_flops(&descs, &outputs) <= WHOLE_FLOPS
}

/// The same operator on a grid with a fraction of the extents.
fn reduced(subject: &Subject) -> Option<(usize, Subject)> {
    [2, 3, 4, 6, 8, 12, 16].into_iter().find_map(|factor| {
        let mut smaller = subject.clone();
        for (desc, _) in &mut smaller.inputs {
            let rank = desc.shape.len();
            if rank >= 3 && desc.voxels() > 512 {
                desc.shape[rank - 3..].iter_mut().for_each(|n| *n = (*n / factor).max(1));
            }
        }
        (smaller.op.infer(&smaller.descs()).is_ok() && is_quick(&smaller)).then_some((factor, smaller))
    })
}

impl Check {
    /// Chooses what the reference can compute in about a second, and computes it.
    pub(super) fn of(subject: &Subject, words: &[Vec<u32>], outputs: &[TensorDesc]) -> Self {
        if is_quick(subject) {
            return Self::Whole(reference(subject, words));
        }
        let floats: Option<Vec<Vec<f32>>> =
            subject.inputs.iter().zip(words).map(|((desc, _), words)| floats_of(desc, words)).collect();
        if let Some(inputs) = floats {
            let mut rng = ChaCha8Rng::seed_from_u64(23);
            let descs = subject.descs();
            if let Some(sampled) = probe::sample(subject.op.as_ref(), &descs, &inputs, &outputs[0], &mut rng)
            {
                return Self::Sampled(sampled);
            }
        }
        let elsewhere = |what: String, subjects: Vec<Subject>| Self::Elsewhere {
            what,
            subjects: subjects
                .into_iter()
                .map(|subject| {
                    let want = reference(&subject, &inputs_of(&subject));
                    (subject, want)
                })
                .collect(),
        };
        if let Some((factor, smaller)) = reduced(subject) {
            return elsewhere(format!("all outputs on a grid of 1/{factor} of the extents"), vec![smaller]);
        }
        let cases = ops::find(subject.op.name()).map(|def| (def.cases)()).unwrap_or_default();
        let half = subject.dtype() == DType::F16;
        let cases: Vec<Subject> = cases
            .into_iter()
            .filter(|case| !case.bench_only)
            .filter_map(|case| if half { case.in_f16() } else { Some(case) })
            .map(|case| Subject {
                op: case.op.into(),
                case: case.name,
                shape: Vec::new(),
                inputs: case.inputs,
            })
            .collect();
        elsewhere(format!("all outputs of the operator's {} test cases", cases.len()), cases)
    }
}

impl Comparison {
    /// The figures of a comparison that passed.
    ///
    /// # Errors
    /// A comparison that did not pass, in words.
    pub(super) fn into_error(self, checked: String, outputs: usize) -> Result<Error, LabError> {
        if let Some(complaint) = self.complaint() {
            return Err(LabError::Wrong(format!(
                "{complaint} ({checked}; relative L2 error {:.1e})",
                self.rel_l2
            )));
        }
        let Self { rel_l2, of_allowed, compared, .. } = self;
        Ok(Error { rel_l2, of_allowed, checked, compared, outputs })
    }
}
