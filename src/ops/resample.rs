//! Resampling of volumes: `resample`, `resample_deformed`, and the grid geometry that feeds them.
//!
//! Precision of coordinates. On the 2 mm grid centred on an even 1 mm grid every sample falls halfway
//! between voxels, where nearest-neighbour in f32 is a coin toss. Coordinates are therefore computed in fixed
//! point (matrix entries rounded to 2^-32, exact integer arithmetic after that) and rounded to the nearest
//! multiple of 2^-20 voxel, a tie upwards, before anything is decided by them. Nearest is
//! `floor(coordinate + 0.5)`.

use std::ops::Range;

use glam::DMat4;

use super::convolve::{ConvolveAxis, box_weights};
use super::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs, expect_volume};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// Rows of an affine map from an output index `(d, h, w)` to the input index `(d, h, w)`: row `a` is the
/// coefficients of `d`, `h`, `w` and 1.
pub type IndexMatrix = [[f64; 4]; 3];

/// The map that leaves every index alone.
pub const IDENTITY: IndexMatrix = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];

/// The order in which an array stores the axes of a NIfTI grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisOrder {
    /// `[D, H, W] = [x, y, z]`: nibabel's order in NumPy, that of the networks' grids.
    Xyz,
    /// `[D, H, W] = [z, y, x]`: the bytes of a NIfTI file as they stand, x fastest.
    Zyx,
}

impl AxisOrder {
    /// The NIfTI axis (0 = x) that array axis `axis` runs along.
    pub fn nifti_axis(self, axis: usize) -> usize {
        match self {
            Self::Xyz => axis,
            Self::Zyx => 2 - axis,
        }
    }
}

/// `inv(in_affine) * out_affine`: from voxel `(x, y, z)` of the output grid to voxel `(x, y, z)` of the input
/// grid. Both affines map voxels to millimetres.
pub fn grid_matrix(in_affine: DMat4, out_affine: DMat4) -> DMat4 {
    in_affine.inverse() * out_affine
}

/// Rewrites a map between `(x, y, z)` voxels for arrays that store their axes in the given orders.
pub fn index_matrix(grid: DMat4, in_order: AxisOrder, out_order: AxisOrder) -> IndexMatrix {
    std::array::from_fn(|row| {
        let grid_row = grid.row(in_order.nifti_axis(row));
        std::array::from_fn(|column| match column {
            3 => grid_row[3],
            _ => grid_row[out_order.nifti_axis(column)],
        })
    })
}

/// Distance between neighbouring output samples along each input axis, in input voxels: the Euclidean norm of
/// that row of the matrix. For a pure scaling this is the ratio of the voxel sizes.
pub fn source_steps(matrix: &IndexMatrix) -> [f64; 3] {
    matrix.map(|row| row[..3].iter().map(|m| m * m).sum::<f64>().sqrt())
}

/// The box filters to apply to the input before resampling it with `matrix`: one for every input axis along
/// which the output steps further than the input does (by more than a thousandth), as wide as the step. A
/// 0.5 x 0.5 x 5 mm volume brought to 1 mm is filtered in plane only.
pub fn prefilters(matrix: &IndexMatrix) -> Vec<(ConvolveAxis, Vec<f32>)> {
    let steps = source_steps(matrix);
    (0..3)
        .filter(|&axis| steps[axis] > 1.001)
        .map(|axis| (ConvolveAxis { axis }, box_weights(steps[axis])))
        .collect()
}

/// How a sample is made of its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// The voxel at `floor(coordinate + 0.5)`.
    Nearest,
    /// 8 neighbours.
    Linear,
    /// 64 neighbours with the kernel of Keys 1981, a = -0.5: exact for quadratic polynomials.
    Cubic,
}

