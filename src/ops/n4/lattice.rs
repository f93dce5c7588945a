//! The lattice of control points: contractions of voxels to it, its update, and its evaluation on voxels.

use super::histogram::{bin_of, expect_bins};
use super::status::{DONE, STATUS};
use super::voxels::{SOME_OUTSIDE, column_variants, columns_of, counts, expect_shape, expect_volume, lines};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs};
use crate::tensor::{HostTensor, TensorDesc};

/// Span of a cubic B-spline that voxel `i` of `n` falls in: the first of its four control points. The
/// last voxel belongs to the last span.
pub fn span_of(i: usize, spans: usize, n: usize) -> usize {
    if n < 2 { 0 } else { (spans * i / (n - 1)).min(spans - 1) }
}

/// Which weights of a B-spline axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasisPower {
    /// B: evaluates a lattice.
    Evaluate,
    /// B²: sums the normaliser omega.
    Omega,
    /// B³ / ΣB²: sums the update delta.
    Delta,
}

impl BasisPower {
    /// The weights `[n, 4]` of `n` voxels in `spans` spans. Voxel i lies at u = spans·i/(n-1); the last one,
    /// which is outside the half-open domain, is moved in by a thousandth of a voxel, as in ITK.
    pub fn weights(self, n: usize, spans: usize) -> HostTensor {
        let cubic = |x: f64| match x.abs() {
            a if a < 1.0 => (4.0 - 6.0 * a * a + 3.0 * a * a * a) / 6.0,
            a if a < 2.0 => (2.0 - a).powi(3) / 6.0,
            _ => 0.0,
        };
        let mut data = Vec::with_capacity(n * 4);
        for i in 0..n {
            let step = spans as f64 / (n.max(2) - 1) as f64;
            let mut u = if n < 2 { 0.0 } else { step * i as f64 };
            if i > 0 && i + 1 == n {
                u = spans as f64 - 1e-3 * step;
            }
            let t = u - span_of(i, spans, n) as f64;
            let b: [f64; 4] = std::array::from_fn(|k| cubic(t - k as f64 + 1.0));
            let squares: f64 = b.iter().map(|b| b * b).sum();
            data.extend(b.map(|b| match self {
                Self::Evaluate => b,
                Self::Omega => b * b,
                Self::Delta => b * b * b / squares,
            }));
        }
        HostTensor::new(TensorDesc::f32(&[n, 4]), data)
    }
}

/// Contraction of `axis` by its definition.
fn contract_reference(x: &[f64], shape: &[usize], axis: usize, basis: &HostTensor, spans: usize) -> Vec<f64> {
    let (outer, n, inner) = lines(shape, axis);
    let mut y = vec![0.0; outer * (spans + 3) * inner];
    for o in 0..outer {
        for i in 0..n {
            for k in 0..4 {
                let point = span_of(i, spans, n) + k;
                for e in 0..inner {
                    y[(o * (spans + 3) + point) * inner + e] +=
                        basis.data[i * 4 + k] * x[(o * n + i) * inner + e];
                }
            }
        }
    }
    y
}

/// Evaluation of `axis` by its definition, with `margin` further voxels before and after the `n`.
pub(super) fn evaluate_reference(
    x: &HostTensor,
    axis: usize,
    basis: &HostTensor,
    margin: [usize; 2],
) -> Vec<f64> {
    let (outer, points, inner) = lines(&x.desc.shape, axis);
    let n = basis.desc.shape[0];
    let all = n + margin[0] + margin[1];
    let mut y = vec![0.0; outer * n * inner];
    for o in 0..outer {
        for i in 0..n {
            let first = span_of(margin[0] + i, points - 3, all);
            for e in 0..inner {
                y[(o * n + i) * inner + e] = (0..4)
                    .map(|k| basis.data[i * 4 + k] * x.data[(o * points + first + k) * inner + e])
                    .sum();
            }
        }
    }
    y
}

/// `n4_residual_contract`: `(v, status, shift [bins], basis [D, 4][, weight]) -> [spans + 3, H, W]`: the
/// residual v - E(v) where v counts, times weight, contracted along z.
#[derive(Debug, Clone)]
pub struct ResidualContract {
    /// B-spline spans along z.
    pub spans: usize,
}

