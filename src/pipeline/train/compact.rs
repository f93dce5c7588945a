//! What a run goes on from in a quarter of its size.
//!
//! A parameter has four numbers in a checkpoint, 16 bytes in f32. Kept compactly they take 4:
//!
//! | number | kept as |
//! |---|---|
//! | average (`ema.NAME`) | f16 |
//! | value (`NAME`) | difference from the average, 4 bits |
//! | first moment (`adam.m.NAME`) | 4 bits; it is forgotten within 20 steps |
//! | second moment (`adam.v.NAME`) | its root, 8 bits, rounded up so that no step grows |
//!
//! Bits count steps of a size common to [`BLOCK`] numbers, a power of two, so that numbers that were packed once are packed
//! again to the same bytes. A run without averages keeps its values, and every run its running statistics, in f32.

use half::f16;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use crate::model::Tensors;

/// Numbers that share a step.
const BLOCK: usize = 32;
/// Exponents of the steps, which one byte holds.
const EXPONENTS: [i32; 2] = [-127, 127];

/// Prefixes of the names of both moments and of the averages.
const FIRST: &str = "adam.m.";
const SECOND: &str = "adam.v.";
const AVERAGE: &str = "ema.";

/// A tensor as a checkpoint keeps it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kept {
    /// As it is.
    Single(Vec<usize>, Vec<f32>),
    /// In half precision.
    Half(Vec<usize>, Vec<f16>),
    /// Blocks of an exponent and steps; the extents are those of the parameter or its average.
    Blocks(Vec<u8>),
}

impl Kept {
    /// As a safetensors file has it.
    pub(super) fn view(&self) -> Result<TensorView<'_>, SafeTensorError> {
        match self {
            Self::Single(shape, values) => {
                TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values))
            }
            Self::Half(shape, values) => {
                TensorView::new(Dtype::F16, shape.clone(), bytemuck::cast_slice(values))
            }
            Self::Blocks(bytes) => TensorView::new(Dtype::U8, vec![bytes.len()], bytes),
        }
    }

    /// From a safetensors file.
    ///
    /// # Errors
    /// An element type that no checkpoint has.
    pub(super) fn read(view: &TensorView<'_>) -> Result<Self, String> {
        let (shape, bytes) = (view.shape().to_vec(), view.data());
        match view.dtype() {
            Dtype::F32 => {
                Ok(Self::Single(shape, bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()))
            }
            Dtype::F16 => {
                Ok(Self::Half(shape, bytes.chunks_exact(2).map(bytemuck::pod_read_unaligned).collect()))
            }
            Dtype::U8 => Ok(Self::Blocks(bytes.to_vec())),
            other => Err(format!("a tensor of type {other:?}")),
        }
    }
}

fn power(exponent: i32) -> f32 {
    f32::exp2(exponent as f32)
}

/// The least exponent whose step reaches `largest` in `steps` steps, `least` or more.
fn exponent(largest: f32, steps: f32, least: i32) -> i32 {
    let mut exponent = least.max(EXPONENTS[0]);
    while exponent < EXPONENTS[1] && power(exponent) * steps < largest {
        exponent += 1;
    }
    exponent
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| v.abs().max(most))
}

/// Values as -7 to 7 steps, two a byte; the least exponent of each block is `least(first value of the block)`.
fn pack_signed(values: &[f32], least: impl Fn(usize) -> i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (ix, block) in values.chunks(BLOCK).enumerate() {
        let exponent = exponent(largest(block), 7.0, least(ix * BLOCK));
        bytes.push(exponent.to_le_bytes()[0]);
        let steps = |v: &f32| ((v / power(exponent)).round().clamp(-7.0, 7.0) + 8.0) as u8;
        bytes.extend(block.chunks(2).map(|pair| steps(&pair[0]) | pair.get(1).map_or(0, steps) << 4));
    }
    bytes
}

fn unpack_signed(bytes: &[u8], n: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(n);
    for block in bytes.chunks(1 + BLOCK / 2) {
        let step = power(i32::from(block[0].cast_signed()));
        values.extend(block[1..].iter().flat_map(|b| [b & 15, b >> 4]).map(|q| (f32::from(q) - 8.0) * step));
    }
    values.truncate(n);
    values
}

/// Roots of values that are not negative as up to 255 steps, rounded up.
fn pack_roots(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in values.chunks(BLOCK) {
        let roots: Vec<f32> = block.iter().map(|v| v.sqrt()).collect();
        let exponent = exponent(largest(&roots), 255.0, EXPONENTS[0]);
        bytes.push(exponent.to_le_bytes()[0]);
        bytes.extend(roots.iter().map(|root| (root / power(exponent)).ceil().min(255.0) as u8));
    }
    bytes
}

