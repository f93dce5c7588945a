//! Weights: named tensors with the description and the model card, in safetensors files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::description::Description;
use super::{Mode, ModelError, build, hex};
use crate::tensor::{DType, TensorDesc};

/// Named single-precision tensors.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// What a user must know of a model before trusting it; the long form is the `.md` beside the weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// What it was trained on.
    pub data: String,
    /// Licence of the weights.
    pub licence: String,
    /// Credits that the data ask for.
    pub attribution: String,
    /// The command that trained it.
    pub command: String,
    /// Measured figures.
    pub figures: String,
    /// The model that training began with: its name and the SHA-256 of its file, and its own parent after it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    /// How sure it is of heads that it does right; absent where nobody has measured that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual: Option<Usual>,
}

/// What a network's answers are like on heads whose masks it gets right: beyond these, a mask is doubted. Networks differ in
/// it, most of all those for voxels of other sizes; `tools/calibrate_plausibility.py` measures what it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usual {
    /// Most voxels with a probability of 0.1 to 0.9, over those of the mask.
    pub unsure: f64,
    /// Least Dice of the masks of a head and of its mirror image.
    pub mirrored_dice: f64,
}

/// How many times as many voxels a network is unsure of without the CSF, whose border follows sulci thinner than its voxels: 1.4
/// to 1.7 on six ordinary heads.
const NO_CSF_UNSURE: f64 = 1.7;

impl ModelCard {
    /// Records that training began with the weights of another model. Its licence holds where the card names none, and
    /// its credits are kept beside the card's own.
    pub fn descend_from(&mut self, parent: &Model, sha256: &str) {
        self.parent = format!("{} (sha256 {sha256})", parent.description.name);
        if !parent.card.parent.is_empty() {
            self.parent = format!("{}, from {}", self.parent, parent.card.parent);
        }
        if self.licence.is_empty() {
            self.licence.clone_from(&parent.card.licence);
        } else if !parent.card.licence.is_empty() && self.licence != parent.card.licence {
            self.licence = format!("{}; the parent's: {}", self.licence, parent.card.licence);
        }
        if self.attribution.is_empty() {
            self.attribution.clone_from(&parent.card.attribution);
        } else if !self.attribution.contains(&parent.card.attribution) {
            self.attribution = format!("{}; {}", self.attribution, parent.card.attribution);
        }
    }
}

/// A network with its weights.
#[derive(Clone, Debug)]
pub struct Model {
    /// The network.
    pub description: Description,
    /// Parameters and running statistics by name.
    pub tensors: Tensors,
    /// Its card.
    pub card: ModelCard,
}

const DESCRIPTION_KEY: &str = "trephine.description";
const CARD_KEY: &str = "trephine.card";
const HASH_KEY: &str = "trephine.sha256";

/// SHA-256 of all that a model file says: description and card as text, then name, type, shape and bytes of each tensor.
fn hash_of<'a>(
    description: &str,
    card: &str,
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>,
) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(description.as_bytes());
    part(card.as_bytes());
    let tensors: BTreeMap<&str, _> =
        tensors.map(|(name, dtype, shape, bytes)| (name, (dtype, shape, bytes))).collect();
    for (name, (dtype, shape, bytes)) in tensors {
        part(name.as_bytes());
        part(format!("{dtype:?} {shape:?}").as_bytes());
        part(bytes);
    }
    hex(&hash.finalize())
}

impl Model {
    /// Whether the bytes are those of a safetensors file without a description: of weights alone.
    pub fn is_undescribed(bytes: &[u8]) -> bool {
        safetensors::SafeTensors::read_metadata(bytes).is_ok_and(|(_, metadata)| {
            metadata.metadata().as_ref().is_none_or(|entries| !entries.contains_key(DESCRIPTION_KEY))
        })
    }

