//! Shapes, element types and host tensors: plain data shared by every layer above.

mod axes;

use std::fmt;

use half::f16;

pub use axes::{Xyz, Zyx};

/// Element type of a tensor on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision: activations of inference, where the adapter has it. Sums stay in f32.
    F16,
    /// Unsigned 32-bit integer (labels, counters, histograms).
    U32,
}

impl DType {
    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
        }
    }

    /// The name in WGSL, in options and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
        }
    }
}

/// Shape and element type of a tensor. Activations are `[N, C, D, H, W]`, row-major, W fastest.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TensorDesc {
    /// Extent of each axis, outermost first.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl TensorDesc {
    /// A single-precision tensor of this shape.
    pub fn f32(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), dtype: DType::F32 }
    }

    /// A half-precision tensor of this shape.
    pub fn f16(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), dtype: DType::F16 }
    }

    /// An unsigned integer tensor of this shape.
    pub fn u32(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), dtype: DType::U32 }
    }

    /// A tensor of the same element type with another shape.
    #[must_use]
    pub fn with_shape(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), dtype: self.dtype }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes on the GPU: whole 32-bit words, the unit of bindings and copies.
    pub fn bytes(&self) -> u64 {
        (self.len() as u64 * self.dtype.bytes()).next_multiple_of(4)
    }

    /// Size in 32-bit words on the GPU.
    pub fn words(&self) -> usize {
        (self.bytes() / 4) as usize
    }

    /// The five extents `[N, C, D, H, W]`, or `None` for a tensor of another rank.
    pub fn ncdhw(&self) -> Option<[usize; 5]> {
        self.shape.as_slice().try_into().ok()
    }

    /// Number of voxels of one channel: the product of the last three axes.
    pub fn voxels(&self) -> usize {
        self.shape[self.shape.len().saturating_sub(3)..].iter().product()
    }
}

impl fmt::Debug for TensorDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape)
    }
}

impl fmt::Display for TensorDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extents: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        f.write_str(&extents.join("x"))
    }
}

/// A tensor on the host in double precision: what the reference implementations compute with.
/// Integers up to 2^32 are exact.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Shape and element type of the GPU tensor it stands for.
    pub desc: TensorDesc,
    /// Elements, row-major.
    pub data: Vec<f64>,
}

impl HostTensor {
    /// A tensor with every element 0.
    pub fn zeros(desc: TensorDesc) -> Self {
        let data = vec![0.0; desc.len()];
        Self { desc, data }
    }

    /// Wraps elements.
    ///
    /// # Panics
    /// If `data` has another length than the shape says.
    pub fn new(desc: TensorDesc, data: Vec<f64>) -> Self {
        assert_eq!(desc.len(), data.len(), "{desc:?} needs {} elements", desc.len());
        Self { desc, data }
    }

    /// The elements as the GPU stores them: 32-bit words, two f16 in one, the first in the low half.
    pub fn to_words(&self) -> Vec<u32> {
        match self.desc.dtype {
            DType::F32 => self.data.iter().map(|&v| (v as f32).to_bits()).collect(),
            DType::F16 => {
                let bits = |v: Option<&f64>| v.map_or(0, |&v| u32::from(f16::from_f64(v).to_bits()));
                self.data.chunks(2).map(|pair| bits(pair.first()) | bits(pair.get(1)) << 16).collect()
            }
            DType::U32 => self.data.iter().map(|&v| v as u32).collect(),
        }
    }

    /// Reads back what [`HostTensor::to_words`] wrote.
    pub fn from_words(desc: TensorDesc, words: &[u32]) -> Self {
        let data = match desc.dtype {
            DType::F32 => words.iter().map(|&w| f32::from_bits(w) as f64).collect(),
            DType::F16 => words
                .iter()
                .flat_map(|&w| [w as u16, (w >> 16) as u16])
                .take(desc.len())
                .map(|bits| f16::from_bits(bits).to_f64())
                .collect(),
            DType::U32 => words.iter().map(|&w| w as f64).collect(),
        };
        Self::new(desc, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_takes_two_bytes_in_whole_words() {
        let desc = TensorDesc::f16(&[3, 1]);
        assert_eq!((desc.bytes(), desc.words()), (8, 2));
        let tensor = HostTensor::new(desc.clone(), vec![1.0, -2.0, 0.333_251_953_125]);
        assert_eq!(tensor.to_words(), [0xC000_3C00, 0x3555]);
        assert_eq!(HostTensor::from_words(desc, &tensor.to_words()), tensor);
    }
}
