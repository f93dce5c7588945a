//! What a user should know about an image that is read all the same.

use super::grid::Apart;
use std::fmt;

/// Something odd about an image that is read all the same. Its text names the remedy.
#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// `pixdim` has negative voxel sizes; the absolute values are taken.
    NegativePixdim([f64; 3]),
    /// Neither form is set (or an MGH header not marked good): left and right are a guess.
    NoOrientation,
    /// Both forms are set and place the image differently; the sform is taken.
    FormsDisagree {
        /// Axis codes by the sform.
        sform: String,
        /// Axis codes by the qform.
        qform: String,
        /// Largest displacement of a corner of the image, mm.
        displacement_mm: f64,
    },
    /// The header gives its lengths in a unit that would make the voxels absurd; they are taken as mm.
    Units(&'static str),
    /// NaN or infinite voxels; they count as 0.
    NonFinite {
        /// How many voxels.
        count: usize,
        /// Of how many.
        total: usize,
    },
    /// A mask on another grid than its image; it is sampled there.
    OtherGrid {
        /// The two grids.
        apart: Box<Apart>,
        /// How much of the mask lies outside the image, %.
        outside_percent: f64,
    },
    /// A mask with several labels; all of them count.
    SeveralLabels {
        /// How many, besides 0.
        count: usize,
        /// The greatest.
        max: f64,
    },
    /// A mask with more different values than masks have labels; all of them but 0 count.
    LooksLikeScan {
        /// It has more values than so many.
        more_than: usize,
        /// The greatest.
        max: f64,
    },
    /// A mask with values between 0 and 1; it was cut at a half.
    Fractions,
    /// A mask that marks every voxel.
    FullMask,
    /// Header extensions that cannot be parsed; they are left out of the outputs.
    DamagedExtensions,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NegativePixdim([x, y, z]) => write!(
                f,
                "negative voxel size in the header ({x:.3}, {y:.3}, {z:.3}), taken as positive; \
                 correct pixdim if the image appears mirrored"
            ),
            Self::NoOrientation => write!(
                f,
                "the header says nothing about orientation, so left and right are a guess; \
                 take the orientation from the original scan (in NIfTI: sform or qform)"
            ),
            Self::FormsDisagree { sform, qform, displacement_mm } => write!(
                f,
                "sform ({sform}) and qform ({qform}) disagree by up to {displacement_mm:.1} mm, \
                 the sform is taken; set sform_code to 0 if the qform is the right one"
            ),
            Self::Units(unit) => write!(
                f,
                "the header gives lengths in {unit}, which no MRI has voxels for, so they are taken as mm; \
                 correct xyzt_units or the voxel size"
            ),
            Self::NonFinite { count, total } => write!(
                f,
                "{count} of {total} voxels are NaN or infinite and count as 0; \
                 check the step that made the image if that is many"
            ),
            Self::OtherGrid { apart, outside_percent } => {
                write!(
                    f,
                    "lies on another grid than its image ({apart}) and is sampled there, nearest voxel"
                )?;
                if *outside_percent > 0.0 {
                    write!(f, "; {outside_percent:.1}% of it lies outside the image")?;
                }
                write!(f, "; correct its header if the two should agree")
            }
            Self::SeveralLabels { count, max } => write!(
                f,
                "holds {count} labels up to {max} besides 0, all of which count; \
                 keep only those that belong to the mask if some do not"
            ),
            Self::LooksLikeScan { more_than, max } => write!(
                f,
                "holds more than {more_than} different values up to {max}, all of which but 0 count; \
                 check that it is a mask and no scan"
            ),
            Self::Fractions => write!(
                f,
                "holds values between 0 and 1, and counts where they are above 0.5; \
                 pass a mask of 0 and 1 to decide otherwise"
            ),
            Self::FullMask => write!(f, "marks every voxel of the image; check that it is the right file"),
            Self::DamagedExtensions => write!(
                f,
                "the header extensions are damaged and left out of the outputs; \
                 convert the image again if they matter"
            ),
        }
    }
}
