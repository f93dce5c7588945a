//! `trephine evaluate`.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::Args;
use serde_json::json;
use trephine::pipeline::evaluate::{HeadFailure, HeadScore, evaluate};
use trephine::pipeline::report::plot;
use trephine::pipeline::strip::StripOptions;
use trephine::pipeline::write_whole;
use trephine::volume::metrics::percentile;
use trephine::volume::pairs::{Pair, PairTable};

use super::files::check_folder;
use super::json::named;
use super::{ModelOptions, Outcome, Session, names_of, text_about, usage};

/// Compare a model's masks with reference masks
///
/// Dice, IoU, HD95 (MONAI's convention: the larger of the two 95th percentiles), ASSD and signed volume error;
/// a row a head, median and worst at the end, over all heads and by the table's column `contrast`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine evaluate --data pairs.tsv --csv scores.csv --figure scores.svg\n  trephine evaluate --data pairs.tsv --preset article"
)]
pub(super) struct Options {
    /// Table of pairs: columns `image` and `mask`, and perhaps `contrast` (see `trephine index`)
    #[arg(long, value_name = "TSV")]
    data: PathBuf,
    /// Write a row a head to this file, with the table's other columns
    #[arg(long, value_name = "CSV")]
    csv: Option<PathBuf>,
    /// Draw box and points of each contrast to this file, .svg or .png
    #[arg(long, value_name = "FILE")]
    figure: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOptions,
}

impl Options {
    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if let Some(figure) = self.figure.as_deref().filter(|path| !plot::is_plot_name(path)) {
            return Err(usage(format!(
                "{} is not a name for a figure; end it in .svg or .png",
                figure.display()
            )));
        }
        let mut table = PairTable::read(&self.data)?;
        let all = table.pairs.len();
        table.pairs.retain(|pair| pair.mask.is_some());
        if table.pairs.is_empty() {
            bail!("{}: names no image with a mask; fill in the column `mask`", self.data.display());
        }
        if table.pairs.len() < all {
            let without = all - table.pairs.len();
            session.terminal.warning(&self.data, &format!("{without} images have no mask and are left out"));
        }
        [&self.csv, &self.figure].into_iter().flatten().try_for_each(|path| check_folder(path))?;
        let models = self.model.load(session)?;
        let name = names_of(&models);
        let gpu = session.gpu_below(self.model.max_memory).await?;
        let options =
            StripOptions { n4: self.model.n4_choice(), tta: self.model.tta, ..StripOptions::default() };
        let count = table.pairs.len();
        let mut done = 0;
        let (dtype, tuning) = (self.model.dtype.into(), self.model.tuning.load(&gpu));
        let scores = evaluate(&gpu, &models, dtype, &tuning, &table, &options, &mut |result| {
            done += 1;
            match result {
                Ok(score) => {
                    score.warnings.iter().for_each(|warning| session.terminal.warning(&score.image, warning));
                    session.terminal.note(&format!(
                        "[{done}/{count}] {}: Dice {:.4} in {:.1} s",
                        score.image.display(),
                        score.agreement.dice,
                        score.seconds
                    ));
                }
                // Printed now: the table at the end is hours away.
                Err(failure) => session.terminal.error(&text_of(failure)),
            }
        })
        .await?;
        if let Some(path) = &self.csv {
            write_whole(path, &csv_of(&table, &scores)?)?;
        }
        let good: Vec<&HeadScore> = scores.iter().filter_map(|s| s.as_ref().ok()).collect();
        if let Some(path) = &self.figure {
            let title = format!("Model {}: agreement with reference masks, {} heads", name, good.len());
            plot::agreement(path, &title, &good)?;
        }
        session.terminal.result(&table_of(&good))?;
        session.terminal.json(&json!({
            "adapter": gpu.summary,
            "model": name,
            "heads": scores.iter().map(json_of).collect::<Vec<_>>(),
            "summary": groups(&good).iter().map(Summary::json).collect::<Vec<_>>(),
        }))?;
        Ok(if good.len() == scores.len() { Outcome::Done } else { Outcome::SomeFailed })
    }
}

fn text_of(failure: &HeadFailure) -> String {
    text_about(&failure.image, &failure.error)
}

const COLUMNS: [&str; 5] = ["dice", "iou", "hd95_mm", "assd_mm", "volume_error_percent"];

fn values(score: &HeadScore) -> [f64; 5] {
    let a = &score.agreement;
    [a.dice, a.iou, a.hd95_mm, a.assd_mm, a.volume_error_percent]
}

fn json_of(result: &Result<HeadScore, HeadFailure>) -> serde_json::Value {
    match result {
        Ok(score) => {
            let mut row = json!({
                "image": named(&score.image),
                "contrast": score.contrast,
                "seconds": score.seconds,
                "warnings": score.warnings,
            });
            for (name, value) in COLUMNS.iter().zip(values(score)) {
                row[name] = json!(value);
            }
            row
        }
        Err(failure) => json!({ "image": named(&failure.image), "error": text_of(failure) }),
    }
}

/// The pair and result of every head; both keep the table's order.
fn csv_of(table: &PairTable, scores: &[Result<HeadScore, HeadFailure>]) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let extra = table.extra_columns.iter().map(String::as_str);
    writer.write_record(
        ["image"].into_iter().chain(COLUMNS).chain(["seconds", "warnings", "error"]).chain(extra),
    )?;
    let rows = table.pairs.iter().zip(scores);
    for (Pair { image, extra, .. }, result) in rows {
        let mut row = vec![image.display().to_string()];
        match result {
            Ok(score) => {
                row.extend(values(score).map(|v| v.to_string()));
                row.extend([format!("{:.3}", score.seconds), score.warnings.join("; "), String::new()]);
            }
            Err(failure) => {
                row.extend(COLUMNS.map(|_| String::new()));
                row.extend([String::new(), String::new(), text_of(failure)]);
            }
        }
        row.extend(extra.iter().cloned());
        row.resize(COLUMNS.len() + 4 + table.extra_columns.len(), String::new());
        writer.write_record(row)?;
    }
    writer.into_inner().map_err(|e| anyhow!("scores: {e}"))
}

