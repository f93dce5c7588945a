// Where the windows of Winograd's F(4x4, 3x3) along h and w lie: sample t of a slab is window first + t % span of plane
// first_d + t / span. The importing kernel's Params has these, `count` and `tiles_w`.

// Whether sample t is a window, and not what fills the span.
fn is_window(t: u32) -> bool {
    return t % params.span < params.count;
}

// First voxel (d, h, w) of sample t, before padding.
fn window_start(t: u32) -> vec3<u32> {
    let window = params.first + t % params.span;
    return vec3<u32>(params.first_d + t / params.span, window / params.tiles_w * 4u, window % params.tiles_w * 4u);
}
