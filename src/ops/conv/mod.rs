//! Convolutions: `conv3d`, its gradients `conv3d_grad_input` and `conv3d_grad_weight`, and `conv_transpose3d`.

mod forms;
mod forward;
mod grad_input;
mod grad_weight;
mod pass;
mod transpose;
mod window;
mod winograd;

pub use forward::{CONV3D, Conv3d};
pub use grad_input::{CONV3D_GRAD_INPUT, Conv3dGradInput};
pub use grad_weight::{CONV3D_GRAD_WEIGHT, Conv3dGradWeight};
pub use transpose::{CONV_TRANSPOSE3D, ConvTranspose3d};
pub use window::Window;
