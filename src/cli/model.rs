//! `trephine model info | list | convert | fetch`.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use trephine::model::{
    self as models, AxisCodes, Centre, Description, Fit, Intensity, LayerKind, LayerOutline, Model,
    ModelCard, Outline, Sampling, Usual, VoxelBox, WeightFile, drawing,
    published::{self, nnunet},
};
use trephine::pipeline::write_whole;

use super::files::{check_distinct, check_folder};
use super::json::named;
use super::{Outcome, Session, fetch, triple};

/// Show, convert and fetch models
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  trephine model list\n  trephine model info default")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Info(Info),
    List(List),
    Convert(Convert),
    Fetch(fetch::Options),
}

/// Show a model: network, preprocessing, parameters, what it costs, and its card
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine model info default\n  trephine model info run/best.safetensors --json\n  trephine model info synthstrip.1.pt --grid 256,192,192 --layers --svg synthstrip.svg"
)]
struct Info {
    /// A model file, or the name of a model that is built in or in your folder
    #[arg(value_name = "FILE|NAME")]
    model: String,
    /// Extents of the grid to tell the cost on [default: the model's own]
    #[arg(long, value_name = "D,H,W", value_parser = triple::<usize>)]
    grid: Option<[usize; 3]>,
    /// List the layers: names, operators, outputs, parameters and GFLOP
    #[arg(long)]
    layers: bool,
    /// Draw the network to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// List the models that are built in, and those in your folder
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  trephine model list")]
struct List {}

/// Write a model in another precision, with another name or card, or from others' weights
///
/// IN may also be a file of PyTorch (a state dict or a TorchScript archive: .pt, .pth, .model), a safetensors file of
/// weights alone, a file of ONNX or Keras with a --description, or a checkpoint of nnU-Net or the folder that it trained a model in, with all its folds. Published networks
/// (SynthStrip, MindGrab, HD-BET version 1) are recognised by their tensors; any other is described by --description. Such files are read, never run: one that asks for anything but tensors and containers
/// is refused.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine model convert run/best.safetensors mine.safetensors --half --card card.toml\n  trephine model convert synthstrip.1.pt synthstrip.safetensors\n  trephine model convert nnUNetTrainer__nnUNetPlans__3d_fullres mine.safetensors --stored LAS\n\ncard.toml may set: data, licence, attribution, command, figures, and [usual] with unsure and mirrored_dice, beyond which masks are doubted (docs/plausibility.md)."
)]
struct Convert {
    /// A model file, the name of a model that is built in or in your folder, or a file of weights
    #[arg(value_name = "IN")]
    input: String,
    /// The .safetensors file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Store the weights in half precision: half the size
    #[arg(long)]
    half: bool,
    /// Round the weights to so many of the 10 bits of mantissa in half precision: files compress the better, the fewer
    #[arg(long, value_name = "BITS", requires = "half", value_parser = clap::value_parser!(u32).range(1..=10))]
    mantissa: Option<u32>,
    /// Change the model's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Take entries of the model card from this TOML file
    #[arg(long, value_name = "TOML")]
    card: Option<PathBuf>,
    /// The network of IN: layers named as its tensors, as `model info --json` shows a description; of a file of ONNX or
    /// Keras, which has the layers itself, all else: `name` and `input`
    #[arg(long, value_name = "JSON")]
    description: Option<PathBuf>,
    /// How the images were stored that a network of nnU-Net learnt from, which its files do not say: where their axes point
    /// [default: RAS]
    #[arg(long, value_name = "AXES", value_parser = axes, conflicts_with = "description")]
    stored: Option<AxisCodes>,
    /// Further weights of the same network, whose answers are averaged; may be given several times
    #[arg(long, value_name = "FILE")]
    fold: Vec<String>,
}

/// A model card as people write it: what is left out stays as it was.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CardFile {
    data: Option<String>,
    licence: Option<String>,
    attribution: Option<String>,
    command: Option<String>,
    figures: Option<String>,
    usual: Option<Usual>,
}