/// Where a volume ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// At the centres of its outer voxels, `[0, n - 1]`: scipy's and nilearn's mode `constant`.
    Zero,
    /// At the faces of its outer voxels, `[-0.5, n - 0.5)`, taps beyond the grid repeating the edge: ITK.
    Clamp,
    /// As [`Edge::Clamp`], and beyond a face, by at most so many voxels along d, h and w, mirrored at it.
    Mirror {
        /// Voxels below the first along each axis.
        low: [u32; 3],
        /// Voxels beyond the last along each axis.
        high: [u32; 3],
    },
}

/// A coordinate on an axis of `n` voxels, mirrored at a face that it lies at most `low` or `high` voxels beyond.
fn mirrored(at: f64, n: usize, low: u32, high: u32) -> f64 {
    let end = n as f64 - 0.5;
    if at < -0.5 && at >= -0.5 - f64::from(low) {
        -1.0 - at
    } else if at >= end && at < end + f64::from(high) {
        // The face itself belongs to the voxel within it.
        if at == end { end - 0.5 } else { 2.0 * end - at }
    } else {
        at
    }
}

/// `resample`: y(o) = x interpolated at `matrix * (o, 1)`. Input: x, a volume. Output: a volume of `shape`.
#[derive(Debug, Clone)]
pub struct Resample {
    /// From an output index to input coordinates.
    pub matrix: IndexMatrix,
    /// Extents of the output.
    pub shape: [usize; 3],
    /// How samples are made.
    pub interpolation: Interpolation,
    /// Where the input ends.
    pub edge: Edge,
    /// Value of samples outside the input.
    pub outside: f32,
}

/// `resample_deformed`: as [`Resample`], at `matrix * (o, 1) + u(o)`. Inputs: x, a volume; lattice
/// `[3, g, g, g]`, g >= 4, the control points of a cubic B-spline over the output grid whose value u is the
/// displacement along d, h and w in input voxels. Output: a volume of `shape`.
#[derive(Debug, Clone)]
pub struct ResampleDeformed(pub Resample);

/// An entry of a matrix as kernels take it. Sums and multiples by indices are exact in f64 from there on: 32 bits after the
/// point leave 21 before it.
fn as_fixed_point(value: f64) -> f64 {
    (value * 2f64.powi(32)).round() / 2f64.powi(32)
}

/// An entry of a matrix as 32 bits before and 32 after the point, two's complement.
fn fixed_point(value: f64) -> (u32, u32) {
    let [a, b, c, d, rest @ ..] = ((value * 2f64.powi(32)).round() as i64).to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(rest))
}

impl Resample {
    /// The same samples for these planes of the output alone, bit for bit.
    #[must_use]
    pub fn for_planes(mut self, planes: &Range<usize>) -> Self {
        for row in &mut self.matrix {
            *row = row.map(as_fixed_point);
            row[3] += row[0] * planes.start as f64;
        }
        self.shape[0] = planes.len();
        self
    }

    /// The same samples, bit for bit, of a part of the input that begins at this plane and holds all taps.
    #[must_use]
    pub fn of_part(mut self, first: usize) -> Self {
        for row in &mut self.matrix {
            *row = row.map(as_fixed_point);
        }
        self.matrix[0][3] -= first as f64;
        self
    }

    fn validate(&self, name: &'static str, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_volume(name, inputs, 0)?;
        if self.shape.contains(&0) || self.shape.iter().any(|&n| n > 1 << 16) {
            return Err(OpError::new(name, inputs, format!("output shape {:?}", self.shape)));
        }
        // A bound on every coordinate that keeps the fixed-point sum within its 32 bits before the point.
        let reach = self.matrix.map(|row| {
            row[..3].iter().zip(self.shape).map(|(m, n)| m.abs() * n as f64).sum::<f64>() + row[3].abs()
        });
        if !reach.iter().all(|&r| r < 2f64.powi(30)) {
            return Err(OpError::new(name, inputs, "the matrix is not finite or reaches past 2^30 voxels"));
        }
        let mut shape = inputs[0].shape[..inputs[0].shape.len() - 3].to_vec();
        shape.extend(self.shape);
        Ok(vec![TensorDesc::f32(&shape)])
    }

