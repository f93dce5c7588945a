//! Checks and times the kernel variants of an operator, and a user's own kernel beside them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::check::{Check, inputs_of};
use super::error::LabError;
use super::own::{Place, UserShader};
use super::peak::Peak;
use super::report::{Error, Failure, Row};
use super::subject::Subject;
use super::timing::{Budget, Contender, race};
use super::watchdog::Watchdog;
use crate::gpu::{
    Caps, Gpu, GpuError, GpuTensor, KernelKey, Lowered, Prepared, Replacement, Slot, dump_kernel,
};
use crate::ops::{self, Comparison};
use crate::pipeline::tuning_cache::Milliseconds;
use crate::tensor::{HostTensor, TensorDesc};

/// Which variants to time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Variants {
    /// The preferred one.
    #[default]
    Auto,
    /// All that are legal.
    All,
    /// One by its name.
    Named(String),
}

/// How to measure.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which variants.
    pub variants: Variants,
    /// A user's own kernel to put in a variant's place.
    pub shader: Option<UserShader>,
    /// How long.
    pub budget: Budget,
    /// How long a run may take, in seconds; `None` allows [`LIMIT_S`], and a user's kernel [`OWN_LIMIT_S`] or twenty
    /// times what ours takes.
    pub limit_s: Option<f64>,
    /// Check only; rows have no samples then and durations of a single run.
    pub check_only: bool,
    /// Where to write the kernels with their translations.
    pub dump: Option<PathBuf>,
}

/// Seconds that a run of our kernels may take. On a processor, a naive kernel may take a minute.
pub const LIMIT_S: f64 = 600.0;
/// Seconds that a run of a user's kernel may take.
pub const OWN_LIMIT_S: f64 = 20.0;
/// So much slower than ours may a user's kernel be in any case.
const PATIENCE: f64 = 20.0;

/// All copies of the data together take at least this much, where it takes no more than [`MOST_COPIES`]: beyond the
/// last-level cache of nearly every GPU and CPU.
const WORKING_SET: u64 = 256 << 20;
/// Most copies of the data.
const MOST_COPIES: u64 = 16;
/// Bits of a NaN that also is an absurd integer: what outputs hold before a kernel runs.
const POISON: u32 = 0xFFFF_FFFF;

/// Which kernels of an operator to check and time.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The variants.
    variants: Vec<&'static str>,
    /// What the user's own kernel stands in for.
    place: Option<Place>,
}

impl Plan {
    /// The legal variants that the settings ask for; with a user's kernel and no wish, the one that it stands in for.
    ///
    /// # Errors
    /// A variant that is not legal here, or a kernel that stands in for none.
    pub fn new(caps: &Caps, subject: &Subject, settings: &Settings) -> Result<Self, LabError> {
        let legal = subject.op.variants(&subject.descs(), caps);
        let wanted = match &settings.variants {
            Variants::Named(name) => match legal.iter().find(|v| *v == name) {
                Some(variant) => vec![*variant],
                None => {
                    return Err(LabError::Refused(format!(
                        "{} has no variant '{name}' at this shape on this adapter; there are: {}",
                        subject.op.name(),
                        legal.join(", ")
                    )));
                }
            },
            Variants::Auto | Variants::All => legal,
        };
        let place = settings.shader.as_ref().map(|own| own.place(subject, &wanted, caps)).transpose()?;
        let variants = match (&settings.variants, place) {
            (Variants::Auto, Some(place)) => vec![place.variant],
            (Variants::Auto, None) => vec![wanted[0]],
            _ => wanted,
        };
        Ok(Self { variants, place })
    }

    /// The variants.
    pub fn variants(&self) -> &[&'static str] {
        &self.variants
    }

    /// What the user's own kernel stands in for.
    pub fn place(&self) -> Option<Place> {
        self.place
    }
}

/// What was found about an operator.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Kernels that gave the right results.
    pub rows: Vec<Row>,
    /// Those that did not.
    pub failures: Vec<Failure>,
}

