// Stores to `v` of what Winograd's F(4x4, 3x3) makes of a tile: values at 36 points p = 6 a + b, a along h, b along w,
// `step` apart.

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

fn write_point(at: u32, step: u32, value: vec3<f32>) {
    v[at] = value.x;
    v[at + step] = value.y;
    v[at + 2u * step] = value.z;
}

// Three points along w and all six along h.
fn write_points(at: u32, step: u32, points: Six) {
    write_point(at, step, points.a);
    write_point(at + 6u * step, step, points.b);
    write_point(at + 12u * step, step, points.c);
    write_point(at + 18u * step, step, points.d);
    write_point(at + 24u * step, step, points.e);
    write_point(at + 30u * step, step, points.f);
}

fn write_zeros(at: u32, step: u32) {
    for (var p = 0u; p < 36u; p++) {
        v[at + p * step] = 0.0;
    }
}
