//! The picture that a person checks a mask with: its file, volume and score on top, three planes, several slices each, the
//! mask's outline on the head, the stripped brain below, and what is to be said of it.
//!
//! Slices lie along the axes of the image turned closest to RAS, at its true proportions. Left is left (the
//! neurological convention): the letters L and R, P and A on the first slice of each row say so.

use std::path::Path;

use image::{Rgb, RgbImage};
use plotters::style::{Color, IntoFont, RGBColor};
use plotters_backend::DrawingBackend;

use super::canvas::{Canvas, SCALE};
use crate::pipeline::{PipelineError, write_whole};
use crate::tensor::Xyz;
use crate::volume::Volume;
use crate::volume::orientation::AxisMap;

/// Width of the picture, pixels.
const WIDTH: u32 = 1600;
/// Slices of each plane.
const SLICES: u32 = 6;
/// Black between slices, pixels.
const GAP: u32 = 6;
/// Height of a slice at most, as a multiple of its width: a tall, narrow field of view stays on the screen.
const TALLEST: f64 = 1.6;
/// Colour of a mask's outline: an orange that colour-blind readers tell from grey by its brightness, too.
pub(super) const OUTLINE: Rgb<u8> = Rgb([255, 150, 0]);
const LETTER: Rgb<u8> = Rgb([255, 210, 60]);
/// Size of the warnings' letters and distance of their lines, in the canvas's own pixels.
const REMARK_EM: u32 = 11;
const REMARK_LINE: u32 = 15;
/// The same of the caption's.
const CAPTION_EM: u32 = 13;
const CAPTION_LINE: u32 = 20;
const CAPTION: Rgb<u8> = Rgb([235, 235, 235]);
/// Air left round the head, mm.
const MARGIN_MM: f64 = 6.0;

/// What stands above the slices.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// Name of the image's file.
    pub file: String,
    /// Volume of the mask in mL.
    pub brain_ml: Option<f64>,
    /// How plausible it is.
    pub score: Option<f64>,
    /// Name of the model.
    pub model: String,
}

impl Caption {
    fn text(&self, voxel_mm: [f64; 3], warnings: usize) -> String {
        let Self { file, brain_ml, score, model } = self;
        let mut parts = vec![file.clone()];
        parts.extend(brain_ml.map(|ml| format!("brain {ml:.0} mL")));
        parts.extend(score.map(|score| format!("score {score:.2}")));
        parts.push(format!("model {model}"));
        let short = |mm: f64| format!("{:.2}", mm).trim_end_matches('0').trim_end_matches('.').to_owned();
        parts.push(format!("voxels {} mm", voxel_mm.map(short).join(" x ")));
        match warnings {
            0 => {}
            1 => parts.push("1 warning, below".to_owned()),
            _ => parts.push(format!("{warnings} warnings, below")),
        }
        parts.join("  \u{b7}  ")
    }
}

/// A rectangle of a picture, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Columns left of it.
    pub left: u32,
    /// Rows above it.
    pub top: u32,
    /// Its columns.
    pub width: u32,
    /// Its rows.
    pub height: u32,
}

/// A picture and where its middle slices stand.
pub struct Picture {
    /// The picture.
    pub image: RgbImage,
    /// A sagittal, a coronal and an axial slice with the outline.
    pub middle: [Place; 3],
}

