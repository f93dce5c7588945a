//! The models in `weights/`, embedded so that they work offline.

use std::borrow::Cow;
use std::path::Path;

use include_dir::{Dir, include_dir};
use sha2::{Digest, Sha256};

use super::{Model, ModelError};

static WEIGHTS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/weights");

/// Names of the built-in models.
pub fn builtin_names() -> Vec<&'static str> {
    WEIGHTS.files().filter_map(|file| file.path().to_str()?.strip_suffix(".safetensors")).collect()
}

/// The model card of a built-in model, in Markdown.
pub fn builtin_card(name: &str) -> Option<&'static str> {
    WEIGHTS.get_file(format!("{name}.md"))?.contents_utf8()
}

/// A weight file in memory: of a model, or what is taken for one.
pub struct WeightFile {
    bytes: Cow<'static, [u8]>,
    origin: String,
}

impl WeightFile {
    /// That of a built-in model by name, or a file by path.
    ///
    /// # Errors
    /// Neither a name nor a file, or a file that cannot be read.
    pub fn open(name_or_file: &str) -> Result<Self, ModelError> {
        if let Some(file) = WEIGHTS.get_file(format!("{name_or_file}.safetensors")) {
            let origin = format!("built-in model {name_or_file}");
            return Ok(Self { bytes: Cow::Borrowed(file.contents()), origin });
        }
        let fail = |reason: String| ModelError::Weights { file: name_or_file.to_owned(), reason };
        let path = Path::new(name_or_file);
        if !path.exists() {
            return Err(fail(format!(
                "is neither a file nor a built-in model; built in are: {}",
                builtin_names().join(", ")
            )));
        }
        let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}; check the path")))?;
        Ok(Self { bytes: Cow::Owned(bytes), origin: name_or_file.to_owned() })
    }

    /// SHA-256 of the file, in hexadecimal: which weights they are, whatever their name.
    pub fn sha256(&self) -> String {
        Sha256::digest(&self.bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The model in it.
    ///
    /// # Errors
    /// As [`Model::from_bytes`].
    pub fn model(&self) -> Result<Model, ModelError> {
        Model::from_bytes(&self.bytes, &self.origin)
    }
}

/// A built-in model by name, or a model file by path.
///
/// # Errors
/// Neither a name nor a file, or a file that is not a model.
pub fn load(name_or_file: &str) -> Result<Model, ModelError> {
    WeightFile::open(name_or_file)?.model()
}
