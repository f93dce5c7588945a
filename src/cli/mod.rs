//! The command line: the only place that prints. One file per command; each parses its options, validates
//! them, and runs a pipeline.
//!
//! Results go to stdout, everything else to stderr. With `--json`, stdout gets one JSON object however the command
//! ends (`json.rs`). Exit codes: 0 all done, 1 something failed, 2 usage, 130 interrupted. A broken pipe is success.

#[cfg(feature = "bench")]
mod bench;
mod bids;
mod devices;
mod evaluate;
mod fetch;
mod files;
mod index;
mod interrupt;
mod json;
mod model;
mod n4;
mod normalise;
mod report;
mod resample;
mod shell;
mod strip;
mod synth;
mod terminal;
mod train;
#[cfg(feature = "bench")]
mod tune;

use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use trephine::gpu::{AdapterSummary, DeviceClass, Gpu, GpuOptions};
use trephine::graph::Tuning;
use trephine::model::{Model, WeightFile};
use trephine::pipeline::PipelineError;
use trephine::pipeline::batch::Provenance;
use trephine::pipeline::bias::N4Options;
use trephine::pipeline::strip::{N4Choice, Stripper};
use trephine::pipeline::tuning_cache;
use trephine::tensor::DType;

use interrupt::{INTERRUPTED, Interrupt};
use json::{Envelope, VERSION};
use terminal::{Terminal, one_line};

/// Brain extraction (skull stripping) of 3D MRI on any GPU.
#[derive(Debug, Parser)]
#[command(
    name = "trephine",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    propagate_version = true,
    max_term_width = 110,
    after_long_help = "Example:\n  trephine strip head.nii.gz\n\nwrites head_brain.nii.gz, head_mask.nii.gz and head_qc.png beside the input."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
struct Global {
    /// Number or part of the name of the adapter to compute on; the best one without
    ///
    /// `trephine devices` lists them. Without this option, discrete GPUs come before integrated ones, and
    /// drivers that compute on the CPU last.
    #[arg(long, global = true, value_name = "NUMBER|NAME")]
    device: Option<String>,
    /// Say nothing but warnings and errors
    #[arg(long, global = true)]
    quiet: bool,
    /// Print one JSON object on stdout; everything else goes to stderr
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Strip(Box<strip::Options>),
    Bids(Box<bids::Options>),
    Report(report::Options),
    Evaluate(evaluate::Options),
    N4(n4::Options),
    Resample(resample::Options),
    #[command(visible_alias = "normalize")]
    Normalise(normalise::Options),
    Index(index::Options),
    Train(Box<train::Options>),
    Synth(synth::Options),
    Devices(devices::Options),
    #[cfg(feature = "bench")]
    Bench(Box<bench::Options>),
    #[cfg(feature = "bench")]
    Tune(tune::Options),
    Model(model::Options),
    Completions(shell::Completions),
    Man(shell::Man),
    /// What `bench --compile-for` runs in a process of its own
    #[cfg(all(feature = "bench", target_os = "linux"))]
    #[command(
        hide = true,
        after_long_help = "Example:\n  trephine compile-spirv < kernels.json > compiled.json"
    )]
    CompileSpirv,
}

/// How a command ended that did not break off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All of it was done.
    Done,
    /// Some inputs failed, the rest was done; errors are printed already.
    SomeFailed,
    /// Somebody stopped it; that is printed already.
    Interrupted,
}

/// A mistake on the command line that only shows when options are looked at together: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

fn usage(text: impl Into<String>) -> anyhow::Error {
    UsageError(text.into()).into()
}

/// What commands share: where to print and which device to open.
struct Session {
    terminal: Terminal,
    device: Option<String>,
    interrupt: &'static Interrupt,
}

impl Session {
    /// Opens the device and announces it.
    async fn gpu(&self) -> anyhow::Result<Arc<Gpu>> {
        self.gpu_below(None).await
    }

    /// As [`Session::gpu`], with at most so many bytes of buffers.
    async fn gpu_below(&self, ceiling: Option<u64>) -> anyhow::Result<Arc<Gpu>> {
        let options = GpuOptions { device: self.device.clone(), ceiling, ..GpuOptions::default() };
        let gpu = Gpu::open(&options).await?;
        let summary = &gpu.summary;
        let hint = match summary.class {
            DeviceClass::Software => {
                "; this driver computes on the CPU, a GPU is many times faster (see `trephine devices`)"
            }
            _ => "",
        };
        self.terminal
            .note(&format!("device: {} ({}, {}){hint}", summary.name, summary.backend, summary.driver));
        if let (Some(device), false) = (&self.device, gpu.also_named.is_empty()) {
            let others = gpu.also_named.iter().map(|other| format!("{}: {}", other.index, other.name));
            self.terminal.note(&format!(
                "'{device}' also names {}; this is --device {}, choose by number to be exact",
                others.collect::<Vec<_>>().join(", "),
                summary.index
            ));
        }
        Ok(Arc::new(gpu))
    }

