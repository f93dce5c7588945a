//! Operators: everything about one stands in the file of its family: shape rule, lowering, backward, f64 reference,
//! cost, cases. `operator` is the contract, `case` what operators are tested on, `registry` the list of all.

pub mod activation;
pub mod augment;
pub mod border_distance;
mod case;
pub mod cast;
mod compare;
pub mod concat;
pub mod constant;
pub mod conv;
pub mod convolve;
pub mod distance_loss;
pub mod dropout;
pub mod elementwise;
pub mod intensity;
pub mod label;
pub mod loss;
pub mod n4;
pub mod norm;
mod operator;
pub mod optimizer;
mod over_input;
pub mod patch;
mod pieces;
pub mod pool;
pub mod reduction;
mod registry;
pub mod resample;
pub mod softmax;
pub mod space_to_depth;
pub mod synth;
pub mod upsample;

pub use case::{Case, Fill, OpDef, halve_activations};
pub use compare::Comparison;
pub use constant::fill_dispatch;
pub use operator::{
    Cost, GradientBuilder, NodeIo, OpError, Operator, Precision, ValueId, arithmetic_dtype, infer,
};
pub(crate) use operator::{expect_inputs, expect_ncdhw, expect_volume};
pub use over_input::OverInput;
pub use pieces::{FLAT, Planes, batch_pieces, sample_planes, sample_range};
pub(crate) use pieces::{Stored, element_kernel, sample_bytes};
pub use registry::{OPS, find};
