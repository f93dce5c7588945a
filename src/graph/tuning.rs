//! Which kernel variant a node runs: the preferred one, or the one that measured fastest on this adapter.

use std::collections::{BTreeSet, HashMap};

use super::GraphError;
use crate::gpu::{Caps, KernelKey, assemble};
use crate::ops::{self, Operator};
use crate::tensor::{DType, TensorDesc};

/// What a measurement holds for: an operator with its attributes, on inputs of about this size.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TuningKey {
    /// The operator with its attributes, as `Debug` prints it.
    pub operator: String,
    /// Extents by input. Of volumes `[N, C, D, H, W]` batch and channels are exact, and the number of voxels is
    /// rounded to a power of two. Half precision is marked.
    pub shapes: String,
}

impl TuningKey {
    /// The key of an operator on these inputs.
    pub fn new(op: &dyn Operator, inputs: &[TensorDesc]) -> Self {
        let bucket = |desc: &TensorDesc| {
            let extents = match desc.ncdhw() {
                // Up to a kernel's number of taps, the extents themselves matter.
                Some([n, c, ..]) if desc.voxels() > 512 => {
                    format!("{n}x{c}x2^{}", (desc.voxels() as f64).log2().round())
                }
                _ => desc.to_string(),
            };
            if desc.dtype == DType::F16 { format!("f16:{extents}") } else { extents }
        };
        let shapes: Vec<String> = inputs.iter().map(bucket).collect();
        Self { operator: format!("{op:?}"), shapes: shapes.join(" ") }
    }
}

/// Fastest variants by operator and size. Plain data: graphs run the same kernels wherever the same value is
/// given. The default knows nothing and leaves every operator at its preferred variant.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    fastest: HashMap<TuningKey, (u64, String)>,
}

impl Tuning {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.fastest.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.fastest.is_empty()
    }

    /// Notes the fastest variant, measured when the kernels had this [`source_hash`].
    pub fn insert(&mut self, key: TuningKey, hash: u64, variant: String) {
        self.fastest.insert(key, (hash, variant));
    }

    /// The variant to run: the fastest one if it is known, still legal, and measured with the kernels as they
    /// are; else the preferred one.
    pub fn choose(&self, op: &dyn Operator, inputs: &[TensorDesc], caps: &Caps) -> &'static str {
        let legal = op.variants(inputs, caps);
        if self.fastest.is_empty() || legal.len() == 1 {
            return legal[0];
        }
        let known = self.fastest.get(&TuningKey::new(op, inputs));
        known
            .and_then(|(hash, fastest)| {
                let variant = legal.iter().find(|name| *name == fastest)?;
                (source_hash(op, inputs, caps).ok()? == *hash).then_some(*variant)
            })
            .unwrap_or(legal[0])
    }
}

/// Hash (FNV-1a, 64 bits) of the assembled sources of all kernels of all legal variants: a measurement is void
/// when any of them changes.
///
/// # Errors
/// Inputs that the operator refuses, or a kernel that does not assemble.
pub fn source_hash(op: &dyn Operator, inputs: &[TensorDesc], caps: &Caps) -> Result<u64, GraphError> {
    let refused = |source| GraphError::Op { node: op.name().to_owned(), source };
    let outputs = ops::infer(op, inputs).map_err(refused)?;
    let mut kernels: BTreeSet<KernelKey> = BTreeSet::new();
    for variant in op.variants(inputs, caps) {
        let lowered = op.lower(inputs, &outputs, caps, variant);
        kernels.extend(lowered.dispatches.into_iter().map(|dispatch| dispatch.kernel));
    }
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for key in kernels {
        for byte in assemble(&key, None)?.source.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::conv::{Conv3d, Window};

    fn inputs(width: usize, channels: usize) -> Vec<TensorDesc> {
        vec![TensorDesc::f32(&[1, channels, 16, 16, width]), TensorDesc::f32(&[8, channels, 3, 3, 3])]
    }

    #[test]
    fn keys_tell_channels_apart_and_put_near_sizes_together() {
        let op = Conv3d::new(Window::same([3; 3]), false);
        let key = |width, channels| TuningKey::new(&op, &inputs(width, channels));
        assert_eq!(key(16, 8), key(17, 8));
        assert_ne!(key(16, 8), key(32, 8));
        assert_ne!(key(16, 8), key(16, 9));
        let strided = Conv3d::new(Window::symmetric([2; 3], [1; 3], [1; 3]), false);
        assert_ne!(key(16, 8), TuningKey::new(&strided, &inputs(16, 8)));
    }

    #[test]
    fn only_a_legal_variant_of_unchanged_kernels_is_chosen() {
        let op = Conv3d::new(Window::same([3; 3]), false);
        let (inputs, caps) = (inputs(16, 8), Caps::webgpu_defaults());
        let hash = source_hash(&op, &inputs, &caps).expect("assembles");
        let legal = op.variants(&inputs, &caps);
        let last = legal[legal.len() - 1];
        let choose = |hash, variant: &str| {
            let mut tuning = Tuning::default();
            tuning.insert(TuningKey::new(&op, &inputs), hash, variant.to_owned());
            tuning.choose(&op, &inputs, &caps)
        };
        assert_eq!(choose(hash, last), last);
        assert_eq!(choose(hash ^ 1, last), legal[0]);
        assert_eq!(choose(hash, "no such variant"), legal[0]);
        assert_eq!(Tuning::default().choose(&op, &inputs, &caps), legal[0]);
    }
}