    fn dispatch(&self, input: &TensorDesc, points: usize) -> Dispatch {
        let entries =
            |part: fn((u32, u32)) -> u32, row: usize| self.matrix[row].map(|m| part(fixed_point(m)));
        let extents = |s: &[usize]| [s[0], s[1], s[2], 0];
        let n: usize = self.shape.iter().product();
        let mut params = Params::new();
        if let Edge::Mirror { low, high } = self.edge {
            let four = |[d, h, w]: [u32; 3]| [d, h, w, 0];
            params = params.u32x4("mirror_low", four(low)).u32x4("mirror_high", four(high));
        }
        Dispatch::new(
            KernelKey::new("resample/resample.wgsl")
                .define("NEAREST", u32::from(self.interpolation == Interpolation::Nearest))
                .define("CUBIC", u32::from(self.interpolation == Interpolation::Cubic))
                .define("ZERO", u32::from(self.edge == Edge::Zero))
                .define("MIRROR", u32::from(matches!(self.edge, Edge::Mirror { .. })))
                .define("DEFORMED", u32::from(points > 0)),
        )
        .bind("x", Slot::Input(0))
        .bind("y", Slot::Output(0))
        .params(
            params
                .extents("in_shape", extents(&input.shape[input.shape.len() - 3..]))
                .extents("out_shape", extents(&self.shape))
                .u32x4("whole_d", entries(|e| e.0, 0))
                .u32x4("whole_h", entries(|e| e.0, 1))
                .u32x4("whole_w", entries(|e| e.0, 2))
                .u32x4("part_d", entries(|e| e.1, 0))
                .u32x4("part_h", entries(|e| e.1, 1))
                .u32x4("part_w", entries(|e| e.1, 2))
                .u32("n", n)
                .f32("outside", self.outside)
                .u32("points", points),
        )
        .flat(n, FLAT)
    }

    /// Samples `x` at every output index; `shift` is added to the rounded coordinates.
    fn sample(&self, x: &HostTensor, shift: impl Fn([usize; 3]) -> [f64; 3]) -> HostTensor {
        let extents: [usize; 3] = x.desc.shape[x.desc.shape.len() - 3..].try_into().expect("a volume");
        let mut data = Vec::with_capacity(self.shape.iter().product());
        for d in 0..self.shape[0] {
            for h in 0..self.shape[1] {
                for w in 0..self.shape[2] {
                    let moved = shift([d, h, w]);
                    let at: [f64; 3] = std::array::from_fn(|a| {
                        let [md, mh, mw, m1] = self.matrix[a];
                        let coordinate = md * d as f64 + mh * h as f64 + mw * w as f64 + m1;
                        (coordinate * 2f64.powi(20) + 0.5).floor() / 2f64.powi(20) + moved[a]
                    });
                    data.push(self.sample_at(&x.data, extents, at));
                }
            }
        }
        let mut shape = x.desc.shape[..x.desc.shape.len() - 3].to_vec();
        shape.extend(self.shape);
        HostTensor::new(TensorDesc::f32(&shape), data)
    }

