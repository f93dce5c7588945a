//! `label_paint`: a head as a scanner sees it, out of a map of labels and distances.

use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::dropout::standard_normal;
use crate::ops::resample::{IDENTITY, IndexMatrix, expect_lattice, lattice_rows, lattice_value};
use crate::ops::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs, expect_volume};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// Steps of the signed distance to the envelope that a word holds; the middle one is 0.
pub const ENVELOPE_STEPS: u32 = 1 << 12;
/// Steps of a quarter of a millimetre that a word holds of the other distances.
pub const QUARTERS: u32 = 1 << 6;
/// What lies beyond the map: class 0, far outside.
const BEYOND: u32 = (ENVELOPE_STEPS - 1) << 8;
/// Half of the envelope's steps.
const MIDDLE: f64 = (ENVELOPE_STEPS / 2) as f64;

/// A voxel of a map: its class, the signed distance to the envelope in steps of `step_mm`, its depth below the outer fluid
/// and its distance from the ventricles in mm. Distances beyond what a word holds take its last step.
pub fn pack_word(class: u8, envelope_mm: f64, step_mm: f64, depth_mm: f64, ventricle_mm: f64) -> u32 {
    let envelope = (envelope_mm / step_mm + MIDDLE).round().clamp(0.0, f64::from(ENVELOPE_STEPS - 1)) as u32;
    let quarters = |mm: f64| (mm * 4.0).round().clamp(0.0, f64::from(QUARTERS - 1)) as u32;
    u32::from(class) | envelope << 8 | quarters(depth_mm) << 20 | quarters(ventricle_mm) << 26
}

/// `label_paint`: image and brain of a deformed label map, each voxel with its parts of all classes that it touches, and the
/// brain without the fluid round it.
///
/// Inputs: map `[D, H, W]` u32 of [`pack_word`]; displacement `[3, g, g, g]`, control points in voxels of the map;
/// texture `[1, t, t, t]`; table `[classes, 4]`, the mean, spread, whether tissue and whether a part of the brain where
/// near enough, for classes up to the largest in the map, class 0 for what lies beyond it; lesions `[L, 8]`, L >= 1: centre
/// (three numbers, in voxels of the map, and a spare one), half axes in voxels, none where one is 0, and mean. Outputs,
/// `[D', H', W']`: image; brain, the part of a voxel that is brain; and the part of it that is tissue or ventricle as well.
#[derive(Debug, Clone)]
pub struct LabelPaint {
    /// From an output index to voxels of the map.
    pub matrix: IndexMatrix,
    /// Extents of the output.
    pub shape: [usize; 3],
    /// Edges of the map's voxels along d, h and w.
    pub voxel_mm: [f32; 3],
    /// Step of the distance to the envelope.
    pub step_mm: f32,
    /// How far beyond the envelope the brain goes.
    pub film_mm: f32,
    /// Width of soft borders.
    pub soft_mm: f32,
    /// A voxel at a distance d beyond `pull_from_mm` shows what lies `(1 + pull) d` beyond it: above 0 the skull is thinner.
    pub pull: f32,
    /// Distance from the envelope at which the pull begins: that of the film, or less, and fluid is squeezed as well.
    pub pull_from_mm: f32,
    /// Distance beyond that from which the pull grows no more.
    pub farthest_mm: f32,
    /// Tissue less deep than this below the outer fluid is fluid, and the envelope as much smaller; 0 leaves it.
    pub erosion_mm: f32,
    /// Tissue nearer than this to the ventricles is fluid; 0 leaves it.
    pub growth_mm: f32,
    /// Mean of that fluid.
    pub fluid: f32,
    /// Spread of the texture in units of the voxels' own.
    pub coarse: f32,
    /// Of the noise.
    pub seed: [u32; 2],
}

