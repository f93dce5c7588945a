//! Two reports side by side.

use serde::Serialize;

use super::report::{Report, Row};
use crate::pipeline::tuning_cache::Milliseconds;

/// A result in both reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Operator or network, direction, shapes and variant.
    pub what: String,
    /// Median before.
    pub old_ms: f64,
    /// Median now.
    pub new_ms: f64,
    /// Before by now: above 1 is faster.
    pub ratio: f64,
    /// The ranges of the samples do not overlap.
    pub significant: bool,
}

impl Change {
    fn new(what: String, old: Milliseconds, new: Milliseconds) -> Self {
        Self {
            what,
            old_ms: old.median,
            new_ms: new.median,
            ratio: old.median / new.median,
            significant: new.min > old.max || new.max < old.min,
        }
    }
}

fn name(row: &Row) -> String {
    let shader = row.shader.as_ref().map(|shader| format!(" ({shader})")).unwrap_or_default();
    let Row { op, direction, dtype, variant, .. } = row;
    format!("{op} {direction} {dtype} {} [{variant}]{shader}", row.inputs.join(" "))
}

/// What both reports have, in the order of `new`; and remarks on why they may not compare.
pub fn compare(old: &Report, new: &Report) -> (Vec<Change>, Vec<String>) {
    let mut changes: Vec<Change> = Vec::new();
    for row in &new.rows {
        let name = name(row);
        if let Some(before) = old.rows.iter().find(|before| self::name(before) == name) {
            changes.push(Change::new(name, before.ms, row.ms));
        }
    }
    if let (Some(before), Some(now)) = (&old.total, &new.total)
        && (&before.name, &before.direction, &before.dtype, &before.shape)
            == (&now.name, &now.direction, &now.dtype, &now.shape)
    {
        let what = format!("{} {} {} in all", now.name, now.direction, now.dtype);
        changes.push(Change::new(what, before.ms, now.ms));
    }
    let mut remarks = Vec::new();
    if old.adapter != new.adapter {
        remarks.push(format!(
            "the old report is of {} ({}), this one of {} ({})",
            old.adapter.name, old.adapter.driver, new.adapter.name, new.adapter.driver
        ));
    }
    if old.clock != new.clock {
        remarks.push("the reports were measured with different clocks".to_owned());
    }
    let drift = new.peak.fma_gflops / old.peak.fma_gflops;
    if !(0.9..1.1).contains(&drift) {
        remarks.push(format!(
            "this adapter's peak was {drift:.2} times that of the old report: the machine runs at another speed"
        ));
    }
    (changes, remarks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranges_apart_are_significant() {
        let ms = |median, min, max| Milliseconds { median, min, max };
        let change = |new| Change::new(String::new(), ms(10.0, 9.0, 11.0), new);
        assert!(!change(ms(8.9, 8.0, 9.1)).significant);
        let faster = change(ms(5.0, 4.0, 6.0));
        assert!(faster.significant && faster.ratio == 2.0);
        assert!(change(ms(20.0, 19.0, 21.0)).significant);
        assert!(change(ms(f64::NAN, f64::NAN, f64::NAN)).ratio.is_nan());
    }
}
