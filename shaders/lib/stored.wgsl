// Elements as a kernel of any shape moves and computes them: one at a time, or with X4 four that follow each other, so that
// a GPU moves 16 bytes (8 of f16) an instruction. Tensors hold Stored, kernels compute in Value; indices count Stored.
#import "lib/element.wgsl"
#import "lib/four.wgsl"

#ifdef X4
alias Value = vec4<f32>;

fn total(value: Value) -> f32 {
    return dot(value, vec4<f32>(1.0));
}

#ifdef F16
alias Stored = vec4<f16>;

fn value_of(stored: Stored) -> Value {
    return vec4<f32>(stored);
}

fn stored_of(value: Value) -> Stored {
    return vec4<f16>(value);
}
#else
alias Stored = Four;

fn value_of(stored: Stored) -> Value {
    return four(stored);
}

fn stored_of(value: Value) -> Stored {
    return to_four(value);
}
#endif
#else
alias Value = f32;
alias Stored = Element;

fn total(value: Value) -> f32 {
    return value;
}

fn value_of(stored: Stored) -> Value {
    return f32(stored);
}

fn stored_of(value: Value) -> Stored {
    return Element(value);
}
#endif
