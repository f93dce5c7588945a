//! `trephine devices`.

use clap::Args;
use serde_json::json;
use trephine::gpu::{DeviceClass, GpuError, list_adapters};

use super::{Outcome, Session};

/// List the adapters: driver, limits, features, and the tier each gets
///
/// The first one is used unless --device names another, by its number or a part of its name.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  trephine devices\n  trephine strip head.nii.gz --device 1")]
pub(super) struct Options {}

impl Options {
    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        let adapters = list_adapters().await;
        if adapters.is_empty() {
            session.terminal.json(&json!({ "adapters": [] }))?;
            return Err(GpuError::NoAdapter.into());
        }
        for a in &adapters {
            let features = if a.features.is_empty() { "none".to_owned() } else { a.features.join(", ") };
            let text = format!(
                "{index}  {name}\n   \
                 tier      {tier}\n   \
                 backend   {backend}, driver {driver}\n   \
                 buffers   {binding} in one binding, {buffer} in all, {storage} a kernel\n   \
                 workgroup {invocations} invocations, {workgroup} KiB\n   \
                 features  {features}",
                index = a.index,
                name = a.name,
                tier = tier(a.class),
                backend = a.backend,
                driver = a.driver,
                binding = bytes(a.max_storage_binding_bytes),
                buffer = bytes(a.max_buffer_bytes),
                storage = a.storage_buffers,
                invocations = a.workgroup_invocations,
                workgroup = a.workgroup_bytes / 1024,
            );
            session.terminal.result(&text)?;
        }
        session.terminal.json(&json!({ "adapters": adapters }))?;
        Ok(Outcome::Done)
    }
}

fn tier(class: DeviceClass) -> &'static str {
    match class {
        DeviceClass::Discrete => "discrete GPU",
        DeviceClass::Integrated => "integrated GPU",
        DeviceClass::Other => "virtual or unknown GPU",
        DeviceClass::Software => {
            "software: computes on the CPU, slow; install the driver of a GPU if there is one"
        }
    }
}

fn bytes(n: u64) -> String {
    const GIB: u64 = 1 << 30;
    if n >= GIB { format!("{:.1} GiB", n as f64 / GIB as f64) } else { format!("{} MiB", n >> 20) }
}
