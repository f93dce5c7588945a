//! Which of a volume's values mean anything: where its background lies, and above what no tissue lies.
//!
//! What a network sees is the volume through its window: background 0, no voxel below it and none beyond the brightest
//! tissue; hot and dead voxels take the value of their neighbours before anything is averaged. So a constant added to all voxels changes nothing, padding outside a scanner's field of view is background as
//! air is, and so is whatever lies beyond the volume.

use std::borrow::Cow;

use crate::volume::{Problem, Volume};

/// Values that the quantiles are taken of: enough for 0.05% of a quantile's rank.
const SAMPLE: usize = 1 << 17;
/// Part of the voxels that may be spoilt at either end.
const SPOILT: f64 = 0.02;
/// Ranks among the values other than the least one: the darkest voxels, and the air or the darkest tissue.
const DARK: f64 = SPOILT;
const AIR: f64 = 0.15;
/// Share of the voxels that hold exactly the least value where it is a level of its own and no chance.
const PLATEAU: f64 = 0.01;
/// A plateau is padding where the gap above it is at least so many times as wide as the levels of the air are apart: in
/// scans it is tens of times, beside a head whose background was set to the least value less than once.
const PADDING_GAP: f32 = 4.0;
/// Smaller gaps, in parts of the range of tissue, are as good as none.
const PADDING_STEP: f32 = 0.1;
/// The brightest voxels (fat, vessels, close to a coil) in units of the bright tissue's level above the background: in
/// 40 heads of five contrasts they reach 3.1 at most.
const BRIGHTEST: f32 = 3.5;

/// The values of a volume that count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// What stands for no signal.
    pub background: f32,
    /// No tissue is brighter.
    pub top: f32,
}

impl Window {
    /// That of a volume.
    ///
    /// The background is the least value, unless that is an outlier or padding, a level that many voxels hold and a gap
    /// parts from all others; then it is the least value of the rest. Up to 2% of the voxels may be spoilt at either end.
    ///
    /// # Errors
    /// A volume without two finite values that differ.
    pub fn of(volume: &Volume) -> Result<Self, Problem> {
        let content = volume.check_content()?;
        let sample = sample(&volume.data);
        let all = sample.len();
        let mut rest: Vec<f32> = sample.into_iter().filter(|&v| v != content.min).collect();
        let plateau = (all - rest.len()) as f64 >= PLATEAU * all as f64;
        let Some(last) = rest.len().checked_sub(1) else {
            // Nothing but a plateau and a few bright voxels that the sample missed.
            return Ok(Self { background: content.min, top: content.max });
        };
        let mut at = |rank: usize| *rest.select_nth_unstable_by(rank, f32::total_cmp).1;
        let [dark, air] = [DARK, AIR].map(|q| at((q * last as f64).round() as usize));
        // The bright end is never that of the plateau, however much of the volume that takes.
        let bright = at(last.saturating_sub((SPOILT * all as f64) as usize).max(last / 2));
        let above_padding = dark - content.min;
        let tissue = bright - dark;
        let padding = plateau
            && match air - dark {
                // Air without any noise, or the tissue of a phantom round which it is the plateau that is air.
                0.0 => tissue > 0.0 && above_padding > tissue,
                scatter => above_padding >= (PADDING_GAP * scatter).max(PADDING_STEP * tissue),
            };
        // How far the darkest values may scatter.
        let least = dark - (air - dark);
        let background = match (plateau, padding) {
            (true, false) => content.min,
            (true, true) => rest.iter().copied().filter(|&v| v >= least).fold(dark, f32::min),
            (false, _) => content.min.max(least),
        };
        let top = match bright > background {
            true => content.max.min(background + BRIGHTEST * (bright - background)),
            false => content.max,
        };
        Ok(Self { background, top })
    }

    /// A voxel of the volume seen through the window.
    ///
    /// One outside the window, or not finite, is a fault of the scan where most of its six neighbours are in the window,
    /// and takes their median; elsewhere it takes the nearest value in the window, or the background.
    pub fn see(&self, volume: &Volume, ix: usize) -> f32 {
        let value = volume.data[ix];
        if self.holds(value) { value - self.background } else { self.see_outlier(volume, ix) }
    }

    #[cold]
    fn see_outlier(&self, volume: &Volume, ix: usize) -> f32 {
        let (mut inside, mut neighbours, mut good) = ([0.0; 6], 0, 0);
        let mut stride = 1;
        for n in volume.shape.0 {
            let at = ix / stride % n;
            for next in
                [(at > 0).then(|| ix - stride), (at + 1 < n).then(|| ix + stride)].into_iter().flatten()
            {
                neighbours += 1;
                if self.holds(volume.data[next]) {
                    inside[good] = volume.data[next];
                    good += 1;
                }
            }
            stride *= n;
        }
        let value = volume.data[ix];
        if 2 * good > neighbours {
            inside[..good].sort_unstable_by(f32::total_cmp);
            inside[good / 2] - self.background
        } else if value.is_finite() {
            value.clamp(self.background, self.top) - self.background
        } else {
            0.0
        }
    }

