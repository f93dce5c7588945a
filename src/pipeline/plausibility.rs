//! Whether a mask can be a brain: the one place where the plausibility of a result is judged.
//!
//! A network marks something in nearly every image, and mostly as much as a brain holds. [`Signals`] are what tells a
//! brain from the rest. They come from what the network said on its own, coarse grid and from a few of the image's
//! voxels, so that they cost little beside the network. [`Signals::doubts`] compares them with thresholds; each
//! [`Doubt`] is a warning in words. The thresholds were set by what `tools/calibrate_plausibility.py` measures on real
//! heads and on nonsense; docs/plausibility.md holds the figures.

use std::fmt;
use std::ops::Range;

use glam::{DMat4, DVec3};
use serde::{Deserialize, Serialize};

use crate::model::Usual;
use crate::tensor::Xyz;
use crate::volume::distance::signed;
use crate::volume::orientation::AxisMap;
use crate::volume::{Grid, Volume, components};

// Each threshold lies beyond what the 40 heads of the public table show, which their signal's range is given of: 27 T1w
// heads, 9 T2w, PDw and FLAIR heads, and the averaged T2w, PDw and EPI heads of SPM, of which the EPI head may pass it.

/// Skull-stripped brains of people from infancy to old age lie within these volumes, in mL.
const BRAIN_ML: Range<f64> = 300.0..2500.0;
/// Least texture. Heads from 0.011, averaged ones from 0.005; up to 0.002 in spheres, bottles, boxes and CT.
const TEXTURE: f64 = 0.0035;
/// Width of the mask over its length. Heads 0.72 to 0.91; spheres and heads turned by a quarter from 1.05.
const WIDTH_TO_LENGTH: Range<f64> = 0.6..1.0;
/// Height of the mask over its width. Heads 0.84 to 1.06; voxels of half or twice their true height to 0.55, animals and
/// bottles from 1.25.
const HEIGHT_TO_WIDTH: Range<f64> = 0.7..1.25;
/// Largest area of the mask on a face of the image, in cm²: the brain stem, which many fields of view cut, is smaller.
const CUT_CM2: f64 = 12.0;
/// Largest share of voxels just outside the mask that hold one and the same value. Heads to 0.2; 0.7 and more in brains
/// that are stripped already.
const BARE: f64 = 0.6;

/// Probabilities between which a voxel is unsure.
const UNSURE_PROBABILITY: Range<f32> = 0.1..0.9;
/// The voxels just outside the mask lie this far from it, in mm: skull and scalp of a head.
const JUST_OUTSIDE_MM: Range<f32> = 6.0..14.0;
/// Texture is looked at deeper than this, where nothing but brain lies near, and on this scale, in mm.
const DEEP_MM: f32 = 8.0;
const TEXTURE_MM: f64 = 4.0;
/// Spacing of the points at which a face of the image is looked at, in mm.
const FACE_STEP_MM: f64 = 2.0;

/// What a network said of an image, on the network's grid.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where the voxels lie.
    pub grid: Grid,
    /// What the network saw, along x, y, z, z fastest; beyond the field of view perhaps the image mirrored at its faces.
    pub seen: Vec<f32>,
    /// Logits in the same order: of the image, or the mean of the image's and the mirrored image's.
    pub logits: Vec<f32>,
    /// Logits of the mirrored image, mirrored back, where the model asks for them.
    pub mirrored: Option<Vec<f32>>,
}

/// A face of an image, by the side of the head that it is closest to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Face {
    /// Towards -x in the world.
    Left,
    /// Towards +x.
    Right,
    /// Towards -y.
    Back,
    /// Towards +y.
    Front,
    /// Towards -z.
    Bottom,
    /// Towards +z.
    Top,
}