    fn sample_at(&self, x: &[f64], extents: [usize; 3], at: [f64; 3]) -> f64 {
        let at: [f64; 3] = match self.edge {
            Edge::Mirror { low, high } => {
                std::array::from_fn(|a| mirrored(at[a], extents[a], low[a], high[a]))
            }
            Edge::Zero | Edge::Clamp => at,
        };
        let inside = (0..3).all(|a| match self.edge {
            Edge::Zero => at[a] >= 0.0 && at[a] <= extents[a] as f64 - 1.0,
            Edge::Clamp | Edge::Mirror { .. } => at[a] >= -0.5 && at[a] < extents[a] as f64 - 0.5,
        });
        if !inside {
            return self.outside as f64;
        }
        // Taps along each axis: (voxel, weight), with the edge repeated.
        let taps: [Vec<(usize, f64)>; 3] = std::array::from_fn(|a| {
            let (first, weights) = match self.interpolation {
                Interpolation::Nearest => ((at[a] + 0.5).floor(), vec![1.0]),
                Interpolation::Linear => {
                    let t = at[a] - at[a].floor();
                    (at[a].floor(), vec![1.0 - t, t])
                }
                Interpolation::Cubic => {
                    let t = at[a] - at[a].floor();
                    (at[a].floor() - 1.0, [t + 1.0, t, 1.0 - t, 2.0 - t].map(keys).to_vec())
                }
            };
            let voxel = |k: usize| (first as i64 + k as i64).clamp(0, extents[a] as i64 - 1) as usize;
            weights.into_iter().enumerate().map(|(k, weight)| (voxel(k), weight)).collect()
        });
        let mut sum = 0.0;
        for &(d, wd) in &taps[0] {
            for &(h, wh) in &taps[1] {
                for &(w, ww) in &taps[2] {
                    sum += wd * wh * ww * x[(d * extents[1] + h) * extents[2] + w];
                }
            }
        }
        sum
    }

    /// Voxels along an axis that a sample is made of.
    fn taps(&self) -> usize {
        match self.interpolation {
            Interpolation::Nearest => 1,
            Interpolation::Linear => 2,
            Interpolation::Cubic => 4,
        }
    }

    /// Work and traffic; of the input no more than what the samples are made of.
    fn work(&self, input: &TensorDesc, output: &TensorDesc) -> Cost {
        let gathered = (output.len() * self.taps().pow(3)) as f64;
        let values = gathered.min(input.len() as f64) + output.len() as f64;
        // A weight and a sum a tap; the coordinates take three products and sums an axis.
        Cost { flops: 2.0 * gathered + 18.0 * output.len() as f64, bytes: 4.0 * values }
    }

    fn accuracy(&self) -> Precision {
        match self.interpolation {
            Interpolation::Nearest => Precision::sum_of(1),
            // A coordinate may round to the other multiple of 2^-20 (1e-6 voxel, as much as 8 roundings).
            Interpolation::Linear => Precision::sum_of(16),
            Interpolation::Cubic => Precision::sum_of(64),
        }
    }
}

/// The kernel of Keys 1981 (equation 15) with a = -0.5, at distance `s` in `0..=2`.
fn keys(s: f64) -> f64 {
    if s <= 1.0 {
        1.5 * s.powi(3) - 2.5 * s.powi(2) + 1.0
    } else {
        -0.5 * s.powi(3) + 2.5 * s.powi(2) - 4.0 * s + 2.0
    }
}

