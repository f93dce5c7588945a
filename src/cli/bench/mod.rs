//! `trephine bench`.

#[cfg(target_os = "linux")]
mod foreign;
mod table;

#[cfg(target_os = "linux")]
pub(super) use foreign::compile_stdin;
pub(super) use table::number;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use trephine::gpu::Gpu;
use trephine::lab::subject::{self, Direction, Subject};
use trephine::lab::timing::Budget;
use trephine::lab::{
    Failure, KernelShare, LIMIT_S, Measured, NetworkBench, NetworkDirection, Plan, Report, Settings,
    UserShader, Variants, Watchdog, compare, distinct, measure, measure_n4, measure_network, peak,
    resample_subjects, write_html,
};
use trephine::model::Model;
use trephine::ops::{self, OPS};
use trephine::pipeline::bias::N4Options;
use trephine::tensor::Zyx;

use super::files::check_folder;
use super::n4::Preset;
use super::terminal::Terminal;
use super::{ElementType, Outcome, Session, TuningOptions, triple, usage};

/// Check and time kernels, networks and pipelines
///
/// OP is an operator (docs/operators.md lists them), `network`, `n4` or `resample`; without it, every operator is
/// timed at the shapes of our networks and heads. Every result is compared with the operator's f64 reference first; a
/// wrong one is reported as a failure, and never as a result.
///
/// Times are those of the GPU's own clock where it has one. Rates are set against what this adapter reaches in
/// micro-kernels that only multiply and add or only copy: its measured roofline. Data are random, and samples go
/// through several copies of them, so that caches do not flatter.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine bench\n  trephine bench conv3d --shape 1,32,96,128,160 --out-channels 32 --variant all\n  trephine bench conv3d --shape 1,32,48,64,80 --shader my/direct_x4.wgsl --watch\n  trephine bench network --model article --direction train --profile --trace trace.json\n  trephine bench conv3d --json > old.json; trephine bench conv3d --compare old.json"
)]
pub(in crate::cli) struct Options {
    /// An operator, `network`, `n4` or `resample`; without it, all operators
    #[arg(value_name = "OP")]
    op: Option<String>,
    /// Shape of the input: N,C,D,H,W for an operator; D,H,W for n4, resample and the grid of a network
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    shape: Option<Vec<usize>>,
    /// Channels that a convolution of a given shape writes [default: as many as it reads]
    #[arg(long, value_name = "N", requires = "shape")]
    out_channels: Option<usize>,
    /// Kernel of a convolution of a given shape: N or D,H,W [default: 3]
    #[arg(long, value_name = "N", value_parser = triple::<usize>, requires = "shape")]
    kernel: Option<[usize; 3]>,
    /// Which way through a convolution or a network [default: forward]
    #[arg(long, value_name = "WAY")]
    direction: Option<Way>,
    /// Element type of the activations, of operators and networks that know f16; sums stay in f32
    #[arg(long, value_name = "TYPE", value_enum, default_value_t)]
    dtype: ElementType,
    /// `auto` (the preferred one), `all`, or a variant's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    variant: String,
    /// Samples of each contender take this long
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = 1.0)]
    seconds: f64,
    /// Fewest samples; two of a contender that takes far more than its seconds
    #[arg(long, value_name = "N", default_value_t = 5)]
    samples: usize,
    /// Check only: the times are those of a single run
    #[arg(long)]
    check: bool,

    /// Put this kernel in the place of the one of its name, check and time it beside ours
    ///
    /// A line `//! launch: X, Y, Z` in it states its own numbers of workgroups; see docs/kernels.md.
    #[arg(long, value_name = "WGSL", requires = "op", help_heading = "A kernel of your own")]
    shader: Option<PathBuf>,
    /// The file below shaders/ that it stands in for, where its own name does not tell
    #[arg(long, value_name = "PATH", requires = "shader", help_heading = "A kernel of your own")]
    replaces: Option<String>,
    /// Do it again whenever the kernel is saved, until interrupted
    #[arg(long, requires = "shader", help_heading = "A kernel of your own")]
    watch: bool,
    /// Write the assembled WGSL of all kernels, and its SPIR-V, MSL and HLSL, to this folder
    #[arg(long, value_name = "DIR", help_heading = "A kernel of your own")]
    dump: Option<PathBuf>,

    /// Run nothing: compile for a GPU that need not be there, amd:FAMILY as Mesa names it (navi21, gfx1100)
    ///
    /// Prints registers, waves and the hottest block of each kernel, and the share of the GPU's multiply-adds that these
    /// allow; docs/kernels.md says how. Needs Mesa's driver for AMD with its null device: Debian 12 has it.
    #[cfg(target_os = "linux")]
    #[arg(
        long,
        value_name = "GPU",
        conflicts_with_all = ["watch", "check", "dump", "csv", "html", "compare", "profile", "trace"]
    )]
    compile_for: Option<String>,

    /// Give up on a run that takes longer: the device cannot be stopped, so the program ends then [default: 600;
    /// of a kernel of your own 20, or 20 times what ours takes]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    limit: Option<f64>,

    /// The model of `network` [default: default]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Networks and pipelines")]
    model: Option<String>,
    /// Samples in a batch of `network` [default: 1]
    #[arg(long, value_name = "N", help_heading = "Networks and pipelines")]
    batch: Option<usize>,
    /// Also by kernel, and a network by node
    #[arg(long, help_heading = "Networks and pipelines")]
    profile: bool,
    /// Write the launches of a run for chrome://tracing or ui.perfetto.dev
    #[arg(long, value_name = "JSON", help_heading = "Networks and pipelines")]
    trace: Option<PathBuf>,
    /// Settings of `n4` [default: article]
    #[arg(long, value_name = "NAME", help_heading = "Networks and pipelines")]
    preset: Option<Preset>,
    /// N4 estimates the field from every N-th voxel [default: the preset's]
    #[arg(long, value_name = "N", help_heading = "Networks and pipelines")]
    shrink: Option<usize>,
    #[command(flatten, next_help_heading = "Networks and pipelines")]
    tuning: TuningOptions,

    /// Write a row a result
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    csv: Option<PathBuf>,
    /// Write a page with the roofline, bars by variant and a table
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    html: Option<PathBuf>,
    /// Compare with what --json printed earlier; marks what lies outside the spread of the samples
    #[arg(long, value_name = "JSON", help_heading = "Results")]
    compare: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// The operator; inference
    Forward,
    /// A convolution's gradient by its input
    GradInput,
    /// A convolution's gradient by its weights
    GradWeight,
    /// A training step
    Train,
}