/// Checks and times an operator: a row or a failure for each variant, and for the user's own kernel.
///
/// # Errors
/// A user's kernel that cannot be read, shapes that do not fit the device, or a device that fails.
pub async fn measure(
    gpu: &Gpu,
    subject: &Subject,
    plan: &Plan,
    peak: &Peak,
    settings: &Settings,
    watchdog: &Watchdog,
) -> Result<Measured, LabError> {
    let mut bench = Bench::new(gpu, subject, settings, watchdog).await?;
    for variant in &plan.variants {
        bench.enter(variant).await;
    }
    if let (Some(shader), Some(place)) = (&settings.shader, plan.place) {
        bench.enter_user(shader, place).await?;
    }
    bench.measured(peak, settings).await
}

/// Durations of some variants.
pub(crate) struct Race {
    /// Variants that gave the right results, with the durations of one run in seconds.
    pub samples: Vec<(&'static str, Vec<f64>)>,
    /// Those that did not.
    pub failures: Vec<Failure>,
}

/// Checks variants of an operator and times them, samples of all taken in turn.
///
/// # Errors
/// Shapes that do not fit the device, or a device that fails.
pub(crate) async fn race_variants(
    gpu: &Gpu,
    subject: &Subject,
    variants: &[&'static str],
    budget: Budget,
    limit_s: f64,
    watchdog: &Watchdog,
) -> Result<Race, LabError> {
    let settings = Settings { budget, limit_s: Some(limit_s), ..Settings::default() };
    let mut bench = Bench::new(gpu, subject, &settings, watchdog).await?;
    for variant in variants {
        bench.enter(variant).await;
    }
    let Bench { entries, failures, .. } = bench;
    let (names, contenders): (Vec<_>, Vec<_>) = entries.into_iter().map(|e| (e.variant, e.contender)).unzip();
    let samples = race(gpu, &contenders, budget).await?;
    Ok(Race { samples: names.into_iter().zip(samples).collect(), failures })
}

/// A variant that gave the right results.
struct Entry {
    variant: &'static str,
    shader: Option<String>,
    contender: Contender,
    error: Error,
    /// What a run with its upload and download took, in seconds.
    seconds: f64,
}

/// Input and output tensors of one run.
struct Copy {
    inputs: Vec<GpuTensor>,
    outputs: Vec<GpuTensor>,
}

struct Bench<'a> {
    gpu: &'a Gpu,
    subject: &'a Subject,
    descs: Vec<TensorDesc>,
    out_descs: Vec<TensorDesc>,
    words: Vec<Vec<u32>>,
    copies: Vec<Copy>,
    check: Check,
    settings: &'a Settings,
    watchdog: &'a Watchdog,
    entries: Vec<Entry>,
    failures: Vec<Failure>,
}

impl<'a> Bench<'a> {
    async fn new(
        gpu: &'a Gpu,
        subject: &'a Subject,
        settings: &'a Settings,
        watchdog: &'a Watchdog,
    ) -> Result<Self, LabError> {
        let descs = subject.descs();
        let out_descs =
            ops::infer(subject.op.as_ref(), &descs).map_err(|e| LabError::Refused(e.to_string()))?;
        let words = inputs_of(subject);
        let check = Check::of(subject, &words, &out_descs);
        let bytes: u64 = descs.iter().chain(&out_descs).map(TensorDesc::bytes).sum();
        let wanted = WORKING_SET.div_ceil(bytes.max(1)).clamp(1, MOST_COPIES);
        let copies = match settings.check_only {
            true => 1,
            false => wanted,
        };
        let first = Copy::new(gpu, subject, &descs, &out_descs)?;
        for (tensor, words) in first.inputs.iter().zip(&words) {
            gpu.write(tensor, words).await?;
        }
        let mut all = vec![first];
        for _ in 1..copies {
            let copy = Copy::new(gpu, subject, &descs, &out_descs)?;
            for (from, to) in all[0].inputs.iter().zip(&copy.inputs) {
                gpu.copy(from, to, 0)?;
            }
            all.push(copy);
        }
        gpu.wait().await?;
        let (entries, failures) = (Vec::new(), Vec::new());
        Ok(Self {
            gpu,
            subject,
            descs,
            out_descs,
            words,
            copies: all,
            check,
            settings,
            watchdog,
            entries,
            failures,
        })
    }

