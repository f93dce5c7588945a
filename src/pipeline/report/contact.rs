//! A sheet of many small heads with the outlines of their brains: what a person looks at before believing a set of them.

use std::path::Path;

use crate::pipeline::{PipelineError, write_whole};
use crate::tensor::Xyz;
use crate::volume::Volume;

/// Edge of a picture in pixels, and of a pixel in mm.
const TILE: usize = 104;
const PIXEL_MM: f64 = 2.1;
/// Heads in a row, each with two pictures.
const COLUMNS: usize = 6;
/// Levels of grey: noise of more would be most of the file. The colour of the outline comes after them.
const GREYS: u8 = 24;
const OUTLINE: [u8; 3] = [255, 70, 60];
/// What lies beyond the field of view.
const BEYOND: u8 = 2;
/// The quantile of the values that is white.
const WHITE: f64 = 0.995;

/// A sheet, filled head by head.
pub struct ContactSheet {
    /// Levels, row by row.
    pixels: Vec<u8>,
    width: usize,
    filled: usize,
}

impl ContactSheet {
    /// An empty one for so many heads.
    pub fn new(heads: usize) -> Self {
        let width = COLUMNS.min(heads.max(1)) * 2 * TILE;
        let height = heads.div_ceil(COLUMNS).max(1) * TILE;
        Self { pixels: vec![0; width * height], width, filled: 0 }
    }

    /// Adds a head: a sagittal slice to the left of the brain's middle and an axial one through it.
    ///
    /// # Panics
    /// When mask and image differ in their extents, or the sheet is full.
    pub fn add(&mut self, image: &Volume, mask: &[u8]) {
        assert_eq!(image.data.len(), mask.len(), "one mask value a voxel");
        let (left, top) = (self.filled % COLUMNS * 2 * TILE, self.filled / COLUMNS * TILE);
        self.filled += 1;
        let middle = middle_of(image, mask);
        let [black, white] = ends(&image.data);
        let inverse = image.affine.inverse();
        let index = |at: glam::DVec3| -> Option<usize> {
            let at = (inverse.transform_point3(at) + 0.5).floor();
            let inside = (0..3).all(|a| at[a] >= 0.0 && at[a] < image.shape[a] as f64);
            inside.then(|| image.index(at.x as usize, at.y as usize, at.z as usize))
        };
        // The picture's axes: right and up, in mm of the world.
        let views = [
            (glam::DVec3::NEG_Y, glam::DVec3::Z, glam::DVec3::X * -12.0),
            (glam::DVec3::X, glam::DVec3::Y, glam::DVec3::ZERO),
        ];
        for (view, (right, up, aside)) in views.into_iter().enumerate() {
            let at = |x: i64, y: i64| {
                let [x, y] = [x, y].map(|v| (v as f64 - TILE as f64 / 2.0) * PIXEL_MM);
                index(middle + aside + right * x - up * y)
            };
            let brain = |x: i64, y: i64| at(x, y).is_some_and(|ix| mask[ix] != 0);
            for pixel in 0..TILE * TILE {
                let (x, y) = ((pixel % TILE) as i64, (pixel / TILE) as i64);
                let edge = brain(x, y)
                    && !(brain(x - 1, y) && brain(x + 1, y) && brain(x, y - 1) && brain(x, y + 1));
                let grey = at(x, y).map_or(BEYOND, |ix| {
                    let part = ((image.data[ix] - black) / (white - black)).clamp(0.0, 1.0);
                    (part * f32::from(GREYS - 1)).round() as u8
                });
                let row = top + pixel / TILE;
                self.pixels[row * self.width + left + view * TILE + pixel % TILE] =
                    if edge { GREYS } else { grey };
            }
        }
    }

    /// Writes it as PNG, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PipelineError> {
        let greys = (0..GREYS).flat_map(|level| [(255 * u32::from(level) / u32::from(GREYS - 1)) as u8; 3]);
        let palette: Vec<u8> = greys.chain(OUTLINE).collect();
        let mut bytes = Vec::new();
        let height = self.pixels.len() / self.width;
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, height as u32);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_palette(palette);
        encoder.set_compression(png::Compression::High);
        encoder.set_filter(png::Filter::NoFilter);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.pixels)?;
            writer.finish()
        });
        written.map_err(|e| PipelineError::Plot(e.to_string()))?;
        write_whole(path, &bytes)
    }
}

/// The middle of the mask in the world; that of the volume without one.
fn middle_of(image: &Volume, mask: &[u8]) -> glam::DVec3 {
    let Xyz([nx, ny, _]) = image.shape;
    let (sum, count) =
        (0..mask.len()).filter(|&ix| mask[ix] != 0).fold((glam::DVec3::ZERO, 0.0), |(sum, count), ix| {
            let at = [ix % nx, ix / nx % ny, ix / nx / ny].map(|v| v as f64);
            (sum + glam::DVec3::from_array(at), count + 1.0)
        });
    let middle = if count > 0.0 { sum / count } else { crate::volume::middle(image.shape) };
    image.affine.transform_point3(middle)
}

/// The values that are black and white: the least one, and a quantile.
fn ends(values: &[f32]) -> [f32; 2] {
    let step = values.len().div_ceil(1 << 17).max(1);
    let mut sample: Vec<f32> = values.iter().copied().step_by(step).filter(|v| v.is_finite()).collect();
    sample.sort_unstable_by(f32::total_cmp);
    let at =
        |q: f64| sample.get((q * sample.len().saturating_sub(1) as f64) as usize).copied().unwrap_or(0.0);
    let [black, white] = [at(0.005), at(WHITE)];
    if white > black { [black, white] } else { [black, black + 1.0] }
}