/// What is asked for.
enum Target {
    Operators(Vec<Subject>),
    Network(NetworkDirection, Box<Model>),
    N4([usize; 3]),
}

/// An operator with what to time of it.
type Planned = (Subject, Plan);

/// What the parts of a run share.
struct Run<'a> {
    session: &'a Session,
    gpu: Arc<Gpu>,
    watchdog: Watchdog,
    /// What is there to report if the device does not come back.
    so_far: Arc<Mutex<Option<Report>>>,
}

impl<'a> Run<'a> {
    fn new(session: &'a Session, gpu: Arc<Gpu>, limit_s: f64) -> Self {
        let so_far: Arc<Mutex<Option<Report>>> = Arc::default();
        let (kept, terminal) = (Arc::clone(&so_far), session.terminal);
        let watchdog = Watchdog::new(&gpu, limit_s, move |failure| {
            terminal.report(&table::failure(&failure));
            let report = kept.lock().ok().and_then(|mut report| report.take());
            // The program ends in any case.
            let _ = match report {
                Some(mut report) => {
                    report.failures.push(failure);
                    terminal.json(&report)
                }
                None => terminal.json(&json!({ "failures": [failure] })),
            };
            end_beside_a_stuck_device(terminal);
        });
        Self { session, gpu, watchdog, so_far }
    }

