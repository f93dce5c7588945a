// Consecutive f32 of a storage buffer, as they are loaded and stored: Four of 16 bytes, Two of 8. With WIDE they are integers
// of 64 bits: the driver of a processor moves them lane by lane, and 8 bytes take it as long as 4.

#ifdef WIDE
alias Four = vec2<u64>;
alias Two = u64;

fn four(stored: Four) -> vec4<f32> {
    let low = bitcast<vec2<f32>>(vec2<u32>(stored));
    let high = bitcast<vec2<f32>>(vec2<u32>(stored >> vec2<u32>(32u)));
    return vec4<f32>(low.x, high.x, low.y, high.y);
}

fn two(stored: Two) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(u32(stored)), bitcast<f32>(u32(stored >> 32u)));
}

fn to_four(value: vec4<f32>) -> Four {
    let low = vec2<u64>(bitcast<vec2<u32>>(value.xz));
    let high = vec2<u64>(bitcast<vec2<u32>>(value.yw));
    return low | (high << vec2<u32>(32u));
}

fn to_two(value: vec2<f32>) -> Two {
    return u64(bitcast<u32>(value.x)) | (u64(bitcast<u32>(value.y)) << 32u);
}
#else
alias Four = vec4<f32>;
alias Two = vec2<f32>;

fn four(stored: Four) -> vec4<f32> {
    return stored;
}

fn two(stored: Two) -> vec2<f32> {
    return stored;
}

fn to_four(value: vec4<f32>) -> Four {
    return value;
}

fn to_two(value: vec2<f32>) -> Two {
    return value;
}
#endif