/// Draws a head with its mask (one value a voxel, not 0 inside; it may be empty), and writes what is to be said of the
/// result above and below.
///
/// # Errors
/// When the letters cannot be read.
///
/// # Panics
/// If the mask is not on the volume's grid.
pub fn picture(
    volume: &Volume,
    mask: &[u8],
    caption: Option<&Caption>,
    warnings: &[String],
) -> Result<Picture, PipelineError> {
    let voxel_mm = volume.voxel_size().to_array();
    let caption: Vec<String> = caption.map(|c| c.text(voxel_mm, warnings.len())).into_iter().collect();
    let caption = lines_of(&caption, CAPTION_EM)?;
    let remarks: Vec<String> = warnings.iter().map(|text| format!("Warning: {text}")).collect();
    let remarks = lines_of(&remarks, REMARK_EM)?;
    let scene = Scene::new(volume, mask);
    let tile_width = (WIDTH - (SLICES + 1) * GAP) / SLICES;
    let planes = [Plane::SAGITTAL, Plane::CORONAL, Plane::AXIAL];
    let extents = planes.map(|plane| [plane.across, plane.up].map(|axis| scene.high[axis] - scene.low[axis]));
    // One scale for all, so that sizes can be compared.
    let scale = extents
        .iter()
        .map(|[across, up]| (tile_width as f64 / across).min(tile_width as f64 * TALLEST / up))
        .fold(f64::INFINITY, f64::min);
    let heights = extents.map(|[_, up]| ((up * scale).round() as u32).max(FONT_HEIGHT + 4));
    let above = SCALE * CAPTION_LINE * caption.len() as u32;
    let slices = heights.iter().map(|h| 2 * (h + GAP)).sum::<u32>() + GAP;
    let below = SCALE * REMARK_LINE * remarks.len() as u32;
    let mut canvas = RgbImage::new(WIDTH, above + slices + below);
    write_lines(&mut canvas, &caption, 0, [CAPTION_EM, CAPTION_LINE], CAPTION)?;
    let mut top = above + GAP;
    let mut middle = Vec::new();
    for (plane, height) in planes.into_iter().zip(heights) {
        for column in 0..SLICES {
            let left = GAP + column * (tile_width + GAP);
            let place = Place { left, top, width: tile_width, height };
            let tile = Tile { left, top, width: tile_width, height, scale };
            tile.draw(&mut canvas, &scene, plane, scene.slice(plane.through, column));
            if column == 0 {
                tile.label(&mut canvas, plane);
            }
            // Beside the very middle, where a sagittal slice would show little but the falx.
            if column == SLICES / 2 {
                middle.push(place);
            }
        }
        top += 2 * (height + GAP);
    }
    write_lines(&mut canvas, &remarks, top, [REMARK_EM, REMARK_LINE], LETTER)?;
    let middle = middle.try_into().expect("each plane has a middle column");
    Ok(Picture { image: canvas, middle })
}

/// Texts as lines that fit the picture.
fn lines_of(texts: &[String], em: u32) -> Result<Vec<String>, PipelineError> {
    let mut picture = RgbImage::new(WIDTH, 1);
    let canvas = Canvas::new(&mut picture).map_err(|e| PipelineError::Plot(e.to_string()))?;
    Ok(texts.iter().flat_map(|text| canvas.wrapped(text, f64::from(em), GAP)).collect())
}

/// Writes lines of text from a row of the picture on.
fn write_lines(
    picture: &mut RgbImage,
    lines: &[String],
    top: u32,
    [em, line_height]: [u32; 2],
    Rgb([r, g, b]): Rgb<u8>,
) -> Result<(), PipelineError> {
    let mut canvas = Canvas::new(picture).map_err(|e| PipelineError::Plot(e.to_string()))?;
    let style = ("sans-serif", em).into_font().color(&RGBColor(r, g, b).to_rgba());
    for (ix, line) in (0u32..).zip(lines) {
        let y = top / SCALE + line_height * ix + (line_height - em) / 2;
        let at = (GAP.cast_signed(), y.cast_signed());
        canvas.draw_text(line, &style, at).map_err(|e| PipelineError::Plot(e.to_string()))?;
    }
    Ok(())
}

/// The keyword under which a PNG file says where its middle slices stand: `left,top,width,height`, blanks between them.
pub const MIDDLE: &str = "trephine:middle";

/// Draws a head with its mask, caption and warnings into a PNG file, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write(
    path: &Path,
    volume: &Volume,
    mask: &[u8],
    caption: &Caption,
    warnings: &[String],
) -> Result<(), PipelineError> {
    let Picture { image, middle } = picture(volume, mask, Some(caption), warnings)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let middle = middle.map(|Place { left, top, width, height }| format!("{left},{top},{width},{height}"));
    let written = encoder
        .add_text_chunk(MIDDLE.to_owned(), middle.join(" "))
        .and_then(|()| encoder.write_header())
        .and_then(|mut writer| {
            writer.write_image_data(image.as_raw())?;
            writer.finish()
        });
    written
        .map_err(|e| PipelineError::Write { file: path.to_path_buf(), source: std::io::Error::other(e) })?;
    write_whole(path, &bytes)
}

