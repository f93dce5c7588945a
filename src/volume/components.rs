//! Connected components by faces (6-connectivity): the definition that the GPU's are held to.
//!
//! By the runs of each row: two runs of neighbouring rows are one component where they overlap.
//! Union-find over runs links to the lower index, so a component's root is its first run in
//! array order.

use super::{Problem, expect_length};
use crate::tensor::Xyz;

/// Voxels `start..end` of one row, as flat indices.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
}

/// Runs of one kind of voxel with the component each belongs to.
struct Runs {
    runs: Vec<Run>,
    /// Root of each run: the first run of its component.
    root: Vec<usize>,
}

fn find(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

impl Runs {
    /// Runs of the voxels where `inside` holds of the mask's value.
    fn new(mask: &[u8], shape: Xyz<usize>, inside: impl Fn(u8) -> bool) -> Self {
        let Xyz([nx, ny, _]) = shape;
        let mut runs = Vec::new();
        // First run of each row, and the end.
        let mut first = vec![0];
        if !mask.is_empty() {
            for (row_ix, row) in mask.chunks_exact(nx).enumerate() {
                let base = row_ix * nx;
                let mut x = 0;
                while x < nx {
                    if inside(row[x]) {
                        let from = x;
                        while x < nx && inside(row[x]) {
                            x += 1;
                        }
                        let (start, end) = (base + from, base + x);
                        runs.push(Run { start, end });
                    }
                    x += 1;
                }
                first.push(runs.len());
            }
        }
        let mut parent: Vec<usize> = (0..runs.len()).collect();
        for row in 0..first.len() - 1 {
            // One row back in y, one slab back in z.
            let below = [(row % ny > 0, 1), (row >= ny, ny)];
            for (_, step) in below.into_iter().filter(|(exists, _)| *exists) {
                let shift = step * nx;
                let (mut i, mut j) = (first[row], first[row - step]);
                while i < first[row + 1] && j < first[row - step + 1] {
                    let (a, b) = (runs[i], runs[j]);
                    let (start, end) = (b.start + shift, b.end + shift);
                    if a.start < end && start < a.end {
                        let (p, q) = (find(&mut parent, i), find(&mut parent, j));
                        parent[p.max(q)] = p.min(q);
                    }
                    if a.end < end {
                        i += 1;
                    } else {
                        j += 1;
                    }
                }
            }
        }
        let root = (0..runs.len()).map(|i| find(&mut parent, i)).collect();
        Self { runs, root }
    }

    /// Voxels of each component, at the index of its root.
    fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.runs.len()];
        for (run, &root) in self.runs.iter().zip(&self.root) {
            sizes[root] += run.end - run.start;
        }
        sizes
    }
}

/// Number of components of the voxels that are not 0.
pub fn count(mask: &[u8], shape: Xyz<usize>) -> Result<usize, Problem> {
    expect_length(shape, mask.len())?;
    let runs = Runs::new(mask, shape, |v| v != 0);
    Ok(runs.root.iter().enumerate().filter(|(i, r)| i == *r).count())
}

/// The largest component of the voxels that are not 0, as 0 and 1. Among equals, the one that
/// comes first in the array. An empty mask stays empty.
pub fn largest(mask: &[u8], shape: Xyz<usize>) -> Result<Vec<u8>, Problem> {
    expect_length(shape, mask.len())?;
    let runs = Runs::new(mask, shape, |v| v != 0);
    let sizes = runs.sizes();
    let mut out = vec![0; mask.len()];
    let mut best = 0;
    for (root, &size) in sizes.iter().enumerate() {
        if size > sizes[best] {
            best = root;
        }
    }
    for (run, &root) in runs.runs.iter().zip(&runs.root) {
        if root == best {
            out[run.start..run.end].fill(1);
        }
    }
    Ok(out)
}

