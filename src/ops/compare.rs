//! Results of kernels against the f64 reference: what the tests and the laboratory judge kernels by.

use super::operator::{Operator, Precision};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// Least magnitude of a sentinel: a value that stands for something other than a number, as N4's voxels that do not
/// count and measures that are not known yet.
const LEAST_SENTINEL: f64 = 1e30;

/// Whether a reference value is not a number to be computed, but one to be met exactly: a sentinel, an infinity or NaN.
fn is_exact(want: f64) -> bool {
    want.is_nan() || want.abs() >= LEAST_SENTINEL
}

/// Largest magnitude of the reference, without what is met exactly: one sentinel would allow every other element any
/// error.
fn scale(want: impl Iterator<Item = f64>) -> f64 {
    want.filter(|&want| !is_exact(want)).fold(0.0, |most, want| most.max(want.abs()))
}

/// A value as the device stores it.
fn stored(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => half::f16::from_f64(value).to_f64(),
        DType::U32 => value,
    }
}

/// The worst of several elements, each against its reference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Comparison {
    /// L2 norm of the errors, relative to the reference's, over all elements that are not met exactly.
    pub rel_l2: f64,
    /// Largest error as a share of what is allowed; infinite where a sentinel is missed, NaN where a result is NaN.
    pub of_allowed: f64,
    /// Elements compared.
    pub compared: usize,
    /// Index, value and reference of the element that is furthest off.
    pub worst: (usize, f64, f64),
}

impl Comparison {
    /// Compares `(index, got, want)` with an absolute error that may depend on the reference.
    fn with(
        elements: impl Iterator<Item = (usize, f64, f64)>,
        allowed: impl Fn(f64) -> f64,
        dtype: DType,
    ) -> Self {
        let mut all = Self { of_allowed: -1.0, ..Self::default() };
        let (mut difference, mut norm) = (0.0, 0.0);
        for (ix, got, want) in elements {
            all.compared += 1;
            let share = if is_exact(want) {
                let met = got == stored(want, dtype) || (got.is_nan() && want.is_nan());
                if met { 0.0 } else { f64::INFINITY }
            } else {
                let error = (got - want).abs();
                difference += error * error;
                norm += want * want;
                if error == 0.0 { 0.0 } else { error / allowed(want) }
            };
            // NaN is larger than everything in this order.
            if share.total_cmp(&all.of_allowed).is_gt() {
                all.of_allowed = share;
                all.worst = (ix, got, want);
            }
        }
        all.of_allowed = if all.compared == 0 { 0.0 } else { all.of_allowed };
        all.rel_l2 = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() };
        all
    }

    /// Compares f32 values with the reference, `(index, got, want)`, within an absolute error.
    pub fn within(elements: impl Iterator<Item = (usize, f64, f64)>, allowed: f64) -> Self {
        Self::with(elements, |_| allowed, DType::F32)
    }

    /// Compares output `ix` of an operator on inputs of these descriptions.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn of_output(
        op: &dyn Operator,
        inputs: &[TensorDesc],
        ix: usize,
        got: &HostTensor,
        want: &HostTensor,
    ) -> Self {
        assert_eq!(got.desc, want.desc, "{}: output {ix} has the description of its reference", op.name());
        let (precision, dtype) = (op.precision(inputs), want.desc.dtype);
        let elements = got.data.iter().zip(&want.data).enumerate().map(|(at, (&got, &want))| (at, got, want));
        if op.records().contains(&ix) {
            return Self::with(elements, |want| precision.tolerance(want.abs(), dtype), dtype);
        }
        let allowed = precision.tolerance(scale(want.data.iter().copied()), dtype);
        Self::with(elements, |_| allowed, dtype)
    }

    /// Compares all outputs of an operator; `None` where it has none.
    pub fn of_outputs(
        op: &dyn Operator,
        inputs: &[TensorDesc],
        got: &[HostTensor],
        want: &[HostTensor],
    ) -> Option<Self> {
        let pairs = got.iter().zip(want).enumerate();
        pairs.map(|(ix, (got, want))| Self::of_output(op, inputs, ix, got, want)).reduce(Self::and)
    }

    /// Compares some elements of an output, by index.
    pub fn of_sample(got: &HostTensor, want: &[(usize, f64)], precision: Precision) -> Self {
        let dtype = got.desc.dtype;
        let allowed = precision.tolerance(scale(want.iter().map(|&(_, want)| want)), dtype);
        Self::with(want.iter().map(|&(ix, want)| (ix, got.data[ix], want)), |_| allowed, dtype)
    }

    /// The worse of two, over the elements of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let worse = if other.of_allowed.total_cmp(&self.of_allowed).is_gt() { other } else { self };
        Self {
            rel_l2: f64::max(self.rel_l2, other.rel_l2),
            compared: self.compared + other.compared,
            ..worse
        }
    }

    /// The same with `factor` times the error allowed.
    #[must_use]
    pub fn with_allowance(self, factor: f64) -> Self {
        Self { of_allowed: self.of_allowed / factor, ..self }
    }

    /// Whether something was compared and no element is further off than allowed.
    pub fn passes(&self) -> bool {
        self.compared > 0 && self.of_allowed <= 1.0
    }

    /// What is wrong, in words; `None` where the comparison passes.
    pub fn complaint(&self) -> Option<String> {
        if self.passes() {
            return None;
        }
        let (ix, got, want) = self.worst;
        Some(if self.compared == 0 {
            "nothing was compared".to_owned()
        } else if is_exact(want) {
            format!("element {ix} is {got}, should be {want} exactly")
        } else {
            format!(
                "element {ix} is {got}, should be {want}, which is {:.1} times the allowed error",
                self.of_allowed
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(got: &[f64], want: &[f64]) -> Comparison {
        let pairs = got.iter().zip(want).enumerate();
        Comparison::within(pairs.map(|(ix, (&g, &w))| (ix, g, w)), 0.1)
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

    #[test]
    fn sentinels_are_met_exactly_and_excuse_nothing() {
        let outside = f64::from(-3e38f32);
        assert!(compare(&[outside, 1.0], &[outside, 1.0]).passes());
        assert!(!compare(&[outside * 1.000_001, 1.0], &[outside, 1.0]).passes());
        assert!(!compare(&[outside, 1.2], &[outside, 1.0]).passes());
        assert!(!compare(&[1.0, outside], &[1.0, 1.0]).passes());
        assert!(compare(&[f64::NAN, f64::INFINITY], &[f64::NAN, f64::INFINITY]).passes());
        assert!(!compare(&[f64::INFINITY], &[f64::NEG_INFINITY]).passes());
        assert!(!compare(&[f64::NAN], &[f64::INFINITY]).passes());
        assert_eq!(scale([1.0, -2.0, outside, f64::NAN].into_iter()), 2.0);
    }
}
