// Pointwise activations that operators fuse. The numbers are those of `Activation` in
// src/ops/activation_kind.rs: 0 none, 1 ReLU, 2 leaky ReLU with this slope below 0.

fn activate(x: f32, kind: u32, slope: f32) -> f32 {
    switch kind {
        case 1u: { return max(x, 0.0); }
        case 2u: { return select(slope * x, x, x > 0.0); }
        default: { return x; }
    }
}

// Derivative from the output y, or from the activation's input: only the sign counts, and it is the same
// for both. At 0 it is the derivative from below, as in PyTorch.
fn activate_grad_from_output(y: f32, kind: u32, slope: f32) -> f32 {
    switch kind {
        case 1u: { return select(0.0, 1.0, y > 0.0); }
        case 2u: { return select(slope, 1.0, y > 0.0); }
        default: { return 1.0; }
    }
}