    /// A built-in model or a model file, which the run is then said to have used.
    fn load_model(&self, name_or_file: &str) -> anyhow::Result<Model> {
        let file = WeightFile::open(name_or_file)?;
        let model = file.model()?;
        self.terminal.envelope().model = Some([model.description.name.clone(), file.sha256()]);
        Ok(model)
    }

    /// Models by a list of names and files with commas between, unless all of it is the name of a file.
    fn load_models(&self, names: &str) -> anyhow::Result<Vec<Model>> {
        if Path::new(names).exists() || !names.contains(',') {
            return Ok(vec![self.load_model(names)?]);
        }
        let (mut models, mut used) = (Vec::new(), Vec::new());
        for name in names.split(',') {
            models.push(self.load_model(name)?);
            used.extend(self.terminal.envelope().model.clone());
        }
        let joined = |part: usize| used.iter().map(|pair| pair[part].as_str()).collect::<Vec<_>>().join(",");
        self.terminal.envelope().model = Some([joined(0), joined(1)]);
        Ok(models)
    }

    /// How the results of this run are made, for reports.
    fn provenance(&self, settings: serde_json::Value) -> Provenance {
        let envelope = self.terminal.envelope();
        let mut options = envelope.options.clone();
        // A report has a row for each of them.
        options.remove("inputs");
        let [model, model_sha256] = envelope.model.clone().unwrap_or_default();
        Provenance {
            version: VERSION.to_owned(),
            model,
            model_sha256,
            settings,
            options: serde_json::Value::Object(options),
        }
    }
}

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error,trephine=warn")).init();
    let args = N4Mode::attach(std::env::args_os());
    let mut program = Cli::command();
    program.build();
    let parsed = program.try_get_matches_from_mut(&args).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut program))?;
        Ok((cli, matches))
    });
    let mut envelope = Envelope::default();
    let names = json::named_commands(&program, &args);
    envelope.command = (!names.is_empty()).then(|| names.join(" "));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return unparsed(&error, Terminal::new(false, json::is_asked_for(&args), envelope)),
    };
    let (mut command, mut matches) = (&program, &matches);
    while let Some((name, inner)) = matches.subcommand() {
        command = command.find_subcommand(name).expect("the parser found it");
        matches = inner;
    }
    envelope.options = json::options_in_force(command, matches);
    let terminal = Terminal::new(cli.global.quiet, cli.global.json, envelope);
    let session = Session { terminal, device: cli.global.device, interrupt: Interrupt::listen(terminal) };
    // The one place that waits for the device; all that it calls awaits it.
    let result = catch_unwind(AssertUnwindSafe(|| pollster::block_on(cli.command.run(&session))));
    let code = match result {
        Ok(Ok(Outcome::Done)) => 0,
        Ok(Ok(Outcome::SomeFailed)) => 1,
        Ok(Ok(Outcome::Interrupted)) => INTERRUPTED,
        // Only writing to stdout yields a bare I/O error; output files carry their names.
        Ok(Err(error)) if is_broken_pipe(&error) => return ExitCode::SUCCESS,
        Ok(Err(error)) if error.is::<UsageError>() => {
            let text = error.to_string();
            let _ = command.clone().error(ErrorKind::ArgumentConflict, &text).print();
            terminal.envelope().errors.push(one_line(&text));
            2
        }
        Ok(Err(error)) => {
            terminal.error(&error.to_string());
            1
        }
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            terminal
                .error(&format!("this is a fault of Trephine ({words}); please report it with the command"));
            1
        }
    };
    closed(terminal, code)
}

/// Prints the JSON object, where one is asked for, and returns the exit code.
fn closed(terminal: Terminal, code: u8) -> ExitCode {
    match terminal.close(code == 0) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            terminal.error(&format!("stdout: cannot be written ({error}); check the disk it goes to"));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(code),
    }
}

