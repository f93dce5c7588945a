//! Grids laid over boxes of a volume's own voxels, along its own axes.

use glam::{DMat4, DVec3};

use crate::model::{AxisCodes, Fit, GridSpec};
use crate::tensor::Xyz;
use crate::volume::orientation::AxisMap;
use crate::volume::{Grid, components};

/// A grid over a box, without its padding and with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxGrid {
    /// What lies over the box.
    pub content: Grid,
    /// The network's grid.
    pub whole: Grid,
    /// Whether the padding is 0 for the network, whatever the volume shows there.
    pub after_scaling: bool,
}

/// A range of voxels along each axis of a grid, ends included and excluded.
pub type Ranges = [[usize; 2]; 3];

/// A volume's grid with its axes in the order, and in the directions, that come closest to these.
pub fn turned(volume: &Grid, axes: AxisCodes) -> Grid {
    let canonical = AxisMap::to_canonical(&volume.affine);
    let mut map = AxisMap::IDENTITY;
    for (axis, (world, against)) in axes.world().into_iter().enumerate() {
        map.source[axis] = canonical.source[world];
        map.flip[axis] = canonical.flip[world] != against;
    }
    Grid { shape: map.shape(volume.shape), affine: map.affine(&volume.affine, volume.shape) }
}

/// All voxels of a grid.
pub fn all(grid: &Grid) -> Ranges {
    grid.shape.map(|n| [0, n]).0
}

/// The voxels of `turned` in the box of those voxels of a volume, x fastest, that count; all of them where none does.
pub fn content(turned: &Grid, volume: &Grid, counts: impl Fn(usize) -> bool) -> Ranges {
    let mut found: Option<[[f64; 2]; 3]> = None;
    let to_turned = turned.affine.inverse() * volume.affine;
    let Xyz([nx, ny, _]) = volume.shape;
    let mut least = [usize::MAX; 3];
    let mut most = [0; 3];
    for ix in (0..volume.shape.iter().product::<usize>()).filter(|&ix| counts(ix)) {
        for (a, at) in [ix % nx, ix / nx % ny, ix / nx / ny].into_iter().enumerate() {
            least[a] = least[a].min(at);
            most[a] = most[a].max(at);
        }
    }
    if least[0] <= most[0] {
        let corners = [least, most]
            .map(|corner| to_turned.transform_point3(DVec3::from_array(corner.map(|n| n as f64))));
        found = Some([0, 1, 2].map(|a| [corners[0][a].min(corners[1][a]), corners[0][a].max(corners[1][a])]));
    }
    match found {
        Some(ends) => ends.map(|[low, high]| [low.round() as usize, high.round() as usize + 1]),
        None => all(turned),
    }
}

/// The voxels of `turned` in the box of a brain that lies on another grid along the same axes, z fastest: the planes in which
/// at least a part of `least` is brain, and `margin` of the box on either side. `None` where no plane holds as much.
pub fn around(turned: &Grid, network: &Grid, brain: &[u8], margin: f64, least: f64) -> Option<Ranges> {
    let Xyz([nx, ny, nz]) = network.shape;
    let mut sums = network.shape.map(|n| vec![0usize; n]).0;
    for ix in (0..brain.len()).filter(|&ix| brain[ix] != 0) {
        for (a, at) in [ix / (ny * nz), ix / nz % ny, ix % nz].into_iter().enumerate() {
            sums[a][at] += 1;
        }
    }
    let to_turned = turned.affine.inverse() * network.affine;
    let mut ends = [[0.0; 2]; 3];
    for a in 0..3 {
        let plane = (nx * ny * nz / network.shape[a]) as f64;
        let shows = |&n: &usize| n as f64 > least * plane;
        ends[a] =
            [sums[a].iter().position(shows)? as f64 - 0.5, sums[a].iter().rposition(shows)? as f64 + 0.5];
    }
    let corner = |side: usize| to_turned.transform_point3(DVec3::from_array(ends.map(|range| range[side])));
    let (one, other) = (corner(0), corner(1));
    // In whole voxels, their faces at whole numbers, as deepbet rounds them.
    Some([0, 1, 2].map(|a| {
        let (low, high) = (one[a].min(other[a]) + 0.5, one[a].max(other[a]) + 0.5);
        let centre = ((low + high) / 2.0).round_ties_even();
        let size = ((high - low) * (1.0 + 2.0 * margin)).round_ties_even();
        let face = |at: f64| at.clamp(0.0, turned.shape[a] as f64) as usize;
        let [low, high] = [face(centre - size / 2.0), face(centre + size / 2.0)];
        [low.min(turned.shape[a] - 1), high.max(low + 1)]
    }))
}

