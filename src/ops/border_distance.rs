//! How far voxels lie from a border that passes between them.

use std::ops::Range;

use super::{
    Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, batch_pieces, expect_inputs, expect_ncdhw,
    sample_bytes, sample_range,
};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// `border_distance`: signed distance in mm from the centre of each voxel to the border of what fractions cover, negative where
/// the fraction is a half or more, at most `most_mm`. The border is a set of points: wherever two neighbours along an axis lie
/// on either side of a half, the place between their centres where the fraction, linear between them, is a half. A pair with a
/// negative fraction, which is not known, has none.
///
/// Input: fractions `[N, 1, D, H, W]`. Output: f32 of the same shape. Exact up to rounding: the least square of the distance to
/// a point between neighbours along one axis, then, along the two others, the least sum of such a square and that of the way
/// there.
#[derive(Debug, Clone)]
pub struct BorderDistance {
    /// Voxel size along d, h and w in mm.
    pub voxel_mm: [f64; 3],
    /// Largest distance told, in mm.
    pub most_mm: f64,
}

/// Most voxels that a kernel looks at in either direction.
const MOST_REACH: f64 = 1000.0;

/// Registry entry of [`BorderDistance`].
pub static BORDER_DISTANCE: OpDef = OpDef {
    name: "border_distance",
    summary: "signed distance in mm to where fractions pass a half, between voxels",
    shaders: &["loss/border_distance.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize], voxel_mm, most_mm, fill| {
            let op = BorderDistance { voxel_mm, most_mm };
            Case::new(name, op, vec![(TensorDesc::f32(shape), fill)])
        };
        let few = Fill::Values(&[
            0.0, 0.1, 0.0, 0.3, 0.0, 0.2, 0.9, 0.4, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.2, 0.3, 0.0,
        ]);
        vec![
            case("few voxels", &[1, 1, 9, 8, 11], [2.0, 2.0, 2.0], 5.0, few),
            case("anisotropic, batch of 2", &[2, 1, 5, 9, 12], [4.0, 0.9, 1.3], 5.0, few),
            case("fractions", &[2, 1, 5, 7, 9], [2.0, 2.0, 2.0], 5.0, Fill::Uniform(0.0, 1.0)),
            case("mask", &[1, 1, 7, 6, 5], [1.0, 1.5, 2.0], 40.0, Fill::Binary(0.03)),
            case("a third not known", &[2, 1, 4, 5, 6], [2.0, 2.0, 2.0], 5.0, Fill::Uniform(-0.5, 1.0)),
            case("empty", &[1, 1, 3, 4, 5], [1.0, 1.0, 1.0], 6.0, Fill::Binary(0.0)),
            case("one row", &[3, 1, 1, 1, 13], [2.0, 2.0, 2.0], 5.0, Fill::Uniform(0.2, 0.7)),
            case("2 mm head", &[1, 1, 96, 128, 160], [2.0, 2.0, 2.0], 5.0, few).bench_only(),
        ]
    },
};

