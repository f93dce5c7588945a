//! Published networks as data: their layers, what they see of a head, and which files hold their weights.
//!
//! A file of PyTorch knows the names and shapes of its tensors, but not what is done with them. A network is recognised by
//! those names and shapes, and by nothing else.

mod hd_bet;
mod linknet;
mod mindgrab;
pub mod nnunet;
mod packages;
mod synthstrip;

pub use packages::{PACKAGES, Package};

use super::description::*;
use super::formats::NamedTensors;
use super::weights::{Tensors, expected_tensors};
use super::{Model, ModelCard, ModelError};

/// A published network.
#[derive(Debug)]
pub struct Published {
    /// What the model is called.
    pub name: &'static str,
    /// The network with its pre- and post-processing, for one file of weights.
    pub describe: fn() -> Description,
    /// Tensors of the files that serve training alone, by the ends of their names.
    unused: &'static [&'static str],
    /// Who made it.
    pub credits: &'static str,
    /// Whether a file holds one of several networks that only work together.
    partial: bool,
}

/// Ends of the names of statistics and counters that PyTorch keeps beside every norm, used or not.
const STATISTICS: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

/// The networks that are recognised by their weights.
pub static PUBLISHED: [Published; 4] = [
    Published {
        name: "deepbet",
        describe: || deepbet(16),
        unused: &[],
        credits: "deepbet: Fisch et al., Computers in Biology and Medicine 2024",
        partial: true,
    },
    Published {
        name: "synthstrip",
        describe: || synthstrip(16),
        unused: &[],
        credits: "SynthStrip: Hoopes et al., NeuroImage 2022",
        partial: false,
    },
    Published {
        name: "mindgrab",
        describe: || mindgrab(15, 5),
        unused: &[],
        credits: "MindGrab: the authors of Brainchop",
        partial: false,
    },
    Published {
        name: "hd-bet",
        describe: || hd_bet(21),
        unused: &["loc2_seg.weight", "loc3_seg.weight"],
        credits: "HD-BET: Isensee et al., Human Brain Mapping 2019",
        partial: false,
    },
];

/// A description of one network with one set of weights.
fn published(
    name: &str,
    (layers, output): (Vec<Layer>, String),
    input: GridSpec,
    answer: AnswerKind,
) -> Description {
    Description { name: name.into(), input, layers, output, answer, no_csf: None, first: None, folds: 1 }
}

/// That of either network of deepbet with `width` channels at its finest level (16), on all of a volume.
pub fn deepbet(width: usize) -> Description {
    let input = GridSpec {
        shape: [128; 3],
        // Grids are stretched to boxes: these are what the voxels of a head are like.
        voxel_mm: [2.0; 3],
        centre: Centre::Voxels { of: VoxelBox::All, fit: Fit::Stretched },
        axes: AxisCodes::RAS,
        sampling: Sampling::Nearest,
        intensity: Intensity::Standard {
            low: 0.5,
            high: 99.5,
            mean: 0.449,
            deviation: 0.226,
            of_first: false,
        },
        n4: None,
        patches: None,
        mirror: false,
        mirror_axes: [false; 3],
        readout: Readout::Nearest,
    };
    published("deepbet", linknet::linknet(width), input, AnswerKind::TwoClasses)
}

impl Model {
    /// deepbet's second network with the first to look before it: its grid lies round the brain that this finds.
    pub fn look_first(&mut self, first: Self) {
        let input = &mut self.description.input;
        input.shape = [256; 3];
        input.voxel_mm = [1.0; 3];
        input.centre =
            Centre::Voxels { of: VoxelBox::Brain { margin: 0.1, least: 0.02 }, fit: Fit::Stretched };
        if let Intensity::Standard { of_first, .. } = &mut input.intensity {
            *of_first = true;
        }
        self.set_first(first);
    }
}

/// That of SynthStrip with `width` channels at its finest level (16).
pub fn synthstrip(width: usize) -> Description {
    let input = GridSpec {
        shape: [192; 3],
        voxel_mm: [1.0; 3],
        centre: Centre::Voxels {
            of: VoxelBox::Content,
            fit: Fit::Padded { multiple: 64, most: Some(320), both_sides: true, after_scaling: false },
        },
        axes: AxisCodes::try_from("LIA".to_owned()).expect("three axes"),
        sampling: Sampling::Nearest,
        intensity: Intensity::Percentile { low: 0.0, high: 99.0 },
        n4: None,
        patches: None,
        mirror: false,
        mirror_axes: [false; 3],
        readout: Readout::Linear,
    };
    published("synthstrip", synthstrip::synthstrip(width), input, AnswerKind::DistanceMm { border_mm: 1.0 })
}

/// That of MindGrab with `width` channels (15) and `rounds` of dilations (5).
pub fn mindgrab(width: usize, rounds: usize) -> Description {
    let input = GridSpec {
        shape: [256; 3],
        voxel_mm: [1.0; 3],
        centre: Centre::Middle,
        axes: AxisCodes::try_from("LIA".to_owned()).expect("three axes"),
        sampling: Sampling::Linear,
        intensity: Intensity::Percentile { low: 2.0, high: 98.0 },
        n4: None,
        patches: None,
        mirror: false,
        mirror_axes: [false; 3],
        readout: Readout::Nearest,
    };
    published("mindgrab", mindgrab::mindgrab(width, rounds), input, AnswerKind::TwoClasses)
}