/// The end where clap did not give a command: help, the version, or a mistake.
fn unparsed(error: &clap::Error, terminal: Terminal) -> ExitCode {
    let text = error.render().to_string();
    let for_stdout = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !for_stdout || !terminal.json {
        // Nobody is left to tell when not even the help can be printed.
        let _ = error.print();
    }
    let code = if for_stdout {
        let _ = terminal.json(&serde_json::json!({ "text": text }));
        0
    } else {
        let what = text.split("\n\n").next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        terminal.envelope().errors.push(match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                "no command is named; see --help".into()
            }
            _ => one_line(what),
        });
        2
    };
    closed(terminal, code)
}

impl Command {
    async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        match self {
            Self::Strip(options) => options.run(session).await,
            Self::Bids(options) => options.run(session).await,
            Self::Report(options) => options.run(session),
            Self::Evaluate(options) => options.run(session).await,
            Self::N4(options) => options.run(session).await,
            Self::Resample(options) => options.run(session).await,
            Self::Normalise(options) => options.run(session).await,
            Self::Index(options) => options.run(session),
            Self::Train(options) => options.run(session).await,
            Self::Synth(options) => options.run(session).await,
            Self::Devices(options) => options.run(session).await,
            #[cfg(feature = "bench")]
            Self::Bench(options) => options.run(session).await,
            #[cfg(feature = "bench")]
            Self::Tune(options) => options.run(session).await,
            Self::Model(options) => options.run(session),
            Self::Completions(options) => options.run(session, Cli::command()),
            Self::Man(options) => options.run(session, Cli::command()),
            #[cfg(all(feature = "bench", target_os = "linux"))]
            Self::CompileSpirv => bench::compile_stdin(session),
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The names of models with commas between.
fn names_of(models: &[Model]) -> String {
    models.iter().map(|model| model.description.name.as_str()).collect::<Vec<_>>().join(",")
}

/// An error in one line with the file it is about, unless its text names one already.
fn text_about(file: &Path, error: &PipelineError) -> String {
    one_line(&error.about(file))
}

/// The same as an error to end with.
fn about(file: &Path, error: &PipelineError) -> anyhow::Error {
    anyhow!(text_about(file, error))
}

/// Presets of `strip` and `evaluate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StripPreset {
    /// The article's pipeline: N4 shrink 3 without a mask, 2 mm nearest neighbour, its network
    Article,
}

/// How `--n4` corrects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum N4Mode {
    /// As `trephine n4 --auto-mask none`: every voxel above 0
    Default,
    /// Shrink 3, iterations 20,10,10,5, no mask
    Article,
    /// Shrink 4, iterations 50,50,50,50, no convergence test, no mask
    Ants,
    /// No shrinking, iterations 50,50,50,50, tolerance 1e-3, no mask
    Sitk,
    /// Inside the head for the network; --bias and --corrected anew, inside the brain that it finds
    TwoPass,
}

impl N4Mode {
    fn choice(self) -> N4Choice {
        match self {
            Self::Default => N4Choice::On(N4Options::default()),
            Self::Article => N4Choice::On(N4Options::article()),
            Self::Ants => N4Choice::On(N4Options::ants()),
            Self::Sitk => N4Choice::On(N4Options::sitk()),
            Self::TwoPass => N4Choice::TwoPass,
        }
    }

    /// `--n4 MODE` as `--n4=MODE`. clap would otherwise either take the file after a bare `--n4` for a mode,
    /// or a mode for a file.
    fn attach(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        let mut attached: Vec<OsString> = Vec::new();
        for arg in args {
            let is_mode = arg.to_str().is_some_and(|text| Self::from_str(text, false).is_ok());
            match attached.last_mut() {
                Some(last) if is_mode && last == "--n4" => {
                    last.push("=");
                    last.push(arg);
                }
                _ => attached.push(arg),
            }
        }
        attached
    }
}

/// Element types of a network's activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ElementType {
    /// Single precision
    #[default]
    F32,
    /// Half precision: half the memory, on adapters that have it (see `trephine devices`)
    F16,
}

impl From<ElementType> for DType {
    fn from(element: ElementType) -> Self {
        match element {
            ElementType::F32 => Self::F32,
            ElementType::F16 => Self::F16,
        }
    }
}

