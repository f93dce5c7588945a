//! Plots as SVG.

use std::path::Path;

use plotters::prelude::*;

use super::train::EpochRow;
use super::{PipelineError, write_whole};

/// Draws loss on the left and Dice on the right, by epoch, training and validation.
///
/// # Errors
/// When the file cannot be written.
pub fn training_curves(path: &Path, rows: &[EpochRow]) -> Result<(), PipelineError> {
    let mut svg = String::new();
    draw(&mut svg, rows).map_err(|e| PipelineError::Training(format!("plot: {e}")))?;
    write_whole(path, svg.as_bytes())
}

type Curve<'a> = (&'a str, RGBColor, fn(&EpochRow) -> f64);

fn draw(svg: &mut String, rows: &[EpochRow]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, (1000, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(500);
    let loss: [Curve<'_>; 2] = [("training", BLUE, |r| r.loss), ("validation", RED, |r| r.validation_loss)];
    let dice: [Curve<'_>; 3] = [
        ("training Dice", BLUE, |r| r.dice),
        ("validation Dice", RED, |r| r.validation_dice),
        ("validation IoU", GREEN, |r| r.validation_iou),
    ];
    panel(&left, "Loss", rows, &loss)?;
    panel(&right, "Overlap", rows, &dice)?;
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    rows: &[EpochRow],
    curves: &[Curve<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let values = || curves.iter().flat_map(|(_, _, f)| rows.iter().map(f)).filter(|v| v.is_finite());
    let low = values().fold(f64::INFINITY, f64::min).min(1e9);
    let high = values().fold(f64::NEG_INFINITY, f64::max).max(low + 1e-6);
    let last = rows.last().map_or(1, |r| r.epoch).max(2) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(35)
        .y_label_area_size(50)
        .build_cartesian_2d(1.0..last, low..high)?;
    chart.configure_mesh().x_desc("epoch").draw()?;
    for (name, colour, value) in curves {
        let points: Vec<(f64, f64)> =
            rows.iter().map(|r| (r.epoch as f64, value(r))).filter(|(_, v)| v.is_finite()).collect();
        chart.draw_series(LineSeries::new(points, colour))?.label(*name).legend({
            let colour = *colour;
            move |(x, y)| PathElement::new([(x, y), (x + 15, y)], colour)
        });
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .position(SeriesLabelPosition::MiddleRight)
        .draw()?;
    Ok(())
}