/// The grid of a network over a range of voxels of `turned`.
pub fn fitted(turned: &Grid, ranges: Ranges, spec: &GridSpec, fit: Fit) -> BoxGrid {
    let size = turned.voxel_size();
    let mut content = [0; 3];
    let mut whole = [0; 3];
    let mut before = DVec3::ZERO;
    for a in 0..3 {
        let voxels = (ranges[a][1] - ranges[a][0]) as f64;
        (content[a], whole[a]) = match fit {
            Fit::Stretched => (spec.shape[a], spec.shape[a]),
            Fit::Padded { multiple, most, .. } => {
                let n = ((voxels * size[a] / spec.voxel_mm[a]).round() as usize).max(1);
                (n, n.next_multiple_of(multiple).max(spec.shape[a]).min(most.unwrap_or(usize::MAX)))
            }
        };
        if let Fit::Padded { both_sides: true, .. } = fit {
            before[a] = ((whole[a] as f64 - content[a] as f64) / 2.0).floor();
        }
    }
    let step = DVec3::from_array([0, 1, 2].map(|a| (ranges[a][1] - ranges[a][0]) as f64 / content[a] as f64));
    let first = DVec3::from_array(ranges.map(|[low, _]| low as f64 - 0.5)) + step / 2.0;
    let affine = turned.affine * DMat4::from_translation(first) * DMat4::from_scale(step);
    BoxGrid {
        content: Grid { shape: Xyz(content), affine },
        whole: Grid { shape: Xyz(whole), affine: affine * DMat4::from_translation(-before) },
        after_scaling: matches!(fit, Fit::Padded { after_scaling: true, .. }),
    }
}

