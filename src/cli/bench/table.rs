//! Results as text.

use trephine::lab::peak::Peak;
use trephine::lab::{Change, Failure, KernelShare, NodeShare, Row, Stage, Total};

/// The roofline on one line.
pub(super) fn peak(peak: &Peak) -> String {
    let mut text = format!(
        "roofline: multiply-add f32 {} GFLOP/s, copy {} GB/s",
        number(peak.fma_gflops),
        number(peak.copy_gbps)
    );
    if let Some(rate) = peak.fma_f16_gflops {
        text += &format!(", multiply-add f16 {} GFLOP/s", number(rate));
    }
    if let Some(rate) = peak.matrix_f16_gflops {
        text += &format!(", cooperative matrix f16 {} GFLOP/s", number(rate));
    }
    text
}

/// Titles of the columns of [`row`].
pub(super) fn header() -> String {
    format!(
        "{:<22} {:<11} {:<36} {:<18} {:>10} {:>21} {:>9} {:>8} {:>8} {:>8}",
        "operator",
        "direction",
        "inputs",
        "variant",
        "ms",
        "min .. max",
        "GFLOP/s",
        "GB/s",
        "roofline",
        "rel L2"
    )
}

/// A result on one line.
pub(super) fn row(row: &Row) -> String {
    let inputs: Vec<&str> = row.inputs.iter().take(2).map(String::as_str).collect();
    let more = if row.inputs.len() > 2 { " .." } else { "" };
    let half = if row.dtype == "f16" { " f16" } else { "" };
    let own = if row.shader.is_some() { " *" } else { "" };
    let variant = format!("{}{half}{own}", row.variant);
    let mut text = format!(
        "{:<22} {:<11} {:<36} {:<18} {:>10} {:>21} {:>9} {:>8} {:>7.1}% {:>8.1e}",
        row.op,
        row.direction,
        inputs.join(" ") + more,
        variant,
        number(row.ms.median),
        format!("{} .. {}", number(row.ms.min), number(row.ms.max)),
        number(row.gflops),
        number(row.gbps),
        row.roofline_fraction * 100.0,
        row.error.rel_l2,
    );
    if let Some(shader) = &row.shader {
        text += &format!("\n  * {shader}");
    }
    text
}

/// Something without a result; a kernel that does not compile on several lines.
pub(super) fn failure(failure: &Failure) -> String {
    let shader = failure.shader.as_ref().map(|shader| format!(", {shader}")).unwrap_or_default();
    format!("{} ({}) [{}{shader}]: {}", failure.operator, failure.case, failure.variant, failure.reason)
}

/// A network or pipeline as a whole.
pub(super) fn total(total: &Total) -> String {
    let shape: Vec<String> = total.shape.iter().map(usize::to_string).collect();
    let mut text = format!(
        "{} {} in {} at {}: {} ms ({} .. {}, {} runs)",
        total.name,
        total.direction,
        total.dtype,
        shape.join("x"),
        number(total.ms.median),
        number(total.ms.min),
        number(total.ms.max),
        total.samples
    );
    if let (Some(gflop), Some(gflops), Some(fraction)) = (total.gflop, total.gflops, total.roofline_fraction)
    {
        text += &format!(
            "\n  {} GFLOP, {} GFLOP/s, {:.1}% of the roofline",
            number(gflop),
            number(gflops),
            fraction * 100.0
        );
    }
    if !total.stages.is_empty() {
        let stage = |stage: &Stage| format!("{} {} ms", stage.name, number(stage.ms.median));
        text += &format!("\n  {}", total.stages.iter().map(stage).collect::<Vec<_>>().join(", "));
    }
    text += &format!("\n  {:.1} MiB of buffers", total.peak_buffer_bytes as f64 / f64::from(1 << 20));
    text += &format!("\n  {} submissions a run", total.submissions);
    if let Some(host) = &total.host_ms {
        let share = host.median / total.ms.median * 100.0;
        text += &format!("; the host works {} ms of it ({share:.1}%), then waits", number(host.median));
    }
    text + &format!("\n  rel L2 {:.1e} ({})", total.error.rel_l2, total.error.checked)
}

/// Kernels of a network, longest first.
pub(super) fn kernels(kernels: &[KernelShare]) -> String {
    let mut lines =
        vec![format!("{:<36} {:>6} {:>10} {:>7} {:>8}", "kernel", "calls", "ms", "share", "roofline")];
    lines.extend(kernels.iter().map(|k| {
        let fraction = k.roofline_fraction.map(|f| format!("{:.1}%", f * 100.0)).unwrap_or_default();
        format!(
            "{:<36} {:>6} {:>10} {:>6.1}% {fraction:>8}",
            k.kernel,
            k.calls,
            number(k.ms),
            k.share * 100.0
        )
    }));
    lines.join("\n")
}

/// Nodes of a network in order of execution, without those that take no time to speak of.
pub(super) fn nodes(nodes: &[NodeShare]) -> String {
    const LEAST_SHARE: f64 = 0.002;
    let mut lines = vec![format!(
        "{:<34} {:<18} {:<36} {:>10} {:>7} {:>9} {:>8}",
        "node", "variant", "inputs", "ms", "share", "GFLOP/s", "roofline"
    )];
    let (shown, hidden): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.share >= LEAST_SHARE);
    lines.extend(shown.into_iter().map(|n| {
        let inputs: Vec<&str> = n.inputs.iter().take(2).map(String::as_str).collect();
        format!(
            "{:<34} {:<18} {:<36} {:>10} {:>6.1}% {:>9} {:>7.1}%",
            n.node,
            n.variant,
            inputs.join(" "),
            number(n.ms),
            n.share * 100.0,
            number(n.gflops),
            n.roofline_fraction * 100.0
        )
    }));
    if !hidden.is_empty() {
        let ms: f64 = hidden.iter().map(|node| node.ms).sum();
        lines.push(format!("{} more nodes of less than 0.2% each: {} ms", hidden.len(), number(ms)));
    }
    lines.join("\n")
}

/// A comparison with an earlier report.
pub(super) fn changes(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing in common with the old report".to_owned();
    }
    let mut lines = vec![format!("{:>10} {:>10} {:>8}  against the old report", "old ms", "new ms", "speed")];
    lines.extend(changes.iter().map(|change| {
        let mark = match change.significant {
            true if change.ratio > 1.0 => "faster",
            true => "SLOWER",
            false => "within the noise",
        };
        format!(
            "{:>10} {:>10} {:>7.2}x  {mark:<16} {}",
            number(change.old_ms),
            number(change.new_ms),
            change.ratio,
            change.what
        )
    }));
    lines.join("\n")
}

/// Four significant digits, in full.
pub(in crate::cli) fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        v if v >= 0.1 => 3,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!([1234.5, 43.21, 0.123_45, 0.0].map(number), ["1234", "43.2", "0.123", "0"]);
    }
}
