//! From the header's forms to one voxel-to-world matrix, and back.
//!
//! The rules are nibabel's: the sform where its code is above 0, else the qform, else
//! `diag(-dx, dy, dz)` centred on the grid.

use super::affine::{is_usable, linear, nearest_orthogonal, voxel_size};
use super::grid::middle;
use super::orientation::axis_codes;
use super::{Problem, Warning};
use crate::tensor::Xyz;
use glam::{DMat3, DMat4, DQuat, DVec3, DVec4};

/// Cosine between two axes from which a matrix counts as sheared. f32 headers round to 1e-7;
/// 1e-5 moves a corner 250 mm away by 2.5 micrometres.
const SHEAR: f64 = 1e-5;

/// Where the voxel-to-world matrix comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormSource {
    /// The affine of the header.
    Sform,
    /// The quaternion of the header.
    Qform,
    /// The direction cosines of an MGH header.
    Mgh,
    /// Positions and orientations of DICOM slices.
    Dicom,
    /// The header does not say: centred, x to the left.
    None,
}

/// The place of a voxel grid in the world.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// Voxel index to world coordinates, mm.
    pub affine: DMat4,
    /// Which part of the header it comes from.
    pub source: FormSource,
}

/// The fields of a header that place the grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forms {
    /// `pixdim[0..4]`: qfac, then voxel sizes.
    pub pixdim: [f64; 4],
    pub qform_code: i32,
    pub sform_code: i32,
    /// Quaternion components b, c, d.
    pub quatern: [f64; 3],
    /// Translation of the qform, mm.
    pub qoffset: [f64; 3],
    /// First three rows of the sform.
    pub srow: [[f64; 4]; 3],
}

impl Geometry {
    /// Applies the rules to a header's forms; oddities go to `warnings`.
    pub(crate) fn from_forms(
        forms: &Forms,
        shape: Xyz<usize>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Problem> {
        let [_, dx, dy, dz] = forms.pixdim;
        if dx < 0.0 || dy < 0.0 || dz < 0.0 {
            warnings.push(Warning::NegativePixdim([dx, dy, dz]));
        }
        let zooms = DVec3::new(dx.abs(), dy.abs(), dz.abs());
        let qform = || qform_affine(forms, zooms);
        if forms.sform_code > 0 {
            let affine = sform_affine(&forms.srow);
            if !is_usable(&affine) {
                return Err(Problem::SingularAffine { form: "sform" });
            }
            if forms.qform_code > 0 {
                compare(&affine, &qform(), shape, warnings);
            }
            return Ok(Self { affine, source: FormSource::Sform });
        }
        if forms.qform_code > 0 {
            let affine = qform();
            if !is_usable(&affine) {
                return Err(Problem::SingularAffine { form: "qform" });
            }
            return Ok(Self { affine, source: FormSource::Qform });
        }
        warnings.push(Warning::NoOrientation);
        let scale = DVec3::new(-zooms.x, zooms.y, zooms.z);
        let affine = DMat4::from_translation(-scale * middle(shape)) * DMat4::from_scale(scale);
        if !is_usable(&affine) {
            return Err(Problem::VoxelSize([dx, dy, dz]));
        }
        Ok(Self { affine, source: FormSource::None })
    }
}

fn sform_affine(srow: &[[f64; 4]; 3]) -> DMat4 {
    let [x, y, z] = srow.map(DVec4::from_array);
    DMat4::from_cols(x, y, z, DVec4::W).transpose()
}

/// The qform's matrix: `nifti_quatern_to_mat44` of the reference C library, which rescales a
/// quaternion that rounding made longer than 1. A qfac of 0 counts as +1.
fn qform_affine(forms: &Forms, zooms: DVec3) -> DMat4 {
    let bcd = DVec3::from_array(forms.quatern);
    let w2 = 1.0 - bcd.length_squared();
    let q = if w2 < 1e-7 {
        let unit = bcd.normalize_or_zero();
        DQuat::from_xyzw(unit.x, unit.y, unit.z, 0.0)
    } else {
        DQuat::from_xyzw(bcd.x, bcd.y, bcd.z, w2.sqrt())
    };
    let qfac = if forms.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let linear = rotation(q) * DMat3::from_diagonal(DVec3::new(zooms.x, zooms.y, qfac * zooms.z));
    with_translation(linear, DVec3::from_array(forms.qoffset))
}

/// Rotation matrix of a quaternion, written out so that one that is not finite yields NaN and
/// never trips a debug assertion.
fn rotation(q: DQuat) -> DMat3 {
    let DQuat { x, y, z, w } = q;
    let column = |a, b, c| DVec3::new(a, b, c);
    DMat3::from_cols(
        column(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + z * w), 2.0 * (x * z - y * w)),
        column(2.0 * (x * y - z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + x * w)),
        column(2.0 * (x * z + y * w), 2.0 * (y * z - x * w), 1.0 - 2.0 * (x * x + y * y)),
    )
}