impl CardFile {
    pub fn read(path: &std::path::Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| anyhow!("{}: cannot be read: {e}; check the path", path.display()))?;
        toml::from_str(&text).map_err(|e| anyhow!("{}: is not a model card: {}", path.display(), e.message()))
    }

    pub fn apply(self, card: &mut ModelCard) {
        for (to, from) in [
            (&mut card.data, self.data),
            (&mut card.licence, self.licence),
            (&mut card.attribution, self.attribution),
            (&mut card.command, self.command),
            (&mut card.figures, self.figures),
        ] {
            if let Some(text) = from {
                *to = text;
            }
        }
        card.usual = self.usual.or(card.usual);
    }
}

impl Options {
    pub fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Info(info) => info.run(session)?,
            Command::List(_) => list(session)?,
            Command::Convert(convert) => convert.run(session)?,
            Command::Fetch(fetch) => fetch.run(session)?,
        }
        Ok(Outcome::Done)
    }
}

fn list(session: &Session) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let built_in = models::builtin_names().into_iter().map(|name| (name.to_owned(), None));
    let own = models::user_models().into_iter().map(|(name, file)| (name, Some(file)));
    for (name, file) in built_in.chain(own) {
        let model = match models::load(&name) {
            Ok(model) => model,
            // One bad file in the folder hides none of the others.
            Err(error) => {
                session.terminal.warning(file.as_deref().unwrap_or(name.as_ref()), &error.to_string());
                continue;
            }
        };
        let (trained, _) = model.parameter_counts();
        let grid = &model.description.input;
        let licence = match model.card.licence.as_str() {
            "" => "licence unknown",
            licence => licence,
        };
        session.terminal.result(&format!(
            "{name:12} {trained:>9} parameters, {} voxels of {} mm; {licence}; {}{}",
            grid.shape.map(|n| n.to_string()).join("x"),
            grid.voxel_mm.map(|mm| mm.to_string()).join("x"),
            file.as_ref().map_or_else(|| "built in".to_owned(), |file| file.display().to_string()),
            match one_sentence(&model.card.figures) {
                "" => String::new(),
                figures => format!("; {figures}"),
            }
        ))?;
        rows.push(json!({
            "name": name,
            "file": file.as_deref().map(named),
            "parameters": trained,
            "input": grid,
            "card": model.card,
        }));
    }
    if rows.is_empty() {
        session.terminal.note("no model is built in; train one with `trephine train`");
    }
    session.terminal.json(&json!({ "models": rows }))?;
    Ok(())
}

fn one_sentence(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

impl Info {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let model = session.load_model(&self.model)?;
        let (trained, stored) = model.parameter_counts();
        let outline = Outline::of(&model, self.grid)?;
        if let Some(path) = &self.svg {
            check_folder(path)?;
            write_whole(path, drawing(&model.description.name, &outline).as_bytes())?;
            session.terminal.note(&format!("wrote {}", path.display()));
        }
        let mut text = describe(&model, trained, stored, &outline);
        if self.layers {
            text = format!("{text}\n{}", table(&outline));
        }
        session.terminal.result(&text)?;
        let layer = |layer: &LayerOutline| {
            json!({
                "name": layer.name,
                "op": layer.op,
                "shape": layer.shape,
                "parameters": layer.parameters,
                "gflop": layer.flops / 1e9,
            })
        };
        session.terminal.json(&json!({
            "cost": {
                "grid": outline.shape,
                "gflop": outline.flops / 1e9,
                "bytes": outline.bytes,
                "least_bytes": outline.least_bytes,
                "layers": outline.layers.iter().map(layer).collect::<Vec<_>>(),
            },
            "name": model.description.name,
            "parameters": trained,
            "stored_numbers": stored,
            "description": model.description,
            "card": model.card,
        }))?;
        Ok(())
    }
}

/// The layers, a line each.
fn table(outline: &Outline) -> String {
    let width = outline.layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0);
    let row = |layer: &LayerOutline| {
        format!(
            "{:width$}  {:17} {:>16} {:>9} parameters {:>8.2} GFLOP",
            layer.name,
            layer.op,
            layer.shape.map(|n| n.to_string()).join("x"),
            layer.parameters,
            layer.flops / 1e9
        )
    };
    outline.layers.iter().map(row).collect::<Vec<_>>().join("\n")
}

