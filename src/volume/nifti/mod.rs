//! NIfTI-1 and NIfTI-2 files.
//!
//! [`read`] takes single files and pairs, gzip or not (by content, whatever the name), both
//! byte orders and all real datatypes. Everything it is given may be wrong: no file panics, and
//! the memory taken follows the bytes really there. The writers keep the input's header bit for
//! bit but for the fields that must change.

mod gzip;
mod header;
mod image;
mod source;
mod voxels;
mod write;

pub use ::nifti::{Endianness, NiftiType};
pub use header::{Header, Version};
pub use image::{FrameChoice, Image, Info, read, read_info};
pub(crate) use source::strip_suffix;
pub(crate) use write::temporary_in;
pub use write::{check_output_name, write_like, write_mask, write_new, write_stripped};