/// Registry entry of [`Resample`].
pub static RESAMPLE: OpDef = OpDef {
    name: "resample",
    summary: "volume on another grid: nearest, linear or cubic",
    shaders: &["resample/resample.wgsl"],
    cases: || {
        let oblique = [[-0.9, 0.1, 0.02, 11.0], [0.1, 0.95, 0.05, -1.3], [0.03, -0.05, 1.2, -2.0]];
        let centred = [[2.0, 0.0, 0.0, 0.5], [0.0, 2.0, 0.0, 0.5], [0.0, 0.0, 2.0, 0.5]];
        let thirds = [[0.0, 0.0, 1.0 / 3.0, -1.0 / 3.0], [0.1, 0.0, 0.0, 0.0], [0.0, -0.5, 0.0, 6.0]];
        let case = |name: &str, input: [usize; 3], matrix, shape, interpolation, edge| {
            let op = Resample { matrix, shape, interpolation, edge, outside: -0.25 };
            Case::new(name, op, vec![(TensorDesc::f32(&input), Fill::Normal(1.0))])
        };
        let halves = [[0.5, 0.0, 0.0, -4.5], [0.0, 0.5, 0.0, -4.0], [0.0, 0.0, 0.5, -4.0]];
        let mirror = Mirror { low: [3, 0, 2], high: [4, 1, 0] };
        use Edge::{Clamp, Mirror, Zero};
        use Interpolation::{Cubic, Linear, Nearest};
        vec![
            case("oblique nearest", [13, 11, 9], oblique, [12, 10, 11], Nearest, Zero),
            case("oblique linear", [13, 11, 9], oblique, [12, 10, 11], Linear, Zero),
            case("oblique linear clamped", [13, 11, 9], oblique, [12, 10, 11], Linear, Clamp),
            case("oblique linear mirrored", [13, 11, 9], oblique, [15, 13, 12], Linear, mirror),
            case(
                "every sample at a face or halfway, mirrored",
                [7, 5, 6],
                halves,
                [31, 27, 29],
                Linear,
                mirror,
            ),
            case(
                "every sample at a face or halfway, nearest mirrored",
                [7, 5, 6],
                halves,
                [31, 27, 29],
                Nearest,
                mirror,
            ),
            case("oblique cubic", [13, 11, 9], oblique, [12, 10, 11], Cubic, Clamp),
            case("every sample a tie", [14, 10, 12], centred, [7, 5, 6], Nearest, Zero),
            case("every sample a tie, linear", [14, 10, 12], centred, [7, 5, 6], Linear, Clamp),
            case("axes swapped, ties at tenths", [5, 4, 7], thirds, [31, 12, 16], Nearest, Clamp),
            case("axes swapped, cubic to the edge", [5, 4, 7], thirds, [31, 12, 16], Cubic, Zero),
            case("single slice", [1, 6, 1], IDENTITY, [1, 6, 1], Linear, Zero),
            Case::new(
                "batch axes",
                Resample {
                    matrix: oblique,
                    shape: [9, 8, 7],
                    interpolation: Linear,
                    edge: Clamp,
                    outside: 0.0,
                },
                vec![(TensorDesc::f32(&[1, 1, 13, 11, 9]), Fill::Normal(1.0))],
            ),
            case("head to 2 mm", [256, 256, 192], centred, [128, 128, 96], Linear, Zero).bench_only(),
            case("head to 2 mm, cubic", [256, 256, 192], centred, [128, 128, 96], Cubic, Zero).bench_only(),
        ]
    },
};

impl Operator for Resample {
    fn name(&self) -> &'static str {
        "resample"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("resample", inputs, 1)?;
        self.validate("resample", inputs)
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        Lowered::one(self.dispatch(&inputs[0], 0))
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        vec![self.sample(inputs[0], |_| [0.0; 3])]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        self.accuracy()
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        self.work(&inputs[0], &outputs[0])
    }
}

/// Registry entry of [`ResampleDeformed`].
pub static RESAMPLE_DEFORMED: OpDef = OpDef {
    name: "resample_deformed",
    summary: "volume on another grid bent by a B-spline displacement",
    shaders: &["resample/resample.wgsl", "augment/lattice_rows.wgsl"],
    cases: || {
        let oblique = [[-0.9, 0.1, 0.02, 11.0], [0.1, 0.95, 0.05, -1.3], [0.03, -0.05, 1.2, -2.0]];
        let case = |name: &str, input: [usize; 3], shape, points: usize, interpolation, edge| {
            let base = Resample { matrix: oblique, shape, interpolation, edge, outside: 0.5 };
            Case::new(
                name,
                ResampleDeformed(base),
                vec![
                    (TensorDesc::f32(&input), Fill::Normal(1.0)),
                    (TensorDesc::f32(&[3, points, points, points]), Fill::Normal(1.5)),
                ],
            )
        };
        vec![
            case("linear", [13, 11, 9], [12, 10, 11], 4, Interpolation::Linear, Edge::Clamp),
            case("linear, finer lattice", [13, 11, 9], [12, 1, 11], 7, Interpolation::Linear, Edge::Zero),
            case("nearest", [13, 11, 9], [12, 10, 11], 5, Interpolation::Nearest, Edge::Zero),
            case("cubic", [13, 11, 9], [12, 10, 11], 5, Interpolation::Cubic, Edge::Clamp),
            case("training", [96, 128, 160], [96, 128, 160], 8, Interpolation::Linear, Edge::Zero)
                .bench_only(),
        ]
    },
};