    fn holds(&self, value: f32) -> bool {
        value >= self.background && value <= self.top
    }

    /// A volume seen through the window: itself where that changes nothing.
    pub fn through<'a>(&self, volume: &'a Volume) -> Cow<'a, Volume> {
        if self.background == 0.0 && volume.data.iter().all(|&v| self.holds(v)) {
            return Cow::Borrowed(volume);
        }
        let data = (0..volume.data.len()).map(|ix| self.see(volume, ix)).collect();
        Cow::Owned(Volume { data, ..*volume })
    }
}

/// Finite values from all over a volume, by an additive sequence: no step that an extent could be a multiple of.
fn sample(values: &[f32]) -> Vec<f32> {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    if values.len() <= SAMPLE {
        return values.iter().copied().filter(|v| v.is_finite()).collect();
    }
    (0..SAMPLE)
        .map(|k| values[((k as f64 * GOLDEN).fract() * values.len() as f64) as usize])
        .filter(|v| v.is_finite())
        .collect()
}

#[cfg(test)]
mod tests {
    use glam::DMat4;

    use super::*;
    use crate::tensor::Xyz;

    /// Air of levels 0 to 9, tissue of 100 to 299 and a little fat of 700, in odd places.
    fn head() -> Vec<f32> {
        (0..4000)
            .map(|ix| match ix * 7919 % 100 {
                share @ 0..60 => (share % 10) as f32,
                99 => 700.0,
                share => 100.0 + (share - 60) as f32 * 5.0,
            })
            .collect()
    }

    fn volume(data: Vec<f32>) -> Volume {
        Volume { shape: Xyz([data.len(), 1, 1]), affine: DMat4::IDENTITY, data }
    }

    fn window(data: Vec<f32>) -> Window {
        Window::of(&volume(data)).expect("has contrast")
    }

    #[test]
    fn an_ordinary_head_is_seen_as_it_is() {
        let head = volume(head());
        let seen = Window::of(&head).expect("has contrast");
        assert_eq!(seen.background, 0.0);
        assert!(matches!(seen.through(&head), Cow::Borrowed(same) if same == &head), "{seen:?}");
    }

    #[test]
    fn a_constant_moves_the_window() {
        let want = window(head());
        for constant in [1000.0, -1024.0, 32768.0] {
            let moved = volume(head().iter().map(|v| v + constant).collect());
            let got = Window::of(&moved).expect("has contrast");
            assert_eq!((got.background, got.top), (want.background + constant, want.top + constant));
            assert_eq!(got.through(&moved).data, head());
        }
    }

    #[test]
    fn padding_is_no_background_and_a_dark_background_no_padding() {
        for padding in [-2000.0, -300.0] {
            let mut padded = head();
            padded.extend([padding; 1000]);
            assert_eq!(window(padded), Window { background: 0.0, ..window(head()) });
        }
        // Air that was set to 0, and a mask.
        let cleaned = head().into_iter().map(|v| if v < 50.0 { 0.0 } else { v }).collect();
        assert_eq!(window(cleaned).background, 0.0);
        assert_eq!(window([[0.0; 50], [1.0; 50]].concat()), Window { background: 0.0, top: 1.0 });
        // A phantom without noise, and padding round one.
        let levels = |least: f32| [(least, 100), (500.0, 40), (1000.0, 20)].map(|(v, n)| vec![v; n]).concat();
        assert_eq!(window(levels(0.0)).background, 0.0);
        assert_eq!(window(levels(-2000.0)).background, 500.0);
    }

    #[test]
    fn outliers_and_what_is_not_finite_are_left_out() {
        let mut spoilt = head();
        for (ix, value) in [1e6, -1e6, f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
            (0..40).for_each(|k| spoilt[ix + 97 * k] = value);
        }
        let seen = window(spoilt);
        assert!((-10.0..=0.0).contains(&seen.background), "{seen:?}");
        assert!((700.0..=2450.0).contains(&seen.top), "{seen:?}");
    }

    #[test]
    fn a_faulty_voxel_takes_the_median_of_its_neighbours_and_a_bright_region_the_top() {
        let window = Window { background: 10.0, top: 100.0 };
        let mut volume = Volume { shape: Xyz([3; 3]), affine: DMat4::IDENTITY, data: vec![40.0; 27] };
        // The neighbours along x, y and z of the voxel in the middle.
        for (ix, value) in [(12, 20.0), (14, 30.0), (10, 50.0), (16, 60.0), (4, f32::NAN), (22, 1e9)] {
            volume.data[ix] = value;
        }
        for fault in [f32::NAN, f32::INFINITY, 1e9, -1e9] {
            volume.data[13] = fault;
            assert_eq!(window.see(&volume, 13), 40.0, "{fault}");
        }
        volume.data[13] = 55.0;
        assert_eq!(window.see(&volume, 13), 45.0);
        for (value, want) in [(150.0, 90.0), (-5.0, 0.0), (f32::NAN, 0.0)] {
            volume.data.fill(value);
            assert_eq!(window.see(&volume, 13), want, "{value} throughout");
        }
    }
}
