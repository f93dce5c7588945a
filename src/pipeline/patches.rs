//! Overlapping patches that cover a grid, and what each of them counts at each voxel.

use crate::model::Patches;

/// A patch of a grid.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Patch {
    /// Its first voxel.
    pub at: [usize; 3],
    /// What its voxels count, along each axis, the axes one after the other: over all patches, products of the three add up to
    /// 1 at each voxel of the grid.
    pub weights: Vec<f32>,
}

impl Patch {
    /// All of a grid.
    pub fn whole(grid: [usize; 3]) -> Self {
        Self { at: [0; 3], weights: vec![1.0; grid.iter().sum()] }
    }

    /// The same patch with another weight altogether.
    pub fn scaled(mut self, extent: usize, factor: f32) -> Self {
        self.weights[..extent].iter_mut().for_each(|weight| *weight *= factor);
        self
    }
}

/// The first voxels of patches along an axis.
fn starts(extent: usize, patch: usize, step: f64) -> Vec<usize> {
    let rest = extent.saturating_sub(patch) as f64;
    let steps = (rest / (step * patch as f64)).ceil();
    (0..=steps as usize).map(|ix| (rest / steps.max(1.0) * ix as f64).round_ties_even() as usize).collect()
}

/// Patches of the extents `patch` that cover a grid at least as large, placed as nnU-Net places them: evenly, at most a step
/// apart.
pub(super) fn patches(grid: [usize; 3], patch: [usize; 3], spec: Patches) -> Vec<Patch> {
    // Patches are all combinations of those along each axis, so that the sum of their weights at a voxel is a product, too.
    let along: [Vec<(usize, Vec<f64>)>; 3] = std::array::from_fn(|axis| {
        let n = patch[axis];
        let gaussian = |ix: usize| {
            let from_middle = (ix as f64 - (n / 2) as f64) / (spec.deviation * n as f64);
            (-0.5 * from_middle * from_middle).exp()
        };
        let starts = starts(grid[axis], n, spec.step);
        let mut sums = vec![0.0; grid[axis]];
        for start in &starts {
            (0..n).for_each(|ix| sums[start + ix] += gaussian(ix));
        }
        let weights = |start: usize| (0..n).map(|ix| gaussian(ix) / sums[start + ix]).collect();
        starts.into_iter().map(|start| (start, weights(start))).collect()
    });
    let mut all = Vec::new();
    for (d, of_d) in &along[0] {
        for (h, of_h) in &along[1] {
            for (w, of_w) in &along[2] {
                let weights = of_d.iter().chain(of_h).chain(of_w).map(|&weight| weight as f32).collect();
                all.push(Patch { at: [*d, *h, *w], weights });
            }
        }
    }
    all
}

/// All combinations of axes to mirror along, none first.
pub(super) fn mirror_images(axes: [bool; 3]) -> Vec<[bool; 3]> {
    (0..8usize)
        .map(|bits| std::array::from_fn(|axis| bits >> axis & 1 == 1))
        .filter(|image: &[bool; 3]| (0..3).all(|axis| axes[axis] || !image[axis]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Patches = Patches { step: 0.5, deviation: 0.125 };

    #[test]
    fn patches_lie_evenly_and_cover_a_grid() {
        assert_eq!(starts(8, 8, 0.5), [0]);
        assert_eq!(starts(133, 128, 0.5), [0, 5]);
        assert_eq!(starts(301, 96, 0.5), [0, 41, 82, 123, 164, 205]);
        // Halves go to the even number.
        assert_eq!(starts(13, 8, 0.5), [0, 2, 5]);
        assert_eq!(starts(5, 8, 0.5), [0]);
    }

    #[test]
    fn weights_add_up_to_one_at_each_voxel() {
        let (grid, patch) = ([11, 28, 20], [8, 16, 12]);
        let all = patches(grid, patch, SPEC);
        assert_eq!(all.len(), 2 * 3 * 3);
        let mut sums = vec![0.0f64; grid.iter().product()];
        let [pd, ph, pw] = patch;
        for Patch { at, weights } in &all {
            for ix in 0..pd * ph * pw {
                let [d, h, w] = [ix / (ph * pw), ix / pw % ph, ix % pw];
                let weight = weights[d] as f64 * weights[pd + h] as f64 * weights[pd + ph + w] as f64;
                sums[((at[0] + d) * grid[1] + at[1] + h) * grid[2] + at[2] + w] += weight;
            }
        }
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6));
        // Far from the middle of a patch another one counts.
        let first = &all[0].weights;
        assert!(first[0] == 1.0 && first[4] > 0.9 && first[7] < first[4], "{first:?}");
    }

    #[test]
    fn mirror_images_are_the_combinations_of_their_axes() {
        assert_eq!(mirror_images([false; 3]), [[false; 3]]);
        let both = mirror_images([true, false, true]);
        assert_eq!(both, [[false; 3], [true, false, false], [false, false, true], [true, false, true]]);
        assert_eq!(mirror_images([true; 3]).len(), 8);
    }
}