/// What was measured of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signals {
    /// Volume of the mask in mL.
    pub brain_ml: f64,
    /// Voxels of the network's grid with a probability of 0.1 to 0.9, over those of the mask.
    pub unsure: f64,
    /// Dice of the network's masks of the image and of its mirror image; absent where the model takes one pass.
    pub mirrored_dice: Option<f64>,
    /// Area in cm² over which the mask touches the face of the image where it is largest.
    pub cut_cm2: f64,
    /// That face.
    pub cut_face: Face,
    /// Median difference from the mean of the six neighbours 4 mm away, deep in the mask, over the range of what the network
    /// saw, from the 1st to the 99.5th percentile: a brain's tissues differ, a bottle's water does not.
    pub texture: f64,
    /// Standard deviation of the mask's places from left to right over that from back to front.
    pub width_to_length: f64,
    /// Standard deviation of the mask's places from bottom to top over that from left to right.
    pub height_to_width: f64,
    /// Share of the voxels 6 to 14 mm outside the mask, within the image, that hold the commonest of their values.
    pub bare: f64,
}

/// Why a mask may not be a brain. Its text says what looks wrong and what to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Doubt {
    /// A volume that no human brain has.
    Volume {
        /// Of the mask, mL.
        brain_ml: f64,
    },
    /// The brain goes on beyond the image.
    Cut {
        /// Where.
        face: Face,
        /// Over this area.
        cm2: f64,
    },
    /// The network is unsure of too many voxels.
    Unsure {
        /// Over the mask's voxels.
        share: f64,
    },
    /// The mirrored image gets another mask.
    Mirrored {
        /// Of the two masks.
        dice: f64,
    },
    /// All that the mask holds looks alike.
    Flat {
        /// Texture, of the image's range.
        texture: f64,
    },
    /// The mask is not as long, wide and high as a brain.
    Proportions {
        /// Width over length.
        width_to_length: f64,
        /// Height over width.
        height_to_width: f64,
    },
    /// Nothing lies round the brain.
    Stripped {
        /// Of the voxels just outside the mask.
        share: f64,
    },
}

impl fmt::Display for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left",
            Self::Right => "right",
            Self::Back => "back",
            Self::Front => "front",
            Self::Bottom => "bottom",
            Self::Top => "top",
        })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Volume { brain_ml } => write!(
                f,
                "the mask holds {brain_ml:.0} mL, outside the {:.0} to {:.0} mL of human brains; look at it before use",
                BRAIN_ML.start, BRAIN_ML.end
            ),
            Self::Cut { face, cm2 } => write!(
                f,
                "the mask reaches the {face} face of the image over {cm2:.0} cm2: the brain is cut there and its volume \
                 is too small; use an image that shows the whole brain where the volume matters"
            ),
            Self::Unsure { share } => write!(
                f,
                "the network is unsure of many voxels ({:.0}% of the mask's): the image may show no upright human head, \
                 or its header lie about the orientation; look at the mask before use",
                100.0 * share
            ),
            Self::Mirrored { dice } => write!(
                f,
                "the mirrored image gets another mask (Dice {dice:.2}): the image may show no upright human head, or its \
                 header lie about the orientation; look at the mask before use"
            ),
            Self::Flat { texture } => write!(
                f,
                "what the mask holds looks all alike (texture {:.1}% of the image's range): the image may show no brain, \
                 or hardly tell its tissues apart, as CT; look at the mask before use",
                100.0 * texture
            ),
            Self::Proportions { width_to_length, height_to_width } => write!(
                f,
                "the mask has not a brain's proportions (width {width_to_length:.2} of its length, {:.2} to {:.2} in people; \
                 height {height_to_width:.2} of its width, {:.2} to {:.2}): the image may show no whole human head, or its \
                 header lie about orientation or voxel size; look at the mask before use",
                WIDTH_TO_LENGTH.start, WIDTH_TO_LENGTH.end, HEIGHT_TO_WIDTH.start, HEIGHT_TO_WIDTH.end
            ),
            Self::Stripped { share } => write!(
                f,
                "{:.0}% of the voxels just outside the mask hold one value: the brain seems to be stripped already, and \
                 the mask may cut into it; give the whole head",
                100.0 * share
            ),
        }
    }
}