fn unpack_roots(bytes: &[u8]) -> Vec<f32> {
    let block = |block: &[u8]| -> Vec<f32> {
        let step = power(i32::from(block[0].cast_signed()));
        block[1..].iter().map(|&q| (f32::from(q) * step).powi(2)).collect()
    };
    bytes.chunks(1 + BLOCK).flat_map(block).collect()
}

/// The least exponent for differences from averages of a block, by its first value: sums are exact in f32 down to it.
fn least_difference(averages: &[f16]) -> impl Fn(usize) -> i32 {
    let bounds: Vec<i32> = averages
        .chunks(BLOCK)
        .map(|block| {
            let largest = block.iter().fold(0.0, |most, v| v.to_f32().abs().max(most));
            // The finest f16 is 2^-24.
            exponent(largest, 1.0, -1) - 23
        })
        .collect();
    move |first| bounds[first / BLOCK]
}

/// A run's tensors as they are.
pub(super) fn plain(tensors: &Tensors) -> Vec<(String, Kept)> {
    let keep = |(shape, values): &(Vec<usize>, Vec<f32>)| Kept::Single(shape.clone(), values.clone());
    tensors.iter().map(|(name, tensor)| (name.clone(), keep(tensor))).collect()
}

/// Packs a run's tensors. What is no difference from an average, no moment and no average stays as it is.
pub(super) fn pack(tensors: &Tensors) -> Vec<(String, Kept)> {
    let fits = |values: &[f32]| largest(values) <= f16::MAX.to_f32();
    let halved = |name: &str| {
        let (shape, values) = tensors.get(&format!("{AVERAGE}{name}")).filter(|(_, v)| fits(v))?;
        Some((shape.clone(), values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<f16>>()))
    };
    let packed = tensors.iter().map(|(name, (shape, values))| {
        let kept = if name.starts_with(FIRST) {
            Kept::Blocks(pack_signed(values, |_| EXPONENTS[0]))
        } else if name.starts_with(SECOND) {
            Kept::Blocks(pack_roots(values))
        } else if let Some((shape, averages)) = name.strip_prefix(AVERAGE).and_then(halved) {
            Kept::Half(shape, averages)
        } else if let Some((_, averages)) = halved(name) {
            let differences: Vec<f32> =
                values.iter().zip(&averages).map(|(v, average)| v - average.to_f32()).collect();
            Kept::Blocks(pack_signed(&differences, least_difference(&averages)))
        } else {
            Kept::Single(shape.clone(), values.clone())
        };
        (name.clone(), kept)
    });
    packed.collect()
}

/// The tensors that a run goes on from, which [`pack`] packs to the same again.
///
/// # Errors
/// Blocks that belong to no parameter or hold another number of values, by the tensor's name.
pub(super) fn unpack(packed: Vec<(String, Kept)>) -> Result<Tensors, String> {
    let mut tensors = Tensors::new();
    let mut blocks = Vec::new();
    for (name, kept) in packed {
        match kept {
            Kept::Single(shape, values) => drop(tensors.insert(name, (shape, values))),
            Kept::Half(shape, values) => {
                let values = values.into_iter().map(f16::to_f32).collect();
                tensors.insert(name, (shape, values));
            }
            Kept::Blocks(bytes) => blocks.push((name, bytes)),
        }
    }
    for (name, bytes) in blocks {
        let parameter = [FIRST, SECOND].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
        let average = tensors.get(&format!("{AVERAGE}{parameter}"));
        let Some((shape, known)) = average.or_else(|| tensors.get(parameter)).cloned() else {
            return Err(format!("tensor '{name}' belongs to no parameter"));
        };
        let bits = if name.starts_with(SECOND) { 8 } else { 4 };
        let n = known.len();
        let of_values = n / BLOCK * (BLOCK * bits / 8) + (n % BLOCK * bits).div_ceil(8);
        if bytes.len() != n.div_ceil(BLOCK) + of_values {
            return Err(format!("tensor '{name}' has {} bytes for {n} values", bytes.len()));
        }
        let values = match () {
            () if name.starts_with(SECOND) => unpack_roots(&bytes),
            () if name.starts_with(FIRST) => unpack_signed(&bytes, n),
            () => unpack_signed(&bytes, n).iter().zip(&known).map(|(d, average)| average + d).collect(),
        };
        tensors.insert(name, (shape, values));
    }
    Ok(tensors)
}

