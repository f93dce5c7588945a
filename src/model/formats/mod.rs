//! Weights as others store them: files of PyTorch, and safetensors without a description.

mod pickle;
mod torch;

pub use torch::NamedTensors;

use super::ModelError;
use super::weights::decode;

/// Whether a file is one of PyTorch's, by its first bytes.
pub fn is_torch(bytes: &[u8]) -> bool {
    torch::is_torch(bytes)
}

/// The tensors of floating-point numbers in a file of PyTorch or a safetensors file.
///
/// # Errors
/// A damaged file, one of another kind, and pickles that name anything but tensors and containers.
pub fn read_tensors(bytes: &[u8], file: &str) -> Result<NamedTensors, ModelError> {
    let fail = |reason: String| ModelError::Weights { file: file.to_owned(), reason };
    if is_torch(bytes) {
        return read_wanted(bytes, file, &|_| true);
    }
    let content = safetensors::SafeTensors::deserialize(bytes).map_err(|e| {
        fail(format!("is neither a file of PyTorch nor a safetensors file ({e}); give one of the two"))
    })?;
    Ok(content
        .iter()
        .filter_map(|(name, view)| Some((name.to_owned(), (view.shape().to_vec(), decode(&view)?))))
        .collect())
}

/// As [`read_tensors`], of a file of PyTorch those tensors alone that are wanted.
///
/// # Errors
/// As [`read_tensors`].
pub(super) fn read_wanted(
    bytes: &[u8],
    file: &str,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<NamedTensors, ModelError> {
    torch::read(bytes, wanted).map_err(|reason| ModelError::Weights { file: file.to_owned(), reason })
}

/// What a file of PyTorch says beside its tensors, with nothing in the place of what is no text, number, list or dictionary.
///
/// # Errors
/// As [`read_tensors`].
pub(super) fn read_facts(bytes: &[u8], file: &str) -> Result<serde_json::Value, ModelError> {
    torch::facts(bytes).map_err(|reason| ModelError::Weights { file: file.to_owned(), reason })
}
