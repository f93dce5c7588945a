//! The program as tests run it.

use std::path::Path;
use std::process::{Command, Stdio};

use assert_cmd::cargo::CommandCargoExt;

/// The program, through cargo's runner where one is set, on the adapter of the other tests, with a cache folder that is
/// not the user's.
pub fn program(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("trephine").expect("the program is built");
    command.args(arguments).stdin(Stdio::null()).env("TREPHINE_CACHE_DIR", cache);
    command.env("TREPHINE_MODELS_DIR", cache.join("models"));
    if let Ok(device) = std::env::var("TREPHINE_DEVICE") {
        command.args(["--device", &device]);
    }
    // Drivers that find none write about it where the program writes its errors.
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    }
    command
}

/// Whether there is an adapter; without one the test is skipped, or fails where `REQUIRE_GPU` is set.
pub fn has_gpu() -> bool {
    let found = !pollster::block_on(trephine::gpu::list_adapters()).is_empty();
    assert!(found || std::env::var_os("REQUIRE_GPU").is_none(), "no adapter, and REQUIRE_GPU is set");
    if !found {
        eprintln!("SKIPPED: no adapter");
    }
    found
}