    /// Reads a model from the bytes of a safetensors file; `origin` names it in errors.
    ///
    /// # Errors
    /// Not a safetensors file, no description in its metadata, a tensor missing, of another shape or not finite, other bytes
    /// than those of the SHA-256 in its metadata.
    pub fn from_bytes(bytes: &[u8], origin: &str) -> Result<Self, ModelError> {
        let fail = |reason: String| ModelError::Weights { file: origin.to_owned(), reason };
        let not_ours = |e: &dyn std::fmt::Display| {
            fail(format!("is not a safetensors file ({e}); expected a model made by `trephine train`"))
        };
        let (_, metadata) = safetensors::SafeTensors::read_metadata(bytes).map_err(|e| not_ours(&e))?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        let description_text = metadata.get(DESCRIPTION_KEY).ok_or_else(|| {
            fail(
                "has no network description in its metadata; expected a model made by `trephine train`"
                    .into(),
            )
        })?;
        let file = safetensors::SafeTensors::deserialize(bytes).map_err(|e| not_ours(&e))?;
        let known = [DESCRIPTION_KEY, CARD_KEY, HASH_KEY, "format"];
        if let Some(entry) = metadata.keys().find(|entry| !known.contains(&entry.as_str())) {
            return Err(fail(format!(
                "has an entry '{}' in its metadata that this version does not know; get it again, or a newer version",
                entry.escape_default()
            )));
        }
        // Files that other programs changed need not have one.
        if let Some(hash) = metadata.get(HASH_KEY) {
            let views: Vec<_> = file.iter().collect();
            let parts = views.iter().map(|(name, view)| (*name, view.dtype(), view.shape(), view.data()));
            let card = metadata.get(CARD_KEY).map(String::as_str).unwrap_or_default();
            if *hash != hash_of(description_text, card, parts) {
                return Err(fail(
                    "is damaged: it does not have the SHA-256 that it names; get it again".into(),
                ));
            }
        }
        let description: Description = serde_json::from_str(description_text)
            .map_err(|e| fail(format!("has a network description that does not parse: {e}")))?;
        let card = metadata.get(CARD_KEY).and_then(|c| serde_json::from_str(c).ok()).unwrap_or_default();
        let mut tensors = Tensors::new();
        for (name, view) in file.iter() {
            let values = decode(&view).ok_or_else(|| {
                fail(format!("tensor '{name}' has type {:?}; F32 or F16 expected", view.dtype()))
            })?;
            tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
        let model = Self { description, tensors, card };
        model.check(origin)?;
        Ok(model)
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// As [`Model::from_bytes`], or the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let origin = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|e| ModelError::Weights {
            file: origin.clone(),
            reason: format!("cannot be read: {e}"),
        })?;
        Self::from_bytes(&bytes, &origin)
    }

    /// Rounds every number to half precision with `bits` of its 10 bits of mantissa: files compress the better, the fewer.
    ///
    /// # Panics
    /// For more than 10 bits.
    pub fn round_mantissa(&mut self, bits: u32) {
        let dropped = 10u32.checked_sub(bits).expect("half precision has 10 bits of mantissa");
        let half_of_last = (1u16 << dropped) / 2;
        for value in self.tensors.values_mut().flat_map(|(_, values)| values) {
            let rounded = (f16::from_f32(*value).to_bits() + half_of_last) >> dropped << dropped;
            *value = f16::from_bits(rounded).to_f32();
        }
    }

    /// The model as a safetensors file, its tensors in half precision when `half` is set.
    ///
    /// # Errors
    /// When the tensors do not serialise.
    pub fn to_bytes(&self, half: bool) -> Result<Vec<u8>, ModelError> {
        let fail = |reason: String| ModelError::Weights { file: self.description.name.clone(), reason };
        let encoded: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                let bytes = if half {
                    let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
                    bytemuck::cast_slice(&halves).to_vec()
                } else {
                    bytemuck::cast_slice(values).to_vec()
                };
                (name.clone(), shape.clone(), bytes)
            })
            .collect();
        let dtype = if half { Dtype::F16 } else { Dtype::F32 };
        let views = encoded
            .iter()
            .map(|(name, shape, bytes)| {
                TensorView::new(dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| fail(e.to_string()))?;
        let json = |value: Result<String, serde_json::Error>| value.map_err(|e| fail(e.to_string()));
        let description = json(serde_json::to_string(&self.description))?;
        let card = json(serde_json::to_string(&self.card))?;
        let parts = views.iter().map(|(name, view)| (*name, view.dtype(), view.shape(), view.data()));
        let hash = hash_of(&description, &card, parts);
        let metadata = std::collections::HashMap::from([
            (DESCRIPTION_KEY.to_owned(), description),
            (CARD_KEY.to_owned(), card),
            (HASH_KEY.to_owned(), hash),
        ]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| fail(e.to_string()))
    }

    /// The same model with the layers and weights alone that its answer needs: of the brain, or of the brain without the CSF
    /// round it, where it says that too.
    pub fn answering(&self, no_csf: bool) -> Option<Self> {
        let mut description = self.description.answering(no_csf)?;
        let mut card = self.card.clone();
        if no_csf {
            description.name += " (no CSF)";
            if let Some(usual) = &mut card.usual {
                usual.unsure *= NO_CSF_UNSURE;
            }
        }
        let kept = |name: &str| description.layers.iter().any(|layer| layer.name == name);
        let dropped: Vec<&str> = self
            .description
            .layers
            .iter()
            .map(|layer| layer.name.as_str())
            .filter(|name| !kept(name))
            .collect();
        let mut tensors = self.tensors.clone();
        tensors.retain(|name, _| {
            let own = name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer);
            !dropped.iter().any(|layer| {
                own.strip_suffix(layer).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            })
        });
        Some(Self { description, tensors, card })
    }

    /// Number of trained parameters, and of all stored numbers with the running statistics.
    pub fn parameter_counts(&self) -> (usize, usize) {
        let all = self.tensors.values().map(|(_, values)| values.len()).sum();
        let running: usize = self
            .tensors
            .iter()
            .filter(|(name, _)| name.ends_with(".running_mean") || name.ends_with(".running_var"))
            .map(|(_, (_, values))| values.len())
            .sum();
        (all - running, all)
    }

    fn check(&self, origin: &str) -> Result<(), ModelError> {
        let fail = |reason: String| ModelError::Weights { file: origin.to_owned(), reason };
        self.description.check_numbers().map_err(fail)?;
        // Of a description that makes no network, the layer is known, and here the file.
        let expected = all_tensors(&self.description).map_err(|e| fail(e.to_string()))?;
        for (name, desc) in expected {
            match self.tensors.get(&name) {
                None => return Err(fail(format!("tensor '{name}' of the network is missing"))),
                Some((shape, _)) if *shape != desc.shape => {
                    return Err(fail(format!(
                        "tensor '{name}' has shape {shape:?}, the network needs {:?}",
                        desc.shape
                    )));
                }
                Some((_, values)) if values.iter().any(|v| !v.is_finite()) => {
                    return Err(fail(format!("tensor '{name}' holds values that are not finite")));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

pub(super) fn decode(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Some(bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()),
        Dtype::F16 => {
            Some(bytes.chunks_exact(2).map(|b| bytemuck::pod_read_unaligned::<f16>(b).to_f32()).collect())
        }
        _ => None,
    }
}

/// Names and shapes of every tensor that one set of weights of a description's own layers has.
pub(super) fn expected_tensors(description: &Description) -> Result<Vec<(String, TensorDesc)>, ModelError> {
    let network = build(description, 1, description.input.shape, Mode::Inference(DType::F32))?;
    let graph = &network.graph;
    Ok(graph
        .values_of(|kind| matches!(kind, crate::graph::ValueKind::Parameter | crate::graph::ValueKind::State))
        .into_iter()
        .map(|value| (graph.values[value.0].name.clone(), graph.desc(value).clone()))
        .collect())
}

/// What stands before the names of a set of weights other than the first.
fn fold_prefix(fold: usize) -> String {
    if fold == 0 { String::new() } else { format!("fold{fold}.") }
}

const FIRST_PREFIX: &str = "first.";

/// Those of the tensors behind a prefix, without it.
fn behind(tensors: &Tensors, prefix: &str) -> Tensors {
    let behind = |(name, tensor): (&String, &(Vec<usize>, Vec<f32>))| {
        Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))
    };
    tensors.iter().filter_map(behind).collect()
}

/// One set of weights of a network's own layers.
pub fn weights_of_fold<'a>(description: &Description, tensors: &'a Tensors, fold: usize) -> Cow<'a, Tensors> {
    if description.folds <= 1 && description.first.is_none() {
        return Cow::Borrowed(tensors);
    }
    let mut own = behind(tensors, &fold_prefix(fold));
    if fold == 0 {
        own.retain(|name, _| {
            !name.starts_with(FIRST_PREFIX)
                && (1..description.folds).all(|n| !name.starts_with(&fold_prefix(n)))
        });
    }
    Cow::Owned(own)
}