/// Brings the voxels of a volume, x fastest, to mean 0 and deviation 1 as [`View::standardised`] says it; returns the mean and
/// the deviation.
///
/// [`View::standardised`]: super::view::View::standardised
pub fn standardise(values: &mut [f32], volume: &Grid, box_grid: &Grid, masked: bool) -> [f32; 2] {
    let counts = masked.then(|| {
        let content: Vec<u8> = values.iter().map(|&value| u8::from(value > 0.0)).collect();
        components::fill_holes(&content, volume.shape).expect("a mask has as many voxels as its grid")
    });
    let counts = |ix: usize| counts.as_ref().is_none_or(|counts| counts[ix] != 0);
    let to_box = box_grid.affine.inverse() * volume.affine;
    let Xyz([nx, ny, _]) = volume.shape;
    let beyond = DVec3::from_array(box_grid.shape.0.map(|n| n as f64 - 0.5));
    let in_box = |ix: usize| {
        let at = DVec3::new((ix % nx) as f64, (ix / nx % ny) as f64, (ix / nx / ny) as f64);
        let at = to_box.transform_point3(at);
        at.cmpgt(DVec3::splat(-0.5)).all() && at.cmplt(beyond).all()
    };
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for (ix, &value) in values.iter().enumerate() {
        if counts(ix) && in_box(ix) {
            let value = f64::from(value);
            (n, sum, squares) = (n + 1.0, sum + value, squares + value * value);
        }
    }
    let mean = sum / f64::max(n, 1.0);
    let deviation = (squares / f64::max(n, 1.0) - mean * mean).max(0.0).sqrt().max(1e-8);
    for (ix, value) in values.iter_mut().enumerate() {
        *value = if counts(ix) { ((f64::from(*value) - mean) / deviation) as f32 } else { 0.0 };
    }
    [mean as f32, deviation as f32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Centre, published};

    fn volume() -> Grid {
        // Stored L, S, P with voxels of 2, 1 and 1 mm.
        let axes = DMat4::from_cols_array_2d(&[
            [-2.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, -1.0, 0.0, 0.0],
            [90.0, 80.0, -60.0, 1.0],
        ]);
        Grid { shape: Xyz([100, 150, 180]), affine: axes }
    }

    fn fit_of(spec: &GridSpec) -> Fit {
        match spec.centre {
            Centre::Voxels { fit, .. } => fit,
            _ => unreachable!("a grid over voxels"),
        }
    }

    #[test]
    fn axes_point_where_they_are_asked_to() {
        let ras = turned(&volume(), AxisCodes::RAS);
        assert_eq!(ras.shape.0, [100, 180, 150]);
        assert!((0..3).all(|a| ras.affine.col(a)[a] > 0.0));
        let sar = turned(&volume(), AxisCodes::try_from("SAR".to_owned()).expect("three axes"));
        assert_eq!(sar.shape.0, [150, 180, 100]);
        assert!(sar.affine.x_axis.z > 0.0 && sar.affine.y_axis.y > 0.0 && sar.affine.z_axis.x > 0.0);
        let lia = turned(&volume(), AxisCodes::try_from("LIA".to_owned()).expect("three axes"));
        assert_eq!(lia.shape.0, [100, 150, 180]);
        assert!(lia.affine.x_axis.x < 0.0 && lia.affine.y_axis.z < 0.0 && lia.affine.z_axis.y > 0.0);
        assert!(AxisCodes::try_from("LRS".to_owned()).is_err());
    }

    #[test]
    fn a_stretched_grid_and_a_padded_one_cover_their_box() {
        let spec = published::deepbet(16).input;
        let grid = turned(&volume(), spec.axes);
        let whole = fitted(&grid, all(&grid), &spec, fit_of(&spec)).whole;
        assert_eq!(whole.shape.0, [128; 3]);
        assert!(whole.displacement_mm(&volume()) < 1e-9);

        let spec = published::hd_bet(21).input;
        let grid = turned(&volume(), spec.axes);
        let BoxGrid { content, whole, .. } = fitted(&grid, all(&grid), &spec, fit_of(&spec));
        assert_eq!((content.shape.0, whole.shape.0), ([100, 120, 133], [128, 128, 144]));
        assert!(content.displacement_mm(&volume()) < 1e-9);
        assert_eq!(whole.affine, content.affine);

        let spec = published::synthstrip(16).input;
        let grid = turned(&volume(), spec.axes);
        let BoxGrid { content, whole, .. } = fitted(&grid, all(&grid), &spec, fit_of(&spec));
        assert_eq!((content.shape.0, whole.shape.0), ([200, 150, 180], [256, 192, 192]));
        let shift = content.affine.inverse() * whole.affine.w_axis;
        assert!((shift.truncate() - DVec3::new(-28.0, -21.0, -6.0)).length() < 1e-9);
    }

    #[test]
    fn voxels_of_the_box_come_to_mean_0_and_those_that_do_not_count_to_0() {
        // A plane of zeros in front, then 1 to 27 with a hole in the middle.
        let volume = Grid { shape: Xyz([3, 3, 4]), affine: DMat4::from_scale(DVec3::splat(2.0)) };
        let values: Vec<f32> =
            (0..36).map(|ix| if ix == 22 { 0.0 } else { (ix as f32 - 8.0).max(0.0) }).collect();
        let behind =
            Grid { shape: Xyz([6, 6, 6]), affine: DMat4::from_translation(DVec3::new(-0.5, -0.5, 1.5)) };
        let inside: Vec<f64> = values[9..].iter().map(|&value| f64::from(value)).collect();
        let mean = inside.iter().sum::<f64>() / 27.0;
        let deviation = (inside.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 27.0).sqrt();
        for masked in [false, true] {
            let mut scaled = values.clone();
            let levels = standardise(&mut scaled, &volume, &behind, masked);
            assert!(
                (f64::from(levels[0]) - mean).abs() < 1e-5 && (f64::from(levels[1]) - deviation).abs() < 1e-5
            );
            let in_front = if masked { 0.0 } else { -mean / deviation };
            assert!((f64::from(scaled[4]) - in_front).abs() < 1e-5);
            assert!((f64::from(scaled[22]) + mean / deviation).abs() < 1e-5);
        }
    }

    #[test]
    fn boxes_are_those_of_what_counts() {
        let grid = turned(&volume(), AxisCodes::RAS);
        // Voxels 20 to 39, 30 to 49 and 40 to 59 as stored.
        let counts = |ix: usize| {
            let at = [ix % 100, ix / 100 % 150, ix / 15_000];
            (20..40).contains(&at[0]) && (30..50).contains(&at[1]) && (40..60).contains(&at[2])
        };
        assert_eq!(content(&grid, &volume(), counts), [[60, 80], [120, 140], [30, 50]]);
        assert_eq!(content(&grid, &volume(), |_| false), all(&grid));

        // Half of a coarse grid along each axis, from its first quarter on.
        let spec = GridSpec { shape: [20, 20, 20], ..published::deepbet(16).input };
        let coarse = fitted(&grid, all(&grid), &spec, Fit::Stretched).whole;
        let inside = |at: usize| (5..15).contains(&at);
        let brain: Vec<u8> = (0..8000)
            .map(|ix| u8::from(inside(ix / 400) && inside(ix / 20 % 20) && inside(ix % 20)))
            .collect();
        let box_of = |margin, least| around(&grid, &coarse, &brain, margin, least);
        // The box itself, sizes 50, 90 and 75, with halves of an odd size cut towards 0.
        assert_eq!(box_of(0.0, 0.02), Some([[25, 75], [45, 135], [37, 112]]));
        assert_eq!(box_of(0.5, 0.02), Some([[0, 100], [0, 180], [0, 150]]));
        assert_eq!(box_of(0.1, 0.5), None);
    }
}
