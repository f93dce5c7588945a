//! Voxel-to-world matrices: what they say about voxels, and which of them place a grid.

use glam::{DMat3, DMat4, DVec3};

/// Below this ratio of the determinant to the product of the column norms, a matrix counts as
/// singular: two axes then enclose less than 0.2 seconds of arc, which no scanner makes.
const SINGULAR: f64 = 1e-6;

/// Edges of a voxel beyond these are damage, whatever the unit: a picometre, a kilometre.
const VOXEL_MM: std::ops::Range<f64> = 1e-9..1e6;

/// A place farther from the origin than this is damage.
const FARTHEST_MM: f64 = 1e12;

/// The 3x3 part of an affine.
pub(crate) fn linear(affine: &DMat4) -> DMat3 {
    DMat3::from_mat4(*affine)
}

/// Whether a matrix places a grid: finite, regular, and of a size that f32 headers hold.
pub(crate) fn is_usable(affine: &DMat4) -> bool {
    let a = linear(affine);
    let norms = voxel_size(affine);
    affine.is_finite()
        && VOXEL_MM.contains(&norms.min_element())
        && VOXEL_MM.contains(&norms.max_element())
        && affine.w_axis.truncate().abs().max_element() < FARTHEST_MM
        && a.determinant().abs() > SINGULAR * norms.x * norms.y * norms.z
}

/// Edge lengths of a voxel, mm: the norms of the columns.
pub(crate) fn voxel_size(affine: &DMat4) -> DVec3 {
    let a = linear(affine);
    DVec3::new(a.x_axis.length(), a.y_axis.length(), a.z_axis.length())
}

/// Volume of a voxel in mL: |det| / 1000, right for sheared grids too.
pub(crate) fn voxel_volume_ml(affine: &DMat4) -> f64 {
    linear(affine).determinant().abs() / 1000.0
}

/// The orthogonal matrix closest to `a` with its columns scaled to 1: the orthogonal factor
/// of the polar decomposition, by Newton's iteration `X <- (X + X^-T) / 2` (Higham 1986),
/// which converges quadratically for every regular matrix. Reflections are kept.
pub(crate) fn nearest_orthogonal(a: DMat3) -> DMat3 {
    let mut x = DMat3::from_cols(
        a.x_axis.normalize_or_zero(),
        a.y_axis.normalize_or_zero(),
        a.z_axis.normalize_or_zero(),
    );
    // From the threshold of SINGULAR upward, 40 halvings reach the quadratic phase and end it.
    for _ in 0..60 {
        if !x.determinant().is_normal() {
            break;
        }
        let next = (x + x.inverse().transpose()) * 0.5;
        let done = next.abs_diff_eq(x, 1e-15);
        x = next;
        if done {
            break;
        }
    }
    x
}