/// A plane of slices: the axis it moves along and the axes of its pictures.
#[derive(Clone, Copy)]
struct Plane {
    through: usize,
    across: usize,
    up: usize,
    /// Letters of the left and right edge.
    ends: [char; 2],
}

impl Plane {
    const SAGITTAL: Self = Self { through: 0, across: 1, up: 2, ends: ['P', 'A'] };
    const CORONAL: Self = Self { through: 1, across: 0, up: 2, ends: ['L', 'R'] };
    const AXIAL: Self = Self { through: 2, across: 0, up: 1, ends: ['L', 'R'] };
}

/// The head in RAS axes and millimetres from its first voxel's corner; the arrays stay as they are stored.
struct Scene<'a> {
    shape: Xyz<usize>,
    /// Where the first voxel stands in the arrays, and how far from one voxel to the next along each axis.
    start: isize,
    stride: [isize; 3],
    voxel_mm: [f64; 3],
    values: &'a [f32],
    mask: &'a [u8],
    /// Grey 0 and 255.
    window: [f32; 2],
    /// Box that is shown, mm.
    low: [f64; 3],
    high: [f64; 3],
    /// Voxels that the slices are spread over, first and one past the last.
    spread: [[usize; 2]; 3],
}

impl<'a> Scene<'a> {
    fn new(head: &'a Volume, mask: &'a [u8]) -> Self {
        assert_eq!(mask.len(), head.data.len(), "the mask lies on the head's grid");
        let map = AxisMap::to_canonical(&head.affine);
        let shape = map.shape(head.shape);
        let stored = [1, head.shape[0], head.shape[0] * head.shape[1]];
        let (mut start, mut stride) = (0, map.source.map(|axis| stored[axis].cast_signed()));
        for axis in 0..3 {
            if map.flip[axis] {
                start += (shape[axis] - 1).cast_signed() * stride[axis];
                stride[axis] = -stride[axis];
            }
        }
        let turned = |bounds: [[usize; 2]; 3]| -> [[usize; 2]; 3] {
            std::array::from_fn(|axis| match bounds[map.source[axis]] {
                [first, end] if map.flip[axis] => [shape[axis] - end, shape[axis] - first],
                same => same,
            })
        };
        let window = window(&head.data);
        // Twice the noise of air, about.
        let visible = window[0] + 0.1 * (window[1] - window[0]);
        let shown = bounds(head.shape, |ix| head.data[ix] > visible || mask[ix] != 0);
        let shown = shown.map_or(shape.map(|n| [0, n]).0, turned);
        let own_mm = head.voxel_size().to_array();
        let voxel_mm = map.source.map(|axis| own_mm[axis]);
        let size = |axis: usize| shape[axis] as f64 * voxel_mm[axis];
        let edge = |axis: usize, end: usize| shown[axis][end] as f64 * voxel_mm[axis];
        Self {
            shape,
            start,
            stride,
            voxel_mm,
            values: &head.data,
            mask,
            window,
            low: std::array::from_fn(|a| (edge(a, 0) - MARGIN_MM).max(0.0)),
            high: std::array::from_fn(|a| (edge(a, 1) + MARGIN_MM).min(size(a))),
            spread: bounds(head.shape, |ix| mask[ix] != 0).map_or(shown, turned),
        }
    }

    /// Voxel of slice `column` along `axis`: the middles of equal parts.
    fn slice(&self, axis: usize, column: u32) -> usize {
        let [first, end] = self.spread[axis];
        first + ((end - first) * (2 * column as usize + 1) / (2 * SLICES as usize)).min(end - first - 1)
    }

