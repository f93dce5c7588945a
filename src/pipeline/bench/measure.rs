//! Checks and times the kernel variants of an operator, and a user's own kernel beside them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{Check, Comparison, inputs_of};
use super::peak::Peak;
use super::report::{Error, Failure, Row};
use super::subject::Subject;
use super::timing::{Budget, Contender, Milliseconds, race};
use crate::gpu::{Gpu, GpuError, GpuTensor, KernelKey, Lowered, Prepared, Replacement, Slot, dump_kernel};
use crate::ops;
use crate::pipeline::PipelineError;
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

/// A user's own kernel.
#[derive(Clone, Debug)]
pub struct UserShader {
    /// The file.
    pub file: PathBuf,
    /// The embedded file that it stands in for; `None` takes the one of the same name, else the one that takes
    /// longest.
    pub replaces: Option<String>,
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
    /// Check only; rows have no samples then and durations of a single run.
    pub check_only: bool,
    /// Where to write the kernels with their translations.
    pub dump: Option<PathBuf>,
}

/// All copies of the data together take at least this much, where it takes no more than [`MOST_COPIES`]: beyond the
/// last-level cache of nearly every GPU and CPU.
const WORKING_SET: u64 = 256 << 20;
/// Most copies of the data.
const MOST_COPIES: u64 = 16;
/// Bits of a NaN that also is an absurd integer: what outputs hold before a kernel runs.
const POISON: u32 = 0xFFFF_FFFF;

/// The legal variants that the settings ask for.
///
/// # Errors
/// A variant that is not legal here.
pub fn wanted_variants(
    gpu: &Gpu,
    subject: &Subject,
    settings: &Settings,
) -> Result<Vec<&'static str>, PipelineError> {
    let legal = subject.op.variants(&subject.descs(), &gpu.caps);
    match &settings.variants {
        Variants::Auto => Ok(vec![legal[0]]),
        Variants::All => Ok(legal),
        Variants::Named(name) => match legal.iter().find(|v| *v == name) {
            Some(variant) => Ok(vec![variant]),
            None => Err(PipelineError::Check(format!(
                "{} has no variant '{name}' at this shape on this adapter; there are: {}",
                subject.op.name(),
                legal.join(", ")
            ))),
        },
    }
}