    fn fail(&mut self, variant: &str, shader: Option<String>, error: &LabError) {
        let Subject { op, case, .. } = self.subject;
        let failure = Failure::new(op.name(), case, variant, error);
        self.failures.push(Failure { shader, ..failure });
    }

    /// Tells the watchdog what runs next; the user's own limit comes before `limit_s`.
    fn expect(&self, limit_s: f64, variant: &str, shader: Option<&str>) {
        let Subject { op, case, .. } = self.subject;
        let limit_s = self.settings.limit_s.unwrap_or(limit_s);
        self.watchdog.expect(limit_s, op.name(), case, variant, shader);
    }

    fn lower(&self, variant: &str) -> Lowered {
        self.subject.op.lower(&self.descs, &self.out_descs, &self.gpu.caps, variant)
    }

    /// Checks one of our variants and lets it take part if it is right.
    async fn enter(&mut self, variant: &'static str) {
        self.expect(LIMIT_S, variant, None);
        match self.entry(variant).await {
            Ok(entry) => self.entries.push(entry),
            Err(error) => self.fail(variant, None, &error),
        }
    }

    async fn entry(&self, variant: &'static str) -> Result<Entry, LabError> {
        let lowered = self.lower(variant);
        if let Some(folder) = &self.settings.dump {
            dump_all(&lowered, None, folder)?;
        }
        let begun = Instant::now();
        let error = self.check(variant).await?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Entry { variant, shader: None, contender: self.contender(&lowered)?, error, seconds })
    }

    /// Checks the user's kernel in its place and lets it take part if it is right.
    async fn enter_user(&mut self, own: &UserShader, place: Place) -> Result<(), LabError> {
        // Without ours there is nothing to compare with, and the failure of ours is reported.
        let Some(ours) = self.entries.iter().find(|entry| entry.variant == place.variant) else {
            return Ok(());
        };
        let replacement = own.read()?;
        let label = format!("{} for {}", replacement.file, place.path);
        log::info!("{label}");
        self.expect(f64::max(OWN_LIMIT_S, PATIENCE * ours.seconds), place.variant, Some(&label));
        let outcome = self.entry_of_user(&replacement, place).await;
        self.gpu.restore_shader(place.path);
        match outcome {
            Ok(entry) => self.entries.push(Entry { shader: Some(label), ..entry }),
            Err(error) => self.fail(place.variant, Some(label), &error),
        }
        Ok(())
    }

    /// A kernel that runs without bounds checks in the end has shown with them that it is right: against the reference
    /// and, where that covers parts of the outputs alone, in all outputs against ours.
    async fn entry_of_user(&self, replacement: &Replacement, place: Place) -> Result<Entry, LabError> {
        let Place { variant, path } = place;
        let ours = match self.check {
            Check::Whole(_) => None,
            _ => Some(self.results(variant).await?),
        };
        self.gpu.substitute(path, replacement.clone(), false);
        self.check(variant).await?;
        if let Some(ours) = ours {
            let theirs = self.results(variant).await?;
            let all = Comparison::of_outputs(self.subject.op.as_ref(), &self.descs, &theirs, &ours);
            // Both may be off.
            all.unwrap_or_default()
                .with_allowance(2.0)
                .into_error("all outputs, compared with those of our kernel".to_owned(), 0)?;
        }
        self.gpu.substitute(path, replacement.clone(), true);
        let error = self.check(variant).await?;
        let lowered = self.lower(variant);
        if let Some(folder) = &self.settings.dump {
            dump_all(&lowered, Some((path, replacement)), &folder.join("own"))?;
        }
        Ok(Entry { variant, shader: None, contender: self.contender(&lowered)?, error, seconds: 0.0 })
    }

