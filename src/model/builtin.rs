//! The models in `weights/`, embedded so that they work offline.

use std::path::Path;

use include_dir::{Dir, include_dir};

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

/// A built-in model by name, or a model file by path.
///
/// # Errors
/// Neither a name nor a file, or a file that is not a model.
pub fn load(name_or_file: &str) -> Result<Model, ModelError> {
    if let Some(file) = WEIGHTS.get_file(format!("{name_or_file}.safetensors")) {
        return Model::from_bytes(file.contents(), &format!("built-in model {name_or_file}"));
    }
    let path = Path::new(name_or_file);
    if !path.exists() {
        return Err(ModelError::Weights {
            file: name_or_file.to_owned(),
            reason: format!(
                "is neither a file nor a built-in model; built in are: {}",
                builtin_names().join(", ")
            ),
        });
    }
    Model::read(path)
}