/// That of HD-BET, version 1, with `width` channels at its finest level (21), one fold.
pub fn hd_bet(width: usize) -> Description {
    let input = GridSpec {
        shape: [128; 3],
        voxel_mm: [1.5; 3],
        centre: Centre::Voxels {
            of: VoxelBox::All,
            fit: Fit::Padded { multiple: 16, most: None, both_sides: false, after_scaling: true },
        },
        axes: AxisCodes::try_from("SAR".to_owned()).expect("three axes"),
        sampling: Sampling::Cubic,
        intensity: Intensity::ZScore,
        n4: None,
        patches: None,
        mirror: false,
        mirror_axes: [true; 3],
        readout: Readout::Nearest,
    };
    published("hd-bet", hd_bet::hd_bet(width), input, AnswerKind::TwoClasses)
}

/// The published network whose weights these tensors are.
///
/// # Errors
/// Tensors of no network that is known here: which one comes closest, and what is in its way. One of several networks that
/// only work together.
pub fn recognise(tensors: &NamedTensors, file: &str) -> Result<Model, ModelError> {
    let (network, model) = find(tensors, file)?;
    if network.partial {
        let reason = format!(
            "is one of the networks of {name}, which only work together; `trephine model fetch {name}` gets them all",
            name = network.name
        );
        return Err(ModelError::Weights { file: file.to_owned(), reason });
    }
    Ok(model)
}

/// As [`recognise`], with the network; it may be one of several.
fn find(tensors: &NamedTensors, file: &str) -> Result<(&'static Published, Model), ModelError> {
    let mut closest: Option<(usize, String)> = None;
    for network in &PUBLISHED {
        let description = (network.describe)();
        match take(tensors, &description, network.unused)? {
            Ok(tensors) => {
                let card = ModelCard { attribution: network.credits.into(), ..ModelCard::default() };
                return Ok((network, Model { description, tensors, card }));
            }
            Err(Misfit { fitting, reason }) => {
                if closest.as_ref().is_none_or(|(most, _)| fitting > *most) {
                    closest = Some((fitting, format!("{} comes closest, but {reason}", network.name)));
                }
            }
        }
    }
    let closest = closest.filter(|(fitting, _)| *fitting > 0);
    let names: Vec<&str> = PUBLISHED.iter().map(|network| network.name).collect();
    Err(ModelError::Weights {
        file: file.to_owned(),
        reason: format!(
            "holds {}, the weights of no network that is known here ({}); {}; describe the network with --description",
            match tensors.first() {
                Some((name, (shape, _))) => {
                    format!(
                        "{} tensors of floating-point numbers, the first '{name}' {shape:?}",
                        tensors.len()
                    )
                }
                None => "no tensor of floating-point numbers".into(),
            },
            names.join(", "),
            closest.map_or_else(|| "none of them has such tensors".into(), |(_, reason)| reason)
        ),
    })
}

/// The weights of a network that is described, from the tensors of any file.
///
/// # Errors
/// The first tensor of the network that is missing or has another shape, or one of the file that no layer uses.
pub fn take_described(
    tensors: &NamedTensors,
    description: &Description,
    file: &str,
) -> Result<Tensors, ModelError> {
    take(tensors, description, &[])?
        .map_err(|Misfit { reason, .. }| ModelError::Weights { file: file.to_owned(), reason })
}

/// Why tensors are not those of a network, and how many are.
struct Misfit {
    fitting: usize,
    reason: String,
}

fn take(
    tensors: &NamedTensors,
    description: &Description,
    unused: &[&str],
) -> Result<Result<Tensors, Misfit>, ModelError> {
    let expected = expected_tensors(description)?;
    let Some((first, _)) = expected.first() else {
        return Ok(Err(Misfit { fitting: 0, reason: "has no weights".into() }));
    };
    // Checkpoints keep the weights in a dictionary of its own, wrappers put modules one level down.
    let prefix = tensors.iter().find_map(|(name, _)| {
        let prefix = name.strip_suffix(first.as_str())?;
        (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
    });
    let prefix = prefix.unwrap_or_default();
    let mut left: Vec<_> =
        tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor))).collect();
    let mut taken = Tensors::new();
    let mut misfit = None;
    for (name, desc) in expected {
        match left.iter().position(|(other, _)| *other == name) {
            Some(ix) if left[ix].1.0 == desc.shape => {
                taken.insert(name, left.swap_remove(ix).1.clone());
            }
            Some(ix) => {
                let shape = &left[ix].1.0;
                misfit.get_or_insert(format!("'{name}' has shape {shape:?} instead of {:?}", desc.shape));
            }
            None => {
                misfit.get_or_insert(format!("there is no '{name}' {:?}", desc.shape));
            }
        }
    }
    let known = |name: &str| {
        unused.contains(&name) || STATISTICS.iter().any(|end| name.rsplit('.').next() == Some(*end))
    };
    let stranger = left.iter().map(|(name, _)| *name).filter(|name| !known(name)).min();
    let misfit = misfit.or_else(|| stranger.map(|name| format!("no layer of it uses '{name}'")));
    Ok(match misfit {
        None => Ok(taken),
        Some(reason) => Err(Misfit { fitting: taken.len(), reason }),
    })
}
