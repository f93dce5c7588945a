//! Small pictures of heads, made from the large ones.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ExtendedColorType, RgbImage};

use super::qc::{MIDDLE, OUTLINE, Place};

/// Width of a slice in the small picture, pixels.
const SLICE: u32 = 150;
/// Gap between slices.
const GAP: u32 = 3;
/// Width where the file does not say what it shows.
const WHOLE: u32 = 3 * SLICE + 2 * GAP;
/// Of JPEG, 1 to 100: at this, an outline of one pixel is still one line.
const QUALITY: u8 = 78;

/// The middle slices of a picture that [`super::qc`] wrote, side by side, as JPEG; of another picture, all of it.
///
/// # Errors
/// Why there is none.
pub fn jpeg(picture: &Path) -> Result<Vec<u8>, String> {
    let (large, middle) = read(picture)?;
    let small = match middle {
        Some(places) => {
            let views = places.map(|Place { left, top, width, height }| {
                outlined(&imageops::crop_imm(&large, left, top, width, height).to_image(), SLICE)
            });
            let height = views.iter().map(RgbImage::height).max().unwrap_or(1);
            let mut small = RgbImage::new(WHOLE, height);
            for (view, left) in views.iter().zip((0..).step_by((SLICE + GAP) as usize)) {
                imageops::replace(&mut small, view, left, i64::from((height - view.height()) / 2));
            }
            small
        }
        None => scaled(&large, WHOLE),
    };
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .encode(&small, small.width(), small.height(), ExtendedColorType::Rgb8)
        .map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// A slice made smaller, with its outline as wide as before.
fn outlined(view: &RgbImage, width: u32) -> RgbImage {
    let mut small = scaled(view, width);
    let (across, down) = (small.width(), small.height());
    for (x, y, _) in view.enumerate_pixels().filter(|(.., pixel)| **pixel == OUTLINE) {
        small.put_pixel(x * across / view.width(), y * down / view.height(), OUTLINE);
    }
    small
}

fn scaled(view: &RgbImage, width: u32) -> RgbImage {
    let height = (view.height() * width).div_ceil(view.width().max(1)).max(1);
    imageops::resize(view, width, height, FilterType::Triangle)
}

/// The picture, and where its middle slices stand, if it says so.
fn read(path: &Path) -> Result<(RgbImage, Option<[Place; 3]>), String> {
    let file = File::open(path).map_err(|e| format!("cannot be opened ({e})"))?;
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| format!("is no PNG file ({e})"))?;
    let texts = &reader.info().uncompressed_latin1_text;
    let middle = texts.iter().find(|text| text.keyword == MIDDLE).and_then(|text| places(&text.text));
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("is too large")?];
    let frame = reader.next_frame(&mut pixels).map_err(|e| format!("is damaged ({e})"))?;
    pixels.truncate(frame.buffer_size());
    if frame.color_type != png::ColorType::Rgb {
        return Err(format!("is no picture of Trephine's: {:?} pixels", frame.color_type));
    }
    let image = RgbImage::from_raw(frame.width, frame.height, pixels).ok_or("is damaged")?;
    let inside = |place: &Place| {
        let end = |from: u32, length: u32| from.checked_add(length);
        end(place.left, place.width).is_some_and(|right| right <= image.width())
            && end(place.top, place.height).is_some_and(|bottom| bottom <= image.height())
            && place.width > 0
            && place.height > 0
    };
    let middle = middle.filter(|places| places.iter().all(inside));
    Ok((image, middle))
}

fn places(text: &str) -> Option<[Place; 3]> {
    let place = |part: &str| {
        let numbers: Vec<u32> = part.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [left, top, width, height] = numbers[..] else { return None };
        Some(Place { left, top, width, height })
    };
    text.split(' ').map(place).collect::<Option<Vec<_>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::qc::{self, Caption};
    use super::*;
    use crate::tensor::Xyz;
    use crate::volume::Volume;
    use glam::DMat4;

    #[test]
    fn a_thumbnail_shows_the_middle_slices() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let mut volume = Volume::zeros(Xyz([20, 24, 22]), DMat4::from_scale([8.0, 8.0, 8.0].into()));
        volume.data.iter_mut().enumerate().for_each(|(ix, v)| *v = (ix % 20) as f32);
        let mask = vec![1; volume.data.len()];
        let caption = Caption { file: "a".into(), brain_ml: None, score: None, model: "m".into() };
        qc::write(&path, &volume, &mask, &caption, &[]).unwrap();
        let small = image::load_from_memory(&jpeg(&path).unwrap()).unwrap().to_rgb8();
        assert_eq!(small.width(), WHOLE);
        // Along x, left to right, the coronal view brightens; so does the axial one.
        for left in [SLICE + GAP, 2 * (SLICE + GAP)] {
            let at = |x: u32| small.get_pixel(left + x, small.height() / 2)[1];
            assert!(at(20) < at(SLICE / 2) && at(SLICE / 2) < at(SLICE - 20), "{left}");
        }
        // Any other picture is shown whole.
        let other = folder.path().join("b.png");
        RgbImage::new(90, 30).save(&other).unwrap();
        let small = image::load_from_memory(&jpeg(&other).unwrap()).unwrap();
        assert_eq!((small.width(), small.height()), (WHOLE, WHOLE / 3));
        std::fs::write(&other, b"no picture").unwrap();
        assert!(jpeg(&other).unwrap_err().contains("is no PNG file"));
        assert!(jpeg(&folder.path().join("none.png")).unwrap_err().contains("cannot be opened"));
    }

    #[test]
    fn places_are_read_or_refused() {
        assert_eq!(places("1,2,3,4 5,6,7,8 9,10,11,12").unwrap()[2].width, 11);
        assert!(
            ["", "1,2,3,4", "1,2,3,4 5,6,7,8 9,10,11", "1,2,3,4 5,6,7,8 9,10,11,-1"]
                .iter()
                .all(|text| places(text).is_none())
        );
    }
}