/// The tensors of the network that looks first, by the names that they have in the model.
pub fn tensors_of_first(description: &Description, tensors: &Tensors) -> Tensors {
    let of_first = |name: &String| description.first.is_some() && name.starts_with(FIRST_PREFIX);
    tensors.iter().filter(|(name, _)| of_first(name)).map(|(name, t)| (name.clone(), t.clone())).collect()
}

/// The weights of the network that looks first.
pub fn weights_of_first(tensors: &Tensors) -> Tensors {
    behind(tensors, FIRST_PREFIX)
}

impl Model {
    /// Adds a set of weights of the same network.
    pub fn add_fold(&mut self, tensors: Tensors) {
        let prefix = fold_prefix(self.description.folds);
        self.tensors.extend(tensors.into_iter().map(|(name, tensor)| (prefix.clone() + &name, tensor)));
        self.description.folds += 1;
    }

    /// Lets another network look first.
    pub(super) fn set_first(&mut self, first: Self) {
        let named = |(name, tensor): (String, _)| (FIRST_PREFIX.to_owned() + &name, tensor);
        self.tensors.extend(first.tensors.into_iter().map(named));
        self.description.first = Some(Box::new(first.description));
    }
}

/// Names and shapes of every tensor of a model.
fn all_tensors(description: &Description) -> Result<Vec<(String, TensorDesc)>, ModelError> {
    let own = expected_tensors(description)?;
    let mut all = Vec::new();
    for fold in 0..description.folds {
        let prefix = fold_prefix(fold);
        all.extend(own.iter().map(|(name, desc)| (format!("{prefix}{name}"), desc.clone())));
    }
    if let Some(first) = &description.first {
        all.extend(
            all_tensors(first)?.into_iter().map(|(name, desc)| (FIRST_PREFIX.to_owned() + &name, desc)),
        );
    }
    Ok(all)
}

