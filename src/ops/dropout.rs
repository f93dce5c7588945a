//! Inverted dropout with counter-based random numbers: the mask is a function of seed, step and layer, so
//! it is neither stored nor drawn on the host, and the backward pass draws it again.

use super::{
    Case, Cost, FLAT, Fill, GradientBuilder, NodeIo, OpDef, OpError, Operator, Precision, ValueId,
    batch_pieces, expect_inputs, sample_range,
};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{HostTensor, TensorDesc};

/// Four random words for `seed` = (seed, step), a stream and a counter: `random_words` of
/// `shaders/lib/random.wgsl`, bit for bit (pcg4d, Jarzynski & Olano, JCGT 9(3), 2020).
pub fn random_words(seed: [u32; 2], stream: u32, counter: u32) -> [u32; 4] {
    let mut v = [counter, stream, seed[1], seed[0]]
        .map(|word| word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let mix = |v: &mut [u32; 4]| {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[3]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
        v[3] = v[3].wrapping_add(v[1].wrapping_mul(v[2]));
    };
    mix(&mut v);
    v = v.map(|word| word ^ (word >> 16));
    mix(&mut v);
    v
}

/// Four standard normal numbers: `normal` of `shaders/lib/random.wgsl` (Box-Muller) in f64.
pub fn standard_normal(seed: [u32; 2], stream: u32, counter: u32) -> [f64; 4] {
    let u = random_words(seed, stream, counter).map(|word| f64::from(word >> 8) / f64::from(1 << 24));
    let [first, second] = [u[0], u[1]].map(|u| (-2.0 * (1.0 - u).ln()).sqrt());
    let [a, b] = [u[2], u[3]].map(|u| std::f64::consts::TAU * u);
    [first * a.cos(), second * b.cos(), first * a.sin(), second * b.sin()]
}

/// `dropout`: y = x / (1 - rate) with probability 1 - rate, else 0.
///
/// Inputs: x `[N, ...]` and the step seed `[2]` u32, `[seed, step]`, which the host writes before every
/// run. Output: y, of x's shape. Applied to the gradient with the same seed it is its own backward.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// Probability of a zero, in [0, 1).
    pub rate: f32,
    /// Number of the layer: layers with different streams have independent masks.
    pub stream: u32,
}

impl Dropout {
    /// Words below this are dropped.
    fn threshold(&self) -> u32 {
        // Saturates.
        (f64::from(self.rate) * 4_294_967_296.0) as u32
    }

    fn factor(&self) -> f64 {
        1.0 / (1.0 - self.rate as f64)
    }
}

/// Registry entry of [`Dropout`].
pub static DROPOUT: OpDef = OpDef {
    name: "dropout",
    summary: "inverted dropout with a mask from seed, step and stream",
    shaders: &["dropout/dropout.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize], rate: f32| {
            let inputs = vec![
                (TensorDesc::f32(shape), Fill::Normal(1.0)),
                (TensorDesc::u32(&[2]), Fill::Integer(1_000_000)),
            ];
            Case::new(name, Dropout { rate, stream: 3 }, inputs).differentiable(&[0])
        };
        vec![
            case("odd", &[2, 3, 5, 7, 9], 0.3),
            case("one element", &[1, 1, 1, 1, 1], 0.5),
            case("nothing dropped", &[1, 2, 3, 4, 5], 0.0),
            case("16 channels at 2 mm", &[1, 16, 96, 128, 160], 0.05).bench_only(),
        ]
    },
};

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("dropout", inputs, 2)?;
        if inputs[0].is_empty() || inputs[1] != TensorDesc::u32(&[2]) {
            return Err(OpError::new("dropout", inputs, "needs a tensor and a step seed u32 [2]"));
        }
        if !(0.0..1.0).contains(&self.rate) {
            return Err(OpError::new("dropout", inputs, "the rate must lie in [0, 1)"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], outputs: &[TensorDesc], caps: &Caps, _: &str) -> Lowered {
        let sample = inputs[0].len() / inputs[0].shape[0];
        let mut lowered = Lowered::default();
        for piece in batch_pieces(&[&inputs[0]], caps) {
            let n = sample * piece.len();
            lowered.push(
                Dispatch::new(KernelKey::new("dropout/dropout.wgsl"))
                    .bind_range("x", Slot::Input(0), sample_range(&inputs[0], &piece))
                    .bind("step_seed", Slot::Input(1))
                    .bind_range("y", Slot::Output(0), sample_range(&outputs[0], &piece))
                    .params(
                        Params::new()
                            .u32("n", n)
                            // Whole: a batch is split only where samples are aligned to 16 bytes and more.
                            .u32("first", sample * piece.start / 4)
                            .u32("stream", self.stream as usize)
                            .u32("threshold", self.threshold() as usize)
                            .f32("factor", self.factor() as f32),
                    )
                    .flat(n.div_ceil(4), FLAT),
            );
        }
        lowered
    }

    fn backward(
        &self,
        graph: &mut dyn GradientBuilder,
        io: &NodeIo<'_>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let Some(dy) = io.grad_outputs[0] else { return Ok(vec![None, None]) };
        Ok(vec![Some(graph.apply(Box::new(self.clone()), &[dy, io.inputs[1]])?[0]), None])
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let seed = [inputs[1].data[0] as u32, inputs[1].data[1] as u32];
        let keeps = |ix: usize| {
            random_words(seed, self.stream, u32::try_from(ix / 4).expect("a tensor has fewer elements"))
                [ix % 4]
                >= self.threshold()
        };
        let data = inputs[0].data.iter().enumerate();
        let data = data.map(|(ix, x)| if keeps(ix) { x * self.factor() } else { 0.0 }).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }

    fn cost(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: 10.0 * n, bytes: 8.0 * n }
    }

    fn precision(&self, _: &[TensorDesc]) -> Precision {
        Precision::sum_of(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean, variance, and correlations with neighbours and with the next step, stream and seed.
    #[test]
    fn words_are_balanced_and_uncorrelated() {
        let n = 1 << 16;
        let unit = |word: u32| f64::from(word) / 4_294_967_296.0 - 0.5;
        let draw = |seed: [u32; 2], stream: u32| -> Vec<f64> {
            (0..n / 4).flat_map(|counter| random_words(seed, stream, counter)).map(unit).collect()
        };
        let base = draw([7, 100], 3);
        let mean = base.iter().sum::<f64>() / f64::from(n);
        let variance = base.iter().map(|u| u * u).sum::<f64>() / f64::from(n);
        // Five standard errors: sqrt(1/12 / n), and sqrt(1/180 / n) for the variance.
        let sigma = f64::from(n).sqrt().recip();
        assert!(mean.abs() < 5.0 * sigma / 12f64.sqrt(), "mean {mean}");
        assert!((variance - 1.0 / 12.0).abs() < 5.0 * sigma / 180f64.sqrt(), "variance {variance}");
        let correlation = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / a.len().min(b.len()) as f64 * 12.0
        };
        for lag in [1, 2, 3, 4, 5, 8, 64, 160, 256] {
            let c = correlation(&base, &base[lag..]);
            assert!(c.abs() < 5.0 * 1.01 * sigma, "lag {lag}: {c}");
        }
        for (what, other) in
            [("step", draw([7, 101], 3)), ("stream", draw([7, 100], 4)), ("seed", draw([8, 100], 3))]
        {
            let c = correlation(&base, &other);
            assert!(c.abs() < 5.0 * sigma, "next {what}: {c}");
        }
    }
}