impl Operator for ResampleDeformed {
    fn name(&self) -> &'static str {
        "resample_deformed"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("resample_deformed", inputs, 2)?;
        expect_lattice("resample_deformed", inputs, 1, 3)?;
        self.0.validate("resample_deformed", inputs)
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let points = inputs[1].shape[3];
        let mut lowered = Lowered::default();
        let rows = lattice_rows(&mut lowered, Slot::Input(1), &inputs[1], self.0.shape);
        lowered.push(self.0.dispatch(&inputs[0], points).bind("rows", rows));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let lattice = inputs[1];
        let shift = |index| std::array::from_fn(|a| lattice_value(lattice, a, index, self.0.shape));
        vec![self.0.sample(inputs[0], shift)]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // The displacement, a sum of 64 products, moves the sample by its own rounding errors.
        let Precision { reduction, epsilon } = self.0.accuracy();
        Precision { reduction: reduction + 64, epsilon }
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let Cost { flops, bytes } = self.0.work(&inputs[0], &outputs[0]);
        // The displacement: along d, h and w from four control points each.
        Cost { flops: flops + 24.0 * outputs[0].len() as f64, bytes: bytes + inputs[1].bytes() as f64 }
    }
}

/// Requires a lattice of B-spline control points: `[channels, g, g, g]` with g >= 4.
pub(crate) fn expect_lattice(
    name: &'static str,
    inputs: &[TensorDesc],
    ix: usize,
    channels: usize,
) -> Result<(), OpError> {
    match inputs[ix].shape.as_slice() {
        &[c, a, b, k] if c == channels && a == b && b == k && k >= 4 => Ok(()),
        _ => Err(OpError::new(name, inputs, format!("input {ix} must be [{channels}, g, g, g], g >= 4"))),
    }
}

/// Contracts the lattice in `slot` to `[C, D, H, g]` for a grid of `shape`; returns the temporary.
pub(crate) fn lattice_rows(
    lowered: &mut Lowered,
    slot: Slot,
    lattice: &TensorDesc,
    shape: [usize; 3],
) -> Slot {
    let (channels, points) = (lattice.shape[0], lattice.shape[3]);
    let n = channels * shape[0] * shape[1] * points;
    let rows = lowered.scratch(n as u64 * 4);
    lowered.push(
        Dispatch::new(KernelKey::new("augment/lattice_rows.wgsl"))
            .bind("lattice", slot)
            .bind("rows", rows)
            .params(Params::new().u32("n", n).u32("n_d", shape[0]).u32("n_h", shape[1]).u32("points", points))
            .flat(n, FLAT),
    );
    rows
}

/// The cubic B-spline with the control points `lattice[channel]`, spanning a grid of `shape`, at `index`.
pub(crate) fn lattice_value(
    lattice: &HostTensor,
    channel: usize,
    index: [usize; 3],
    shape: [usize; 3],
) -> f64 {
    let points = lattice.desc.shape[3];
    let spans = points - 3;
    let basis: [Vec<f64>; 3] = std::array::from_fn(|a| {
        let at = index[a] as f64 * spans as f64 / (shape[a].max(2) - 1) as f64;
        // Control point k is centred at k - 1 spans.
        (0..points).map(|k| cubic_bspline(at - (k as f64 - 1.0))).collect()
    });
    let mut sum = 0.0;
    for (a, wa) in basis[0].iter().enumerate() {
        for (b, wb) in basis[1].iter().enumerate() {
            for (k, wk) in basis[2].iter().enumerate() {
                sum += wa * wb * wk * lattice.data[((channel * points + a) * points + b) * points + k];
            }
        }
    }
    sum
}

