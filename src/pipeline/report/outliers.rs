//! Which heads of a batch to look at first.
//!
//! A head is suspect by how far its volume lies from the others', by its score, by its warnings. Distances are in robust standard
//! deviations, 1.4826 times the median absolute deviation, which outliers do not move.

use crate::pipeline::batch::{Row, Status};

/// A volume so many robust standard deviations from the median is an outlier (Iglewicz and Hoaglin, 1993).
pub const OUTLIER: f64 = 3.5;
/// A score below this is one of a doubtful mask (`docs/plausibility.md`).
pub const DOUBTFUL: f64 = 0.5;
/// Heads that a median says something of.
const FEWEST: usize = 8;
/// Where most volumes are equal, one standard deviation is at least this share of the median.
const LEAST_SPREAD: f64 = 0.005;

/// Why to look at a head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suspicion {
    /// 1 and more: there is a reason. Infinite for a head without a mask.
    pub level: f64,
    /// In words; none below 1.
    pub reasons: Vec<String>,
}

/// Median and robust standard deviation of the volumes of a batch, mL; `None` of too few heads.
pub fn usual_volume(rows: &[Row]) -> Option<[f64; 2]> {
    let mut volumes: Vec<f64> = rows.iter().filter_map(|row| row.brain_ml).collect();
    if volumes.len() < FEWEST {
        return None;
    }
    let middle = median(&mut volumes);
    let mut apart: Vec<f64> = volumes.iter().map(|ml| (ml - middle).abs()).collect();
    Some([middle, (1.4826 * median(&mut apart)).max(LEAST_SPREAD * middle)])
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() % 2 {
        0 => (values[half - 1] + values[half]) / 2.0,
        _ => values[half],
    }
}

/// How suspect each head is among the others.
pub fn suspicions(rows: &[Row]) -> Vec<Suspicion> {
    let usual = usual_volume(rows);
    rows.iter().map(|row| suspicion(row, usual)).collect()
}

fn suspicion(row: &Row, usual: Option<[f64; 2]>) -> Suspicion {
    let mut suspicion = Suspicion::default();
    let mut add = |level: f64, reason: String| {
        suspicion.level = suspicion.level.max(level);
        if level >= 1.0 {
            suspicion.reasons.push(reason);
        }
    };
    match row.status {
        Status::Failed => add(f64::INFINITY, "failed".to_owned()),
        Status::Partial => add(1e3, "volumes of the series failed".to_owned()),
        Status::Ok => {}
    }
    if let (Some(ml), Some([median, spread])) = (row.brain_ml, usual) {
        let apart = (ml - median) / spread;
        let side = if apart < 0.0 { "below" } else { "above" };
        add(
            apart.abs() / OUTLIER,
            format!("volume {:.1} robust SD {side} the median of {median:.0} mL", apart.abs()),
        );
    }
    if let Some(score) = row.score {
        add(DOUBTFUL / score.max(1e-3), format!("score {score:.2}"));
    }
    match row.warnings.len() {
        0 => {}
        1 => add(1.0, "1 warning".to_owned()),
        n => add(1.0, format!("{n} warnings")),
    }
    suspicion
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(brain_ml: f64, score: f64) -> Row {
        let text = format!(
            r#"{{"path": "a", "status": "ok", "brain_ml": {brain_ml}, "score": {score}, "seconds": {{"read": 1.0}},
                "signals": null, "warnings": [], "error": null, "outputs": null}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_is_apart_comes_first() {
        let mut rows: Vec<Row> = (0..20).map(|n| row(1400.0 + f64::from(n), 0.95)).collect();
        assert!(suspicions(&rows).iter().all(|s| s.level < 1.0 && s.reasons.is_empty()));
        rows.push(row(900.0, 0.9));
        rows.push(row(1410.0, 0.25));
        rows.push(Row { warnings: vec!["odd".into()], ..row(1410.0, 0.95) });
        rows.push(Row { status: Status::Failed, brain_ml: None, score: None, ..row(0.0, 0.0) });
        let found = suspicions(&rows);
        let levels: Vec<f64> = found[20..].iter().map(|s| s.level).collect();
        assert!(
            levels[0] > 10.0 && levels[1] == 2.0 && levels[2] == 1.0 && levels[3] == f64::INFINITY,
            "{levels:?}"
        );
        assert!(found[20].reasons[0].contains("robust SD below the median of 14"), "{found:?}");
        assert_eq!(found[21].reasons, ["score 0.25"]);
        // Outliers do not hide each other: with as many as a third, each is still one.
        rows.truncate(20);
        rows.extend((0..9).map(|_| row(2300.0, 0.95)));
        assert!(suspicions(&rows)[20..].iter().all(|s| s.level > 1.0));
        // Of a few heads, nobody knows what is usual; equal volumes are no ground to suspect the next one.
        assert!(suspicions(&[row(1000.0, 0.9), row(1900.0, 0.9)]).iter().all(|s| s.level < 1.0));
        let mut equal: Vec<Row> = (0..9).map(|_| row(1400.0, 0.9)).collect();
        equal.push(row(1403.0, 0.9));
        assert!(suspicions(&equal)[9].level < 1.0);
    }
}