/// Registry entry of [`LabelPaint`].
pub static LABEL_PAINT: OpDef = OpDef {
    name: "label_paint",
    summary: "image and brain from a deformed label map: intensity by class, partial volume, texture, atrophy, lesions",
    shaders: &["synth/paint.wgsl", "augment/lattice_rows.wgsl"],
    cases: || {
        let oblique = [[-0.9, 0.1, 0.02, 7.3], [0.1, 0.95, 0.05, -1.3], [0.03, -0.05, 0.8, 0.7]];
        // Envelopes within 4 mm: at real steps, random neighbours would be 60 mm apart, and gradients without meaning.
        let plain = LabelPaint {
            matrix: oblique,
            shape: [6, 5, 7],
            voxel_mm: [1.0, 1.5, 1.25],
            step_mm: 1.0 / 512.0,
            film_mm: 2.0,
            soft_mm: 1.5,
            pull: 0.0,
            pull_from_mm: 2.0,
            farthest_mm: 60.0,
            erosion_mm: 0.0,
            growth_mm: 0.0,
            fluid: 0.2,
            coarse: 0.5,
            seed: [17, 940],
        };
        let case = |name: &str, op: LabelPaint, map: [usize; 3], lesions: &'static [f32]| {
            // Classes 0 to 255 at random: the words are uniform.
            Case::new(
                name,
                op,
                vec![
                    (TensorDesc::u32(&map), Fill::Integer(u32::MAX)),
                    (TensorDesc::f32(&[3, 5, 5, 5]), Fill::Normal(0.8)),
                    (TensorDesc::f32(&[1, 7, 7, 7]), Fill::Normal(1.0)),
                    (TensorDesc::f32(&[256, 4]), Fill::Uniform(0.0, 1.0)),
                    (TensorDesc::f32(&[lesions.len() / 8, 8]), Fill::Values(lesions)),
                ],
            )
        };
        let none: &[f32] = &[0.0; 8];
        let two: &[f32] = &[3.0, 4.0, 5.0, 0.0, 2.5, 3.0, 2.0, 0.9, 1.0, 1.0, 1.0, 0.0, 1.5, 1.5, 4.0, 0.1];
        vec![
            case("oblique", plain.clone(), [8, 9, 7], none),
            case("thin skull", LabelPaint { pull: 0.6, ..plain.clone() }, [8, 9, 7], none),
            case(
                "thin skull, little fluid",
                LabelPaint { pull: 1.4, pull_from_mm: 0.0, ..plain.clone() },
                [8, 9, 7],
                none,
            ),
            case(
                "thick skull",
                LabelPaint { pull: -0.4, farthest_mm: 1.5, ..plain.clone() },
                [8, 9, 7],
                none,
            ),
            case(
                "atrophy and lesions",
                LabelPaint { erosion_mm: 1.5, growth_mm: 3.0, ..plain.clone() },
                [8, 9, 7],
                two,
            ),
            case(
                "one voxel of a map, a row of the head",
                LabelPaint { matrix: IDENTITY, shape: [1, 3, 1], ..plain.clone() },
                [1, 1, 1],
                none,
            ),
            case(
                "a head at 1.5 mm",
                LabelPaint { shape: [128, 149, 149], matrix: IDENTITY, pull: 0.5, erosion_mm: 1.0, ..plain },
                [121, 145, 121],
                none,
            )
            .bench_only(),
        ]
    },
};

impl LabelPaint {
    /// From an output index to the map, with the displacement.
    fn place(&self, index: [usize; 3], lattice: &HostTensor) -> [f64; 3] {
        std::array::from_fn(|axis| {
            let [d, h, w, one] = self.matrix[axis].map(|entry| f64::from(entry as f32));
            let [at_d, at_h, at_w] = index.map(|v| v as f64);
            d * at_d + h * at_h + w * at_w + one + lattice_value(lattice, axis, index, self.shape)
        })
    }

    fn envelope_mm(&self, word: u32) -> f64 {
        (f64::from(word >> 8 & (ENVELOPE_STEPS - 1)) - MIDDLE) * f64::from(self.step_mm)
    }

    /// Where a voxel at `p` outside the brain looks, along the gradient of the distance.
    fn pulled(&self, map: &HostTensor, p: [f64; 3]) -> [f64; 3] {
        let mut distance = 0.0;
        let mut gradient = [0.0; 3];
        for ([w, signs], word) in corners(map, p) {
            let s = self.envelope_mm(word);
            distance += s * w[0] * w[1] * w[2];
            for axis in 0..3 {
                let across = w[(axis + 1) % 3] * w[(axis + 2) % 3];
                gradient[axis] += s * signs[axis] * across / f64::from(self.voxel_mm[axis]);
            }
        }
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt().max(0.25);
        let beyond = (distance - f64::from(self.pull_from_mm)).clamp(0.0, f64::from(self.farthest_mm));
        std::array::from_fn(|axis| {
            p[axis] + gradient[axis] / length * f64::from(self.pull) * beyond / f64::from(self.voxel_mm[axis])
        })
    }
}