/// Which model, and which bias correction before it.
#[derive(Debug, Args)]
struct ModelOptions {
    /// A model by name, or a file: .safetensors, or PyTorch's of a published network [default: default]
    ///
    /// `trephine model list` shows the ones that are built in or in your folder, `trephine model fetch` gets published ones.
    /// Of several with commas between (`default,deepbet`), the mean probability counts, and --json says how far they disagree.
    #[arg(long, value_name = "NAME|FILE")]
    model: Option<String>,
    /// A whole published pipeline
    #[arg(long, value_name = "NAME")]
    preset: Option<StripPreset>,
    /// Correct the bias field before the network, whatever the model was trained with [MODE: default]
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "default",
        conflicts_with = "no_n4"
    )]
    n4: Option<N4Mode>,
    /// Do not correct the bias field before the network, whatever the model was trained with
    #[arg(long)]
    no_n4: bool,
    /// Average over the mirrored head and over grids moved by half a voxel: five times the work; with models that learnt
    /// from mirrored heads (nnU-Net's, HD-BET), over all mirror images alone
    #[arg(long)]
    tta: bool,
    /// Element type of what the network's layers hand on; sums stay in f32
    #[arg(long, value_name = "TYPE", value_enum, default_value_t)]
    dtype: ElementType,
    /// Most memory for the device's buffers, as in 512M or 2G
    ///
    /// Volumes and networks that need more go in pieces: the results are the same, and take longer. `trephine model info` says
    /// how much a network needs at once, and least.
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    max_memory: Option<u64>,
    #[command(flatten)]
    tuning: TuningOptions,
}

/// Whether to use what `trephine tune` has found.
#[derive(Clone, Copy, Debug, Args)]
struct TuningOptions {
    /// Leave what `trephine tune` measured aside: the same kernels on every run
    ///
    /// Kernels add up in different orders, so results differ in their last digits between a tuned run and one
    /// that is not.
    #[arg(long)]
    no_tune: bool,
}

impl TuningOptions {
    fn load(self, gpu: &Gpu) -> Arc<Tuning> {
        if self.no_tune { Arc::default() } else { tuning_cache::load(&gpu.summary) }
    }
}

impl ModelOptions {
    /// The models, one at least.
    fn load(&self, session: &Session) -> anyhow::Result<Vec<Model>> {
        let names = match (&self.model, self.preset) {
            (Some(name), _) => name.as_str(),
            (None, Some(StripPreset::Article)) => "article",
            (None, None) => "default",
        };
        session.load_models(names)
    }

    /// These models on the device, and which device that is; with at most so many bytes of buffers, or as many as the user
    /// allows if that is less.
    async fn stripper(
        &self,
        session: &Session,
        models: &[Model],
        ceiling: Option<u64>,
    ) -> anyhow::Result<(Stripper, AdapterSummary)> {
        let ceiling = ceiling.into_iter().chain(self.max_memory).min();
        let gpu = session.gpu_below(ceiling).await?;
        let tuning = self.tuning.load(&gpu);
        let stripper = Stripper::of_several(&gpu, models, self.dtype.into(), &tuning).await?;
        Ok((stripper, gpu.summary.clone()))
    }

    fn n4_choice(&self) -> N4Choice {
        match self {
            Self { no_n4: true, .. } => N4Choice::Off,
            Self { preset: Some(StripPreset::Article), n4: None | Some(N4Mode::Default), .. } => {
                N4Choice::On(N4Options::article())
            }
            Self { n4: Some(mode), .. } => mode.choice(),
            _ => N4Choice::AsModel,
        }
    }
}

/// Which volumes of a 4D input.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
struct FrameOptions {
    /// Take volume N (from 0) of a 4D input
    #[arg(long, value_name = "N")]
    volume: Option<usize>,
    /// Take every volume of a 4D input; outputs are 4D as well
    #[arg(long)]
    all: bool,
}

/// `512M`: a number and its unit, in bytes.
fn memory_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (unit, number) = match plain.char_indices().next_back() {
        Some((at, 'k')) => (1u64 << 10, &plain[..at]),
        Some((at, 'm')) => (1 << 20, &plain[..at]),
        Some((at, 'g')) => (1 << 30, &plain[..at]),
        _ => {
            return Err(format!("'{text}' has no unit; write it as in 512M or 2G (K, M or G, of 1024 each)"));
        }
    };
    let number: f64 =
        number.trim().parse().map_err(|_| format!("'{text}' is not a size; write 512M or 2G"))?;
    let bytes = number * unit as f64;
    // Up to here, f64 counts bytes exactly.
    if bytes >= LEAST_MEMORY as f64 && bytes < (1u64 << 53) as f64 {
        Ok(bytes as u64)
    } else {
        Err(format!("'{text}' is no useful size; {}M is the least", LEAST_MEMORY >> 20))
    }
}

/// Transfers alone take 24 MiB.
const LEAST_MEMORY: u64 = 64 << 20;