const SAME: &str = "there is a logit a voxel";

impl Answer {
    /// The network's mask of the image, in the order of the logits.
    fn mask(&self) -> Vec<u8> {
        let shape = self.shape_renamed();
        let above: Vec<u8> = self.logits.iter().map(|&l| u8::from(l > 0.0)).collect();
        let largest = components::largest(&above, shape).expect(SAME);
        components::fill_holes(&largest, shape).expect(SAME)
    }

    /// Its extents as if z were x, whose voxels lie side by side in the order of an image's: what is asked of masks below
    /// does not tell one axis from another.
    fn shape_renamed(&self) -> Xyz<usize> {
        let Xyz([x, y, z]) = self.grid.shape;
        Xyz([z, y, x])
    }

    /// Voxel (x, y, z) of a flat index.
    fn voxel(&self, ix: usize) -> DVec3 {
        let Xyz([_, y, z]) = self.grid.shape;
        DVec3::new((ix / (y * z)) as f64, (ix / z % y) as f64, (ix % z) as f64)
    }

    /// Flat index of the voxel that a place in the world lies in.
    fn at(&self, from_world: &DMat4, place: DVec3) -> Option<usize> {
        let [x, y, z] = nearest(self.grid.shape, from_world.transform_point3(place))?;
        Some((x * self.grid.shape[1] + y) * self.grid.shape[2] + z)
    }
}

/// The voxel that a place on a grid, in voxels, lies in.
fn nearest(shape: Xyz<usize>, voxel: DVec3) -> Option<[usize; 3]> {
    let at = voxel.round().to_array();
    (0..3).all(|a| at[a] >= 0.0 && at[a] < shape[a] as f64).then(|| at.map(|v| v as usize))
}

impl Signals {
    /// Measures a mask of `brain_ml` that follows from `answer` to `image`. What the network said of places beyond the
    /// image's faces does not count.
    pub fn measure(answer: &Answer, image: &Volume, brain_ml: f64) -> Self {
        let to_image = image.affine.inverse() * answer.grid.affine;
        // Asked anew each time: a list of them would be the largest thing in memory here.
        let place = |ix: usize| nearest(image.shape, to_image.transform_point3(answer.voxel(ix)));
        let whole = answer.mask();
        let (cut_face, cut_cm2) = cut(answer, &whole, image);
        let mut mask = whole;
        for (ix, v) in mask.iter_mut().enumerate().filter(|(_, v)| **v != 0) {
            *v = u8::from(place(ix).is_some());
        }
        let voxels = mask.iter().filter(|&&v| v != 0).count().max(1) as f64;
        let unsure = (answer.logits.iter().enumerate())
            .filter(|&(ix, &logit)| UNSURE_PROBABILITY.contains(&sigmoid(logit)) && place(ix).is_some())
            .count();
        let [x, y, z] = answer.grid.voxel_size().to_array();
        let distance_mm = signed(&mask, answer.shape_renamed(), [z, y, x]).expect(SAME);
        let just_outside = (distance_mm.iter().enumerate())
            .filter(|(_, distance)| JUST_OUTSIDE_MM.contains(distance))
            .filter_map(|(ix, _)| place(ix).map(|[x, y, z]| image.data[image.index(x, y, z)]));
        let [x_mm, y_mm, z_mm] = spread_mm(answer, &mask);
        Self {
            brain_ml,
            unsure: unsure as f64 / voxels,
            mirrored_dice: answer.mirrored.as_ref().map(|mirrored| mirrored_dice(&answer.logits, mirrored)),
            cut_cm2,
            cut_face,
            texture: texture(answer, &distance_mm),
            width_to_length: x_mm / y_mm,
            height_to_width: z_mm / x_mm,
            bare: commonest(just_outside.collect()),
        }
    }