    /// Runs a variant on poisoned outputs and compares.
    async fn check(&self, variant: &str) -> Result<Error, LabError> {
        let outputs: usize = self.out_descs.iter().map(TensorDesc::len).sum();
        match &self.check {
            Check::Whole(want) => {
                let got = self.results(variant).await?;
                let all = Comparison::of_outputs(self.subject.op.as_ref(), &self.descs, &got, want);
                all.unwrap_or_default().into_error("all outputs".to_owned(), outputs)
            }
            Check::Sampled(want) => {
                let got = self.results(variant).await?;
                let precision = self.subject.op.precision(&self.descs);
                let comparison = Comparison::of_sample(&got[0], want, precision);
                comparison.into_error("a sample of the outputs".to_owned(), outputs)
            }
            Check::Elsewhere { what, subjects } => {
                let mut all: Option<Comparison> = None;
                for (subject, want) in subjects {
                    let descs = subject.descs();
                    if !subject.op.variants(&descs, &self.gpu.caps).contains(&variant) {
                        continue;
                    }
                    let got = run_once(self.gpu, subject, &inputs_of(subject), variant).await?;
                    let one = Comparison::of_outputs(subject.op.as_ref(), &descs, &got, want);
                    all = all.into_iter().chain(one).reduce(Comparison::and);
                }
                all.unwrap_or_default().into_error(what.clone(), outputs)
            }
        }
    }

    async fn results(&self, variant: &str) -> Result<Vec<HostTensor>, LabError> {
        let copy = &self.copies[0];
        // Operators that update in place have changed their inputs.
        for (tensor, words) in copy.inputs.iter().zip(&self.words) {
            if !self.subject.op.in_place().is_empty() {
                self.gpu.write(tensor, words).await?;
            }
        }
        run_on(self.gpu, self.subject, copy, &self.lower(variant)).await
    }

    /// The variant on every copy of the data; temporaries are shared, as they are in a network.
    fn contender(&self, lowered: &Lowered) -> Result<Contender, LabError> {
        let scratch = scratch_of(self.gpu, lowered)?;
        self.copies.iter().map(|copy| Ok(prepare(self.gpu, self.subject, copy, lowered, &scratch)?)).collect()
    }

    async fn measured(self, peak: &Peak, settings: &Settings) -> Result<Measured, LabError> {
        let cost = self.subject.op.cost(&self.descs, &self.out_descs);
        let copy_bytes: u64 = self.descs.iter().chain(&self.out_descs).map(TensorDesc::bytes).sum();
        let copies = self.copies.len();
        let (op, direction) = self.subject.op_and_direction();
        // All have run within their limits; this is against drivers that hang.
        self.expect(LIMIT_S, "all that were right", None);
        let text = |descs: &[TensorDesc]| descs.iter().map(TensorDesc::to_string).collect::<Vec<_>>();
        let (contenders, entries): (Vec<_>, Vec<_>) = self
            .entries
            .into_iter()
            .map(|Entry { variant, shader, contender, error, .. }| (contender, (variant, shader, error)))
            .unzip();
        let budget = match settings.check_only {
            true => Budget { seconds: 0.0, samples: 1 },
            false => settings.budget,
        };
        let samples = race(self.gpu, &contenders, budget).await?;
        let dtype = self.subject.dtype();
        let rows = entries.into_iter().zip(samples).map(|((variant, shader, error), samples)| {
            let ms = Milliseconds::of(&samples);
            let seconds = ms.median * 1e-3;
            let (gflops, gbps) = (cost.flops / seconds * 1e-9, cost.bytes / seconds * 1e-9);
            Row {
                op: op.to_owned(),
                operator: self.subject.op.name().to_owned(),
                case: self.subject.case.clone(),
                variant: variant.to_owned(),
                shader,
                direction: direction.to_owned(),
                dtype: dtype.name().to_owned(),
                shape: self.subject.shape.clone(),
                inputs: text(&self.descs),
                outputs: text(&self.out_descs),
                ms,
                samples: samples.len(),
                gflops,
                gbps,
                roofline_fraction: peak.shortest_seconds(dtype, cost.flops, cost.bytes) / seconds,
                intensity: cost.flops / cost.bytes.max(1.0),
                error,
                copies,
                working_set_bytes: copies as u64 * copy_bytes,
            }
        });
        Ok(Measured { rows: rows.collect(), failures: self.failures })
    }
}