    /// Keeps what there is to report.
    fn keep(&self, report: &Report) {
        *self.so_far.lock().expect("no panic while held") = Some(report.clone());
    }

    /// Prints and keeps what went wrong with an operator or pipeline in a case.
    fn failed(&self, report: &mut Report, failure: Failure) {
        self.session.terminal.report(&table::failure(&failure));
        report.failures.push(failure);
    }
}

impl Options {
    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        self.check_options()?;
        let target = self.target(session)?;
        self.check_files()?;
        #[cfg(target_os = "linux")]
        if let Some(gpu) = &self.compile_for {
            let Target::Operators(subjects) = &target else {
                return Err(usage("--compile-for belongs to operators"));
            };
            return foreign::run(session, gpu, subjects, &self.settings());
        }
        let old = self.compare.as_deref().map(Report::read).transpose()?;
        let gpu = session.gpu().await?;
        gpu.require(self.dtype.into())?;
        if !gpu.caps().timestamps {
            if self.trace.is_some() {
                bail!(
                    "{} has no timestamps, so there is nothing to trace; take another --device",
                    gpu.summary.name
                );
            }
            session
                .terminal
                .note("this adapter has no timestamps: times are wall clock, the driver's included");
        }
        let planned = match &target {
            Target::Operators(subjects) => self.plan(&gpu, subjects)?,
            _ => Vec::new(),
        };
        let run = Run::new(session, gpu, self.limit.unwrap_or(LIMIT_S));
        let roofline = peak::measure(&run.gpu).await?;
        session.terminal.result(&table::peak(&roofline))?;
        let mut report = Report::new(&run.gpu, roofline);
        run.keep(&report);
        match target {
            Target::Operators(_) if self.watch => self.watch(&run, &planned, &report).await?,
            Target::Operators(_) => self.operators(&run, &planned, &mut report).await?,
            Target::Network(direction, model) => self.network(&run, &model, direction, &mut report).await?,
            Target::N4(shape) => self.n4(&run, shape, &mut report).await?,
        }
        if let Some(path) = &self.csv {
            report.write_csv(path)?;
        }
        if let Some(path) = &self.html {
            write_html(&report, path)?;
        }
        let mut json = serde_json::to_value(&report)?;
        if let Some(old) = &old {
            let (changes, remarks) = compare(old, &report);
            for remark in remarks {
                session.terminal.note(&format!("compare: {remark}"));
            }
            session.terminal.result(&table::changes(&changes))?;
            json["compare"] = serde_json::to_value(&changes)?;
        }
        session.terminal.json(&json)?;
        Ok(if report.failures.is_empty() { Outcome::Done } else { Outcome::SomeFailed })
    }

    /// What to time of each operator, before anything is measured. Of all operators, those without the variant asked
    /// for are left out; of one, that is a mistake.
    fn plan(&self, gpu: &Gpu, subjects: &[Subject]) -> anyhow::Result<Vec<Planned>> {
        let settings = self.settings();
        let mut planned = Vec::new();
        for subject in subjects {
            match Plan::new(gpu.caps(), subject, &settings) {
                Ok(plan) => planned.push((subject.clone(), plan)),
                Err(error) if self.op.is_some() => return Err(usage(error.to_string())),
                Err(_) => {}
            }
        }
        if planned.is_empty() {
            return Err(usage(format!("no operator has a variant '{}' here", self.variant)));
        }
        Ok(planned)
    }

    async fn network(
        &self,
        run: &Run<'_>,
        model: &Model,
        direction: NetworkDirection,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let Run { session, gpu, .. } = run;
        run.watchdog.expect(self.limit.unwrap_or(LIMIT_S), "network", direction.name(), "auto", None);
        let bench = NetworkBench {
            direction,
            shape: self.extents()?,
            batch: self.batch.unwrap_or(1),
            dtype: self.dtype.into(),
            tuning: self.tuning.load(gpu),
            budget: self.budget(),
            profile: self.profiles(),
        };
        match measure_network(gpu, model, &bench, &report.peak).await {
            Ok(result) => {
                session.terminal.result(&table::total(&result.total))?;
                if bench.profile {
                    self.show_kernels(session, &result.kernels)?;
                    session.terminal.result(&table::nodes(&result.nodes))?;
                }
                if let Some(path) = &self.trace {
                    result.write_trace(path)?;
                }
                report.total = Some(result.total);
                (report.kernels, report.nodes) = (result.kernels, result.nodes);
            }
            Err(error) => run.failed(report, Failure::new("network", direction.name(), "auto", &error)),
        }
        Ok(())
    }

    async fn n4(&self, run: &Run<'_>, shape: [usize; 3], report: &mut Report) -> anyhow::Result<()> {
        let Run { session, gpu, .. } = run;
        run.watchdog.expect(self.limit.unwrap_or(LIMIT_S), "n4", "whole", "auto", None);
        let preset = self.preset.unwrap_or(Preset::Article).settings();
        let shrink = self.shrink.map_or(preset.shrink, |factor| Zyx([factor; 3]));
        let options = N4Options { shrink, ..preset };
        match measure_n4(gpu, shape, &options, self.budget(), self.profiles()).await {
            Ok(result) => {
                session.terminal.result(&table::total(&result.total))?;
                if self.profiles() {
                    self.show_kernels(session, &result.kernels)?;
                }
                if let Some(path) = &self.trace {
                    result.write_trace(path)?;
                }
                report.total = Some(result.total);
                report.kernels = result.kernels;
            }
            Err(error) => run.failed(report, Failure::new("n4", "whole", "auto", &error)),
        }
        Ok(())
    }

    /// Whether launches are timed one by one.
    fn profiles(&self) -> bool {
        self.profile || self.trace.is_some() || self.html.is_some()
    }

    fn show_kernels(&self, session: &Session, kernels: &[KernelShare]) -> anyhow::Result<()> {
        if kernels.is_empty() {
            session.terminal.note("without timestamps there is no profile by kernel");
            return Ok(());
        }
        Ok(session.terminal.result(&table::kernels(kernels))?)
    }

    fn check_options(&self) -> anyhow::Result<()> {
        if !(self.seconds >= 0.0 && self.seconds.is_finite()) || self.samples == 0 || self.batch == Some(0) {
            return Err(usage("--seconds must not be negative, --samples and --batch must be at least 1"));
        }
        check_limit(self.limit)?;
        let op = self.op.as_deref();
        let (network, n4) = (op == Some("network"), op == Some("n4"));
        for (given, belongs, options, to) in [
            (self.preset.is_some() || self.shrink.is_some(), n4, "--preset and --shrink", "`bench n4`"),
            (self.model.is_some() || self.batch.is_some(), network, "--model and --batch", "`bench network`"),
            (
                self.profile || self.trace.is_some(),
                network || n4,
                "--profile and --trace",
                "`bench network` and `bench n4`",
            ),
            (
                self.shader.is_some() || self.dump.is_some() || self.variant != "auto",
                !network && !n4,
                "--variant, --shader and --dump",
                "operators",
            ),
        ] {
            if given && !belongs {
                return Err(usage(format!("{options} belong to {to}")));
            }
        }
        if self.shrink == Some(0) {
            return Err(usage("--shrink must be at least 1"));
        }
        if self.shape.as_ref().is_some_and(|shape| shape.is_empty() || shape.contains(&0)) {
            return Err(usage("--shape needs extents of at least 1"));
        }
        if self.watch && any_given(&[&self.csv, &self.html, &self.compare]) {
            return Err(usage("--watch goes on until interrupted; --csv, --html and --compare need an end"));
        }
        Ok(())
    }

    /// Reads and writes nothing yet, but finds out whether that will do.
    fn check_files(&self) -> anyhow::Result<()> {
        [&self.csv, &self.html, &self.trace].into_iter().flatten().try_for_each(|path| check_folder(path))?;
        if let Some(shader) = self.settings().shader {
            shader.read()?;
        }
        if let Some(folder) = &self.dump {
            std::fs::create_dir_all(folder).map_err(|error| {
                anyhow!("{}: cannot be created ({error}); name another folder", folder.display())
            })?;
        }
        Ok(())
    }

    fn budget(&self) -> Budget {
        match self.check {
            true => Budget { seconds: 0.0, samples: 1 },
            false => Budget { seconds: self.seconds, samples: self.samples },
        }
    }

    /// `--shape` as three extents.
    fn extents(&self) -> anyhow::Result<Option<[usize; 3]>> {
        let Some(shape) = &self.shape else { return Ok(None) };
        match <[usize; 3]>::try_from(shape.as_slice()) {
            Ok(shape) => Ok(Some(shape)),
            Err(_) => Err(usage("this needs --shape D,H,W")),
        }
    }

    /// What is asked for, in the element type asked for.
    fn target(&self, session: &Session) -> anyhow::Result<Target> {
        match (self.target_in_f32(session)?, self.dtype) {
            (target, ElementType::F32) => Ok(target),
            (Target::Operators(subjects), ElementType::F16) => {
                let half: Vec<Subject> = subjects.into_iter().filter_map(Subject::in_f16).collect();
                match (half.is_empty(), &self.op) {
                    (true, Some(name)) => Err(usage(format!("{name} knows no f16"))),
                    _ => Ok(Target::Operators(half)),
                }
            }
            (Target::Network(NetworkDirection::Forward, model), ElementType::F16) => {
                Ok(Target::Network(NetworkDirection::Forward, model))
            }
            (Target::Network(NetworkDirection::Train, _) | Target::N4(_), ElementType::F16) => {
                Err(usage("--dtype f16 is for operators and the forward pass of networks"))
            }
        }
    }

    fn target_in_f32(&self, session: &Session) -> anyhow::Result<Target> {
        let train = self.direction == Some(Way::Train);
        match self.op.as_deref() {
            Some("network") => {
                let direction = match self.direction {
                    None | Some(Way::Forward) => NetworkDirection::Forward,
                    Some(Way::Train) => NetworkDirection::Train,
                    Some(_) => return Err(usage("a network goes --direction forward or train")),
                };
                let model = session.load_model(self.model.as_deref().unwrap_or("default"))?;
                Ok(Target::Network(direction, Box::new(model)))
            }
            _ if train => Err(usage("--direction train belongs to `bench network`")),
            Some("n4") => Ok(Target::N4(self.extents()?.unwrap_or([192, 256, 256]))),
            Some("resample") if self.shape.as_ref().is_none_or(|shape| shape.len() == 3) => {
                Ok(Target::Operators(resample_subjects(self.extents()?.unwrap_or([181, 217, 181]))))
            }
            Some(name) => self.operator(name).map(Target::Operators),
            None if self.shape.is_some() => Err(usage("--shape belongs to an operator: name one")),
            None => Ok(Target::Operators(distinct(subject::all()))),
        }
    }

    /// One operator, at the shape asked for or at those it has in our networks.
    fn operator(&self, name: &str) -> anyhow::Result<Vec<Subject>> {
        // Gradients of convolutions have names of their own in the registry, and directions here.
        let name = match (name, self.direction) {
            ("conv3d", Some(Way::GradInput)) => "conv3d_grad_input",
            ("conv3d", Some(Way::GradWeight)) => "conv3d_grad_weight",
            (_, None | Some(Way::Forward)) => name,
            _ => return Err(usage("--direction belongs to conv3d and to networks")),
        };
        let def = ops::find(name).ok_or_else(|| {
            let names: Vec<&str> = OPS.iter().map(|def| def.name).collect();
            usage(format!("no operator '{name}'; there are: network, n4, {}", names.join(", ")))
        })?;
        let Some(shape) = &self.shape else { return Ok(subject::of_operator(def)) };
        let direction = match name {
            "conv3d" => Direction::Forward,
            "conv3d_grad_input" => Direction::GradInput,
            "conv3d_grad_weight" => Direction::GradWeight,
            _ if self.out_channels.is_some() || self.kernel.is_some() => {
                return Err(usage("--out-channels and --kernel belong to conv3d"));
            }
            _ => return Ok(vec![subject::at_shape(def, shape).map_err(|e| usage(e.to_string()))?]),
        };
        let Ok(shape) = <[usize; 5]>::try_from(shape.as_slice()) else {
            return Err(usage("a convolution needs --shape N,C,D,H,W"));
        };
        let (out_channels, kernel) = (self.out_channels.unwrap_or(shape[1]), self.kernel.unwrap_or([3; 3]));
        if out_channels == 0 || kernel.contains(&0) {
            return Err(usage("--out-channels and --kernel must be at least 1"));
        }
        let subject = subject::convolution(shape, out_channels, kernel, direction);
        Ok(vec![subject.map_err(|e| usage(e.to_string()))?])
    }

    fn settings(&self) -> Settings {
        Settings {
            variants: match self.variant.as_str() {
                "auto" => Variants::Auto,
                "all" => Variants::All,
                name => Variants::Named(name.to_owned()),
            },
            shader: self
                .shader
                .as_ref()
                .map(|file| UserShader { file: file.clone(), replaces: self.replaces.clone() }),
            budget: self.budget(),
            limit_s: self.limit,
            check_only: self.check,
            dump: self.dump.clone(),
        }
    }

    /// Measures subjects one after the other and prints each as it is done.
    async fn operators(&self, run: &Run<'_>, planned: &[Planned], report: &mut Report) -> anyhow::Result<()> {
        let settings = self.settings();
        run.session.terminal.result(&table::header())?;
        for (subject, plan) in planned {
            match measure(&run.gpu, subject, plan, &report.peak, &settings, &run.watchdog).await {
                Ok(Measured { rows, failures }) => {
                    for row in &rows {
                        run.session.terminal.result(&table::row(row))?;
                    }
                    report.rows.extend(rows);
                    failures.into_iter().for_each(|failure| run.failed(report, failure));
                }
                Err(error) => {
                    let failure = Failure::new(subject.op.name(), &subject.case, &self.variant, &error);
                    run.failed(report, failure);
                }
            }
            run.keep(report);
        }
        Ok(())
    }

    /// Measures again whenever the user's kernel changes. Ends only when the process is interrupted or stdout is
    /// closed.
    async fn watch(&self, run: &Run<'_>, planned: &[Planned], empty: &Report) -> anyhow::Result<()> {
        const EVERY: Duration = Duration::from_millis(200);
        let file = self.shader.as_ref().ok_or_else(|| anyhow!("--watch needs --shader"))?;
        // Editors may replace the file: it is away for a moment then.
        let saved = || std::fs::metadata(file).and_then(|m| m.modified()).ok();
        loop {
            let seen: Option<SystemTime> = saved();
            if let Err(error) = self.operators(run, planned, &mut empty.clone()).await {
                if error.is::<std::io::Error>() || error.is::<super::UsageError>() {
                    return Err(error);
                }
                run.session.terminal.error(&error.to_string());
            }
            run.session.terminal.note(&format!("watching {}", file.display()));
            while saved().is_none_or(|now| Some(now) == seen) {
                std::thread::sleep(EVERY);
            }
        }
    }
}

/// `--limit` in seconds.
pub(super) fn check_limit(limit: Option<f64>) -> anyhow::Result<Option<f64>> {
    match limit {
        Some(seconds) if !(seconds > 0.0 && Duration::try_from_secs_f64(seconds).is_ok()) => {
            Err(usage("--limit must be more than 0 seconds"))
        }
        limit => Ok(limit),
    }
}

/// Ends the program without closing the device, which would be to wait for it.
pub(super) fn end_beside_a_stuck_device(terminal: Terminal) -> ! {
    // Nobody is left to tell when stdout is closed.
    let _ = terminal.close(false);
    std::process::exit(1)
}

/// Whether any of these options is given.
fn any_given(options: &[&Option<PathBuf>]) -> bool {
    options.iter().any(|option| option.is_some())
}