/// The mask, as 0 and 1, with its holes filled: components of the background that do not touch
/// the border of the volume.
pub fn fill_holes(mask: &[u8], shape: Xyz<usize>) -> Result<Vec<u8>, Problem> {
    expect_length(shape, mask.len())?;
    let Xyz([nx, ny, nz]) = shape;
    let runs = Runs::new(mask, shape, |v| v == 0);
    let mut open = vec![false; runs.runs.len()];
    for (run, &root) in runs.runs.iter().zip(&runs.root) {
        let row = run.start / nx;
        let (y, z) = (row % ny, row / ny);
        let ends = run.start % nx == 0 || run.end % nx == 0;
        if ends || y == 0 || y + 1 == ny || z == 0 || z + 1 == nz {
            open[root] = true;
        }
    }
    let mut out = vec![1; mask.len()];
    for (run, &root) in runs.runs.iter().zip(&runs.root) {
        if open[root] {
            out[run.start..run.end].fill(0);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::morphology::tests::{neighbours, noise_mask};
    use super::*;

    /// Plain flood fill, the textbook way.
    fn flood(mask: &[u8], shape: Xyz<usize>) -> Vec<Vec<usize>> {
        let mut seen = vec![false; mask.len()];
        let mut components = vec![];
        for seed in 0..mask.len() {
            if mask[seed] == 0 || seen[seed] {
                continue;
            }
            seen[seed] = true;
            let (mut stack, mut members) = (vec![seed], vec![]);
            while let Some(i) = stack.pop() {
                members.push(i);
                for n in neighbours(i, shape).into_iter().flatten() {
                    if mask[n] != 0 && !seen[n] {
                        seen[n] = true;
                        stack.push(n);
                    }
                }
            }
            components.push(members);
        }
        components
    }

    #[test]
    fn equal_to_flood_fill_on_noise() {
        for (shape, percent) in [
            ([7, 6, 5], 30),
            ([9, 8, 7], 50),
            ([1, 12, 9], 40),
            ([13, 1, 6], 60),
            ([5, 5, 1], 45),
            ([12, 11, 10], 70),
            ([12, 11, 10], 85),
        ] {
            let mask = noise_mask(Xyz(shape), percent);
            let components = flood(&mask, Xyz(shape));
            assert_eq!(count(&mask, Xyz(shape)).unwrap(), components.len());
            let mut expected = vec![0; mask.len()];
            // `max_by_key` returns the last of equals; the first is the definition.
            let best = components.iter().rev().max_by_key(|c| c.len()).unwrap();
            best.iter().for_each(|&i| expected[i] = 1);
            assert_eq!(largest(&mask, Xyz(shape)).unwrap(), expected);

            let background: Vec<u8> = mask.iter().map(|&v| u8::from(v == 0)).collect();
            let mut filled = mask.clone();
            for hole in flood(&background, Xyz(shape)) {
                let touches = |&i: &usize| neighbours(i, Xyz(shape)).contains(&None);
                if !hole.iter().any(touches) {
                    hole.iter().for_each(|&i| filled[i] = 1);
                }
            }
            assert_eq!(fill_holes(&mask, Xyz(shape)).unwrap(), filled);
        }
    }

    #[test]
    fn ties_go_to_the_first_and_labels_become_one() {
        let mask = [0, 7, 0, 0, 3, 0];
        assert_eq!(largest(&mask, Xyz([6, 1, 1])).unwrap(), [0, 1, 0, 0, 0, 0]);
        assert_eq!(largest(&[0; 4], Xyz([2, 2, 1])).unwrap(), [0; 4]);
        assert_eq!(count(&mask, Xyz([6, 1, 1])).unwrap(), 2);
        assert_eq!(largest(&[], Xyz([0, 3, 3])).unwrap(), Vec::<u8>::new());
        assert!(largest(&mask, Xyz([6, 2, 1])).is_err());
    }

    #[test]
    fn voxels_that_share_an_edge_only_are_apart() {
        let mask = [1, 0, 0, 1];
        assert_eq!(count(&mask, Xyz([2, 2, 1])).unwrap(), 2);
    }
}
