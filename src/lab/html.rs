//! A report as one self-contained page: roofline, bars by variant, tables.

use std::fmt::Write as _;
use std::path::Path;

use super::error::LabError;
use super::report::{Report, Row};
use crate::pipeline::write_whole;
use crate::tensor::DType;

const STYLE: &str = include_str!("report.css");

/// Writes the page. It needs no other file and no network.
///
/// # Errors
/// When the file cannot be written.
pub fn write_html(report: &Report, path: &Path) -> Result<(), LabError> {
    Ok(write_whole(path, page(report).as_bytes())?)
}

/// Text for HTML and attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(report: &Report) -> String {
    let adapter = &report.adapter;
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Trephine bench: {name}</title><style>{STYLE}</style></head><body><main>\n\
         <header><h1>Trephine bench</h1><p class=\"adapter\">{name}</p><p class=\"meta\">{meta}</p></header>\n",
        name = escape(&adapter.name),
        meta = escape(&meta(report).join(" · ")),
    );
    html += &cards(report);
    if !report.rows.is_empty() {
        html += "<section><h2>Roofline</h2>";
        html += &roofline(report);
        html += "<p class=\"note\">Both roofs are measured on this adapter by micro-kernels. A point is a kernel: \
                 flops for each byte that must move, and flops a second. Hover over it for its name.</p></section>\n";
        html += "<section><h2>Variants</h2>";
        html += &bars(report);
        html += "</section>\n<section><h2>Results</h2>";
        html += &table(report);
        html += "</section>\n";
    }
    html += &network(report);
    if !report.failures.is_empty() {
        html += "<section class=\"failures\"><h2>Failures</h2><ul>";
        for failure in &report.failures {
            let _ = write!(
                html,
                "<li><b>{} [{}]</b> {}: {}</li>",
                escape(&failure.operator),
                escape(&failure.variant),
                escape(&failure.case),
                escape(&failure.reason)
            );
        }
        html += "</ul></section>\n";
    }
    html + "</main></body></html>\n"
}

fn meta(report: &Report) -> Vec<String> {
    let versions = &report.versions;
    let commit = versions.commit.as_ref().map(|c| format!(" ({c})")).unwrap_or_default();
    let mut meta = vec![
        format!("{}, {}", report.adapter.backend, report.adapter.driver),
        format!("trephine {}{commit}", versions.trephine),
        versions.host.clone(),
        report.date.clone(),
    ];
    if !versions.release {
        meta.push("debug build".to_owned());
    }
    meta
}

fn cards(report: &Report) -> String {
    let peak = &report.peak;
    let mut cards = vec![("multiply-add, f32", si(peak.fma_gflops * 1e9), "FLOP/s")];
    cards.extend(peak.fma_f16_gflops.map(|v| ("multiply-add, f16", si(v * 1e9), "FLOP/s")));
    cards.extend(peak.matrix_f16_gflops.map(|v| ("cooperative matrix, f16", si(v * 1e9), "FLOP/s")));
    cards.push(("copy", si(peak.copy_gbps * 1e9), "B/s"));
    let mut html = "<div class=\"cards\">".to_owned();
    for (label, value, unit) in cards {
        let _ = write!(html, "<div class=\"card\"><span>{label}</span><b>{value}{unit}</b></div>");
    }
    html + "</div>\n"
}

/// Three significant digits with a decimal prefix.
fn si(value: f64) -> String {
    let (scaled, prefix) = match value {
        v if v >= 1e12 => (v / 1e12, "T"),
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = match scaled {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}\u{202f}{prefix}")
}

/// A logarithmic axis on a range of pixels.
struct LogAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    /// Covers the values, from power to power of ten.
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let logs = values.filter(|v| *v > 0.0 && v.is_finite()).map(f64::log10);
        let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        Self { low: (low - 0.1).floor(), high: (high + 0.1).ceil(), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(1e-300).log10() - self.low) / (self.high - self.low);
        self.from + share.clamp(-0.02, 1.02) * (self.to - self.from)
    }

    fn decades(&self) -> Vec<f64> {
        (self.low as i32..=self.high as i32).map(|power| 10f64.powi(power)).collect()
    }
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 460.0;