/// Registry entry of [`ResidualContract`].
pub static RESIDUAL_CONTRACT: OpDef = OpDef {
    name: "n4_residual_contract",
    summary: "residual of the sharpened image, contracted to control points along z",
    shaders: &["n4/residual_contract.wgsl"],
    cases: || {
        let case = |name, spans, shape: &[usize], bins, fill| {
            let inputs = vec![
                (TensorDesc::f32(shape), fill),
                (TensorDesc::f32(&[STATUS]), Fill::Uniform(0.5, 2.0)),
                (TensorDesc::f32(&[bins]), Fill::Normal(1.0)),
                (TensorDesc::f32(&[shape[0], 4]), Fill::Normal(1.0)),
            ];
            Case::new(name, ResidualContract { spans }, inputs)
        };
        let uniform = Fill::Uniform(0.0, 4.0);
        let weighted = |name, spans, shape: &[usize], bins| {
            let mut case = case(name, spans, shape, bins, SOME_OUTSIDE);
            case.inputs.push((TensorDesc::f32(shape), Fill::Uniform(0.0, 2.0)));
            case
        };
        vec![
            weighted("weighted", 3, &[9, 4, 5], 50),
            case("one span", 1, &[5, 7, 11], 17, SOME_OUTSIDE),
            case("voxels on knots", 2, &[9, 3, 5], 200, uniform),
            case("uneven spans", 8, &[21, 13, 9], 200, SOME_OUTSIDE),
            case("more spans than voxels", 8, &[3, 2, 5], 2, uniform),
            case("one slice", 2, &[1, 4, 3], 5, uniform),
            case("shrunken head", 8, &[64, 85, 85], 200, uniform).bench_only(),
            case("head", 8, &[192, 256, 256], 200, uniform).bench_only(),
        ]
    },
};

impl Operator for ResidualContract {
    fn name(&self) -> &'static str {
        "n4_residual_contract"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let name = self.name();
        if inputs.len() != 5 {
            expect_inputs(name, inputs, 4)?;
        }
        let shape = expect_volume(name, inputs, 0)?;
        expect_shape(name, inputs, 1, &[STATUS])?;
        expect_bins(name, inputs, inputs[2].len())?;
        expect_shape(name, inputs, 3, &[shape[0], 4])?;
        if inputs.len() == 5 {
            expect_shape(name, inputs, 4, &shape)?;
        }
        if self.spans == 0 {
            return Err(OpError::new(name, inputs, "needs at least one span"));
        }
        Ok(vec![TensorDesc::f32(&[self.spans + 3, shape[1], shape[2]])])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        column_variants(caps, lines(&inputs[0].shape, 0).2)
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, variant: &str) -> Lowered {
        let (_, d, columns) = lines(&inputs[0].shape, 0);
        let each = columns_of(variant);
        let mut key = KernelKey::new("n4/residual_contract.wgsl").count("COLUMNS", each);
        if inputs.len() == 5 {
            key = key.define("HAS_WEIGHT", 1);
        }
        let mut dispatch = Dispatch::new(key)
            .bind("v", Slot::Input(0))
            .bind("status", Slot::Input(1))
            .bind("shift", Slot::Input(2))
            .bind("basis", Slot::Input(3))
            .bind("y", Slot::Output(0))
            .params(
                Params::new()
                    .u32("d", d)
                    .u32("columns", columns)
                    .u32("spans", self.spans)
                    .u32("bins", inputs[2].len()),
            )
            .flat(columns.div_ceil(each), FLAT);
        if inputs.len() == 5 {
            dispatch = dispatch.bind("weight", Slot::Input(4));
        }
        Lowered::one(dispatch)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let shift = &inputs[2].data;
        let weight = |i: usize| inputs.get(4).map_or(1.0, |weight| weight.data[i]);
        let residual = |(i, &value): (usize, &f64)| {
            if !counts(value) {
                return 0.0;
            }
            let (j, fraction) = bin_of(value, inputs[1], shift.len());
            -weight(i) * (shift[j] * (1.0 - fraction) + shift[j + 1] * fraction)
        };
        let residual: Vec<f64> = inputs[0].data.iter().enumerate().map(residual).collect();
        let shape = &inputs[0].desc.shape;
        let data = contract_reference(&residual, shape, 0, inputs[3], self.spans);
        vec![HostTensor::new(TensorDesc::f32(&[self.spans + 3, shape[1], shape[2]]), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 16.0 * inputs[0].len() as f64, bytes }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        // The position in the histogram is as exact as the number of bins lets it be.
        let bins = inputs[2].len() as f64;
        Precision { reduction: inputs[0].shape[0], epsilon: f32::EPSILON as f64 * bins }
    }
}