/// The centred cubic B-spline.
fn cubic_bspline(s: f64) -> f64 {
    match s.abs() {
        s if s < 1.0 => 2.0 / 3.0 - s * s + s.powi(3) / 2.0,
        s if s < 2.0 => (2.0 - s).powi(3) / 6.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glam::{DVec3, DVec4};

    /// Where the grids put a voxel must not depend on the order in which arrays store their axes.
    #[test]
    fn index_matrices_agree_with_world_coordinates() {
        let input = DMat4::from_cols(
            DVec4::new(-0.9, 0.1, 0.0, 0.0),
            DVec4::new(0.1, 0.95, -0.05, 0.0),
            DVec4::new(0.02, 0.05, 1.2, 0.0),
            DVec4::new(30.0, -40.0, -20.0, 1.0),
        );
        let output = DMat4::from_cols(
            DVec4::new(2.0, 0.0, 0.0, 0.0),
            DVec4::new(0.0, 2.5, 0.0, 0.0),
            DVec4::new(0.0, 0.3, 3.0, 0.0),
            DVec4::new(-7.0, 11.0, 5.0, 1.0),
        );
        let voxel = DVec3::new(3.0, 7.0, 11.0);
        let grid = grid_matrix(input, output);
        let want = input.inverse().transform_point3(output.transform_point3(voxel)).to_array();
        for in_order in [AxisOrder::Xyz, AxisOrder::Zyx] {
            for out_order in [AxisOrder::Xyz, AxisOrder::Zyx] {
                let matrix = index_matrix(grid, in_order, out_order);
                let index: [f64; 3] = std::array::from_fn(|a| voxel[out_order.nifti_axis(a)]);
                for (axis, row) in matrix.iter().enumerate() {
                    let got = row[0] * index[0] + row[1] * index[1] + row[2] * index[2] + row[3];
                    let want = want[in_order.nifti_axis(axis)];
                    assert!((got - want).abs() < 1e-10, "{in_order:?} {out_order:?}: {got} {want}");
                }
            }
        }
        // The x of a file is the last axis of its bytes and the first of a network's grid.
        let scaling = DMat4::from_scale(DVec3::new(2.0, 3.0, 5.0));
        assert_eq!(index_matrix(scaling, AxisOrder::Zyx, AxisOrder::Xyz)[2], [2.0, 0.0, 0.0, 0.0]);
        assert_eq!(index_matrix(scaling, AxisOrder::Zyx, AxisOrder::Xyz)[0], [0.0, 0.0, 5.0, 0.0]);
        assert_eq!(index_matrix(scaling, AxisOrder::Xyz, AxisOrder::Xyz)[1], [0.0, 3.0, 0.0, 0.0]);
    }

    #[test]
    fn fixed_point_keeps_sign_and_ties() {
        assert_eq!(fixed_point(0.5), (0, 1 << 31));
        assert_eq!(fixed_point(-0.5), (u32::MAX, 1 << 31));
        assert_eq!(fixed_point(-3.0), ((-3i32).cast_unsigned(), 0));
    }

    #[test]
    fn only_coarser_axes_are_filtered() {
        let matrix = [[0.2, 0.0, 0.0, 0.0], [0.0, 0.0, -2.0, 9.0], [0.0, 2.0, 0.0, 0.0]];
        let filters = prefilters(&matrix);
        assert_eq!(filters.iter().map(|(op, _)| op.axis).collect::<Vec<_>>(), [1, 2]);
        assert!(prefilters(&IDENTITY).is_empty());
    }
}
