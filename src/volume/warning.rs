//! What a user should know about an image that is read all the same.

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
    /// The header gives its lengths in another unit than mm; they are taken as mm.
    Units(&'static str),
    /// NaN or infinite voxels; they count as 0.
    NonFinite {
        /// How many voxels.
        count: usize,
        /// Of how many.
        total: usize,
    },
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
                "the header gives lengths in {unit}, taken as mm; \
                 correct xyzt_units or the voxel size if one is wrong"
            ),
            Self::NonFinite { count, total } => write!(
                f,
                "{count} of {total} voxels are NaN or infinite and count as 0; \
                 check the step that made the image if that is many"
            ),
            Self::DamagedExtensions => write!(
                f,
                "the header extensions are damaged and left out of the outputs; \
                 convert the image again if they matter"
            ),
        }
    }
}