    /// What a person should look at. How sure a network is says something only beside what is `usual` for it.
    pub fn doubts(&self, usual: Option<Usual>) -> Vec<Doubt> {
        // NaN is beyond every threshold.
        self.excesses(usual)
            .into_iter()
            .filter(|(excess, _)| excess.is_nan() || *excess > 1.0)
            .map(|(_, doubt)| doubt)
            .collect()
    }

    /// 1 where no signal comes near its threshold, below 0.5 where one is beyond it, towards 0 the further it is.
    pub fn score(&self, usual: Option<Usual>) -> f64 {
        let of = |excess: f64| if excess.is_nan() { 0.0 } else { 1.0 / (1.0 + excess.powi(4)) };
        self.excesses(usual).into_iter().map(|(excess, _)| of(excess)).fold(1.0, f64::min)
    }

    /// How far each signal is from what is best, where its threshold is at 1, and what is doubted beyond that.
    fn excesses(&self, usual: Option<Usual>) -> Vec<(f64, Doubt)> {
        let from_middle = |value: f64, ends: Range<f64>| {
            (2.0 * value - ends.start - ends.end).abs() / (ends.end - ends.start)
        };
        let logarithms = BRAIN_ML.start.ln()..BRAIN_ML.end.ln();
        let proportions = [(self.width_to_length, WIDTH_TO_LENGTH), (self.height_to_width, HEIGHT_TO_WIDTH)]
            .map(|(value, ends)| from_middle(value, ends))
            .into_iter()
            // NaN stays.
            .fold(0.0, |most, excess| if excess.is_nan() || excess > most { excess } else { most });
        let mut found = vec![
            (from_middle(self.brain_ml.ln(), logarithms), Doubt::Volume { brain_ml: self.brain_ml }),
            (self.bare / BARE, Doubt::Stripped { share: self.bare }),
            (self.cut_cm2 / CUT_CM2, Doubt::Cut { face: self.cut_face, cm2: self.cut_cm2 }),
            (TEXTURE / self.texture, Doubt::Flat { texture: self.texture }),
            (
                proportions,
                Doubt::Proportions {
                    width_to_length: self.width_to_length,
                    height_to_width: self.height_to_width,
                },
            ),
        ];
        if let Some(usual) = usual {
            found.push((self.unsure / usual.unsure, Doubt::Unsure { share: self.unsure }));
            let differing = |dice: f64| (1.0 - dice) / (1.0 - usual.mirrored_dice);
            found.extend(self.mirrored_dice.map(|dice| (differing(dice), Doubt::Mirrored { dice })));
        }
        found
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Dice of the masks of the image and of the mirrored image; `mean` are the mean logits of both.
fn mirrored_dice(mean: &[f32], mirrored: &[f32]) -> f64 {
    let (mut both, mut sum) = (0, 0);
    for (&mean, &mirrored) in mean.iter().zip(mirrored) {
        let (plain, mirrored) = (2.0 * mean - mirrored > 0.0, mirrored > 0.0);
        both += usize::from(plain && mirrored);
        sum += usize::from(plain) + usize::from(mirrored);
    }
    2.0 * both as f64 / sum.max(1) as f64
}

/// The face of the image that the mask touches over the largest area, and that area in cm².
fn cut(answer: &Answer, mask: &[u8], image: &Volume) -> (Face, f64) {
    const FACES: [[Face; 2]; 3] =
        [[Face::Left, Face::Right], [Face::Back, Face::Front], [Face::Bottom, Face::Top]];
    let from_world = answer.grid.affine.inverse();
    let canonical = AxisMap::to_canonical(&image.affine);
    let size = image.voxel_size().to_array();
    let mut most = (Face::Top, 0.0);
    for (world, faces) in FACES.into_iter().enumerate() {
        let through = canonical.source[world];
        let in_plane = [(through + 1) % 3, (through + 2) % 3];
        // Points in the middle of equal cells.
        let cells = in_plane
            .map(|a| ((image.shape[a] as f64 * size[a] / FACE_STEP_MM).round() as usize).clamp(1, 512));
        let cell = [0, 1].map(|i| image.shape[in_plane[i]] as f64 / cells[i] as f64);
        let cell_cm2 = cell[0] * size[in_plane[0]] * cell[1] * size[in_plane[1]] / 100.0;
        for (end, face) in faces.into_iter().enumerate() {
            let far = (end == 1) != canonical.flip[world];
            let mut touched = 0;
            for ix in 0..cells[0] * cells[1] {
                let mut voxel = [0.0; 3];
                voxel[through] = if far { image.shape[through] as f64 - 1.0 } else { 0.0 };
                voxel[in_plane[0]] = ((ix % cells[0]) as f64 + 0.5) * cell[0] - 0.5;
                voxel[in_plane[1]] = ((ix / cells[0]) as f64 + 0.5) * cell[1] - 0.5;
                let place = image.affine.transform_point3(DVec3::from_array(voxel));
                touched += usize::from(answer.at(&from_world, place).is_some_and(|at| mask[at] != 0));
            }
            let cm2 = touched as f64 * cell_cm2;
            if cm2 > most.1 {
                most = (face, cm2);
            }
        }
    }
    most
}

/// Standard deviation of the mask's places in the world along left-right, back-front and bottom-top.
fn spread_mm(answer: &Answer, mask: &[u8]) -> [f64; 3] {
    let (mut sum, mut squares, mut count) = (DVec3::ZERO, DVec3::ZERO, 0.0);
    for ix in (0..mask.len()).filter(|&ix| mask[ix] != 0) {
        let voxel = answer.voxel(ix);
        sum += voxel;
        squares += voxel * voxel;
        count += 1.0;
    }
    let mean = sum / f64::max(count, 1.0);
    let variance = (squares / f64::max(count, 1.0) - mean * mean).max(DVec3::ZERO);
    // The network's grids run along the world's axes. The spread of a voxel itself keeps ratios finite.
    let [x, y, z] = (variance + 1.0 / 12.0).to_array().map(f64::sqrt);
    let size = answer.grid.voxel_size();
    [x * size.x, y * size.y, z * size.z]
}

/// Median difference of the voxels deep in the mask from the mean of their neighbours, over the range of all
/// voxels; 0 where the mask has no depth.
fn texture(answer: &Answer, distance_mm: &[f32]) -> f64 {
    let Xyz([_, ny, nz]) = answer.grid.shape;
    let shape = answer.grid.shape;
    let step = answer.grid.voxel_size().to_array().map(|mm| (TEXTURE_MM / mm).round().max(1.0) as usize);
    let stride = [ny * nz, nz, 1];
    let seen = &answer.seen;
    let mut differences: Vec<f32> = (0..seen.len())
        .filter(|&ix| distance_mm[ix] < -DEEP_MM)
        .filter_map(|ix| {
            let mut sum = 0.0;
            for axis in 0..3 {
                let at = ix / stride[axis] % shape[axis];
                let far = step[axis] * stride[axis];
                if at < step[axis] || at + step[axis] >= shape[axis] {
                    return None;
                }
                sum += seen[ix - far] + seen[ix + far];
            }
            Some((seen[ix] - sum / 6.0).abs())
        })
        .collect();
    let median = quantile(&mut differences, 0.5);
    let mut sorted = seen.clone();
    let range = f64::from(quantile(&mut sorted, 0.995)) - f64::from(quantile(&mut sorted, 0.01));
    if range > 0.0 { f64::from(median) / range } else { 0.0 }
}

/// The value at this rank from 0 to 1; 0 of none. Changes the order.
fn quantile(values: &mut [f32], rank: f64) -> f32 {
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    *values.select_nth_unstable_by((rank * last as f64).round() as usize, f32::total_cmp).1
}

/// Share of the commonest value; values that are not finite count as one.
fn commonest(mut values: Vec<f32>) -> f64 {
    for value in &mut values {
        *value = if value.is_finite() { *value } else { f32::INFINITY };
    }
    values.sort_unstable_by(f32::total_cmp);
    let most = values.chunk_by(|a, b| a == b).map(<[f32]>::len).max().unwrap_or(0);
    most as f64 / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half axes of an ellipsoid with a brain's proportions.
    const HALF_MM: DVec3 = DVec3::new(60.0, 72.0, 60.0);

    /// Logits of the ellipsoid round the world's origin on 4 mm voxels, and an image of 2 mm voxels whose values tell places
    /// apart.
    fn ellipsoid() -> (Answer, Volume) {
        let shape = [48, 56, 56];
        let grid = Grid::centred(Xyz(shape), DVec3::splat(4.0), DVec3::ZERO);
        let voxels: usize = shape.iter().product();
        let seen = (0..voxels).map(|ix| [0.0, 0.8, 1.0, 0.3, 0.5][ix % 5]).collect();
        let mut answer = Answer { grid, seen, logits: vec![0.0; voxels], mirrored: None };
        for ix in 0..answer.logits.len() {
            let place = grid.affine.transform_point3(answer.voxel(ix));
            answer.logits[ix] = if (place / HALF_MM).length() < 1.0 { 9.0 } else { -9.0 };
        }
        let image = Grid::centred(Xyz([100, 110, 110]), DVec3::splat(2.0), DVec3::ZERO);
        let mut image = Volume::zeros(image.shape, image.affine);
        image.data = (0..image.data.len()).map(|ix| ix as f32).collect();
        (answer, image)
    }

    const USUAL: Usual = Usual { unsure: 0.3, mirrored_dice: 0.9 };

    /// Signals of a result without fault.
    fn sound() -> Signals {
        Signals {
            brain_ml: 1400.0,
            unsure: USUAL.unsure,
            mirrored_dice: Some(USUAL.mirrored_dice),
            cut_cm2: CUT_CM2,
            cut_face: Face::Bottom,
            texture: TEXTURE,
            width_to_length: 0.8,
            height_to_width: 0.95,
            bare: BARE,
        }
    }

    /// The only doubt that signals raise.
    fn only(signals: &Signals) -> Doubt {
        let doubts = signals.doubts(Some(USUAL));
        assert_eq!(doubts.len(), 1, "{doubts:?}");
        doubts[0]
    }

    #[test]
    fn each_signal_raises_its_own_doubt_beyond_its_threshold() {
        assert_eq!(sound().doubts(Some(USUAL)), []);
        assert_eq!(Signals { mirrored_dice: None, ..sound() }.doubts(Some(USUAL)), []);
        for brain_ml in [299.9, 2500.1] {
            assert_eq!(only(&Signals { brain_ml, ..sound() }), Doubt::Volume { brain_ml });
        }
        let (share, dice, cm2) = (USUAL.unsure + 1e-6, USUAL.mirrored_dice - 1e-6, CUT_CM2 + 1e-6);
        assert_eq!(only(&Signals { unsure: share, ..sound() }), Doubt::Unsure { share });
        assert_eq!(only(&Signals { mirrored_dice: Some(dice), ..sound() }), Doubt::Mirrored { dice });
        // Nobody knows what is usual for such a network.
        let unusual = Signals { unsure: share, mirrored_dice: Some(dice), ..sound() };
        assert_eq!((unusual.doubts(Some(USUAL)).len(), unusual.doubts(None)), (2, vec![]));
        assert_eq!(only(&Signals { cut_cm2: cm2, ..sound() }), Doubt::Cut { face: Face::Bottom, cm2 });
        for (width_to_length, height_to_width) in [(0.59, 0.95), (1.01, 0.95), (0.8, 0.69), (0.8, 1.26)] {
            let got = only(&Signals { width_to_length, height_to_width, ..sound() });
            assert_eq!(got, Doubt::Proportions { width_to_length, height_to_width });
        }
        let texture = TEXTURE - 1e-6;
        assert_eq!(only(&Signals { texture, ..sound() }), Doubt::Flat { texture });
        assert_eq!(only(&Signals { bare: BARE + 1e-6, ..sound() }), Doubt::Stripped { share: BARE + 1e-6 });
    }

    #[test]
    fn the_score_is_a_half_at_a_threshold_and_falls_beyond_it() {
        let best = Signals {
            brain_ml: (300.0f64 * 2500.0).sqrt(),
            unsure: 0.0,
            mirrored_dice: Some(1.0),
            cut_cm2: 0.0,
            texture: 1.0,
            width_to_length: 0.8,
            height_to_width: 0.975,
            bare: 0.0,
            ..sound()
        };
        assert!((best.score(Some(USUAL)) - 1.0).abs() < 1e-6);
        assert_eq!(sound().score(Some(USUAL)), 0.5);
        let shares = [0.5, 0.9, 1.1, 2.0].map(|times| USUAL.unsure * times);
        let scores = shares.map(|unsure| Signals { unsure, ..best.clone() }.score(Some(USUAL)));
        assert!(scores.is_sorted_by(|a, b| a > b) && scores[1] > 0.5 && scores[2] < 0.5, "{scores:?}");
        // Of a network whose answers nobody has measured, these two say nothing.
        assert!(Signals { unsure: 1.0, mirrored_dice: Some(0.0), ..best.clone() }.score(None) > 0.99);
        assert_eq!(Signals { width_to_length: f64::NAN, ..best }.score(None), 0.0);
    }

    #[test]
    fn a_whole_ellipsoid_in_a_textured_image_has_no_fault() {
        let (answer, image) = ellipsoid();
        let signals = Signals::measure(&answer, &image, 1086.0);
        assert_eq!((signals.unsure, signals.cut_cm2, signals.mirrored_dice), (0.0, 0.0, None));
        assert!(signals.bare < 0.01, "{}", signals.bare);
        assert_eq!(signals.doubts(Some(USUAL)), []);
    }

    #[test]
    fn unsure_voxels_count_against_the_mask() {
        let (mut answer, image) = ellipsoid();
        let inside = answer.logits.iter().filter(|&&l| l > 0.0).count();
        // 0.1 and 0.9 are logits of -2.197 and 2.197. The first voxel lies beyond the image.
        let within = (3 * 56 + 3) * 56 + 3;
        for (logit, ix) in
            [(0.0, 0), (-2.1, within), (2.1, within + 1), (-2.3, within + 2), (2.3, within + 3)]
        {
            answer.logits[ix] = logit;
        }
        assert_eq!(Signals::measure(&answer, &image, 1086.0).unsure, 2.0 / inside as f64);
    }

    #[test]
    fn disagreement_of_the_mirrored_pass_is_a_dice() {
        let (mut answer, image) = ellipsoid();
        answer.mirrored = Some(answer.logits.clone());
        assert_eq!(Signals::measure(&answer, &image, 1086.0).mirrored_dice, Some(1.0));
        // The image's own logits are 9 everywhere: the mean of 9 and -9 is 0.
        answer.mirrored = Some(vec![-9.0; answer.logits.len()]);
        answer.logits.fill(0.0);
        assert_eq!(Signals::measure(&answer, &image, 1086.0).mirrored_dice, Some(0.0));
    }

    #[test]
    fn a_cut_is_measured_on_the_face_where_it_is() {
        let (answer, image) = ellipsoid();
        for (axis, faces) in [[Face::Left, Face::Right], [Face::Back, Face::Front], [Face::Bottom, Face::Top]]
            .into_iter()
            .enumerate()
        {
            for (end, face) in faces.into_iter().enumerate() {
                // The image ends 30 mm from the middle of the ellipsoid.
                let mut moved = image.clone();
                let half = image.shape[axis] as f64 - 1.0;
                let mut shift = DVec3::ZERO;
                shift[axis] = if end == 1 { 30.0 - half } else { half - 30.0 };
                moved.affine = DMat4::from_translation(shift) * image.affine;
                for map in [
                    AxisMap::IDENTITY,
                    AxisMap { source: [2, 0, 1], flip: [true, false, true] },
                    AxisMap { source: [0, 2, 1], flip: [false, true, false] },
                ] {
                    let stored = Volume {
                        shape: map.shape(moved.shape),
                        affine: map.affine(&moved.affine, moved.shape),
                        data: map.apply(moved.shape, &moved.data),
                    };
                    let signals = Signals::measure(&answer, &stored, 1086.0);
                    assert_eq!(signals.cut_face, face);
                    let [a, b] = [1, 2].map(|next| HALF_MM[(axis + next) % 3] / 10.0);
                    let want = std::f64::consts::PI * a * b * (1.0 - (30.0 / HALF_MM[axis]).powi(2));
                    assert!((signals.cut_cm2 / want - 1.0).abs() < 0.1, "{face}: {} cm2", signals.cut_cm2);
                }
            }
        }
    }

    #[test]
    fn a_stripped_brain_stands_in_one_value_whatever_it_is() {
        let (answer, mut image) = ellipsoid();
        for ix in 0..image.data.len() {
            let Xyz([x, y, _]) = image.shape;
            let voxel = DVec3::new((ix % x) as f64, (ix / x % y) as f64, (ix / (x * y)) as f64);
            if (image.affine.transform_point3(voxel) / (HALF_MM + 2.0)).length() > 1.0 {
                image.data[ix] = -1024.0;
            }
        }
        let signals = Signals::measure(&answer, &image, 1086.0);
        assert!(signals.bare > 0.99, "{}", signals.bare);
    }

    #[test]
    fn texture_is_what_ramps_and_the_border_have_not() {
        let (mut answer, image) = ellipsoid();
        assert!(Signals::measure(&answer, &image, 1086.0).texture > 0.1);
        for ix in 0..answer.seen.len() {
            let place = answer.grid.affine.transform_point3(answer.voxel(ix));
            answer.seen[ix] = if answer.logits[ix] > 0.0 { 0.5 + place.x as f32 / 200.0 } else { 0.0 };
        }
        assert!(Signals::measure(&answer, &image, 1086.0).texture < 1e-6);
    }

    #[test]
    fn proportions_are_those_of_the_world() {
        let (answer, image) = ellipsoid();
        let signals = Signals::measure(&answer, &image, 1086.0);
        let want = HALF_MM.x / HALF_MM.y;
        assert!((signals.width_to_length - want).abs() < 0.01, "{}", signals.width_to_length);
        assert!((signals.height_to_width - 1.0).abs() < 0.01, "{}", signals.height_to_width);
    }

    #[test]
    fn an_empty_answer_and_an_image_elsewhere_are_measured() {
        let (mut answer, mut image) = ellipsoid();
        image.affine = DMat4::from_translation(DVec3::splat(900.0)) * image.affine;
        let signals = Signals::measure(&answer, &image, 1086.0);
        assert_eq!((signals.bare, signals.cut_cm2), (0.0, 0.0));
        answer.logits.fill(-9.0);
        assert_eq!(
            Signals::measure(&answer, &image, 0.0).doubts(Some(USUAL))[0],
            Doubt::Volume { brain_ml: 0.0 }
        );
    }

    #[test]
    fn doubts_say_what_looks_wrong_and_what_to_do() {
        let cut = Doubt::Cut { face: Face::Top, cm2: 31.2 }.to_string();
        assert!(
            cut.starts_with("the mask reaches the top face of the image over 31 cm2: the brain is cut there"),
            "{cut}"
        );
        for doubt in [
            Doubt::Volume { brain_ml: 2.0 },
            Doubt::Unsure { share: 0.5 },
            Doubt::Mirrored { dice: 0.5 },
            Doubt::Flat { texture: 0.001 },
            Doubt::Proportions { width_to_length: 1.2, height_to_width: 0.9 },
            Doubt::Stripped { share: 0.99 },
        ] {
            let text = doubt.to_string();
            assert!(text.contains("look at") || text.contains("give the whole head"), "{text}");
        }
    }
}