/// `1,2,3`, or one number for all three axes.
fn triple<T: std::str::FromStr + Copy>(text: &str) -> Result<[T; 3], String> {
    let numbers: Vec<T> = text
        .split(',')
        .map(|part| part.trim().parse().map_err(|_| format!("'{part}' is not a number")))
        .collect::<Result<_, _>>()?;
    match numbers[..] {
        [one] => Ok([one; 3]),
        [x, y, z] => Ok([x, y, z]),
        _ => Err(format!("{} numbers; 3 are needed, as in 2,2,2", numbers.len())),
    }
}

/// `low,high` with low below high.
fn interval(text: &str) -> Result<[f64; 2], String> {
    let numbers: Vec<f64> = text
        .split(',')
        .map(|part| part.trim().parse().map_err(|_| format!("'{part}' is not a number")))
        .collect::<Result<_, _>>()?;
    match numbers[..] {
        [low, high] if low.is_finite() && high.is_finite() && low < high => Ok([low, high]),
        [_, _] => Err("the first number must be below the second".into()),
        _ => Err(format!("{} numbers; 2 are needed, as in 0,255", numbers.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        let mut command = Cli::command();
        command.build();
        let mut commands: Vec<&clap::Command> = vec![&command];
        while let Some(command) = commands.pop() {
            if command.get_name() == "help" {
                continue;
            }
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("trephine "), "{} has no example", command.get_name());
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            commands.extend(command.get_subcommands());
        }
    }

    /// Commands of the documentation, by page: what follows `trephine` in `sh` and `console` blocks, up to the shell's own marks.
    fn documented() -> Vec<(String, Vec<String>)> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let folders = ["", "docs", "weights"].map(|folder| root.join(folder));
        let pages = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
        let mut commands = vec![];
        for page in
            pages.map(|entry| entry.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "md"))
        {
            let text = std::fs::read_to_string(&page).unwrap().replace("\\\n", " ");
            let mut shell = false;
            for line in text.lines() {
                if let Some(kind) = line.strip_prefix("```") {
                    shell = !shell && (kind == "sh" || kind.starts_with("console"));
                }
                let called = line.split(['|', ';', '&']).map(|part| part.trim().trim_start_matches("$ "));
                for call in called.filter(|call| {
                    shell && call.trim_start_matches("target/release/").starts_with("trephine ")
                }) {
                    let words = shlex::split(call.split(" > ").next().unwrap()).expect("quotes are closed");
                    commands.push((page.display().to_string(), words));
                }
            }
        }
        commands
    }

    #[test]
    fn commands_of_the_documentation_are_ours() {
        let commands = documented();
        assert!(commands.len() > 60, "{}", commands.len());
        for (page, words) in commands {
            let taken = Cli::try_parse_from(N4Mode::attach(words.iter().map(OsString::from)));
            assert!(taken.is_ok(), "{page}: {}\n{}", words.join(" "), taken.err().unwrap());
        }
    }

    #[test]
    fn a_mode_after_n4_is_no_file() {
        let attach = |args: &str| -> Vec<String> {
            let args = args.split(' ').map(OsString::from);
            N4Mode::attach(args).into_iter().map(|arg| arg.into_string().unwrap()).collect()
        };
        assert_eq!(attach("strip --n4 two-pass a.nii").join(" "), "strip --n4=two-pass a.nii");
        assert_eq!(attach("strip --n4 a.nii").join(" "), "strip --n4 a.nii");
        assert_eq!(attach("strip a.nii --n4").join(" "), "strip a.nii --n4");
        assert_eq!(
            attach("--preset article --n4=sitk article").join(" "),
            "--preset article --n4=sitk article"
        );
    }

    #[test]
    fn sizes_of_memory() {
        for (text, mib) in
            [("512M", 512.0), ("2G", 2048.0), ("1.5g", 1536.0), ("262144K", 256.0), ("512 MiB", 512.0)]
        {
            assert_eq!(memory_size(text).unwrap(), (mib * f64::from(1 << 20)) as u64, "{text}");
        }
        assert!(memory_size("512").unwrap_err().contains("no unit"));
        for wrong in ["", "M", "-1G", "nanG", "infG", "1T", "63M", "9999999999G"] {
            assert!(memory_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_of_numbers() {
        assert_eq!(triple::<f64>("2,2.5, 3").unwrap(), [2.0, 2.5, 3.0]);
        assert_eq!(triple::<usize>("2").unwrap(), [2; 3]);
        assert!(triple::<usize>("2,3").is_err() && triple::<usize>("2,-3,1").is_err());
        assert_eq!(interval("0,255").unwrap(), [0.0, 255.0]);
        assert!(interval("1").is_err() && interval("2,1").is_err() && interval("nan,1").is_err());
    }
}
