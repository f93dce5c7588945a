// Stores to `v` of what a transform along h and w makes of a tile: values at 36 points, `step` apart.
#import "lib/winograd_hw.wgsl"

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