/// The eight voxels round a place in the map: weights along the axes, -1 for lower and 1 for upper neighbours, and words.
fn corners(map: &HostTensor, p: [f64; 3]) -> impl Iterator<Item = ([[f64; 3]; 2], u32)> + '_ {
    let shape: [usize; 3] = map.desc.shape[map.desc.shape.len() - 3..].try_into().expect("a volume");
    (0..8usize).map(move |corner| {
        let upper = [corner >> 2 == 1, corner >> 1 & 1 == 1, corner & 1 == 1];
        let fraction = p.map(|v| v - v.floor());
        let weights = std::array::from_fn(|a| if upper[a] { fraction[a] } else { 1.0 - fraction[a] });
        let signs = upper.map(|upper| if upper { 1.0 } else { -1.0 });
        let at: [i64; 3] = std::array::from_fn(|a| p[a].floor() as i64 + i64::from(upper[a]));
        let inside = (0..3).all(|a| (0..shape[a] as i64).contains(&at[a]));
        let word = match inside {
            true => {
                map.data[((at[0] as usize * shape[1]) + at[1] as usize) * shape[2] + at[2] as usize] as u32
            }
            false => BEYOND,
        };
        ([weights, signs], word)
    })
}

/// 0 below `-width / 2`, 1 above `width / 2`.
fn ramp(x: f64, width: f32) -> f64 {
    (x / f64::from(width) + 0.5).clamp(0.0, 1.0)
}