fn with_translation(linear: DMat3, t: DVec3) -> DMat4 {
    let mut affine = DMat4::from_mat3(linear);
    affine.w_axis = t.extend(1.0);
    affine
}

/// Warns when two matrices place a corner of the grid more than half the smallest voxel edge
/// apart: from there on a voxel may land on its neighbour.
fn compare(sform: &DMat4, qform: &DMat4, shape: Xyz<usize>, warnings: &mut Vec<Warning>) {
    let mut worst = 0.0_f64;
    for corner in 0..8 {
        let at = |axis: usize| ((corner >> axis) & 1) as f64 * (shape[axis] as f64 - 1.0);
        let p = DVec3::new(at(0), at(1), at(2));
        let gap = sform.transform_point3(p).distance(qform.transform_point3(p));
        worst = if gap.is_nan() { f64::INFINITY } else { worst.max(gap) };
    }
    if worst > 0.5 * voxel_size(sform).min_element() {
        let qform = if is_usable(qform) { axis_codes(qform) } else { "unusable".to_owned() };
        warnings.push(Warning::FormsDisagree { sform: axis_codes(sform), qform, displacement_mm: worst });
    }
}

/// The qform fields of a matrix: `(pixdim[0..4], quatern b c d)`, or `None` for a sheared one,
/// which a quaternion cannot express.
pub(crate) fn qform_fields(affine: &DMat4) -> Option<([f64; 4], [f64; 3])> {
    let a = linear(affine);
    let size = voxel_size(affine);
    let unit = [a.x_axis / size.x, a.y_axis / size.y, a.z_axis / size.z];
    let cosines = [unit[0].dot(unit[1]), unit[0].dot(unit[2]), unit[1].dot(unit[2])];
    // Negated so that NaN counts as sheared.
    if !cosines.iter().all(|c| c.abs() <= SHEAR) {
        return None;
    }
    let mut r = nearest_orthogonal(a);
    let qfac = if r.determinant() < 0.0 { -1.0 } else { 1.0 };
    r.z_axis *= qfac;
    let q = DQuat::from_mat3(&r);
    // The header has no room for w: it is the positive root, so the quaternion's sign is set.
    let sign = if q.w < 0.0 { -1.0 } else { 1.0 };
    Some(([qfac, size.x, size.y, size.z], [sign * q.x, sign * q.y, sign * q.z]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms() -> Forms {
        Forms {
            pixdim: [1.0, 2.0, 3.0, 4.0],
            qform_code: 0,
            sform_code: 0,
            quatern: [0.0; 3],
            qoffset: [0.0; 3],
            srow: [[0.0; 4]; 3],
        }
    }

    /// nibabel 5.4.2: `Nifti1Header` with these fields, `get_best_affine()`.
    #[test]
    fn qform_matches_nibabel() {
        let f = Forms {
            pixdim: [-1.0, 0.9, 1.1, 2.5],
            qform_code: 1,
            quatern: [0.1, -0.2, 0.3],
            qoffset: [10.0, -20.0, 30.0],
            ..forms()
        };
        let mut warnings = vec![];
        let g = Geometry::from_forms(&f, Xyz([5, 6, 7]), &mut warnings).unwrap();
        assert_eq!(g.source, FormSource::Qform);
        assert!(warnings.is_empty());
        let expected = QFORM_NIBABEL;
        for (row, want) in expected.iter().enumerate() {
            for (col, w) in want.iter().enumerate() {
                let got = g.affine.col(col)[row];
                assert!((got - w).abs() < 1e-12, "{row},{col}: {got} {w}");
            }
        }
        // Back to fields: the same quaternion and qfac.
        let (pixdim, quatern) = qform_fields(&g.affine).unwrap();
        for (a, b) in pixdim.iter().zip(f.pixdim) {
            assert!((a - b).abs() < 1e-12);
        }
        for (a, b) in quatern.iter().zip(f.quatern) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    const QFORM_NIBABEL: [[f64; 4]; 3] = [
        [0.666, -0.6560588207027165, 0.7773618495495704, 10.0],
        [0.464775398756768, 0.8800000000000001, 0.7636809247747852, -20.0],
        [0.3878502658378454, 0.0720196069009055, -2.25, 30.0],
    ];

    #[test]
    fn qfac_zero_counts_as_plus_one_and_negative_sizes_as_positive() {
        let mut f = Forms { qform_code: 1, ..forms() };
        f.pixdim = [0.0, -2.0, 3.0, 4.0];
        let mut warnings = vec![];
        let g = Geometry::from_forms(&f, Xyz([5, 6, 7]), &mut warnings).unwrap();
        assert_eq!(g.affine, DMat4::from_scale(DVec3::new(2.0, 3.0, 4.0)));
        assert_eq!(warnings, [Warning::NegativePixdim([-2.0, 3.0, 4.0])]);
    }

    #[test]
    fn without_forms_the_grid_is_centred_and_points_left() {
        let mut warnings = vec![];
        let g = Geometry::from_forms(&forms(), Xyz([5, 6, 7]), &mut warnings).unwrap();
        assert_eq!(g.source, FormSource::None);
        assert_eq!(warnings, [Warning::NoOrientation]);
        assert_eq!(g.affine.w_axis, DVec4::new(4.0, -7.5, -12.0, 1.0));
        assert_eq!(linear(&g.affine).x_axis, DVec3::new(-2.0, 0.0, 0.0));
    }

    #[test]
    fn forms_that_disagree_are_named() {
        let f = Forms {
            qform_code: 1,
            sform_code: 2,
            srow: [[-2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0]],
            ..forms()
        };
        let mut warnings = vec![];
        Geometry::from_forms(&f, Xyz([5, 6, 7]), &mut warnings).unwrap();
        let text = warnings[0].to_string();
        assert!(text.contains("sform (LAS) and qform (RAS)"), "{text}");
        assert!(text.contains("16.0 mm"), "{text}");
        // Forms a tenth of a voxel apart are the same place.
        let mut close = f;
        close.srow = [[2.0, 0.0, 0.0, 0.2], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0]];
        let mut warnings = vec![];
        Geometry::from_forms(&close, Xyz([5, 6, 7]), &mut warnings).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn singular_and_non_finite_forms_are_refused() {
        let mut w = vec![];
        let mut f = Forms {
            sform_code: 1,
            srow: [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]],
            ..forms()
        };
        assert!(Geometry::from_forms(&f, Xyz([5, 6, 7]), &mut w).is_err());
        f.srow[0][1] = f64::NAN;
        assert!(Geometry::from_forms(&f, Xyz([5, 6, 7]), &mut w).is_err());
        for bad in [0.0, f64::NAN, f64::INFINITY] {
            for code in [0, 1] {
                let f = Forms { pixdim: [1.0, bad, 1.0, 1.0], qform_code: code, ..forms() };
                assert!(Geometry::from_forms(&f, Xyz([5, 6, 7]), &mut w).is_err());
            }
        }
        let f = Forms { quatern: [f64::NAN, 0.0, 0.0], qform_code: 1, ..forms() };
        assert!(Geometry::from_forms(&f, Xyz([5, 6, 7]), &mut w).is_err());
    }

    #[test]
    fn shear_has_no_quaternion() {
        let mut a = DMat4::IDENTITY;
        a.y_axis.x = 0.2;
        assert!(qform_fields(&a).is_none());
    }
}