    /// Grey value and brain share, both interpolated in the plane, at `mm` along its two axes.
    fn sample(&self, plane: Plane, slice: usize, mm: [f64; 2]) -> (f32, f32) {
        let axes = [plane.across, plane.up];
        let at: [f64; 2] = std::array::from_fn(|i| {
            (mm[i] / self.voxel_mm[axes[i]] - 0.5).clamp(0.0, self.shape[axes[i]] as f64 - 1.0)
        });
        let (mut grey, mut brain) = (0.0, 0.0);
        for corner in 0..4usize {
            let mut ix = self.start + slice.cast_signed() * self.stride[plane.through];
            let mut weight = 1.0;
            for (i, &axis) in axes.iter().enumerate() {
                let below = at[i].floor();
                let fraction = at[i] - below;
                let up = corner >> i & 1 == 1;
                weight *= if up { fraction } else { 1.0 - fraction };
                let voxel = (below as usize + usize::from(up)).min(self.shape[axis] - 1);
                ix += voxel.cast_signed() * self.stride[axis];
            }
            let ix = ix.cast_unsigned();
            let value = self.values[ix];
            grey += weight as f32 * if value.is_finite() { value } else { 0.0 };
            brain += weight as f32 * f32::from(u8::from(self.mask[ix] != 0));
        }
        (grey, brain)
    }

    fn grey(&self, value: f32) -> Rgb<u8> {
        let [low, high] = self.window;
        // Saturates; NaN becomes 0.
        Rgb([(255.0 * (value - low) / (high - low)) as u8; 3])
    }
}

/// A slice's place on the canvas; the stripped brain is drawn in a tile of the same size below.
struct Tile {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    /// Pixels a mm.
    scale: f64,
}

impl Tile {
    fn draw(&self, canvas: &mut RgbImage, scene: &Scene<'_>, plane: Plane, slice: usize) {
        let middle = |axis: usize| (scene.low[axis] + scene.high[axis]) / 2.0;
        let (width, height) = (self.width as usize, self.height as usize);
        let sample = |px: usize, py: usize| {
            let right = px as f64 + 0.5 - width as f64 / 2.0;
            let up = height as f64 / 2.0 - py as f64 - 0.5;
            let mm = [middle(plane.across) + right / self.scale, middle(plane.up) + up / self.scale];
            let inside = [plane.across, plane.up]
                .iter()
                .zip(mm)
                .all(|(&axis, mm)| (scene.low[axis]..=scene.high[axis]).contains(&mm));
            inside.then(|| scene.sample(plane, slice, mm))
        };
        let pixels: Vec<Option<(f32, f32)>> =
            (0..width * height).map(|ix| sample(ix % width, ix / width)).collect();
        let brain = |px: usize, py: usize| pixels[py * width + px].is_some_and(|(_, share)| share >= 0.5);
        for (ix, pixel) in pixels.iter().enumerate() {
            let Some((value, _)) = *pixel else { continue };
            let (px, py) = (ix % width, ix / width);
            let at = |below: u32| (self.left + px as u32, self.top + py as u32 + below);
            let (x, y) = at(0);
            canvas.put_pixel(x, y, scene.grey(value));
            if !brain(px, py) {
                continue;
            }
            let (x, y) = at(self.height + GAP);
            canvas.put_pixel(x, y, scene.grey(value));
            let border = px == 0
                || py == 0
                || px + 1 == width
                || py + 1 == height
                || !(brain(px - 1, py) && brain(px + 1, py) && brain(px, py - 1) && brain(px, py + 1));
            if border {
                let (x, y) = at(0);
                canvas.put_pixel(x, y, OUTLINE);
            }
        }
    }

    fn label(&self, canvas: &mut RgbImage, plane: Plane) {
        let y = self.top + self.height.saturating_sub(FONT_HEIGHT) / 2;
        let lefts = [self.left + 2, self.left + self.width - FONT_WIDTH - 2];
        for (letter, x) in plane.ends.into_iter().zip(lefts) {
            draw_letter(canvas, letter, x, y);
        }
    }
}

/// The 1st and 99.5th percentile of the finite voxels: a few bright vessels do not darken the rest.
fn window(values: &[f32]) -> [f32; 2] {
    // 250,000 samples place a percentile within a tenth of a percent.
    let step = (values.len() / 250_000).max(1);
    let mut sample: Vec<f32> = values.iter().copied().step_by(step).filter(|v| v.is_finite()).collect();
    if sample.is_empty() {
        return [0.0, 1.0];
    }
    sample.sort_unstable_by(f32::total_cmp);
    let at = |thousandth: usize| sample[(sample.len() - 1) * thousandth / 1000];
    let (low, high) = (at(10), at(995));
    if low < high {
        return [low, high];
    }
    let (least, most) = (at(0), at(1000));
    [least, if most > least { most } else { least + 1.0 }]
}