impl Operator for LabelPaint {
    fn name(&self) -> &'static str {
        "label_paint"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("label_paint", inputs, 5)?;
        expect_volume("label_paint", inputs, 0)?;
        expect_lattice("label_paint", inputs, 1, 3)?;
        expect_lattice("label_paint", inputs, 2, 1)?;
        let fail = |reason: &str| OpError::new("label_paint", inputs, reason);
        if inputs[0].dtype != DType::U32 {
            return Err(fail("the map must be u32"));
        }
        match (inputs[3].shape.as_slice(), inputs[4].shape.as_slice()) {
            (&[classes, 4], &[lesions, 8]) if (1..=256).contains(&classes) && lesions > 0 => {}
            _ => {
                return Err(fail("the table must be [classes, 4], 1 to 256 of them, lesions [L, 8], L >= 1"));
            }
        }
        if self.shape.contains(&0) || self.shape.iter().any(|&n| n > 1 << 16) {
            return Err(fail(&format!("output shape {:?}", self.shape)));
        }
        if !self.matrix.iter().flatten().all(|entry| entry.abs() < 1e6) {
            return Err(fail("the matrix is not finite or beyond 10^6"));
        }
        let positive = |v: f32| v > 0.0 && v.is_finite();
        if !self.voxel_mm.into_iter().chain([self.step_mm, self.soft_mm]).all(positive) {
            return Err(fail("voxels, steps and soft borders must be above 0"));
        }
        let out = TensorDesc::f32(&self.shape);
        Ok(vec![out; 3])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let [points, texture_points] = [1, 2].map(|ix: usize| inputs[ix].shape[3]);
        let mut lowered = Lowered::default();
        let rows = lattice_rows(&mut lowered, Slot::Input(1), &inputs[1], self.shape);
        let texture_rows = lattice_rows(&mut lowered, Slot::Input(2), &inputs[2], self.shape);
        let extents = |s: &[usize]| [s[0], s[1], s[2], 0];
        let row = |axis: usize| self.matrix[axis].map(|entry| entry as f32);
        let [d, h, w] = self.voxel_mm;
        let n: usize = self.shape.iter().product();
        lowered.push(
            Dispatch::new(KernelKey::new("synth/paint.wgsl"))
                .bind("map", Slot::Input(0))
                .bind("rows", rows)
                .bind("texture_rows", texture_rows)
                .bind("table", Slot::Input(3))
                .bind("lesions", Slot::Input(4))
                .bind("image", Slot::Output(0))
                .bind("brain", Slot::Output(1))
                .bind("no_csf", Slot::Output(2))
                .params(
                    Params::new()
                        .extents("in_shape", extents(&inputs[0].shape[inputs[0].shape.len() - 3..]))
                        .extents("out_shape", extents(&self.shape))
                        .f32x4("matrix_d", row(0))
                        .f32x4("matrix_h", row(1))
                        .f32x4("matrix_w", row(2))
                        .f32x4("voxel_mm", [d, h, w, 1.0])
                        .u32("n", n)
                        .u32("points", points)
                        .u32("texture_points", texture_points)
                        .u32("lesions", inputs[4].shape[0])
                        .f32("step_mm", self.step_mm)
                        .f32("film_mm", self.film_mm)
                        .f32("soft_mm", self.soft_mm)
                        .f32("pull", self.pull)
                        .f32("pull_from_mm", self.pull_from_mm)
                        .f32("farthest_mm", self.farthest_mm)
                        .f32("erosion_mm", self.erosion_mm)
                        .f32("growth_mm", self.growth_mm)
                        .f32("fluid", self.fluid)
                        .f32("coarse", self.coarse)
                        .u32("seed_low", self.seed[0] as usize)
                        .u32("seed_high", self.seed[1] as usize),
                )
                .flat(n, FLAT),
        );
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let [map, lattice, texture, table, lesions] = inputs else { unreachable!("five inputs") };
        let [mut image, mut brain, mut no_csf] =
            [0; 3].map(|_| HostTensor::zeros(TensorDesc::f32(&self.shape)));
        let [_, h, w] = self.shape;
        for i in 0..image.data.len() {
            let index = [i / (w * h), i / w % h, i % w];
            let q = self.place(index, lattice);
            let t = lattice_value(texture, 0, index, self.shape);
            let p = if self.pull == 0.0 { q } else { self.pulled(map, q) };
            let (mut found, mut of_tissue, mut distances) = ([0.0; 4], 0.0, [0.0; 3]);
            for ([weights, _], word) in corners(map, p) {
                let weight: f64 = weights.iter().product();
                // What a table lacks reads as its last row, as it does on devices; maps hold no such class.
                let class = (word as usize & 0xFF).min(table.desc.shape[0] - 1);
                let row: [f64; 4] = table.data[4 * class..][..4].try_into().expect("four columns");
                (0..4).for_each(|column| found[column] += weight * row[column]);
                of_tissue += weight * row[0] * row[2];
                let quarters = [f64::from(word >> 20 & 63) * 0.25, f64::from(word >> 26) * 0.25];
                let of_word = [self.envelope_mm(word), quarters[0], quarters[1]];
                (0..3).for_each(|k| distances[k] += weight * of_word[k]);
            }
            let [mut value, spread, mut tissue, inside] = found;
            let keeps = |distance: f64, lost: f32| match lost > 0.0 {
                true => ramp(distance - f64::from(lost), self.soft_mm),
                false => 1.0,
            };
            let outer_kept = keeps(distances[1], self.erosion_mm);
            let kept = outer_kept * keeps(distances[2], self.growth_mm);
            let ventricle = ramp(0.5 * f64::from(self.soft_mm) - distances[2], self.soft_mm);
            let inner = (tissue * outer_kept).max(ventricle);
            value += (1.0 - kept) * (tissue * f64::from(self.fluid) - of_tissue);
            tissue *= kept;
            for lesion in lesions.data.chunks_exact(8).filter(|lesion| lesion[4..7].iter().all(|&a| a > 0.0))
            {
                let square: f64 = (0..3).map(|a| ((q[a] - lesion[a]) / lesion[4 + a]).powi(2)).sum();
                let r = square.sqrt() * (1.0 + 0.15 * t.clamp(-3.0, 3.0));
                value += tissue * ramp(1.0 - r, 0.25) * (lesion[7] - value);
            }
            let n = standard_normal(self.seed, 0, u32::try_from(i).expect("a volume has fewer voxels"))[0];
            image.data[i] = value + spread * (n + f64::from(self.coarse) * t);
            let beyond = f64::from(self.film_mm) - f64::from(self.erosion_mm) - distances[0];
            brain.data[i] = inside * ramp(beyond, self.soft_mm);
            no_csf.data[i] = brain.data[i].min(inner);
        }
        vec![image, brain, no_csf]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // Places in the map are f32, and distances change by millimetres from voxel to voxel; log of software Vulkan.
        Precision { reduction: 1, epsilon: 1e-5 }
    }

    fn cost(&self, inputs: &[TensorDesc], outputs: &[TensorDesc]) -> Cost {
        let n = outputs[0].len() as f64;
        let bytes = inputs.iter().chain(outputs).map(|desc| desc.bytes() as f64).sum();
        Cost { flops: 400.0 * n, bytes }
    }
}
