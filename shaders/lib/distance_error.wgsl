// How far a logit in mm is from the one that a signed distance asks for, -d, as far as `clip` mm on either side; beyond, any
// logit on the right side of `clip` is right.
fn distance_error(z: f32, d: f32, clip: f32) -> f32 {
    if d <= -clip {
        return min(z, clip) - clip;
    }
    if d >= clip {
        return max(z, -clip) + clip;
    }
    return z + d;
}
