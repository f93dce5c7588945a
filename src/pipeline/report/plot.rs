//! Plots, as SVG or PNG by the extension of their file.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::Canvas;
use crate::pipeline::evaluate::HeadScore;
use crate::pipeline::{PipelineError, write_whole};
use crate::volume::metrics::percentile;

/// A line of a [`Panel`].
pub struct Curve {
    /// What the legend calls it.
    pub name: &'static str,
    /// Abscissae in rising order, each with its value; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Curves that share an axis.
pub struct Panel {
    /// What stands above it.
    pub title: &'static str,
    /// Its curves, up to three.
    pub curves: Vec<Curve>,
}

/// Draws panels side by side, all by the same abscissa.
///
/// # Errors
/// When the file cannot be written.
pub fn curves(path: &Path, abscissa: &str, panels: &[Panel]) -> Result<(), PipelineError> {
    save(path, &Panels { abscissa, panels })
}

/// Draws how well masks agree with their references: a row a contrast, a column a measure, with the quartiles
/// as a box, whiskers to the last head within 1.5 times their distance, and a point a head.
///
/// # Errors
/// When the file cannot be written.
pub fn agreement(path: &Path, title: &str, scores: &[&HeadScore]) -> Result<(), PipelineError> {
    save(path, &Agreement { title, rows: by_contrast(scores) })
}

/// Whether a name is that of a plot: `.svg` or `.png`.
pub fn is_plot_name(path: &Path) -> bool {
    is_png(path) || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg"))
}

fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"))
}

type Drawn = Result<(), Box<dyn Error>>;

/// What can be drawn on any backend.
trait Figure {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Drawn
    where
        DB::ErrorType: 'static;
}

fn save(path: &Path, figure: &impl Figure) -> Result<(), PipelineError> {
    let bytes = if is_png(path) { png(figure) } else { svg(figure) };
    write_whole(path, &bytes.map_err(|e| PipelineError::Plot(e.to_string()))?)
}

fn svg(figure: &impl Figure) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, figure.size()).into_drawing_area();
    figure.draw(&root)?;
    root.present()?;
    drop(root);
    Ok(text.into_bytes())
}

fn png(figure: &impl Figure) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut picture = Canvas::blank(figure.size());
    let root = Canvas::new(&mut picture)?.into_drawing_area();
    figure.draw(&root)?;
    root.present()?;
    drop(root);
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

struct Panels<'a> {
    abscissa: &'a str,
    panels: &'a [Panel],
}

impl Figure for Panels<'_> {
    fn size(&self) -> (u32, u32) {
        (500 * self.panels.len().max(1) as u32, 400)
    }

    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        root.fill(&WHITE)?;
        let areas = root.split_evenly((1, self.panels.len().max(1)));
        for (area, panel) in areas.iter().zip(self.panels) {
            panel.draw(area, self.abscissa)?;
        }
        Ok(())
    }
}

impl Panel {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, abscissa: &str) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let points = || self.curves.iter().flat_map(|c| &c.points).filter(|(_, v)| v.is_finite());
        let low = points().map(|p| p.1).fold(f64::INFINITY, f64::min).min(1e9);
        let high = points().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max).max(low + 1e-6);
        let last = self.curves.iter().flat_map(|c| &c.points).map(|p| p.0).fold(2.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 20))
            .margin(10)
            .x_label_area_size(35)
            .y_label_area_size(50)
            .build_cartesian_2d(1.0..last, low..high)?;
        chart.configure_mesh().x_desc(abscissa).draw()?;
        for (curve, colour) in self.curves.iter().zip([BLUE, RED, GREEN]) {
            let finite = curve.points.iter().copied().filter(|(_, v)| v.is_finite());
            chart
                .draw_series(LineSeries::new(finite, colour))?
                .label(curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 15, y)], colour));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .position(SeriesLabelPosition::MiddleRight)
            .draw()?;
        Ok(())
    }
}

/// A column of the figure of agreement.
struct Measure {
    name: &'static str,
    value: fn(&HeadScore) -> f64,
    /// An end of the axis that no value passes.
    bounds: [Option<f64>; 2],
    decimals: usize,
    signed: bool,
}

const MEASURES: [Measure; 4] = [
    Measure {
        name: "Dice",
        value: |s| s.agreement.dice,
        bounds: [Some(0.0), Some(1.0)],
        decimals: 3,
        signed: false,
    },
    Measure {
        name: "HD95, mm",
        value: |s| s.agreement.hd95_mm,
        bounds: [Some(0.0), None],
        decimals: 1,
        signed: false,
    },
    Measure {
        name: "ASSD, mm",
        value: |s| s.agreement.assd_mm,
        bounds: [Some(0.0), None],
        decimals: 2,
        signed: false,
    },
    Measure {
        name: "Volume error, %",
        value: |s| s.agreement.volume_error_percent,
        bounds: [None, None],
        decimals: 1,
        signed: true,
    },
];

