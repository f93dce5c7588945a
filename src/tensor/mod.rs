//! Shapes, element types and host tensors: plain data shared by every layer above.

use std::fmt;

/// Element type of a tensor on the GPU. Both take four bytes, so sizes follow from the shape alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// Unsigned 32-bit integer (labels, counters, histograms).
    U32,
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

    /// An unsigned integer tensor of this shape.
    pub fn u32(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), dtype: DType::U32 }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes on the GPU.
    pub fn bytes(&self) -> u64 {
        self.len() as u64 * 4
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

    /// The elements as the GPU stores them: 32-bit words.
    pub fn to_words(&self) -> Vec<u32> {
        match self.desc.dtype {
            DType::F32 => self.data.iter().map(|&v| (v as f32).to_bits()).collect(),
            DType::U32 => self.data.iter().map(|&v| v as u32).collect(),
        }
    }

    /// Reads back what [`HostTensor::to_words`] wrote.
    pub fn from_words(desc: TensorDesc, words: &[u32]) -> Self {
        let data = match desc.dtype {
            DType::F32 => words.iter().map(|&w| f32::from_bits(w) as f64).collect(),
            DType::U32 => words.iter().map(|&w| w as f64).collect(),
        };
        Self::new(desc, data)
    }
}
