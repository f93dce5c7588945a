//! The bias field: the end of an iteration, which takes its change off the image, and its division out of an image.

use super::lattice::evaluate_reference;
use super::status::{CONVERGENCE, DONE, ITERATIONS, STATUS, masked_range, status_dispatch};
use super::voxels::{SOME_OUTSIDE, column_variants, columns_of, counts, expect_shape, expect_volume, lines};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs};
use crate::tensor::{HostTensor, TensorDesc};

/// `n4_field_update`: `(v, points [spans + 3, H, W], basis [D, 4], status) -> (v, status)`, both in place: the
/// change of the field, with its lattice already evaluated along x and y, is evaluated along z and taken off v
/// where that counts; and the status of the next iteration.
#[derive(Debug, Clone)]
pub struct FieldUpdate {
    /// Convergence measure at which the level is done.
    pub tolerance: f32,
}

/// Registry entry of [`FieldUpdate`].
pub static FIELD_UPDATE: OpDef = OpDef {
    name: "n4_field_update",
    summary: "takes the field's change off the image, with range and convergence, in place",
    shaders: &["n4/field_update.wgsl", "n4/status.wgsl"],
    cases: || {
        let case = |name, spans: usize, shape: &[usize], fill, tolerance, status| {
            let inputs = vec![
                (TensorDesc::f32(shape), fill),
                (TensorDesc::f32(&[spans + 3, shape[1], shape[2]]), Fill::Normal(0.2)),
                (TensorDesc::f32(&[shape[0], 4]), Fill::Normal(0.5)),
                (TensorDesc::f32(&[STATUS]), status),
            ];
            Case::new(name, FieldUpdate { tolerance }, inputs)
        };
        let going = Fill::Uniform(0.0, 0.4);
        let normal = Fill::Normal(0.5);
        vec![
            case("going on", 2, &[9, 5, 7], SOME_OUTSIDE, 0.0, going),
            case("converges", 8, &[21, 19, 31], normal, 1e6, going),
            case("done", 1, &[4, 3, 5], normal, 0.0, Fill::Uniform(0.6, 1.0)),
            case("one slice", 4, &[1, 3, 5], normal, 0.0, going),
            case("shrunken head", 8, &[64, 85, 85], normal, 0.0, going).bench_only(),
            case("head", 8, &[192, 256, 256], normal, 0.0, going).bench_only(),
        ]
    },
};

impl Operator for FieldUpdate {
    fn name(&self) -> &'static str {
        "n4_field_update"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        let name = self.name();
        expect_inputs(name, inputs, 4)?;
        let shape = expect_volume(name, inputs, 0)?;
        let points = expect_volume(name, inputs, 1)?;
        if points[0] < 4 || points[1..] != shape[1..] {
            return Err(OpError::new(name, inputs, "input 1 must be at least 4 control points by H W"));
        }
        expect_shape(name, inputs, 2, &[shape[0], 4])?;
        expect_shape(name, inputs, 3, &[STATUS])?;
        Ok(vec![inputs[0].clone(), inputs[3].clone()])
    }

    fn variants(&self, inputs: &[TensorDesc], caps: &Caps) -> Vec<&'static str> {
        column_variants(caps, lines(&inputs[0].shape, 0).2)
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, variant: &str) -> Lowered {
        let (_, d, columns) = lines(&inputs[0].shape, 0);
        let each = columns_of(variant);
        let parts = columns.div_ceil(each);
        let mut lowered = Lowered::default();
        let partials = lowered.scratch(parts as u64 * 5 * 4);
        lowered.push(
            Dispatch::new(KernelKey::new("n4/field_update.wgsl").count("COLUMNS", each))
                .bind("v", Slot::Output(0))
                .bind("points", Slot::Input(1))
                .bind("basis", Slot::Input(2))
                .bind("partials", partials)
                .params(
                    Params::new().u32("d", d).u32("columns", columns).u32("spans", inputs[1].shape[0] - 3),
                )
                .flat(parts, FLAT),
        );
        lowered.push(status_dispatch(partials, Slot::Output(1), parts, Some(self.tolerance)));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [v, points, basis, status] = inputs else { unreachable!("the shape rule asks for four inputs") };
        let change = evaluate_reference(points, 0, basis, [0; 2]);
        let changed = |(&v, change): (&f64, &f64)| if counts(v) { v - change } else { v };
        let new: Vec<f64> = v.data.iter().zip(&change).map(changed).collect();
        let mut status = (*status).clone();
        if status.data[DONE] < 0.5 {
            let inside = (0..new.len()).filter(|&i| counts(v.data[i]));
            let ratios: Vec<f64> = inside.map(|i| (-change[i]).exp()).collect();
            let n = ratios.len() as f64;
            let mean = ratios.iter().sum::<f64>() / n;
            let squares: f64 = ratios.iter().map(|q| (q - mean) * (q - mean)).sum();
            status.data[CONVERGENCE] = (squares / (n - 1.0)).sqrt() / mean;
            status.data[DONE] = if status.data[CONVERGENCE] > self.tolerance as f64 { 0.0 } else { 1.0 };
            status.data[ITERATIONS] += 1.0;
            masked_range(&new, &mut status);
        }
        vec![HostTensor::new(v.desc.clone(), new), status]
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|d| d.bytes() as f64).sum();
        Cost { flops: 24.0 * inputs[0].len() as f64, bytes }
    }

    fn precision(&self, inputs: &[TensorDesc]) -> Precision {
        Precision { reduction: inputs[0].shape[0], epsilon: 6.0 * f32::EPSILON as f64 }
    }

    fn records(&self) -> &'static [usize] {
        &[1]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 3)]
    }
}

/// `n4_apply`: `(x, log field) -> x / exp(field)`, shapes equal, x in place.
#[derive(Debug, Clone)]
pub struct Apply;

/// Registry entry of [`Apply`].
pub static APPLY: OpDef = OpDef {
    name: "n4_apply",
    summary: "divides an image by its bias field, given as a logarithm",
    shaders: &["n4/apply.wgsl"],
    cases: || {
        let desc = TensorDesc::f32(&[5, 7, 11]);
        let inputs = vec![(desc.clone(), Fill::Normal(50.0)), (desc, Fill::Normal(0.3))];
        vec![Case::new("odd", Apply, inputs)]
    },
};

impl Operator for Apply {
    fn name(&self) -> &'static str {
        "n4_apply"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 2)?;
        expect_shape(self.name(), inputs, 1, &inputs[0].shape)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new("n4/apply.wgsl"))
                .bind("x", Slot::Output(0))
                .bind("field", Slot::Input(1))
                .params(Params::new().u32("n", n))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let data = inputs[0].data.iter().zip(&inputs[1].data).map(|(x, field)| x / field.exp()).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // exp is exact to about 6 ulp on the worst adapter met (lavapipe 26).
        Precision { reduction: 1, epsilon: 6.0 * f32::EPSILON as f64 }
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}