impl Copy {
    /// Tensors of a run; outputs that are updated in place are their inputs.
    fn new(
        gpu: &Gpu,
        subject: &Subject,
        descs: &[TensorDesc],
        out_descs: &[TensorDesc],
    ) -> Result<Self, GpuError> {
        let inputs = descs.iter().map(|desc| gpu.empty(desc)).collect::<Result<Vec<_>, _>>()?;
        let outputs = out_descs
            .iter()
            .enumerate()
            .map(|(ix, desc)| match subject.op.in_place().iter().find(|(output, _)| *output == ix) {
                Some(&(_, input)) => Ok(inputs[input].clone()),
                None => gpu.empty(desc),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { inputs, outputs })
    }
}

fn scratch_of(gpu: &Gpu, lowered: &Lowered) -> Result<Vec<GpuTensor>, GpuError> {
    let desc = |bytes: u64| TensorDesc::u32(&[bytes.div_ceil(4) as usize]);
    lowered.scratch.iter().map(|&bytes| gpu.empty(&desc(bytes))).collect()
}

fn prepare(
    gpu: &Gpu,
    subject: &Subject,
    copy: &Copy,
    lowered: &Lowered,
    scratch: &[GpuTensor],
) -> Result<Vec<Prepared>, GpuError> {
    let resolve = |slot: Slot| match slot {
        Slot::Input(ix) => &copy.inputs[ix],
        Slot::Output(ix) => &copy.outputs[ix],
        Slot::Scratch(ix) => &scratch[ix],
    };
    lowered.dispatches.iter().map(|dispatch| gpu.prepare(subject.op.name(), dispatch, &resolve)).collect()
}

/// Results of one run on poisoned outputs and temporaries.
async fn run_on(
    gpu: &Gpu,
    subject: &Subject,
    copy: &Copy,
    lowered: &Lowered,
) -> Result<Vec<HostTensor>, LabError> {
    let scratch = scratch_of(gpu, lowered)?;
    let fresh = copy
        .outputs
        .iter()
        .enumerate()
        .filter(|(ix, _)| subject.op.in_place().iter().all(|(output, _)| output != ix));
    for tensor in fresh.map(|(_, tensor)| tensor).chain(&scratch) {
        gpu.write(tensor, &vec![POISON; tensor.desc.words()]).await?;
    }
    let launches = prepare(gpu, subject, copy, lowered, &scratch)?;
    gpu.submit(&launches)?;
    let mut results = Vec::new();
    for tensor in &copy.outputs {
        let words: Vec<u32> = gpu.download(tensor).await?;
        results.push(HostTensor::from_words(tensor.desc.clone(), &words));
    }
    Ok(results)
}

/// As [`run_on`], on tensors made for it.
async fn run_once(
    gpu: &Gpu,
    subject: &Subject,
    words: &[Vec<u32>],
    variant: &str,
) -> Result<Vec<HostTensor>, LabError> {
    let descs = subject.descs();
    let out_descs = ops::infer(subject.op.as_ref(), &descs).map_err(|e| LabError::Refused(e.to_string()))?;
    let copy = Copy::new(gpu, subject, &descs, &out_descs)?;
    for (tensor, words) in copy.inputs.iter().zip(words) {
        gpu.write(tensor, words).await?;
    }
    let lowered = subject.op.lower(&descs, &out_descs, &gpu.caps, variant);
    run_on(gpu, subject, &copy, &lowered).await
}

/// Writes every kernel of a variant with its translations.
fn dump_all(lowered: &Lowered, own: Option<(&str, &Replacement)>, folder: &Path) -> Result<(), LabError> {
    let mut done: Vec<&KernelKey> = Vec::new();
    for dispatch in &lowered.dispatches {
        let key = &dispatch.kernel;
        if !done.contains(&key) {
            let replacement = own.filter(|(path, _)| *path == key.path).map(|(_, replacement)| replacement);
            dump_kernel(key, replacement, folder)?;
            done.push(key);
        }
    }
    Ok(())
}

/// Subjects that differ in nothing that a measurement depends on, once each.
pub fn distinct(subjects: Vec<Subject>) -> Vec<Subject> {
    let mut seen = std::collections::HashSet::new();
    subjects
        .into_iter()
        .filter(|subject| seen.insert((format!("{:?}", Arc::as_ref(&subject.op)), subject.descs())))
        .collect()
}