fn describe(model: &Model, trained: usize, stored: usize, outline: &Outline) -> String {
    let d = &model.description;
    let grid = &d.input;
    let centre = match grid.centre {
        Centre::WorldOrigin => "centred on the world's origin".to_owned(),
        Centre::Head { above_mm } => format!("centred on the head, {above_mm} mm above its top"),
        Centre::Middle => "centred on the field of view".to_owned(),
        Centre::Voxels { of, fit } => {
            let over = match of {
                VoxelBox::All => "over the field of view".to_owned(),
                VoxelBox::Content => "over what is not background".to_owned(),
                VoxelBox::Brain { margin, .. } => {
                    format!("over the brain that another network finds, and {}% around", 100.0 * margin)
                }
            };
            match fit {
                Fit::Stretched => format!("{over}, stretched to it"),
                Fit::Padded { multiple, .. } => {
                    format!("{over}, padded to multiples of {multiple}, at least so many")
                }
            }
        }
    };
    let sampling = match grid.sampling {
        Sampling::Nearest => "nearest voxel",
        Sampling::Area => "area average",
        Sampling::Linear => "linear",
        Sampling::Cubic => "cubic",
    };
    let intensity = match grid.intensity {
        Intensity::MinMax { high } => format!("0 to {high}"),
        Intensity::Percentile { low, high } => format!("percentiles {low} to {high} to 0 to 1"),
        Intensity::ZScore => "mean 0, deviation 1".to_owned(),
        Intensity::ZScoreOfVoxels { masked } => {
            let of = if masked { "its content" } else { "it" };
            format!("mean 0, deviation 1 of {of} before it is sampled")
        }
        Intensity::Standard { low, high, mean, deviation, of_first } => format!(
            "percentiles {low} to {high}{} clipped, then mean {mean}, deviation {deviation}",
            if of_first { " of what the other network saw" } else { "" }
        ),
    };
    let mut lines = vec![
        format!("name         {}", d.name),
        format!("parameters   {trained} trained, {stored} stored"),
        format!("layers       {}, output {}{}", d.layers.len(), d.output, blocks(d)),
        format!(
            "grid         {} voxels of {} mm, {centre}",
            grid.shape.map(|n| n.to_string()).join("x"),
            grid.voxel_mm.map(|mm| mm.to_string()).join("x")
        ),
        format!("sampling     {sampling}; intensities {intensity}"),
        format!(
            "cost         {:.0} GFLOP and {} MiB of buffers ({} MiB at least, see strip --max-memory) for a pass over {} voxels{}",
            outline.flops / 1e9,
            outline.bytes >> 20,
            outline.least_bytes.div_ceil(1 << 20),
            outline.shape.map(|n| n.to_string()).join("x"),
            if d.first.is_some() { ", without the network that looks first" } else { "" }
        ),
        format!("bias field   {}", grid.n4.as_deref().unwrap_or("not corrected")),
    ];
    let card = &model.card;
    for (key, text) in [
        ("data", &card.data),
        ("licence", &card.licence),
        ("attribution", &card.attribution),
        ("command", &card.command),
        ("figures", &card.figures),
        ("parent", &card.parent),
    ] {
        if !text.is_empty() {
            lines.push(format!("{key:12} {}", text.replace('\n', "\n             ")));
        }
    }
    if let Some(Usual { unsure, mirrored_dice }) = card.usual {
        let percent = 100.0 * unsure;
        lines.push(format!(
            "usual        at most {percent:.0}% unsure, Dice with the mirrored pass at least {mirrored_dice}"
        ));
    }
    lines.join("\n")
}

/// The blocks of voxels that a network reads as channels, in words.
fn blocks(description: &Description) -> String {
    let factor = description.layers.iter().find_map(|layer| match layer.kind {
        LayerKind::SpaceToDepth { factor } => Some(factor),
        _ => None,
    });
    factor.map_or(String::new(), |factor| {
        format!("; reads blocks of {} voxels as channels", factor.map(|n| n.to_string()).join("x"))
    })
}