/// `n4_contract`: `(x [D, H, W], basis [n, 4]) ->` x with the `n` voxels of one axis contracted to
/// `spans + 3` control points.
#[derive(Debug, Clone)]
pub struct Contract {
    /// 0, 1 or 2 for D, H or W.
    pub axis: usize,
    /// B-spline spans along the axis.
    pub spans: usize,
}

/// Registry entry of [`Contract`].
pub static CONTRACT: OpDef = OpDef {
    name: "n4_contract",
    summary: "one axis of voxels contracted to B-spline control points",
    shaders: &["n4/contract.wgsl"],
    cases: || {
        let case = |name, axis, spans, shape: &[usize]| {
            let inputs = vec![
                (TensorDesc::f32(shape), Fill::Normal(1.0)),
                (TensorDesc::f32(&[shape[axis], 4]), Fill::Normal(1.0)),
            ];
            Case::new(name, Contract { axis, spans }, inputs)
        };
        vec![
            case("z, one span", 0, 1, &[5, 7, 11]),
            case("y, uneven spans", 1, 8, &[3, 21, 5]),
            case("x, voxels on knots", 2, 4, &[3, 2, 17]),
            case("x, more spans than voxels", 2, 16, &[3, 2, 5]),
            case("y of one voxel", 1, 2, &[4, 1, 3]),
            case("shrunken head", 0, 8, &[64, 85, 85]).bench_only(),
        ]
    },
};