/// Checks and times an operator: a row or a failure for each variant, and for the user's own kernel.
///
/// # Errors
/// Variants that do not exist, shapes that do not fit the device, or a device that fails.
pub fn measure(
    gpu: &Gpu,
    subject: &Subject,
    peak: &Peak,
    settings: &Settings,
) -> Result<Vec<Result<Row, Failure>>, PipelineError> {
    let mut bench = Bench::new(gpu, subject, settings)?;
    for variant in wanted_variants(gpu, subject, settings)? {
        bench.enter(variant);
    }
    if let Some(shader) = &settings.shader {
        bench.enter_user(shader)?;
    }
    bench.rows(peak, settings)
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
pub(crate) fn race_variants(
    gpu: &Gpu,
    subject: &Subject,
    variants: &[&'static str],
    budget: Budget,
) -> Result<Race, PipelineError> {
    let settings = Settings { budget, ..Settings::default() };
    let mut bench = Bench::new(gpu, subject, &settings)?;
    for variant in variants {
        bench.enter(variant);
    }
    let Bench { entries, failures, .. } = bench;
    let (names, contenders): (Vec<_>, Vec<_>) = entries.into_iter().map(|e| (e.variant, e.contender)).unzip();
    let samples = race(gpu, &contenders, budget)?;
    Ok(Race { samples: names.into_iter().zip(samples).collect(), failures })
}

/// A variant that gave the right results.
struct Entry {
    variant: &'static str,
    shader: Option<String>,
    contender: Contender,
    error: Error,
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
    dump: Option<&'a Path>,
    entries: Vec<Entry>,
    failures: Vec<Failure>,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, subject: &'a Subject, settings: &'a Settings) -> Result<Self, PipelineError> {
        let descs = subject.descs();
        let out_descs =
            ops::infer(subject.op.as_ref(), &descs).map_err(|e| PipelineError::Check(e.to_string()))?;
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
            gpu.write(tensor, words)?;
        }
        let mut all = vec![first];
        for _ in 1..copies {
            let copy = Copy::new(gpu, subject, &descs, &out_descs)?;
            for (from, to) in all[0].inputs.iter().zip(&copy.inputs) {
                gpu.copy(from, to, 0)?;
            }
            all.push(copy);
        }
        let dump = settings.dump.as_deref();
        let (entries, failures) = (Vec::new(), Vec::new());
        Ok(Self { gpu, subject, descs, out_descs, words, copies: all, check, dump, entries, failures })
    }

    fn fail(&mut self, variant: &str, shader: Option<String>, reason: &dyn std::fmt::Display) {
        self.failures.push(Failure {
            operator: self.subject.op.name().to_owned(),
            case: self.subject.case.clone(),
            variant: variant.to_owned(),
            shader,
            reason: reason.to_string(),
        });
    }

    fn lower(&self, variant: &str) -> Lowered {
        self.subject.op.lower(&self.descs, &self.out_descs, &self.gpu.caps, variant)
    }

    /// Checks one of our variants and lets it take part if it is right.
    fn enter(&mut self, variant: &'static str) {
        let lowered = self.lower(variant);
        if let Some(folder) = self.dump
            && let Err(error) = dump_all(&lowered, None, folder)
        {
            self.fail(variant, None, &error);
            return;
        }
        match self.check(variant).and_then(|error| Ok((error, self.contender(&lowered)?))) {
            Ok((error, contender)) => self.entries.push(Entry { variant, shader: None, contender, error }),
            Err(error) => self.fail(variant, None, &error),
        }
    }

    /// Checks the user's kernel in place of the first variant's and lets it take part if it is right.
    fn enter_user(&mut self, shader: &UserShader) -> Result<(), PipelineError> {
        let Some(variant) = self.entries.first().map(|entry| entry.variant) else { return Ok(()) };
        let file = shader.file.display().to_string();
        let source = std::fs::read_to_string(&shader.file).map_err(|e| PipelineError::Input {
            file: shader.file.clone(),
            reason: format!("cannot be read ({e}); check the path"),
        })?;
        let path = self.replaced_path(shader)?;
        let replacement = Replacement { file: file.clone(), source };
        let label = format!("{file} for {path}");
        log::info!("{label}");
        // With bounds checks until it has shown that it needs none.
        self.gpu.substitute(path, replacement.clone(), false);
        let outcome = self.check(variant).and_then(|_| {
            self.gpu.substitute(path, replacement.clone(), true);
            let error = self.check(variant)?;
            let lowered = self.lower(variant);
            if let Some(folder) = self.dump {
                dump_all(&lowered, Some((path, &replacement)), &folder.join("own"))?;
            }
            Ok((error, self.contender(&lowered)?))
        });
        self.gpu.restore_shader(path);
        match outcome {
            Ok((error, contender)) => {
                self.entries.push(Entry { variant, shader: Some(label), contender, error });
            }
            Err(error) => self.fail(variant, Some(label), &error),
        }
        Ok(())
    }

    /// The embedded file that the user's kernel stands in for.
    fn replaced_path(&self, shader: &UserShader) -> Result<&'static str, PipelineError> {
        let entry = &self.entries[0];
        let lowered = self.lower(entry.variant);
        let paths: Vec<&'static str> = lowered.dispatches.iter().map(|d| d.kernel.path).collect();
        if let Some(wanted) = &shader.replaces {
            let wanted = wanted.trim_start_matches("shaders/");
            return paths.iter().copied().find(|path| *path == wanted).ok_or_else(|| {
                PipelineError::Check(format!(
                    "variant {} of {} does not run {wanted}; it runs: {}",
                    entry.variant,
                    self.subject.op.name(),
                    paths.join(", ")
                ))
            });
        }
        let name = shader.file.file_name().unwrap_or_default();
        if let Some(same) = paths.iter().find(|path| Path::new(path).file_name() == Some(name)) {
            return Ok(same);
        }
        let launches = &entry.contender[0];
        let passes: Vec<Vec<&Prepared>> = launches.iter().map(|launch| vec![launch]).collect();
        let longest = match self.gpu.submit_passes(&passes)? {
            Some(spans) => {
                let length = |ix: &usize| spans[*ix][1] - spans[*ix][0];
                (0..spans.len()).max_by(|a, b| length(a).total_cmp(&length(b))).unwrap_or(0)
            }
            None => paths.len() - 1,
        };
        Ok(paths[longest])
    }

    /// Runs a variant on poisoned outputs and compares.
    fn check(&self, variant: &str) -> Result<Error, PipelineError> {
        let outputs: usize = self.out_descs.iter().map(TensorDesc::len).sum();
        let precision = self.subject.op.precision(&self.descs);
        match &self.check {
            Check::Whole(want) => {
                let got = self.results(variant)?;
                let comparison = got
                    .iter()
                    .zip(want)
                    .map(|(got, want)| Comparison::whole(got, want, precision))
                    .reduce(Comparison::and)
                    .unwrap_or_default();
                comparison.into_error("all outputs".to_owned(), outputs)
            }
            Check::Sampled(want) => {
                let got = self.results(variant)?;
                let comparison = Comparison::sampled(&got[0], want, precision);
                comparison.into_error("a sample of the outputs".to_owned(), outputs)
            }
            Check::Elsewhere { what, subjects } => {
                let mut all: Option<Comparison> = None;
                for (subject, want) in subjects {
                    let descs = subject.descs();
                    if !subject.op.variants(&descs, &self.gpu.caps).contains(&variant) {
                        continue;
                    }
                    let precision = subject.op.precision(&descs);
                    let got = run_once(self.gpu, subject, &inputs_of(subject), variant)?;
                    for (got, want) in got.iter().zip(want) {
                        let one = Comparison::whole(got, want, precision);
                        all = Some(all.map_or(one, |all| all.and(one)));
                    }
                }
                all.unwrap_or_default().into_error(what.clone(), outputs)
            }
        }
    }

    fn results(&self, variant: &str) -> Result<Vec<HostTensor>, PipelineError> {
        let copy = &self.copies[0];
        // Operators that update in place have changed their inputs.
        for (tensor, words) in copy.inputs.iter().zip(&self.words) {
            if !self.subject.op.in_place().is_empty() {
                self.gpu.write(tensor, words)?;
            }
        }
        run_on(self.gpu, self.subject, copy, &self.lower(variant))
    }

    /// The variant on every copy of the data; temporaries are shared, as they are in a network.
    fn contender(&self, lowered: &Lowered) -> Result<Contender, PipelineError> {
        let scratch = scratch_of(self.gpu, lowered)?;
        self.copies.iter().map(|copy| Ok(prepare(self.gpu, self.subject, copy, lowered, &scratch)?)).collect()
    }

    fn rows(self, peak: &Peak, settings: &Settings) -> Result<Vec<Result<Row, Failure>>, PipelineError> {
        let cost = self.subject.op.cost(&self.descs, &self.out_descs);
        let copy_bytes: u64 = self.descs.iter().chain(&self.out_descs).map(TensorDesc::bytes).sum();
        let copies = self.copies.len();
        let (op, direction) = self.subject.op_and_direction();
        let text = |descs: &[TensorDesc]| descs.iter().map(TensorDesc::to_string).collect::<Vec<_>>();
        let (contenders, entries): (Vec<_>, Vec<_>) = self
            .entries
            .into_iter()
            .map(|Entry { variant, shader, contender, error }| (contender, (variant, shader, error)))
            .unzip();
        let budget = match settings.check_only {
            true => Budget { seconds: 0.0, samples: 1 },
            false => settings.budget,
        };
        let samples = race(self.gpu, &contenders, budget)?;
        let dtype = self.subject.dtype();
        let rows = entries.into_iter().zip(samples).map(|((variant, shader, error), samples)| {
            let ms = Milliseconds::of(&samples);
            let seconds = ms.median * 1e-3;
            let (gflops, gbps) = (cost.flops / seconds * 1e-9, cost.bytes / seconds * 1e-9);
            Ok(Row {
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
            })
        });
        Ok(rows.chain(self.failures.into_iter().map(Err)).collect())
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
fn run_on(
    gpu: &Gpu,
    subject: &Subject,
    copy: &Copy,
    lowered: &Lowered,
) -> Result<Vec<HostTensor>, PipelineError> {
    let scratch = scratch_of(gpu, lowered)?;
    let fresh = copy
        .outputs
        .iter()
        .enumerate()
        .filter(|(ix, _)| subject.op.in_place().iter().all(|(output, _)| output != ix));
    for tensor in fresh.map(|(_, tensor)| tensor).chain(&scratch) {
        gpu.write(tensor, &vec![POISON; tensor.desc.words()])?;
    }
    let launches = prepare(gpu, subject, copy, lowered, &scratch)?;
    gpu.submit(&launches)?;
    let results = copy.outputs.iter().map(|tensor| {
        let words: Vec<u32> = gpu.download(tensor)?;
        Ok(HostTensor::from_words(tensor.desc.clone(), &words))
    });
    results.collect()
}

/// As [`run_on`], on tensors made for it.
fn run_once(
    gpu: &Gpu,
    subject: &Subject,
    words: &[Vec<u32>],
    variant: &str,
) -> Result<Vec<HostTensor>, PipelineError> {
    let descs = subject.descs();
    let out_descs =
        ops::infer(subject.op.as_ref(), &descs).map_err(|e| PipelineError::Check(e.to_string()))?;
    let copy = Copy::new(gpu, subject, &descs, &out_descs)?;
    for (tensor, words) in copy.inputs.iter().zip(words) {
        gpu.write(tensor, words)?;
    }
    let lowered = subject.op.lower(&descs, &out_descs, &gpu.caps, variant);
    run_on(gpu, subject, &copy, &lowered)
}

/// Writes every kernel of a variant with its translations.
fn dump_all(
    lowered: &Lowered,
    own: Option<(&str, &Replacement)>,
    folder: &Path,
) -> Result<(), PipelineError> {
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
