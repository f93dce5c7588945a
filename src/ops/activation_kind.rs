//! Pointwise activations that other operators fuse into their last step.

use crate::gpu::Params;

/// An activation fused into an operator; `shaders/lib/activation.wgsl` is the device's side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// y = x
    #[default]
    None,
    /// y = max(x, 0)
    Relu,
    /// y = x above 0, slope * x below
    LeakyRelu(f32),
}

impl Activation {
    /// Adds the fields `activation: u32` and `slope: f32` of a kernel's `Params`.
    #[must_use]
    pub fn params(self, params: Params) -> Params {
        let (kind, slope) = match self {
            Self::None => (0, 1.0),
            Self::Relu => (1, 0.0),
            Self::LeakyRelu(slope) => (2, slope),
        };
        params.u32("activation", kind).f32("slope", slope)
    }

    /// What multiplies values below 0.
    pub fn negative_slope(self) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Relu => 0.0,
            Self::LeakyRelu(slope) => slope,
        }
    }

    /// The definition.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
            Self::LeakyRelu(_) => x * self.derivative(x),
        }
    }

    /// The derivative at x, from below where x is 0. Only the sign of x counts, so for a slope above 0
    /// the output serves as well as the input.
    pub fn derivative(self, x: f64) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Relu => f64::from(u8::from(x > 0.0)),
            Self::LeakyRelu(slope) => {
                if x > 0.0 {
                    1.0
                } else {
                    f64::from(slope)
                }
            }
        }
    }
}
