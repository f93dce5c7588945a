// Winograd's F(4x4, 3x3) along h and w: 36 points p = 6 a + b, a along h, b along w.

// Six vectors that a transform along one axis gives.
struct Six {
    a: vec3<f32>,
    b: vec3<f32>,
    c: vec3<f32>,
    d: vec3<f32>,
    e: vec3<f32>,
    f: vec3<f32>,
}

// Where sample t of channel c lies among `channels` and `stride` samples: planar, or TILED by 16 channels for sums over
// samples.
fn place(channel: u32, t: u32, stride: u32) -> u32 {
#ifdef TILED
    return (channel / 16u * stride + t) * 16u + channel % 16u;
#else
    return channel * stride + t;
#endif
}