/// Fresh weights: He-normal for convolutions (truncated at 2 sigma and rescaled, as Keras does; He et al.
/// 2015), Glorot-uniform for transposed ones, zero biases, unit scales and variances.
///
/// # Errors
/// When the description does not make a network.
pub fn initialise(description: &Description, seed: u64) -> Result<Tensors, ModelError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = Tensors::new();
    for (name, desc) in expected_tensors(description)? {
        let n = desc.len();
        let values: Vec<f32> = match desc.shape.as_slice() {
            [a, b, kernel @ ..] if kernel.len() == 3 => {
                let taps: usize = kernel.iter().product();
                let layer = name.trim_end_matches(".weight");
                let transposed = description
                    .layers
                    .iter()
                    .any(|l| l.name == layer && matches!(l.kind, super::LayerKind::ConvTranspose3d { .. }));
                if transposed {
                    let limit = (6.0 / ((a + b) * taps) as f32).sqrt();
                    (0..n).map(|_| rng.random_range(-limit..limit)).collect()
                } else {
                    // 0.8796 is the standard deviation of a unit normal truncated at 2.
                    let std = (2.0 / (b * taps) as f64).sqrt() / 0.879_625_66;
                    (0..n).map(|_| (truncated_normal(&mut rng) * std) as f32).collect()
                }
            }
            _ if name.ends_with(".weight") || name.ends_with(".running_var") => vec![1.0; n],
            _ => vec![0.0; n],
        };
        tensors.insert(name, (desc.shape, values));
    }
    Ok(tensors)
}

/// A unit normal number within 2 standard deviations.
fn truncated_normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample_iter(rng).find(|value: &f64| value.abs() <= 2.0).expect("the iterator does not end")
}
