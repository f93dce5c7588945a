//! `scan_faults`: what goes wrong between a head and its file.

use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::ops::dropout::{random_words, standard_normal};
use crate::ops::{Case, Cost, FLAT, Fill, OpDef, OpError, Operator, Precision, expect_inputs, expect_volume};
use crate::tensor::{DType, HostTensor, TensorDesc};

/// `scan_faults`: ghosts, noise that varies in space, hot voxels, another scale, and parts of the volume set to a value.
///
/// Inputs: x, a volume; planes `[P, 8]`, P >= 1: `(a, b, c, e, value)` and three spares: voxels with a d + b h + c w > e take
/// the value, the last such plane's where there are several; all 0 cuts nothing; seed `[2]` u32. Output: as x.
#[derive(Debug, Clone)]
pub struct ScanFaults {
    /// How strong the ghost is; 0 for none.
    pub ghost: f32,
    /// Its axis: 0 for D, 1 for H, 2 for W.
    pub ghost_axis: usize,
    /// How many voxels it is moved, coming in again at the other end.
    pub ghost_shift: usize,
    /// Standard deviation of the noise in the middle; 0 for none.
    pub noise: f32,
    /// Change of the noise's logarithm from the middle to the last voxel along each axis.
    pub noise_slope: [f32; 3],
    /// Share of hot voxels.
    pub hot_share: f32,
    /// The brightest of them.
    pub hot: f32,
    /// Factor of all of it,
    pub gain: f32,
    /// and what is added then.
    pub offset: f32,
}

impl ScanFaults {
    /// None at all.
    pub const NONE: Self = Self {
        ghost: 0.0,
        ghost_axis: 0,
        ghost_shift: 0,
        noise: 0.0,
        noise_slope: [0.0; 3],
        hot_share: 0.0,
        hot: 0.0,
        gain: 1.0,
        offset: 0.0,
    };

    /// Words below this make a voxel hot.
    fn hot_below(&self) -> u32 {
        // Saturates.
        (f64::from(self.hot_share) * 4_294_967_296.0) as u32
    }
}

/// Registry entry of [`ScanFaults`].
pub static SCAN_FAULTS: OpDef = OpDef {
    name: "scan_faults",
    summary: "ghosts, noise that varies in space, hot voxels, scale and padding of a synthetic scan",
    shaders: &["synth/faults.wgsl"],
    cases: || {
        let case = |name: &str, op: ScanFaults, shape: &[usize], planes: &'static [f32]| {
            Case::new(
                name,
                op,
                vec![
                    (TensorDesc::f32(shape), Fill::Uniform(0.0, 1.0)),
                    (TensorDesc::f32(&[planes.len() / 8, 8]), Fill::Values(planes)),
                    (TensorDesc::u32(&[2]), Fill::Integer(1000)),
                ],
            )
        };
        let none: &[f32] = &[0.0; 8];
        // Between voxels: no plane is a matter of rounding.
        let two: &[f32] =
            &[1.0, 2.0, -1.0, 9.5, -3.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, -0.5, 7.0, 0.0, 0.0, 0.0];
        let all = ScanFaults {
            ghost: 0.2,
            ghost_axis: 1,
            ghost_shift: 3,
            noise: 0.1,
            noise_slope: [0.5, -0.3, 0.2],
            hot_share: 0.1,
            hot: 3.0,
            gain: 2.0,
            offset: -1.0,
        };
        vec![
            case("all at once", all.clone(), &[5, 7, 9], two),
            case(
                "ghost along w, batch axes",
                ScanFaults { ghost_axis: 2, ..all.clone() },
                &[1, 1, 4, 3, 6],
                none,
            ),
            case("ghost along an extent of 1", ScanFaults { ghost_axis: 0, ..all.clone() }, &[1, 6, 1], none),
            case("none", ScanFaults::NONE, &[3, 4, 5], none),
            case("a head at 1.5 mm", all, &[128, 149, 149], none).bench_only(),
        ]
    },
};

impl Operator for ScanFaults {
    fn name(&self) -> &'static str {
        "scan_faults"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("scan_faults", inputs, 3)?;
        expect_volume("scan_faults", inputs, 0)?;
        let fail = |reason: &str| OpError::new("scan_faults", inputs, reason);
        if inputs[0].dtype != DType::F32 || inputs[2] != TensorDesc::u32(&[2]) {
            return Err(fail("x must be f32 and the seed two u32"));
        }
        if !matches!(inputs[1].shape.as_slice(), &[planes, 8] if planes > 0) {
            return Err(fail("planes must be [P, 8], P >= 1"));
        }
        if self.ghost_axis > 2 {
            return Err(fail("the axis of a ghost must be 0, 1 or 2"));
        }
        if !(0.0..=1.0).contains(&self.hot_share) {
            return Err(fail("the share of hot voxels must lie between 0 and 1"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let shape = &inputs[0].shape[inputs[0].shape.len() - 3..];
        let [a, b, c] = self.noise_slope;
        Lowered::one(
            Dispatch::new(KernelKey::new("synth/faults.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("planes", Slot::Input(1))
                .bind("seed", Slot::Input(2))
                .bind("y", Slot::Output(0))
                .params(
                    Params::new()
                        .extents("shape", [shape[0], shape[1], shape[2], 0])
                        .f32x4("slope", [a, b, c, 0.0])
                        .u32("n", inputs[0].len())
                        .u32("planes", inputs[1].shape[0])
                        .f32("ghost", self.ghost)
                        .u32("ghost_axis", self.ghost_axis)
                        .u32("ghost_shift", self.ghost_shift)
                        .f32("noise", self.noise)
                        .bits("hot_below", self.hot_below())
                        .f32("hot", self.hot)
                        .f32("gain", self.gain)
                        .f32("offset", self.offset),
                )
                .flat(inputs[0].len(), FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let (x, planes, seed) = (inputs[0], &inputs[1].data, &inputs[2].data);
        let seed = [seed[0] as u32, seed[1] as u32];
        let shape: [usize; 3] = x.desc.shape[x.desc.shape.len() - 3..].try_into().expect("a volume");
        let mut y = HostTensor::zeros(x.desc.clone());
        for i in 0..x.data.len() {
            let index = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
            let counter = u32::try_from(i).expect("a volume has fewer voxels");
            let mut moved = index;
            let axis = self.ghost_axis;
            moved[axis] = (index[axis] + self.ghost_shift) % shape[axis];
            let ghost = x.data[(moved[0] * shape[1] + moved[1]) * shape[2] + moved[2]];
            let place = |a: usize| 2.0 * index[a] as f64 / (shape[a].max(2) - 1) as f64 - 1.0;
            let slope: f64 = (0..3).map(|a| f64::from(self.noise_slope[a]) * place(a)).sum();
            let noise = f64::from(self.noise) * slope.exp() * standard_normal(seed, 1, counter)[0];
            let words = random_words(seed, 2, counter);
            let value = if words[0] < self.hot_below() {
                f64::from(self.hot) * f64::from(words[1] >> 8) / f64::from(1 << 24)
            } else {
                x.data[i] + f64::from(self.ghost) * ghost + noise
            };
            y.data[i] = f64::from(self.gain) * value + f64::from(self.offset);
            for plane in planes.chunks_exact(8) {
                if (0..3).map(|a| plane[a] * index[a] as f64).sum::<f64>() > plane[3] {
                    y.data[i] = plane[4];
                }
            }
        }
        vec![y]
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        // log of software Vulkan: 9e-5 relative.
        Precision { reduction: 1, epsilon: 1e-5 }
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 100.0 * n, bytes: 12.0 * n }
    }
}