/// First and one past the last voxel of those wanted, by axis; `None` when there are none.
fn bounds(shape: Xyz<usize>, wanted: impl Fn(usize) -> bool) -> Option<[[usize; 2]; 3]> {
    let mut found: Option<[[usize; 2]; 3]> = None;
    let mut ix = 0;
    for z in 0..shape[2] {
        for y in 0..shape[1] {
            for x in 0..shape[0] {
                if wanted(ix) {
                    let at = [x, y, z];
                    let bounds = found.get_or_insert(at.map(|v| [v, v + 1]));
                    for (bound, v) in bounds.iter_mut().zip(at) {
                        *bound = [bound[0].min(v), bound[1].max(v + 1)];
                    }
                }
                ix += 1;
            }
        }
    }
    found
}

/// Size of a letter with its shadow, pixels: 5x7 dots of 2 pixels.
const FONT_WIDTH: u32 = 11;
const FONT_HEIGHT: u32 = 15;

/// Rows of 5 dots, the leftmost in the highest bit.
fn dots(letter: char) -> [u8; 7] {
    match letter {
        'L' => [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111],
        'R' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001],
        'A' => [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        'P' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000],
        _ => [0; 7],
    }
}

fn draw_letter(canvas: &mut RgbImage, letter: char, left: u32, top: u32) {
    // A black shadow first keeps the letter readable on bright tissue.
    for (colour, shift) in [(Rgb([0, 0, 0]), 1), (LETTER, 0)] {
        for (row, bits) in (0..).zip(dots(letter)) {
            for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                for dot in 0..4 {
                    let (x, y) = (left + 2 * column + dot % 2 + shift, top + 2 * row + dot / 2 + shift);
                    if x < canvas.width() && y < canvas.height() {
                        canvas.put_pixel(x, y, colour);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glam::{DMat4, DVec3};

    /// A bright ball in a grey box, brighter towards +x.
    fn ball(affine: DMat4, shape: Xyz<usize>) -> (Volume, Vec<u8>) {
        let mut volume = Volume::zeros(shape, affine);
        let mut mask = vec![0; volume.data.len()];
        for (ix, (value, label)) in volume.data.iter_mut().zip(&mut mask).enumerate() {
            let at = DVec3::new(
                (ix % shape[0]) as f64,
                (ix / shape[0] % shape[1]) as f64,
                (ix / (shape[0] * shape[1])) as f64,
            );
            let world = affine.transform_point3(at);
            *value = 50.0 + world.x as f32;
            *label = u8::from(world.length() < 15.0);
        }
        (volume, mask)
    }

    fn centred(voxel: DVec3, shape: Xyz<usize>) -> DMat4 {
        DMat4::from_scale(voxel) * DMat4::from_translation(-crate::volume::middle(shape))
    }

    fn drawn(volume: &Volume, mask: &[u8]) -> RgbImage {
        picture(volume, mask, None, &[]).expect("the letters are built in").image
    }

    #[test]
    fn warnings_stand_below_the_slices() {
        let shape = [40, 44, 48];
        let (volume, mask) = ball(centred(DVec3::ONE, Xyz(shape)), Xyz(shape));
        let plain = drawn(&volume, &mask);
        let warnings = ["short".to_owned(), "a long one ".repeat(40)];
        let warned = picture(&volume, &mask, None, &warnings).expect("the letters are built in").image;
        // One line, and several.
        let (line, extra) = (SCALE * REMARK_LINE, warned.height() - plain.height());
        assert!(extra % line == 0 && extra / line >= 4, "{extra} pixels");
        let same = plain.enumerate_pixels().all(|(x, y, pixel)| warned.get_pixel(x, y) == pixel);
        assert!(same, "the slices stay as they are");
        for row in 0..extra / line {
            let at = plain.height() + row * line;
            let lit = (at..at + line).any(|y| (0..WIDTH).any(|x| warned.get_pixel(x, y)[0] > 200));
            assert!(lit, "line {row} is empty");
        }
    }

    #[test]
    fn the_caption_says_what_the_mask_is_worth() {
        let shape = Xyz([40, 44, 48]);
        let (volume, mask) = ball(centred(DVec3::new(1.0, 1.25, 2.0), shape), shape);
        let caption = Caption {
            file: "head.nii".into(),
            brain_ml: Some(1431.7),
            score: Some(0.934),
            model: "default".into(),
        };
        let voxel_mm = volume.voxel_size().to_array();
        assert_eq!(
            caption.text(voxel_mm, 2).replace("  \u{b7}  ", "; "),
            "head.nii; brain 1432 mL; score 0.93; model default; voxels 1 x 1.25 x 2 mm; 2 warnings, below"
        );
        let plain = picture(&volume, &mask, None, &[]).unwrap();
        let titled = picture(&volume, &mask, Some(&caption), &[]).unwrap();
        let above = SCALE * CAPTION_LINE;
        assert_eq!(titled.image.height(), plain.image.height() + above);
        assert!((0..above).any(|y| (0..WIDTH).any(|x| titled.image.get_pixel(x, y)[0] > 200)));
        // The middle slices are where they are said to be: they show the outline, on all sides.
        for ([a, b], view) in titled.middle.iter().zip(&plain.middle).map(|(a, b)| [a, b]).zip(0..) {
            assert_eq!((a.top, a.left, a.height), (b.top + above, b.left, b.height));
            let outline = (a.top..a.top + a.height)
                .flat_map(|y| (a.left..a.left + a.width).map(move |x| (x, y)))
                .filter(|&(x, y)| *titled.image.get_pixel(x, y) == OUTLINE);
            assert!(outline.count() > 100, "view {view}");
        }
    }

    fn count(picture: &RgbImage, colour: Rgb<u8>) -> usize {
        picture.pixels().filter(|&&p| p == colour).count()
    }

    #[test]
    fn an_image_looks_the_same_however_it_is_stored() {
        let shape = [40, 44, 48];
        let (ras, mask) = ball(centred(DVec3::ONE, Xyz(shape)), Xyz(shape));
        let first = drawn(&ras, &mask);
        assert_eq!(first.width(), WIDTH);
        let flipped = DVec3::new(-1.0, 1.0, -1.0);
        let (other, mask) = ball(centred(flipped, Xyz(shape)), Xyz(shape));
        assert_eq!(drawn(&other, &mask), first);
        // Left is left: the ramp along x rises to the right of the first coronal slice.
        let rows = first.height() / 3;
        let y = rows + rows / 8;
        assert!(first.get_pixel(30, y)[0] < first.get_pixel(220, y)[0]);
    }

    #[test]
    fn anisotropic_voxels_are_shown_in_proportion() {
        let (thin, thick) = ([40, 44, 48], [40, 44, 12]);
        let (a, mask) = ball(centred(DVec3::ONE, Xyz(thin)), Xyz(thin));
        let one = drawn(&a, &mask);
        let (b, mask) = ball(centred(DVec3::new(1.0, 1.0, 4.0), Xyz(thick)), Xyz(thick));
        let other = drawn(&b, &mask);
        assert_eq!(one.dimensions(), other.dimensions());
        let (n, m) = (count(&one, OUTLINE) as f64, count(&other, OUTLINE) as f64);
        assert!(n > 1000.0 && (m / n - 1.0).abs() < 0.1, "{n} {m}");
    }

    #[test]
    fn empty_masks_and_odd_images_are_drawn() {
        let shape = [9, 8, 7];
        let affine = centred(DVec3::ONE, Xyz(shape));
        let (mut volume, mask) = ball(affine, Xyz(shape));
        let empty = vec![0; mask.len()];
        assert_eq!(count(&drawn(&volume, &empty), OUTLINE), 0);
        volume.data.fill(f32::NAN);
        drawn(&volume, &mask);
        volume.data.fill(3.0);
        drawn(&volume, &empty);
        for shape in [[1, 1, 1], [300, 2, 1], [2, 1, 300]] {
            let (volume, mask) = ball(centred(DVec3::ONE, Xyz(shape)), Xyz(shape));
            assert!(drawn(&volume, &mask).height() < 3200);
        }
    }
}
