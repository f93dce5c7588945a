//! Results against the f64 reference.

use half::f16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::error::LabError;
use super::probe::{self, Sampled};
use super::report::Error;
use super::subject::Subject;
use crate::ops::{self, Precision};
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

/// The worst of several comparisons.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comparison {
    rel_l2: f64,
    of_allowed: f64,
    compared: usize,
    /// Index, value and what it should be.
    worst: (usize, f64, f64),
}

impl Comparison {
    /// Compares values with the reference: `(index, got, want)`.
    pub(super) fn of(pairs: impl Iterator<Item = (usize, f64, f64)>, allowed: f64) -> Self {
        let mut all = Self::default();
        let (mut difference, mut norm, mut largest) = (0.0, 0.0, -1.0f64);
        for (ix, got, want) in pairs {
            let error = (got - want).abs();
            difference += error * error;
            norm += want * want;
            all.compared += 1;
            // NaN is larger than everything in this order.
            if error.total_cmp(&largest).is_gt() {
                largest = error;
                all.worst = (ix, got, want);
            }
        }
        all.rel_l2 = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() };
        all.of_allowed = if largest <= 0.0 { 0.0 } else { largest / allowed };
        all
    }

    /// Compares every element of an output.
    pub(super) fn whole(got: &HostTensor, want: &HostTensor, precision: Precision) -> Self {
        let scale = want.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let allowed = precision.tolerance(scale, want.desc.dtype);
        let pairs = got.data.iter().zip(&want.data).enumerate();
        Self::of(pairs.map(|(ix, (&got, &want))| (ix, got, want)), allowed)
    }

    /// Compares some elements of an output.
    pub(super) fn sampled(got: &HostTensor, want: &Sampled, precision: Precision) -> Self {
        let scale = want.iter().fold(0.0f64, |m, (_, v)| m.max(v.abs()));
        let pairs = want.iter().map(|&(ix, want)| (ix, got.data[ix], want));
        Self::of(pairs, precision.tolerance(scale, got.desc.dtype))
    }

    /// The worse of two, over the elements of both.
    pub(super) fn and(self, other: Self) -> Self {
        let worse = if other.of_allowed.total_cmp(&self.of_allowed).is_gt() { other } else { self };
        Self {
            rel_l2: f64::max(self.rel_l2, other.rel_l2),
            compared: self.compared + other.compared,
            ..worse
        }
    }

    /// The same with `factor` times the error allowed.
    pub(super) fn with_allowance(self, factor: f64) -> Self {
        Self { of_allowed: self.of_allowed / factor, ..self }
    }

    /// Whether no element is further off than allowed.
    pub(super) fn passes(&self) -> bool {
        self.compared > 0 && self.of_allowed <= 1.0
    }

    /// The figures of a comparison that passed.
    ///
    /// # Errors
    /// A comparison that did not pass, in words.
    pub(super) fn into_error(self, checked: String, outputs: usize) -> Result<Error, LabError> {
        if !self.passes() {
            let (ix, got, want) = self.worst;
            return Err(LabError::Wrong(format!(
                "element {ix} is {got}, should be {want}, which is {:.1} times the allowed error \
                 ({checked}; relative L2 error {:.1e})",
                self.of_allowed, self.rel_l2
            )));
        }
        let Self { rel_l2, of_allowed, compared, .. } = self;
        Ok(Error { rel_l2, of_allowed, checked, compared, outputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(got: &[f64], want: &[f64]) -> Comparison {
        let pairs = got.iter().zip(want).enumerate();
        Comparison::of(pairs.map(|(ix, (&g, &w))| (ix, g, w)), 0.1)
    }

    #[test]
    fn errors_and_nan_do_not_pass() {
        assert!(compare(&[1.0, 2.05], &[1.0, 2.0]).passes());
        assert!(!compare(&[1.0, 2.2], &[1.0, 2.0]).passes());
        assert!(!compare(&[f64::NAN, 2.0], &[1.0, 2.0]).passes());
        assert!(!compare(&[], &[]).passes());
        let both = compare(&[1.0], &[1.0]).and(compare(&[f64::NAN], &[1.0]));
        assert!(!both.passes());
        assert!(!compare(&[f64::NAN], &[1.0]).and(compare(&[1.0], &[1.0])).passes());
    }
}
