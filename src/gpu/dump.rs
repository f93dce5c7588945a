//! A kernel as the drivers get it: the assembled WGSL and naga's translations of it.

use std::path::{Path, PathBuf};

use super::dispatch::KernelKey;
use super::error::GpuError;
use super::shader::{self, Replacement};

/// Writes `STEM.wgsl`, `STEM.spv`, `STEM.metal` and `STEM.hlsl` to `folder` and returns the paths written. A back
/// end that cannot express the kernel (HLSL has no cooperative matrices) is left out with a warning in the log.
///
/// # Errors
/// A source that does not assemble or validate, or a folder that cannot be written.
pub fn dump_kernel(
    key: &KernelKey,
    replacement: Option<&Replacement>,
    folder: &Path,
) -> Result<Vec<PathBuf>, GpuError> {
    let assembled = shader::assemble(key, replacement)?;
    let (module, info) = shader::validate(key, &assembled)?;
    let write = |extension: &str, bytes: &[u8]| {
        let path = folder.join(format!("{}.{extension}", key.file_stem()));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, bytes))
            .map_err(|source| GpuError::Dump { file: path.clone(), source })?;
        Ok(path)
    };
    let mut written = vec![write("wgsl", assembled.source.as_bytes())?];
    let skip = |language: &str, reason: &dyn std::fmt::Display| {
        log::warn!("{} has no {language}: {reason}", key.path);
    };
    match naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None) {
        Ok(words) => written.push(write("spv", bytemuck::cast_slice(&words))?),
        Err(error) => skip("SPIR-V", &error),
    }
    // The first version of Metal's language with matrices.
    let options =
        naga::back::msl::Options { lang_version: (2, 3), fake_missing_bindings: true, ..Default::default() };
    match naga::back::msl::write_string(&module, &info, &options, &Default::default()) {
        Ok((text, _)) => written.push(write("metal", text.as_bytes())?),
        Err(error) => skip("MSL", &error),
    }
    let (mut text, options) = (String::new(), naga::back::hlsl::Options::default());
    let pipeline = naga::back::hlsl::PipelineOptions::default();
    // The writer answers cooperative matrices with a panic instead of an error.
    if assembled.source.contains("enable wgpu_cooperative_matrix") {
        skip("HLSL", &"cooperative matrices are not part of it");
        return Ok(written);
    }
    match naga::back::hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None) {
        Ok(_) => written.push(write("hlsl", text.as_bytes())?),
        Err(error) => skip("HLSL", &error),
    }
    Ok(written)
}