/// Median and worst of a group of heads.
struct Summary {
    name: String,
    heads: usize,
    median: [f64; 5],
    worst: [f64; 5],
}

impl Summary {
    fn of(name: &str, scores: &[&HeadScore]) -> Self {
        let column = |ix: usize| -> Vec<f64> { scores.iter().map(|s| values(s)[ix]).collect() };
        let worst = |ix: usize| {
            let column = column(ix).into_iter();
            match COLUMNS[ix] {
                "dice" | "iou" => column.fold(f64::INFINITY, f64::min),
                // Signed: the one farthest from 0.
                _ => column.fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a }),
            }
        };
        Self {
            name: name.to_owned(),
            heads: scores.len(),
            median: std::array::from_fn(|ix| percentile(&column(ix), 50.0)),
            worst: std::array::from_fn(worst),
        }
    }

    fn json(&self) -> serde_json::Value {
        let named = |values: &[f64; 5]| -> serde_json::Value {
            COLUMNS
                .iter()
                .zip(values)
                .map(|(name, v)| ((*name).to_owned(), json!(v)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({ "group": self.name, "heads": self.heads, "median": named(&self.median), "worst": named(&self.worst) })
    }
}

/// All heads, then each contrast where the table has several.
fn groups(scores: &[&HeadScore]) -> Vec<Summary> {
    if scores.is_empty() {
        return Vec::new();
    }
    let mut all = vec![Summary::of("all", scores)];
    let mut contrasts: Vec<&str> = Vec::new();
    for contrast in scores.iter().filter_map(|s| s.contrast.as_deref()) {
        if !contrast.is_empty() && !contrasts.contains(&contrast) {
            contrasts.push(contrast);
        }
    }
    for contrast in contrasts {
        let of: Vec<&HeadScore> =
            scores.iter().copied().filter(|s| s.contrast.as_deref() == Some(contrast)).collect();
        all.push(Summary::of(contrast, &of));
    }
    all
}

fn table_of(scores: &[&HeadScore]) -> String {
    let line = |name: &str, contrast: &str, v: [f64; 5], seconds: Option<f64>, width: usize| {
        let seconds = seconds.map(|s| format!("{s:8.1}")).unwrap_or_default();
        let text = format!(
            "{name:width$}  {contrast:8} {:7.4} {:7.4} {:8.2} {:8.3} {:8.2}{seconds}",
            v[0], v[1], v[2], v[3], v[4]
        );
        text.trim_end().to_owned()
    };
    let names: Vec<String> = scores.iter().map(|s| s.image.display().to_string()).collect();
    let groups = groups(scores);
    let titles: Vec<[String; 2]> = groups
        .iter()
        .map(|g| [format!("median of {}, {}", g.heads, g.name), format!("worst of {}, {}", g.heads, g.name)])
        .collect();
    let width = names
        .iter()
        .chain(titles.iter().flatten())
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0)
        .max("image".len());
    let mut lines = vec![format!(
        "{:width$}  {:8} {:>7} {:>7} {:>8} {:>8} {:>8} {:>7}",
        "image", "contrast", "Dice", "IoU", "HD95 mm", "ASSD mm", "volume %", "s"
    )];
    for (name, score) in names.iter().zip(scores) {
        let contrast = score.contrast.as_deref().unwrap_or("");
        lines.push(line(name, contrast, values(score), Some(score.seconds), width));
    }
    for (group, [median, worst]) in groups.iter().zip(&titles) {
        lines.push(line(median, "", group.median, None, width));
        lines.push(line(worst, "", group.worst, None, width));
    }
    for (name, score) in names.iter().zip(scores) {
        lines.extend(score.warnings.iter().map(|text| format!("look at {name}: {text}")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use trephine::volume::metrics::Agreement;

    fn score(name: &str, contrast: &str, dice: f64, volume: f64) -> HeadScore {
        let agreement = Agreement {
            dice,
            iou: dice / (2.0 - dice),
            hd95_mm: 10.0 * (1.0 - dice),
            assd_mm: 1.0,
            volume_error_percent: volume,
        };
        HeadScore {
            image: name.into(),
            contrast: Some(contrast.into()),
            agreement,
            seconds: 1.0,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn median_and_worst_by_contrast() {
        let scores =
            [score("a", "T1w", 0.98, 1.0), score("b", "T1w", 0.94, -5.0), score("c", "T2w", 0.9, 3.0)];
        let groups = groups(&scores.iter().collect::<Vec<_>>());
        assert_eq!(groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["all", "T1w", "T2w"]);
        assert_eq!((groups[0].median[0], groups[0].worst[0], groups[0].worst[4]), (0.94, 0.9, -5.0));
        assert!((groups[1].median[0] - 0.96).abs() < 1e-12);
        let text = table_of(&scores.iter().collect::<Vec<_>>());
        assert_eq!(text.lines().count(), 1 + 3 + 6);
        assert!(text.contains("worst of 2, T1w"), "{text}");
        let mut doubtful = scores;
        doubtful[1].warnings.push("the mask holds 3 mL".into());
        let text = table_of(&doubtful.iter().collect::<Vec<_>>());
        assert!(text.ends_with("look at b: the mask holds 3 mL"), "{text}");
    }
}