impl Operator for Contract {
    fn name(&self) -> &'static str {
        "n4_contract"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        let mut shape = expect_volume(self.name(), inputs, 0)?;
        if self.axis > 2 || self.spans == 0 {
            return Err(OpError::new(self.name(), inputs, "needs an axis of three and at least one span"));
        }
        expect_shape(self.name(), inputs, 1, &[shape[self.axis], 4])?;
        shape[self.axis] = self.spans + 3;
        Ok(vec![TensorDesc::f32(&shape)])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let (outer, n, inner) = lines(&inputs[0].shape, self.axis);
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/contract.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("basis", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(
                    Params::new()
                        .u32("lines", outer * inner)
                        .u32("n", n)
                        .u32("inner", inner)
                        .u32("spans", self.spans),
                )
                .flat(outer * inner, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut shape = inputs[0].desc.shape.clone();
        let data = contract_reference(&inputs[0].data, &shape, self.axis, inputs[1], self.spans);
        shape[self.axis] = self.spans + 3;
        vec![HostTensor::new(TensorDesc::f32(&shape), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 8.0 * inputs[0].len() as f64, bytes }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision::sum_of(inputs[1].shape[0])
    }
}

/// `n4_lattice_update`: `(lattice, delta, omega, status) -> (lattice + change, change)`, the first in place;
/// the change is delta / omega, and 0 where omega is 0 or the status says done. All but the status of one shape.
#[derive(Debug, Clone)]
pub struct LatticeUpdate;

/// Registry entry of [`LatticeUpdate`].
pub static LATTICE_UPDATE: OpDef = OpDef {
    name: "n4_lattice_update",
    summary: "adds the fitted residual to the control points, in place",
    shaders: &["n4/lattice_update.wgsl"],
    cases: || {
        let case = |name, low, high| {
            let desc = TensorDesc::f32(&[5, 7, 11]);
            let inputs = vec![
                (desc.clone(), Fill::Normal(1.0)),
                (desc.clone(), Fill::Normal(1.0)),
                (desc, Fill::Integer(4)),
                (TensorDesc::f32(&[STATUS]), Fill::Uniform(low, high)),
            ];
            Case::new(name, LatticeUpdate, inputs)
        };
        vec![case("going on", 0.0, 0.4), case("done", 0.6, 1.0)]
    },
};

impl Operator for LatticeUpdate {
    fn name(&self) -> &'static str {
        "n4_lattice_update"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 4)?;
        let shape = expect_volume(self.name(), inputs, 0)?;
        expect_shape(self.name(), inputs, 1, &shape)?;
        expect_shape(self.name(), inputs, 2, &shape)?;
        expect_shape(self.name(), inputs, 3, &[STATUS])?;
        Ok(vec![inputs[0].clone(); 2])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/lattice_update.wgsl"))
                .bind("delta", Slot::Input(1))
                .bind("omega", Slot::Input(2))
                .bind("status", Slot::Input(3))
                .bind("lattice", Slot::Output(0))
                .bind("change", Slot::Output(1))
                .params(Params::new().u32("n", n))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let going = inputs[3].data[DONE] < 0.5;
        let quotient =
            |(delta, omega): (&f64, &f64)| if going && *omega > 1e-20 { delta / omega } else { 0.0 };
        let change: Vec<f64> = inputs[1].data.iter().zip(&inputs[2].data).map(quotient).collect();
        let lattice = inputs[0].data.iter().zip(&change).map(|(lattice, change)| lattice + change).collect();
        [lattice, change].map(|data| HostTensor::new(inputs[0].desc.clone(), data)).into()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

/// `n4_evaluate`: `(x [D, H, W], basis [n, 4]) ->` x with the control points of one axis evaluated on `n`
/// voxels.
#[derive(Debug, Clone)]
pub struct Evaluate {
    /// 0, 1 or 2 for D, H or W.
    pub axis: usize,
    /// Voxels that the spline's domain has before and after the `n`.
    pub margin: [usize; 2],
}

/// Registry entry of [`Evaluate`].
pub static EVALUATE: OpDef = OpDef {
    name: "n4_evaluate",
    summary: "one axis of B-spline control points evaluated on voxels",
    shaders: &["n4/evaluate.wgsl"],
    cases: || {
        let case = |name, axis, n, margin, shape: &[usize]| {
            let inputs = vec![
                (TensorDesc::f32(shape), Fill::Normal(1.0)),
                (TensorDesc::f32(&[n, 4]), Fill::Normal(1.0)),
            ];
            Case::new(name, Evaluate { axis, margin }, inputs)
        };
        vec![
            case("z, one span", 0, 9, [0, 0], &[4, 7, 5]),
            case("y, uneven spans", 1, 21, [0, 0], &[3, 11, 5]),
            case("x, voxels on knots", 2, 17, [0, 0], &[3, 2, 7]),
            case("x, more spans than voxels", 2, 5, [0, 0], &[3, 2, 19]),
            case("y on one voxel", 1, 1, [0, 0], &[4, 5, 3]),
            case("z in a wider domain", 0, 9, [3, 5], &[8, 3, 5]),
            case("x behind most of its domain", 2, 4, [13, 0], &[3, 2, 7]),
            case("head", 0, 192, [0, 0], &[11, 256, 256]).bench_only(),
        ]
    },
};

impl Operator for Evaluate {
    fn name(&self) -> &'static str {
        "n4_evaluate"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        let mut shape = expect_volume(self.name(), inputs, 0)?;
        if self.axis > 2 || shape[self.axis] < 4 {
            return Err(OpError::new(self.name(), inputs, "needs an axis of three with at least 4 points"));
        }
        let n = inputs[1].len() / 4;
        expect_shape(self.name(), inputs, 1, &[n.max(1), 4])?;
        shape[self.axis] = n;
        Ok(vec![TensorDesc::f32(&shape)])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let (outer, points, inner) = lines(&inputs[0].shape, self.axis);
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/evaluate.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("basis", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(
                    Params::new()
                        .u32("lines", outer * inner)
                        .u32("n", inputs[1].shape[0])
                        .u32("inner", inner)
                        .u32("spans", points - 3)
                        .u32("before", self.margin[0])
                        .u32("after", self.margin[1]),
                )
                .flat(outer * inner, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mut shape = inputs[0].desc.shape.clone();
        shape[self.axis] = inputs[1].desc.shape[0];
        let data = evaluate_reference(inputs[0], self.axis, inputs[1], self.margin);
        vec![HostTensor::new(TensorDesc::f32(&shape), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 7.0 * outputs[0].len() as f64, bytes }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(4)
    }
}