/// What is left of tensors that are packed: a run with compact checkpoints goes on from them, stopped or not.
pub(super) fn rounded(tensors: &Tensors) -> Tensors {
    unpack(pack(tensors)).expect("`pack` names the parameter of every block")
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;

    use super::*;

    const N: usize = 5 * BLOCK + 3;

    /// Weights, averages a thousandth away, and moments of gradients over ten orders of magnitude.
    fn run() -> Tensors {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut normal = |scale: f32| -> Vec<f32> {
            (0..N).map(|_| scale * rng.sample::<f32, _>(StandardNormal)).collect()
        };
        let average = normal(0.1);
        let value: Vec<f32> = average.iter().zip(normal(1e-3)).map(|(a, d)| a + d).collect();
        let first: Vec<f32> =
            normal(1e-2).iter().enumerate().map(|(i, v)| v * 10f32.powi(-(i as i32 / 17))).collect();
        let second: Vec<f32> = first.iter().map(|v| v * v).collect();
        let tensors = [
            ("a.weight", value),
            ("ema.a.weight", average),
            ("adam.m.a.weight", first),
            ("adam.v.a.weight", second),
            ("n.running_mean", normal(1.0)),
        ];
        tensors.into_iter().map(|(name, values)| (name.to_owned(), (vec![N], values))).collect()
    }

    #[test]
    fn what_was_packed_is_packed_to_the_same_again() {
        for scale in [1.0, 1e3, 1e-4] {
            let mut tensors = run();
            for (_, values) in tensors.values_mut() {
                values.iter_mut().for_each(|v| *v *= scale);
            }
            // Values that do not differ, or hardly, and gradients that were always 0.
            let average = tensors["ema.a.weight"].1.clone();
            let value = &mut tensors.get_mut("a.weight").expect("there").1;
            value[..40].copy_from_slice(&average[..40]);
            (40..BLOCK * 2).for_each(|ix| value[ix] = average[ix] * (1.0 + f32::EPSILON));
            for moment in ["adam.m.a.weight", "adam.v.a.weight"] {
                tensors.get_mut(moment).expect("there").1[..BLOCK].fill(0.0);
            }
            let packed = pack(&tensors);
            let back = unpack(packed.clone()).expect("unpacks");
            assert_eq!(pack(&back), packed, "scale {scale}");
            assert_eq!(back["n.running_mean"], tensors["n.running_mean"]);
        }
    }

    #[test]
    fn each_number_keeps_what_training_needs_of_it() {
        let (tensors, back) = (run(), rounded(&run()));
        let pairs = |name: &str| -> Vec<(f32, f32)> {
            back[name].1.iter().copied().zip(tensors[name].1.iter().copied()).collect()
        };
        assert!(pairs("ema.a.weight").iter().all(|(got, want)| (got - want).abs() <= want.abs() / 2048.0));
        // Half a step of at most two sevenths of the largest difference, 4e-3, and the average's own.
        assert!(pairs("a.weight").iter().all(|(got, want)| (got - want).abs() < 6e-4 + want.abs() / 2048.0));
        for block in pairs("adam.m.a.weight").chunks(BLOCK) {
            let most = block.iter().fold(0.0f32, |most, (_, want)| most.max(want.abs()));
            assert!(block.iter().all(|(got, want)| (got - want).abs() <= most / 7.0));
        }
        for block in pairs("adam.v.a.weight").chunks(BLOCK) {
            let most = block.iter().fold(0.0f32, |most, (_, want)| most.max(want.sqrt()));
            for (got, want) in block.iter().map(|(got, want)| (got.sqrt(), want.sqrt())) {
                assert!(got >= want * 0.999_999 && got <= want + most / 127.0, "{got} for {want}");
            }
        }
        let bytes: usize = pack(&tensors)
            .iter()
            .filter(|(name, _)| name.ends_with("a.weight"))
            .map(|(_, kept)| kept.view().expect("a tensor").data().len())
            .sum();
        assert!(bytes as f64 / N as f64 <= 4.2, "{bytes} bytes for {N} parameters");
    }

    #[test]
    fn a_run_without_averages_keeps_its_values() {
        let mut tensors = run();
        tensors.remove("ema.a.weight");
        assert_eq!(rounded(&tensors)["a.weight"], tensors["a.weight"]);
    }

    #[test]
    fn damaged_blocks_are_refused() {
        let packed = pack(&run());
        let mut short = packed.clone();
        for (_, kept) in &mut short {
            if let Kept::Blocks(bytes) = kept {
                bytes.pop();
            }
        }
        assert!(unpack(short).expect_err("a byte is missing").contains("bytes for 163 values"));
        let orphan = packed.into_iter().filter(|(name, _)| name.starts_with("adam.")).collect();
        assert!(unpack(orphan).expect_err("no parameter").contains("belongs to no parameter"));
    }
}
