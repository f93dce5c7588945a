//! The model that a run begins with: what of it the run takes, and whether it is the network that the run is to train.

use serde_json::Value;

use crate::model::{
    Description, Model, Tensors, begin_no_csf, initialise, spread_over_blocks, tensors_of_first,
    weights_of_fold,
};

/// What a run begins with.
pub(super) struct Beginning {
    /// The network's own weights.
    pub tensors: Tensors,
    /// Those of the network that looks first, which stay as they are.
    pub of_first: Tensors,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Beginning {
    /// With fresh weights.
    ///
    /// # Errors
    /// A description that does not make a network, in words.
    pub fn fresh(description: &Description, seed: u64) -> Result<Self, String> {
        let tensors = initialise(description, seed).map_err(|e| e.to_string())?;
        Ok(Self { tensors, of_first: Tensors::new(), notes: Vec::new() })
    }

    /// With the weights of a model whose network is the one to train, but for what the run cannot teach it.
    pub fn of_model(model: Model, trained: &Description) -> Self {
        let mut notes = vec![format!(
            "the network, its grid and its intensities are those of the model '{}' (see `trephine model info`)",
            model.description.name
        )];
        let (model, note) = without_no_csf(model, trained);
        notes.extend(note);
        let Model { description, tensors, .. } = &model;
        let name = &description.name;
        if description.folds > 1 {
            notes.push(format!(
                "the model '{name}' has {} sets of weights: the first is trained, and is all that the new model has",
                description.folds
            ));
        }
        if description.first.is_some() {
            notes.push(format!(
                "the model '{name}' has a network that looks first: it stays as it is, the other one is trained"
            ));
        }
        Self {
            tensors: weights_of_fold(description, tensors, 0).into_owned(),
            of_first: tensors_of_first(description, tensors),
            notes,
        }
    }

    /// With the weights of a model for a network that is described apart from it.
    ///
    /// # Errors
    /// Where the two differ, in words.
    pub fn of_equal(model: Model, description: &Description) -> Result<Self, String> {
        let (model, note) = without_no_csf(model, description);
        let mut notes: Vec<String> = note.into_iter().collect();
        let name = model.description.name.clone();
        let fail = |where_: String| {
            format!(
                "the model '{name}' to start from is another network than the one to train: {where_}; leave out [network] \
                 and --preset to go on with the model's own"
            )
        };
        let needed = initialise(description, 0).map_err(|e| e.to_string())?;
        let fits = |tensors: &Tensors| {
            tensors.keys().eq(needed.keys())
                && tensors.iter().all(|(name, (shape, _))| needed[name].0 == *shape)
        };
        let spread = spread_over_blocks(&model, description);
        let is_spread = spread.is_some();
        let mut tensors = spread.unwrap_or_else(|| model.tensors.clone());
        if begin_no_csf(&mut tensors, description) {
            notes.push(
                "what is brain without CSF begins as what is brain, which is all that the model says".into(),
            );
        }
        // A network without folds, or without a second output, differs in just that.
        let known = if model.description.no_csf.is_none() { description.answering(false) } else { None };
        let difference = difference(&model.description, known.as_ref().unwrap_or(description));
        match difference {
            Some(difference) if !(is_spread && fits(&tensors)) => return Err(fail(difference)),
            _ => {}
        }
        if is_spread {
            notes.push(format!(
                "the model '{name}' begins a network with folds: its first convolutions take the mean of each block, and \
                 its last one gives all voxels of a block one logit"
            ));
        }
        Ok(Self { tensors, of_first: Tensors::new(), notes })
    }
}

/// The model without what it says of brain without CSF, where the network to train does not say that, and words for it.
fn without_no_csf(model: Model, trained: &Description) -> (Model, Option<String>) {
    if trained.no_csf.is_some() || model.description.no_csf.is_none() {
        return (model, None);
    }
    let model = model.answering(false).expect("every network says what is brain");
    (model, Some("the model says what is brain without CSF too; the one to train will not".into()))
}

/// Where a model's network first differs from a described one, whatever they are called.
pub(super) fn difference(model: &Description, described: &Description) -> Option<String> {
    let value = |description: &Description| {
        let named = Description { name: String::new(), ..description.clone() };
        serde_json::to_value(named).expect("a description has plain values")
    };
    let (place, [of_model, of_other]) = first_difference("", &value(model), &value(described))?;
    let words = |value: Option<Value>| value.map_or_else(|| "absent".to_owned(), |value| value.to_string());
    Some(format!("{place} is {} in the model and {} in [network]", words(of_model), words(of_other)))
}

/// The first place where two values differ, with what stands there in either.
fn first_difference(place: &str, a: &Value, b: &Value) -> Option<(String, [Option<Value>; 2])> {
    let within = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.filter_map(|key| match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => first_difference(&within(key), a, b),
                (a, b) => Some((within(key), [a.cloned(), b.cloned()])),
            })
            .next()
        }
        (Value::Array(a), Value::Array(b)) => (0..a.len().max(b.len()))
            .filter_map(|ix| match (a.get(ix), b.get(ix)) {
                (Some(a), Some(b)) => first_difference(&format!("{place}[{ix}]"), a, b),
                (a, b) => Some((format!("{place}[{ix}]"), [a.cloned(), b.cloned()])),
            })
            .next(),
        _ => (a != b).then(|| (place.to_owned(), [Some(a.clone()), Some(b.clone())])),
    }
}