impl Operator for BorderDistance {
    fn name(&self) -> &'static str {
        "border_distance"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs(self.name(), inputs, 1)?;
        let [_, channels, ..] = expect_ncdhw(self.name(), inputs, 0)?;
        if channels != 1 {
            return Err(OpError::new(self.name(), inputs, "fractions must have one channel"));
        }
        // Squares far below or above 1 would lose the order of f32.
        let possible = |mm: f64| mm > 1e-6 && mm < 1e6;
        let reach = self.voxel_mm.map(|mm| self.most_mm / mm);
        let near = |voxels: f64| voxels < MOST_REACH;
        if !(self.voxel_mm.into_iter().all(possible) && possible(self.most_mm) && reach.into_iter().all(near))
        {
            let reason =
                format!("distances of up to {} mm on voxels of {:?} mm", self.most_mm, self.voxel_mm);
            return Err(OpError::new(self.name(), inputs, reason));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let [_, _, d, h, w] = inputs[0].ncdhw().expect("`infer` has seen it");
        let pieces = batch_pieces(&[&inputs[0]], caps);
        let mut lowered = Lowered::default();
        let largest = pieces.iter().map(Range::len).max().unwrap_or(0) as u64 * sample_bytes(&inputs[0]);
        let [near, other] = [0, 1].map(|_| lowered.scratch(largest));
        for piece in pieces {
            let n = piece.len() * inputs[0].voxels();
            let fractions = (Slot::Input(0), sample_range(&inputs[0], &piece));
            let y = (Slot::Output(0), sample_range(&outputs[0], &piece));
            let [near, other] = [near, other].map(|slot| (slot, 0..n as u64 * 4));
            let passes: [(_, _, usize, &[&'static str]); 8] = [
                // Points between neighbours along w, seen along h; those along h, seen along w.
                (&fractions, &y, 2, &["CROSSING"]),
                (&y, &near, 1, &[]),
                (&fractions, &y, 1, &["CROSSING"]),
                (&y, &near, 2, &["KEEP"]),
                // Points between neighbours along d, seen along w and h.
                (&fractions, &y, 0, &["CROSSING"]),
                (&y, &other, 2, &[]),
                (&other, &y, 1, &[]),
                // The others, seen along d.
                (&near, &y, 0, &["KEEP", "FINAL"]),
            ];
            for (from, to, axis, flags) in passes {
                let mut key = KernelKey::new("loss/border_distance.wgsl");
                for flag in ["CROSSING", "KEEP", "FINAL"] {
                    key = key.define(flag, flags.contains(&flag).into());
                }
                let mut dispatch = Dispatch::new(key)
                    .bind_range("x", from.0, from.1.clone())
                    .bind_range("y", to.0, to.1.clone())
                    .params(
                        Params::new()
                            .u32("n", n)
                            .u32("inner", [h * w, w, 1][axis])
                            .u32("extent", [d, h, w][axis])
                            .u32("reach", (self.most_mm / self.voxel_mm[axis]).ceil() as usize)
                            .f32("size", self.voxel_mm[axis] as f32)
                            .f32("most", self.most_mm as f32),
                    )
                    .flat(n, FLAT);
                if flags.contains(&"FINAL") {
                    dispatch = dispatch.bind_range("fraction", fractions.0, fractions.1.clone());
                }
                lowered.push(dispatch);
            }
        }
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let y = inputs[0];
        let [_, _, d, h, w] = y.desc.ncdhw().expect("`infer` has seen it");
        let n = d * h * w;
        let place = |ix: usize| [ix / (h * w), ix / w % h, ix % w];
        let mm = |at: [f64; 3]| [0, 1, 2].map(|k| at[k] * self.voxel_mm[k]);
        let mut data = Vec::with_capacity(y.data.len());
        for fractions in y.data.chunks_exact(n) {
            let mut points = Vec::new();
            for ix in 0..n {
                for (axis, (step, extent)) in [(h * w, d), (w, h), (1, w)].into_iter().enumerate() {
                    if place(ix)[axis] + 1 == extent {
                        continue;
                    }
                    let (a, b) = (fractions[ix], fractions[ix + step]);
                    if a.min(b) >= 0.0 && (a >= 0.5) != (b >= 0.5) {
                        let mut at = place(ix).map(|p| p as f64);
                        at[axis] += (0.5 - a) / (b - a);
                        points.push(mm(at));
                    }
                }
            }
            data.extend((0..n).map(|ix| {
                let own = mm(place(ix).map(|p| p as f64));
                let to = |point: &[f64; 3]| (0..3).map(|k| (own[k] - point[k]).powi(2)).sum::<f64>().sqrt();
                let distance = points.iter().map(to).fold(self.most_mm, f64::min);
                if fractions[ix] >= 0.5 { -distance } else { distance }
            }));
        }
        vec![HostTensor::new(y.desc.clone(), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        let looked_at: f64 = self.voxel_mm.iter().map(|mm| 2.0 * (self.most_mm / mm).ceil()).sum();
        Cost { flops: 8.0 * looked_at * n, bytes: 8.0 * n }
    }

    fn reference_flops(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> f64 {
        // Every voxel looks at every point, of which there may be three a voxel.
        27.0 * inputs[0].len() as f64 * inputs[0].voxels() as f64
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(4)
    }
}
