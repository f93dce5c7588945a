//! `trephine bench --compile-for`: what another machine's compiler makes of kernels.

use std::io::Read;
use std::path::PathBuf;

use trephine::gpu::radv::compile_spirv;
use trephine::lab::subject::Subject;
use trephine::lab::{CompiledKernel, Settings, compile_for};

use super::number;
use crate::cli::{Outcome, Session, usage};

/// Compiles and prints a Markdown table, or JSON.
pub(super) fn run(
    session: &Session,
    target: &str,
    subjects: &[Subject],
    settings: &Settings,
) -> anyhow::Result<Outcome> {
    let family = target.strip_prefix("amd:").filter(|family| !family.is_empty());
    let family =
        family.ok_or_else(|| usage("--compile-for takes amd:FAMILY, such as amd:navi21 or amd:gfx1100"))?;
    let kernels = compile_for(family, &program()?, subjects, settings)?;
    session.terminal.result(&table(&kernels))?;
    session.terminal.json(&serde_json::json!({ "compiled_for": target, "kernels": kernels }))?;
    Ok(Outcome::Done)
}

/// This program, under a loader of its own too, which the system takes for the program.
fn program() -> anyhow::Result<PathBuf> {
    match std::env::args_os().next().map(PathBuf::from) {
        Some(named) if named.components().count() > 1 => Ok(named),
        _ => Ok(std::env::current_exe()?),
    }
}

/// The command that [`compile_for`] runs: kernels come in by stdin, what the driver made of them goes out by stdout.
pub(in crate::cli) fn compile_stdin(session: &Session) -> anyhow::Result<Outcome> {
    let mut request = Vec::new();
    std::io::stdin().lock().read_to_end(&mut request)?;
    let kernels: Vec<_> = serde_json::from_slice(&request)?;
    let compiled = compile_spirv(&kernels).map_err(anyhow::Error::msg)?;
    session.terminal.result(&serde_json::to_string(&compiled)?)?;
    Ok(Outcome::Done)
}

fn table(kernels: &[CompiledKernel]) -> String {
    let mut lines = vec![
        "| operator | variant | kernel | VGPRs | spilled | waves | workgroup memory | instructions | multiply-adds / vector / \
         all | share | bytes an access | bytes a multiply-add: memory, workgroup | bound |"
            .to_owned(),
        format!("|{}", "---|".repeat(13)),
    ];
    lines.extend(kernels.iter().map(row));
    lines.join("\n")
}

fn row(kernel: &CompiledKernel) -> String {
    let block = &kernel.block;
    let constants = kernel.constants.iter().filter(|(_, value)| *value != 0);
    let constants: Vec<String> = constants.map(|(name, value)| format!("{name} {value}")).collect();
    let name = match constants.is_empty() {
        true => format!("`{}`", kernel.kernel),
        false => format!("`{}` ({})", kernel.kernel, constants.join(", ")),
    };
    let share = 100.0 * block.multiply_adds as f64 / block.all.max(1) as f64;
    let each = |bytes: usize| number(bytes as f64 / block.multiply_adds as f64);
    let (share, bytes) = match block.multiply_adds {
        0 => (String::new(), String::new()),
        _ => {
            (format!("{share:.0}%"), format!("{}, {}", each(block.memory_bytes), each(block.workgroup_bytes)))
        }
    };
    let access = match (block.narrowest, block.memory) {
        (Some(least), n) => format!("{} ({least} at least)", number(block.memory_bytes as f64 / n as f64)),
        _ => String::new(),
    };
    let bound = match (kernel.bound, kernel.bound_by) {
        (Some(bound), Some(what)) => format!("{:.0}%: {what}", bound * 100.0),
        _ => "memory".to_owned(),
    };
    format!(
        "| {} | {} | {name} | {} | {} | {} | {} | {} | {} / {} / {} | {share} | {access} | {bytes} | {bound} |",
        kernel.operator,
        kernel.variant,
        kernel.registers,
        kernel.spilled,
        kernel.waves,
        kernel.workgroup_bytes,
        kernel.instructions,
        block.multiply_adds,
        block.vector,
        block.all,
    )
}
