//! Models by name or file: those in `weights/`, embedded so that they work offline, those in the user's folder, and files.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::foreign::{Network, keras, onnx};
use super::formats::{NamedTensors, is_torch, read_tensors};
use super::published::{nnunet, recognise};
use super::{AxisCodes, Model, ModelError, Usual, hex};

/// A model of `weights/`, packed by `build.rs`.
struct Packed {
    name: &'static str,
    bytes: &'static [u8],
    card: &'static str,
}

/// In alphabetical order.
static WEIGHTS: &[Packed] = &include!(concat!(env!("OUT_DIR"), "/weights.rs"));

impl Packed {
    fn named(name: &str) -> Option<&'static Self> {
        WEIGHTS.iter().find(|packed| packed.name == name)
    }

    /// The weight file, byte by byte.
    fn file(&self) -> Vec<u8> {
        let mut parted = Vec::new();
        ZlibDecoder::new(self.bytes).read_to_end(&mut parted).expect("it is what the build packed");
        let (even, odd) = parted.split_at(parted.len().div_ceil(2));
        let mut odd = odd.iter();
        even.iter().flat_map(|&byte| [Some(byte), odd.next().copied()]).flatten().collect()
    }
}

/// The weights of [`FAST_OF`] in one pass, without the one for the mirrored head.
const FAST: &str = "fast";
const FAST_OF: &str = "default";
static FAST_CARD: &str = include_str!("../../weights/fast.md");

/// What the card of [`FAST`] has of its own, from `weights/fast.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FastCard {
    figures: String,
    usual: Usual,
}

/// The file of [`FAST`], byte by byte.
fn fast_file() -> Vec<u8> {
    let own: FastCard =
        toml::from_str(include_str!("../../weights/fast.toml")).expect("a test opens every built-in model");
    let of = Packed::named(FAST_OF).expect("it is built in").file();
    let mut model = Model::from_bytes(&of, FAST_OF).expect("a test opens every built-in model");
    FAST.clone_into(&mut model.description.name);
    model.description.input.mirror = false;
    model.card.figures = own.figures;
    model.card.usual = Some(own.usual);
    model.to_bytes(true).expect("its tensors were those of a file")
}

/// The file of a built-in model, byte by byte.
fn builtin_file(name: &str) -> Option<Vec<u8>> {
    Packed::named(name).map(Packed::file).or_else(|| (name == FAST).then(fast_file))
}

/// Names of the built-in models, in alphabetical order.
pub fn builtin_names() -> Vec<&'static str> {
    let mut names: Vec<_> = WEIGHTS.iter().map(|packed| packed.name).chain([FAST]).collect();
    names.sort_unstable();
    names
}

/// The model card of a built-in model, in Markdown.
pub fn builtin_card(name: &str) -> Option<&'static str> {
    Packed::named(name).map(|packed| packed.card).or_else(|| (name == FAST).then_some(FAST_CARD))
}

/// Variable that names another folder than [`user_folder`] would.
const FOLDER_VARIABLE: &str = "TREPHINE_MODELS_DIR";

/// The folder for models of the user's own, and those that were fetched: `$TREPHINE_MODELS_DIR`, or `trephine/models` where the
/// system keeps programs' data. `None` for a user without a home.
pub fn user_folder() -> Option<PathBuf> {
    use etcetera::BaseStrategy as _;
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
        return Some(folder.into());
    }
    let user = etcetera::base_strategy::choose_native_strategy().ok()?;
    Some(user.data_dir().join("trephine").join("models"))
}

/// Names and files of the models in the user's folder, in alphabetical order.
pub fn user_models() -> Vec<(String, PathBuf)> {
    let files = user_folder().and_then(|folder| std::fs::read_dir(folder).ok());
    let mut models: Vec<(String, PathBuf)> = (files.into_iter().flatten().flatten())
        .filter_map(|entry| {
            let path = entry.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".safetensors")?.to_owned();
            Some((name, path))
        })
        .collect();
    models.sort();
    models
}

/// A weight file in memory: of a model, or what is taken for one.
pub struct WeightFile {
    bytes: Vec<u8>,
    origin: String,
}