fn roofline(report: &Report) -> String {
    let peak = &report.peak;
    let bandwidth = peak.copy_gbps * 1e9;
    let f16 = report.rows.iter().any(|row| row.dtype == "f16").then(|| peak.gflops(DType::F16) * 1e9);
    let roofs: Vec<(f64, &str)> =
        [Some((peak.fma_gflops * 1e9, "f32")), f16.map(|rate| (rate, "f16"))].into_iter().flatten().collect();
    let ridge = peak.fma_gflops * 1e9 / bandwidth;
    let x = LogAxis::over(
        report.rows.iter().map(|r| r.intensity).chain([ridge * 8.0, ridge / 8.0]),
        64.0,
        WIDTH - 24.0,
    );
    let rates = report.rows.iter().map(|r| r.gflops * 1e9).chain(roofs.iter().map(|(rate, _)| *rate));
    let y = LogAxis::over(rates, HEIGHT - 52.0, 16.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Roofline plot\">");
    for value in x.decades() {
        let at = x.at(value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            y.to,
            y.from,
            y.from + 18.0,
            plain(value)
        );
    }
    for value in y.decades() {
        let at = y.at(value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            x.from,
            x.to,
            x.from - 8.0,
            at + 4.0,
            si_short(value)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">flops a byte</text>\
         <text class=\"axis\" transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">FLOP/s</text>",
        (x.from + x.to) / 2.0,
        HEIGHT - 8.0,
        (y.from + y.to) / 2.0
    );
    let (left, right) = (10f64.powf(x.low), 10f64.powf(x.high));
    for (rate, name) in &roofs {
        // The slope starts where it enters the plot.
        let start = left.max(10f64.powf(y.low) / bandwidth);
        let bend = rate / bandwidth;
        let _ = write!(
            svg,
            "<polyline class=\"roof {name}\" points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"/>\
             <text class=\"roofname\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}FLOP/s, {name}</text>",
            x.at(start),
            y.at(start * bandwidth),
            x.at(bend),
            y.at(*rate),
            x.at(right),
            y.at(*rate),
            x.to - 4.0,
            y.at(*rate) - 7.0,
            si(*rate)
        );
    }
    let colours = colours(report);
    for row in &report.rows {
        let _ = write!(
            svg,
            "<circle class=\"c{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\"><title>{}</title></circle>",
            colour(&colours, row),
            x.at(row.intensity),
            y.at(row.gflops * 1e9),
            escape(&format!(
                "{} {} [{}]\n{}\n{}FLOP/s, {:.1}% of the roofline",
                row.op,
                row.direction,
                variant(row),
                row.inputs.join(" "),
                si(row.gflops * 1e9),
                row.roofline_fraction * 100.0
            ))
        );
    }
    svg += "</svg><div class=\"legend\">";
    for (ix, name) in colours.iter().enumerate() {
        let _ = write!(svg, "<span><i class=\"c{}\"></i>{}</span>", ix % COLOURS, escape(name));
    }
    svg + "</div>"
}

/// Number of colours in the style sheet.
const COLOURS: usize = 10;

/// Variants in order of appearance; a variant's place is its colour.
fn colours(report: &Report) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for row in &report.rows {
        let name = variant(row);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn colour(names: &[String], row: &Row) -> usize {
    let name = variant(row);
    names.iter().position(|known| *known == name).unwrap_or(0) % COLOURS
}

/// The variant, or the file that stands in for it.
fn variant(row: &Row) -> String {
    match &row.shader {
        Some(shader) => shader.split(" for ").next().unwrap_or(shader).to_owned(),
        None => row.variant.clone(),
    }
}

fn plain(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}

fn si_short(value: f64) -> String {
    for (unit, prefix) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= unit {
            return format!("{:.0}\u{202f}{prefix}", value / unit);
        }
    }
    plain(value)
}

/// Bars of time by variant, a group for each operator and shape, with the spread of the samples.
fn bars(report: &Report) -> String {
    let mut groups: Vec<(String, String, Vec<&Row>)> = Vec::new();
    for row in &report.rows {
        let key = (format!("{} {}", row.op, row.direction), row.inputs.join(" "));
        match groups.iter_mut().find(|(op, inputs, _)| (op, inputs) == (&key.0, &key.1)) {
            Some((_, _, rows)) => rows.push(row),
            None => groups.push((key.0, key.1, vec![row])),
        }
    }
    let colours = colours(report);
    let mut html = "<div class=\"bars\">".to_owned();
    for (op, inputs, rows) in &groups {
        let longest = rows.iter().map(|r| r.ms.max).fold(0.0, f64::max).max(1e-12);
        let _ = write!(html, "<div class=\"group\"><h3>{}</h3><p>{}</p>", escape(op), escape(inputs));
        for row in rows {
            let share = |ms: f64| ms / longest * 100.0;
            let _ = write!(
                html,
                "<div class=\"bar\"><span class=\"name\">{}</span><span class=\"track\">\
                 <i class=\"c{}\" style=\"width:{:.2}%\"></i>\
                 <u style=\"left:{:.2}%;width:{:.2}%\"></u></span>\
                 <span class=\"value\">{} ms</span><span class=\"roofshare\">{:.1}%</span></div>",
                escape(&variant(row)),
                colour(&colours, row),
                share(row.ms.median),
                share(row.ms.min),
                share(row.ms.max - row.ms.min),
                milliseconds(row.ms.median),
                row.roofline_fraction * 100.0
            );
        }
        html += "</div>";
    }
    html + "</div><p class=\"note\">Bars are medians, whiskers the shortest and the longest sample; on the right the \
            share of what the roofline allows.</p>"
}

fn milliseconds(ms: f64) -> String {
    let digits = match ms {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{ms:.digits$}")
}

fn table(report: &Report) -> String {
    let mut html =
        "<div class=\"scroll\"><table><thead><tr><th>operator</th><th>direction</th><th>inputs</th>\
                    <th>variant</th><th>ms</th><th>min</th><th>max</th><th>GFLOP/s</th><th>GB/s</th>\
                    <th>roofline</th><th>rel L2</th><th>checked</th></tr></thead><tbody>"
            .to_owned();
    for row in &report.rows {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"shape\">{}</td><td>{}</td><td class=\"n\"><b>{}</b></td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.2}</td><td class=\"n\">{:.2}</td>\
             <td class=\"n\">{:.1}%</td><td class=\"n\">{:.1e}</td><td>{}</td></tr>",
            escape(&row.op),
            escape(&row.direction),
            escape(&row.inputs.join(" ")),
            escape(&variant(row)),
            milliseconds(row.ms.median),
            milliseconds(row.ms.min),
            milliseconds(row.ms.max),
            row.gflops,
            row.gbps,
            row.roofline_fraction * 100.0,
            row.error.rel_l2,
            escape(&row.error.checked)
        );
    }
    html + "</tbody></table></div>"
}

fn network(report: &Report) -> String {
    let Some(total) = &report.total else { return String::new() };
    let shape: Vec<String> = total.shape.iter().map(usize::to_string).collect();
    let mut html = format!(
        "<section><h2>{} {}</h2><p class=\"note\">{} · {} ms ({} to {} in {} runs) · {:.1} MiB of buffers · \
         {} submissions a run",
        escape(&total.name),
        escape(&total.direction),
        shape.join("x"),
        milliseconds(total.ms.median),
        milliseconds(total.ms.min),
        milliseconds(total.ms.max),
        total.samples,
        total.peak_buffer_bytes as f64 / f64::from(1 << 20),
        total.submissions,
    );
    if let (Some(gflops), Some(fraction)) = (total.gflops, total.roofline_fraction) {
        let _ = write!(html, " · {}FLOP/s, {:.1}% of the roofline", si(gflops * 1e9), fraction * 100.0);
    }
    for stage in &total.stages {
        let _ = write!(html, " · {} {} ms", escape(&stage.name), milliseconds(stage.ms.median));
    }
    html += "</p>";
    if !report.kernels.is_empty() {
        let longest = report.kernels.iter().map(|k| k.share).fold(0.0, f64::max).max(1e-12);
        html += "<div class=\"bars one\"><div class=\"group\"><h3>By kernel</h3>";
        for kernel in report.kernels.iter().filter(|kernel| kernel.share >= 0.001) {
            let fraction = kernel.roofline_fraction.map(|f| format!("{:.1}%", f * 100.0)).unwrap_or_default();
            let _ = write!(
                html,
                "<div class=\"bar\"><span class=\"name\">{} <em>x {}</em></span><span class=\"track\">\
                 <i class=\"c0\" style=\"width:{:.2}%\"></i></span><span class=\"value\">{} ms</span>\
                 <span class=\"roofshare\">{fraction}</span></div>",
                escape(&kernel.kernel),
                kernel.calls,
                kernel.share / longest * 100.0,
                milliseconds(kernel.ms)
            );
        }
        html += "</div></div>";
    }
    if !report.nodes.is_empty() {
        html += "<div class=\"scroll\"><table><thead><tr><th>node</th><th>operator</th><th>variant</th>\
                 <th>inputs</th><th>ms</th><th>share</th><th>GFLOP/s</th><th>roofline</th></tr></thead><tbody>";
        for node in &report.nodes {
            let _ = write!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"shape\">{}</td><td class=\"n\"><b>{}</b></td>\
                 <td class=\"n\">{:.1}%</td><td class=\"n\">{:.2}</td><td class=\"n\">{:.1}%</td></tr>",
                escape(&node.node),
                escape(&node.op),
                escape(&node.variant),
                escape(&node.inputs.join(" ")),
                milliseconds(node.ms),
                node.share * 100.0,
                node.gflops,
                node.roofline_fraction * 100.0
            );
        }
        html += "</tbody></table></div>";
    }
    html + "</section>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_escapes() {
        assert_eq!(si(6.7e13), "67.0\u{202f}T");
        assert_eq!(si(440e9), "440\u{202f}G");
        assert_eq!(escape("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
    }

    #[test]
    fn an_axis_covers_its_values() {
        let axis = LogAxis::over([3.0, 250.0].into_iter(), 0.0, 300.0);
        assert_eq!((axis.low, axis.high), (0.0, 3.0));
        assert_eq!(axis.at(10.0), 100.0);
        assert!(LogAxis::over(std::iter::empty(), 0.0, 1.0).at(5.0).is_finite());
    }
}
