//! Batch, instance and group normalisation: one family, which differs only in the set of elements that
//! share a mean and a variance. Statistics, application, backward, and the running statistics of batch
//! normalisation.
//!
//! Every kernel sees a tensor `[N, C, D, H, W]` as `N * C` rows of `D * H * W` contiguous voxels, and a
//! group as a set of rows (`Layout`).

mod backward;
mod forward;
mod layout;
mod running;

pub use backward::{NORM_GRAD_INPUT, NORM_GRAD_REDUCE, NormGradInput, NormGradReduce};
pub use forward::{BATCH_NORM, GROUP_NORM, INSTANCE_NORM, Norm};
pub use layout::NormKind;
pub use running::{BATCH_NORM_INFERENCE, BATCH_NORM_UPDATE, BatchNormInference, BatchNormUpdate};