impl Measure {
    fn text(&self, value: f64) -> String {
        let text = format!("{:.*}", self.decimals, value);
        // A figure that rounds to zero has no sign.
        let zero = text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.');
        let sign = if self.signed && !zero && value > 0.0 { "+" } else { "" };
        let text = if zero { text.trim_start_matches('-') } else { &text };
        format!("{sign}{text}").replace('-', "\u{2212}")
    }

    /// The axis's range for these values.
    fn range(&self, values: &[f64]) -> (f64, f64) {
        let mut low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let mut high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return (self.bounds[0].unwrap_or(-1.0), self.bounds[1].unwrap_or(1.0));
        }
        if self.signed {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let margin = 0.08 * (high - low).max(10f64.powi(-(self.decimals as i32)));
        let low = self.bounds[0].map_or(low - margin, |b| b.max(low - margin));
        let high = self.bounds[1].map_or(high + margin, |b| b.min(high + margin));
        (low, high)
    }
}

/// Round numbers within a range, about four.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let rough = (high - low) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

/// Heads of each contrast in the order in which they come.
fn by_contrast<'a>(scores: &[&'a HeadScore]) -> Vec<(String, Vec<&'a HeadScore>)> {
    let mut rows: Vec<(String, Vec<&HeadScore>)> = Vec::new();
    for score in scores {
        let name = score.contrast.as_deref().filter(|name| !name.is_empty()).unwrap_or("heads");
        match rows.iter_mut().find(|(known, _)| known == name) {
            Some((_, row)) => row.push(score),
            None => rows.push((name.to_owned(), vec![score])),
        }
    }
    rows
}

struct Agreement<'a> {
    title: &'a str,
    rows: Vec<(String, Vec<&'a HeadScore>)>,
}

/// Pixels of the figure of agreement.
const LABELS: i32 = 110;
const PANEL: i32 = 250;
const GAP: i32 = 28;
const HEADER: i32 = 88;
const ROW: i32 = 74;
const FOOTER: i32 = 50;

const INK: RGBColor = RGBColor(45, 45, 50);
const FAINT: RGBColor = RGBColor(110, 110, 118);
const LINES: RGBColor = RGBColor(226, 226, 230);
/// Okabe and Ito's colours, told apart by the colour-blind too.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

fn style(size: i32, colour: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(h, v))
}

impl Figure for Agreement<'_> {
    fn size(&self) -> (u32, u32) {
        let measures = MEASURES.len() as i32;
        let width = LABELS + measures * (PANEL + GAP);
        let height = HEADER + ROW * self.rows.len().max(1) as i32 + FOOTER;
        (width.unsigned_abs(), height.unsigned_abs())
    }

    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        root.fill(&WHITE)?;
        root.draw(&Text::new(self.title, (16, 16), style(20, INK, HPos::Left, VPos::Top)))?;
        for (row, (name, heads)) in self.rows.iter().enumerate() {
            let middle = HEADER + ROW * row as i32 + ROW / 2;
            let x = LABELS - 14;
            root.draw(&Text::new(name.as_str(), (x, middle - 1), style(16, INK, HPos::Right, VPos::Bottom)))?;
            let count = format!("{} head{}", heads.len(), if heads.len() == 1 { "" } else { "s" });
            root.draw(&Text::new(count, (x, middle + 4), style(12, FAINT, HPos::Right, VPos::Top)))?;
        }
        for (column, measure) in MEASURES.iter().enumerate() {
            self.panel(root, LABELS + column as i32 * (PANEL + GAP), measure)?;
        }
        Ok(())
    }
}

impl Agreement<'_> {
    fn panel<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>, left: i32, measure: &Measure) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let bottom = HEADER + ROW * self.rows.len() as i32;
        let finite = |heads: &[&HeadScore]| -> Vec<f64> {
            heads.iter().map(|s| (measure.value)(s)).filter(|v| v.is_finite()).collect()
        };
        let all: Vec<f64> = self.rows.iter().flat_map(|(_, heads)| finite(heads)).collect();
        let (low, high) = measure.range(&all);
        let at = |value: f64| left + ((value - low) / (high - low) * f64::from(PANEL)).round() as i32;

        let title = style(16, INK, HPos::Left, VPos::Bottom);
        root.draw(&Text::new(measure.name, (left, HEADER - 10), title))?;
        for tick in ticks((low, high)) {
            let zero = measure.signed && tick == 0.0;
            let line = if zero { FAINT } else { LINES };
            root.draw(&PathElement::new([(at(tick), HEADER), (at(tick), bottom)], line))?;
            let label = style(12, FAINT, HPos::Center, VPos::Top);
            let places = Measure { decimals: measure.decimals.min(2), ..*measure };
            root.draw(&Text::new(places.text(tick), (at(tick), bottom + 8), label))?;
        }
        for edge in (0..=self.rows.len()).map(|row| HEADER + ROW * row as i32) {
            root.draw(&PathElement::new([(left, edge), (left + PANEL, edge)], LINES))?;
        }
        for (row, (_, heads)) in self.rows.iter().enumerate() {
            let values = finite(heads);
            let middle = HEADER + ROW * row as i32 + ROW / 2 + 6;
            let colour = COLOURS[row % COLOURS.len()];
            draw_row(root, &values, middle, colour, measure, &at)?;
            let lost = heads.len() - values.len();
            if lost > 0 {
                let text = format!("{lost} not finite");
                let note = style(11, FAINT, HPos::Right, VPos::Bottom);
                root.draw(&Text::new(text, (left + PANEL, middle + ROW / 2 - 8), note))?;
            }
        }
        Ok(())
    }
}