/// Where three axes point.
fn axes(text: &str) -> Result<AxisCodes, String> {
    AxisCodes::try_from(text.to_owned())
}

/// A network from a description and a file of weights; files of ONNX and Keras have the layers themselves.
fn described(description_file: &std::path::Path, weights: &str) -> anyhow::Result<Model> {
    let text = std::fs::read_to_string(description_file)
        .map_err(|e| anyhow!("{}: cannot be read: {e}; check the path", description_file.display()))?;
    let no_description =
        |e: serde_json::Error| anyhow!("{}: is not a network's description: {e}", description_file.display());
    let file = WeightFile::open(weights)?;
    let Some(network) = file.foreign()? else {
        let network: Description = serde_json::from_str(&text).map_err(no_description)?;
        let tensors = published::take_described(&file.tensors()?, &network, file.origin())?;
        return Ok(Model { description: network, tensors, card: ModelCard::default() });
    };
    let mut entries: serde_json::Map<_, _> = serde_json::from_str(&text).map_err(no_description)?;
    for (key, value) in [("layers", json!(network.layers)), ("output", json!(network.output))] {
        if entries.insert(key.to_owned(), value).is_some() {
            return Err(anyhow!(
                "{}: has '{key}', which {weights} says itself; take it out",
                description_file.display()
            ));
        }
    }
    entries.entry("answer").or_insert(json!(network.answer));
    let description: Description = serde_json::from_value(entries.into()).map_err(no_description)?;
    let (extents, multiple) =
        (description.input.shape, description.multiple().map_err(|e| anyhow!("{weights}: {e}"))?);
    if network.whole_levels && (0..3).any(|axis| multiple[axis] == 0 || extents[axis] % multiple[axis] != 0) {
        return Err(anyhow!(
            "{}: has a grid of {extents:?}; the levels of {weights} ask for multiples of {multiple:?}",
            description_file.display()
        ));
    }
    Ok(Model { description, tensors: network.tensors, card: ModelCard::default() })
}

impl Convert {
    /// The model that IN holds without a description.
    fn model(&self, session: &Session) -> anyhow::Result<Model> {
        let folder = std::path::Path::new(&self.input);
        if folder.is_dir() {
            let (model, checkpoints) = nnunet::of_folder(folder, self.stored.unwrap_or_default())?;
            let checkpoints: Vec<String> =
                checkpoints.iter().map(|path| path.display().to_string()).collect();
            session.terminal.note(&format!("weights of {}", checkpoints.join(", ")));
            return Ok(model);
        }
        let Some(stored) = self.stored else { return session.load_model(&self.input) };
        let checkpoint = WeightFile::open(&self.input)?.nnunet_checkpoint(stored)?;
        checkpoint.ok_or_else(|| anyhow!("{}: is no checkpoint of nnU-Net; leave out --stored", self.input))
    }

    fn run(self, session: &Session) -> anyhow::Result<()> {
        check_distinct(&self.output, &[], &[std::path::Path::new(&self.input)])?;
        check_folder(&self.output)?;
        let mut model = match &self.description {
            None => self.model(session)?,
            Some(path) => described(path, &self.input)?,
        };
        for fold in &self.fold {
            let file = WeightFile::open(fold)?;
            let tensors = published::take_described(&file.tensors()?, &model.description, file.origin())?;
            model.add_fold(tensors);
        }
        if let Some(name) = self.name {
            model.description.name = name;
        }
        if let Some(path) = &self.card {
            CardFile::read(path)?.apply(&mut model.card);
        }
        if let Some(bits) = self.mantissa {
            model.round_mantissa(bits);
        }
        let bytes = model.to_bytes(self.half)?;
        // A weight beyond half precision shows here, not at the next `strip`.
        Model::from_bytes(&bytes, &self.output.display().to_string())?;
        write_whole(&self.output, &bytes)?;
        session.terminal.note(&format!("wrote {} ({} bytes)", self.output.display(), bytes.len()));
        session.terminal.json(&json!({ "output": named(&self.output), "bytes": bytes.len() }))?;
        Ok(())
    }
}
