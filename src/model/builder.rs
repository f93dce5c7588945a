//! Lists of layers, one call a layer.

use super::description::*;

/// Collects layers; each call returns the name of what it added.
#[derive(Default)]
pub(super) struct Builder {
    pub layers: Vec<Layer>,
}

impl Builder {
    pub fn push(&mut self, name: String, inputs: &[&str], kind: LayerKind) -> String {
        let inputs = inputs.iter().map(|s| (*s).to_owned()).collect();
        self.layers.push(Layer { name: name.clone(), inputs, kind });
        name
    }

    pub fn conv(
        &mut self,
        name: String,
        inputs: &[&str],
        out_channels: usize,
        kernel: [usize; 3],
        bias: bool,
    ) -> String {
        let kind = conv(out_channels, kernel, [1; 3], bias);
        self.push(name, inputs, kind)
    }

    /// A convolution that halves the grid as PyTorch does with a padding of half a kernel.
    pub fn halving(
        &mut self,
        name: String,
        input: &str,
        out_channels: usize,
        kernel: usize,
        bias: bool,
    ) -> String {
        let mut kind = conv(out_channels, [kernel; 3], [2; 3], bias);
        if let LayerKind::Conv3d { padding, .. } = &mut kind {
            *padding = Some([[kernel / 2; 2]; 3]);
        }
        self.push(name, &[input], kind)
    }

    pub fn up(&mut self, name: String, input: &str, out_channels: usize, kernel: usize) -> String {
        let kind = LayerKind::ConvTranspose3d {
            out_channels,
            kernel: [kernel; 3],
            stride: [2; 3],
            crop: [[0, kernel - 2]; 3],
            bias: true,
            activation: ActivationKind::None,
        };
        self.push(name, &[input], kind)
    }

    pub fn halve(&mut self, name: String, input: &str) -> String {
        let kind = LayerKind::MaxPool3d { kernel: [2; 3], stride: [2; 3], padding: [0; 3] };
        self.push(name, &[input], kind)
    }

    pub fn instance_norm(
        &mut self,
        name: String,
        input: &str,
        affine: bool,
        activation: ActivationKind,
    ) -> String {
        self.push(name, &[input], LayerKind::InstanceNorm { eps: 1e-5, affine, activation })
    }

    pub fn activation(&mut self, name: String, input: &str, activation: ActivationKind) -> String {
        self.push(name, &[input], LayerKind::Activation { activation })
    }

    pub fn add(&mut self, name: String, inputs: [&str; 2]) -> String {
        self.push(name, &inputs, LayerKind::Add)
    }
}

fn conv(out_channels: usize, kernel: [usize; 3], stride: [usize; 3], bias: bool) -> LayerKind {
    LayerKind::Conv3d {
        out_channels,
        kernel,
        stride,
        dilation: [1; 3],
        padding: None,
        bias,
        activation: ActivationKind::None,
    }
}