/// Half the height of a box.
const BOX: i32 = 15;

fn draw_row<DB: DrawingBackend>(
    root: &DrawingArea<DB, Shift>,
    values: &[f64],
    middle: i32,
    colour: RGBColor,
    measure: &Measure,
    at: &impl Fn(f64) -> i32,
) -> Drawn
where
    DB::ErrorType: 'static,
{
    if values.is_empty() {
        return Ok(());
    }
    let [q1, median, q3] = [25.0, 50.0, 75.0].map(|p| percentile(values, p));
    // Tukey's whiskers.
    let reach = 1.5 * (q3 - q1);
    let within = || values.iter().copied().filter(|v| (q1 - reach..=q3 + reach).contains(v));
    let low = within().fold(q1, f64::min);
    let high = within().fold(q3, f64::max);
    if values.len() > 1 {
        for (from, to) in [(low, q1), (q3, high)] {
            root.draw(&PathElement::new([(at(from), middle), (at(to), middle)], colour.stroke_width(1)))?;
        }
        for end in [low, high] {
            root.draw(&PathElement::new([(at(end), middle - 6), (at(end), middle + 6)], colour))?;
        }
        let corners = [(at(q1), middle - BOX), (at(q3), middle + BOX)];
        root.draw(&Rectangle::new(corners, WHITE.filled()))?;
        root.draw(&Rectangle::new(corners, colour.mix(0.16).filled()))?;
        root.draw(&Rectangle::new(corners, colour.stroke_width(1)))?;
    }
    for (ix, &value) in values.iter().enumerate() {
        // Steps of the golden ratio fill the height evenly, and each time alike.
        let spread = (ix as f64 * 0.618_033_988_75).fract() - 0.5;
        let y = middle + (spread * 1.5 * f64::from(BOX)).round() as i32;
        root.draw(&Circle::new((at(value), y), 3, colour.mix(0.6).filled()))?;
    }
    let line = [(at(median), middle - BOX), (at(median), middle + BOX)];
    root.draw(&PathElement::new(line, colour.stroke_width(3)))?;
    let label = style(12, INK, HPos::Center, VPos::Bottom);
    root.draw(&Text::new(measure.text(median), (at(median), middle - BOX - 2), label))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::metrics;

    fn score(contrast: &str, dice: f64) -> HeadScore {
        let agreement = metrics::Agreement {
            dice,
            iou: dice / (2.0 - dice),
            hd95_mm: if dice > 0.0 { 200.0 * (1.0 - dice) } else { f64::INFINITY },
            assd_mm: 40.0 * (1.0 - dice),
            volume_error_percent: 300.0 * (dice - 0.95),
        };
        HeadScore {
            image: "head.nii".into(),
            contrast: Some(contrast.into()),
            agreement,
            seconds: 1.0,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks((0.0, 10.0)), [0.0, 5.0, 10.0]);
        assert_eq!(ticks((-1.2, 2.9)), [0.0, 2.0]);
        let fine = ticks((0.912, 0.983));
        assert!(fine.len() >= 3 && fine.iter().all(|t| (0.912..=0.983).contains(t)), "{fine:?}");
    }

    #[test]
    fn figures_are_svg_or_png_by_name() {
        let scores: Vec<HeadScore> = (0..20)
            .map(|i| score(if i % 3 == 0 { "T2w" } else { "T1w" }, 0.93 + 0.003 * f64::from(i)))
            .chain([score("FLAIR", 0.0)])
            .collect();
        let scores: Vec<&HeadScore> = scores.iter().collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.svg");
        agreement(&path, "model x, 21 heads", &scores).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for words in ["T1w", "13 heads", "7 heads", "HD95, mm", "model x", "1 not finite"] {
            assert!(svg.contains(words), "{words}");
        }
        // A point a head and measure, less the one that is infinite in HD95.
        assert_eq!(svg.matches("<circle").count(), 4 * 21 - 1);
        let path = folder.path().join("a.PNG");
        agreement(&path, "model x, 21 heads", &scores).unwrap();
        let picture = image::load_from_memory(&std::fs::read(&path).unwrap()).unwrap().to_rgb8();
        let (width, height) = Agreement { title: "", rows: by_contrast(&scores) }.size();
        assert_eq!(picture.dimensions(), (2 * width, 2 * height));
        // Text, boxes and white: not one colour.
        assert!(picture.pixels().filter(|p| p.0 != [255; 3]).count() > 5000);
        assert!(is_plot_name(&path) && !is_plot_name(Path::new("a.pdf")));
        // Nothing to draw is drawn as nothing.
        agreement(&path, "no heads", &[]).unwrap();
    }
}