impl WeightFile {
    /// That of a built-in model or one in the user's folder, by name, or a file by path.
    ///
    /// # Errors
    /// Neither a name nor a file, or a file that cannot be read.
    pub fn open(name_or_file: &str) -> Result<Self, ModelError> {
        if let Some(bytes) = builtin_file(name_or_file) {
            return Ok(Self { bytes, origin: format!("built-in model {name_or_file}") });
        }
        let fail = |reason: String| ModelError::Weights { file: name_or_file.to_owned(), reason };
        let own = user_models().into_iter().find(|(name, _)| name == name_or_file).map(|(_, file)| file);
        let path = own.as_deref().unwrap_or(Path::new(name_or_file));
        if !path.exists() {
            let mut known = format!("built in are: {}", builtin_names().join(", "));
            let own: Vec<String> = user_models().into_iter().map(|(name, _)| name).collect();
            if !own.is_empty() {
                known = format!("{known}; in your folder are: {}", own.join(", "));
            }
            return Err(fail(format!(
                "is neither a file nor a built-in model; {known}; `trephine model fetch` gets published ones"
            )));
        }
        if path.is_dir() {
            return Err(fail(format!(
                "is a folder; where nnU-Net trained a model in it, `trephine model convert {name_or_file} NAME.safetensors` makes a file \
                 of it"
            )));
        }
        let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}; check the path")))?;
        Ok(Self { bytes, origin: path.display().to_string() })
    }

    /// SHA-256 of the file, in hexadecimal: which weights they are, whatever their name.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }

    /// The model in it: one of ours, a checkpoint of nnU-Net, or a published network that is recognised by its tensors.
    ///
    /// # Errors
    /// As [`Model::from_bytes`], [`nnunet::of_checkpoint`] and [`recognise`].
    pub fn model(&self) -> Result<Model, ModelError> {
        let foreign = match (onnx::is_onnx(&self.origin), keras::is_keras(&self.bytes, &self.origin)) {
            (true, _) => Some("an ONNX file"),
            (_, true) => Some("a file of Keras"),
            _ => None,
        };
        if let Some(kind) = foreign {
            let reason = format!(
                "is {kind}, which does not say what its network sees of a head; `trephine model convert` makes a model of it \
                 with a --description of that"
            );
            return Err(ModelError::Weights { file: self.origin.clone(), reason });
        }
        if let Some(model) = self.nnunet_checkpoint(AxisCodes::RAS)? {
            return Ok(model);
        }
        if is_torch(&self.bytes) || Model::is_undescribed(&self.bytes) {
            return recognise(&self.tensors()?, &self.origin);
        }
        Model::from_bytes(&self.bytes, &self.origin)
    }

    /// The model in a checkpoint of nnU-Net, of images that were stored along these axes; `None` in other files.
    ///
    /// # Errors
    /// As [`nnunet::of_checkpoint`].
    pub fn nnunet_checkpoint(&self, stored: AxisCodes) -> Result<Option<Model>, ModelError> {
        nnunet::of_checkpoint(&self.bytes, &self.origin, stored)
    }

    /// The network in a file of ONNX or Keras; `None` in other files.
    ///
    /// # Errors
    /// As [`onnx::read`] and [`keras::read`].
    pub fn foreign(&self) -> Result<Option<Network>, ModelError> {
        if onnx::is_onnx(&self.origin) {
            return onnx::read(&self.bytes, &self.origin).map(Some);
        }
        keras::is_keras(&self.bytes, &self.origin).then(|| keras::read(&self.bytes, &self.origin)).transpose()
    }

    /// Its tensors, whatever network they are of.
    ///
    /// # Errors
    /// As [`read_tensors`].
    pub fn tensors(&self) -> Result<NamedTensors, ModelError> {
        read_tensors(&self.bytes, &self.origin)
    }

    /// Where it comes from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// A built-in model by name, or a model file by path.
///
/// # Errors
/// Neither a name nor a file, or a file that is not a model.
pub fn load(name_or_file: &str) -> Result<Model, ModelError> {
    WeightFile::open(name_or_file)?.model()
}
