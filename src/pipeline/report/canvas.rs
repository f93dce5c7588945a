//! A raster to plot on, with text.
//!
//! The raster backend of `plotters` draws text through a font library of the system, or shares its font with the
//! layout of every backend. This one brings its letters along, and smooths discs.

use std::convert::Infallible;

use ab_glyph::{Font, FontRef, InvalidFont, PxScale, ScaleFont, point};
use image::{Rgb, RgbImage};
use plotters::style::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, rasterizer,
};

/// Pixels of the picture along one of the plot: sharp on today's screens and in print.
pub(super) const SCALE: u32 = 2;

static FONT: &[u8] = include_bytes!("../../../assets/DejaVuSans-Latin.ttf");

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

/// Draws on a picture, at [`SCALE`] times its own coordinates.
pub(super) struct Canvas<'a> {
    picture: &'a mut RgbImage,
    font: FontRef<'static>,
}

impl<'a> Canvas<'a> {
    /// A black picture for a plot of this size.
    pub(super) fn blank((width, height): (u32, u32)) -> RgbImage {
        RgbImage::new(SCALE * width, SCALE * height)
    }

    pub(super) fn new(picture: &'a mut RgbImage) -> Result<Self, InvalidFont> {
        Ok(Self { picture, font: FontRef::try_from_slice(FONT)? })
    }

    /// Lays a colour over a pixel of the picture, if it is one.
    fn blend(&mut self, x: i32, y: i32, colour: BackendColor, cover: f32) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if let Some(Rgb(pixel)) = self.picture.get_pixel_mut_checked(x, y) {
            let alpha = colour.alpha as f32 * cover.clamp(0.0, 1.0);
            for (old, new) in pixel.iter_mut().zip(<[u8; 3]>::from(colour.rgb)) {
                *old = (f32::from(*old) + alpha * (f32::from(new) - f32::from(*old))).round() as u8;
            }
        }
    }

    /// Size in the sense of ab_glyph, which counts from the deepest to the highest point.
    fn scale(&self, em: f64) -> PxScale {
        let per_em = self.font.height_unscaled() / self.font.units_per_em().unwrap_or(1.0);
        PxScale::from(em as f32 * SCALE as f32 * per_em)
    }

    /// Text broken into lines no wider than the picture less `margin` on both sides, in the picture's own coordinates.
    pub(super) fn wrapped(&self, text: &str, em: f64, margin: u32) -> Vec<String> {
        let room = self.picture.width().saturating_sub(2 * SCALE * margin) as f32;
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            let longer = lines.last().map(|line| format!("{line} {word}"));
            match longer.filter(|longer| self.width(longer, self.scale(em)) <= room) {
                Some(longer) => *lines.last_mut().expect("it grew from the last") = longer,
                None => lines.push(word.to_owned()),
            }
        }
        lines
    }

    /// Advance of a line of text in pixels of the picture.
    fn width(&self, text: &str, scale: PxScale) -> f32 {
        let font = self.font.as_scaled(scale);
        text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum()
    }
}

impl DrawingBackend for Canvas<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.picture.width() / SCALE, self.picture.height() / SCALE)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, colour: BackendColor) -> Drawn {
        let scale = SCALE.cast_signed();
        for dy in 0..scale {
            for dx in 0..scale {
                self.blend(scale * x + dx, scale * y + dy, colour, 1.0);
            }
        }
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        centre: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Drawn {
        if !fill {
            return rasterizer::draw_circle(self, centre, radius, style, fill);
        }
        let scale = SCALE.cast_signed();
        let radius = (SCALE * radius) as f32;
        let reach = radius as i32 + 1;
        for dy in -reach..=reach {
            for dx in -reach..=reach {
                // The part of a pixel that a straight edge at this distance covers.
                let cover = radius + 0.5 - (dx as f32).hypot(dy as f32);
                self.blend(scale * centre.0 + dx, scale * centre.1 + dy, style.color(), cover);
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, (x, y): BackendCoord) -> Drawn {
        let scale = self.scale(style.size());
        let em = (style.size() * f64::from(SCALE)) as f32;
        let width = self.width(text, scale);
        let anchor = style.anchor();
        let mut pen = (SCALE.cast_signed() * x) as f32
            - match anchor.h_pos {
                HPos::Left => 0.0,
                HPos::Center => width / 2.0,
                HPos::Right => width,
            };
        // The baseline where the SVG backend of plotters puts it.
        let baseline = (SCALE.cast_signed() * y) as f32
            + match anchor.v_pos {
                VPos::Top => 0.76 * em,
                VPos::Center => 0.25 * em,
                VPos::Bottom => -0.25 * em,
            };
        for c in text.chars() {
            let id = self.font.glyph_id(c);
            let glyph = id.with_scale_and_position(scale, point(pen, baseline));
            pen += self.font.as_scaled(scale).h_advance(id);
            let Some(outline) = self.font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|dx, dy, cover| {
                let (px, py) = (corner.x as i32 + dx.cast_signed(), corner.y as i32 + dy.cast_signed());
                self.blend(px, py, style.color(), cover);
            });
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let width = self.width(text, self.scale(style.size())) / SCALE as f32;
        Ok((width.ceil() as u32, style.size().ceil() as u32))
    }
}
