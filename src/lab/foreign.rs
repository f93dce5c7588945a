//! Compiles the kernels of an operator for a GPU that need not be there, and says what its compiler made of them.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde::Serialize;

use super::error::LabError;
use super::listing::{Block, hottest_block};
use super::measure::{Plan, Settings};
use super::subject::Subject;
use crate::gpu::radv::{Compilation, SpirvKernel, process};
use crate::gpu::{Caps, DeviceClass, KernelKey, Replacement};
use crate::ops;

/// A kernel as the compiler made it.
#[derive(Clone, Debug, Serialize)]
pub struct CompiledKernel {
    /// The operator that runs it.
    pub operator: String,
    /// The shapes that it was lowered at.
    pub case: String,
    /// The variant.
    pub variant: String,
    /// The file below `shaders/`, or the user's own.
    pub kernel: String,
    /// Its constants.
    pub constants: Vec<(&'static str, u32)>,
    /// Vector registers.
    pub registers: f64,
    /// Registers that went to memory.
    pub spilled: f64,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: f64,
    /// Waves that a SIMD holds at a time.
    pub waves: f64,
    /// Instructions of the whole kernel.
    pub instructions: f64,
    /// The hottest block.
    pub block: Block,
    /// The largest share of the GPU's multiply-adds that this allows.
    pub bound: Option<f64>,
    /// What sets it.
    pub bound_by: Option<&'static str>,
}

/// What kernels may rely on where wgpu meets a GPU of AMD's.
fn caps() -> Caps {
    Caps {
        class: DeviceClass::Discrete,
        max_binding: 2 << 30,
        max_buffer: 2 << 30,
        f16: true,
        subgroup_size: Some([32, 64]),
        ..Caps::webgpu_defaults()
    }
}

/// A kernel to compile, and where it comes from.
struct Wanted {
    key: KernelKey,
    operator: &'static str,
    case: String,
    variant: &'static str,
    replacement: Option<Replacement>,
}

/// The kernels that the settings ask for, each once.
fn kernels_of(subjects: &[Subject], settings: &Settings) -> Result<Vec<Wanted>, LabError> {
    let caps = caps();
    let own = settings.shader.as_ref().map(|shader| shader.read()).transpose()?;
    let mut wanted: Vec<Wanted> = Vec::new();
    for subject in subjects {
        let plan = match Plan::new(&caps, subject, settings) {
            Ok(plan) => plan,
            Err(error) if subjects.len() == 1 => return Err(error),
            // Of all operators, few have the variant that is asked for.
            Err(_) => continue,
        };
        let descs = subject.descs();
        let outputs =
            ops::infer(subject.op.as_ref(), &descs).map_err(|e| LabError::Refused(e.to_string()))?;
        for &variant in plan.variants() {
            for dispatch in subject.op.lower(&descs, &outputs, &caps, variant).dispatches {
                let key = dispatch.kernel;
                let replacement = plan.place().filter(|place| place.path == key.path).and(own.clone());
                for replacement in [None, replacement.clone()].into_iter().take(1 + replacement.iter().len())
                {
                    let new = |known: &Wanted| {
                        known.key != key || known.replacement.is_some() != replacement.is_some()
                    };
                    if wanted.iter().all(new) {
                        let (operator, case) = (subject.op.name(), subject.case.clone());
                        wanted.push(Wanted { key: key.clone(), operator, case, variant, replacement });
                    }
                }
            }
        }
    }
    Ok(wanted)
}

/// Compiles for a family of AMD's GPUs, named as Mesa names it (`navi21`), all kernels that the settings ask for. `program`
/// is this program: its command `compile-spirv` runs in processes of their own.
///
/// # Errors
/// What is missing on this machine, or what the compiler says.
pub fn compile_for(
    family: &str,
    program: &Path,
    subjects: &[Subject],
    settings: &Settings,
) -> Result<Vec<CompiledKernel>, LabError> {
    let wanted = kernels_of(subjects, settings)?;
    let spirv = wanted
        .iter()
        .map(|wanted| SpirvKernel::of(&wanted.key, wanted.replacement.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    let compiled = in_a_process(family, program, &spirv).map_err(LabError::Refused)?;
    Ok(wanted
        .into_iter()
        .zip(&compiled)
        .map(|(wanted, compiled)| CompiledKernel::of(wanted, compiled))
        .collect())
}

fn in_a_process(family: &str, program: &Path, kernels: &[SpirvKernel]) -> Result<Vec<Compilation>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", program.display());
    let mut child = process(program, family)?
        .arg("compile-spirv")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(&e))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let request = serde_json::to_vec(kernels).map_err(|e| failed(&e))?;
    // It reads all before it writes. One that ends early says why.
    let sent = stdin.write_all(&request);
    drop(stdin);
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = errors.lines().last().unwrap_or("without a word").trim_start_matches("error: ");
    if !output.status.success() {
        return Err(format!("cannot compile for {family}: {last}"));
    }
    sent.map_err(|e| failed(&e))?;
    serde_json::from_slice(&output.stdout).map_err(|e| failed(&e))
}

impl CompiledKernel {
    fn of(wanted: Wanted, compiled: &Compilation) -> Self {
        let of = |names: &[&str]| {
            let named = compiled.statistics.iter().filter(|(name, _)| names.contains(&name.as_str()));
            named.map(|(_, value)| value).sum()
        };
        let block = hottest_block(&compiled.listing);
        let bound = block.bound();
        let kernel = wanted.replacement.map_or(wanted.key.path.to_owned(), |own| own.file);
        Self {
            operator: wanted.operator.to_owned(),
            case: wanted.case,
            variant: wanted.variant.to_owned(),
            kernel,
            constants: wanted.key.defines,
            registers: of(&["VGPRs"]),
            spilled: of(&["Spilled VGPRs", "Spilled SGPRs"]),
            workgroup_bytes: of(&["LDS size"]),
            waves: of(&["Subgroups per SIMD"]),
            instructions: of(&["Instructions"]),
            bound: bound.map(|(share, _)| share),
            bound_by: bound.map(|(_, what)| what),
            block,
        }
    }
}
