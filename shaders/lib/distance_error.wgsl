// How far a logit in mm is from the one that a signed distance asks for, -d, as far as `clip` mm on either side; beyond, any
// logit on the right side of `clip` is right. So is any where the fraction of brain is negative, which is not known.
fn distance_error(z: f32, d: f32, fraction: f32, clip: f32) -> f32 {
    if fraction < 0.0 {
        return 0.0;
    }
    if d <= -clip {
        return min(z, clip) - clip;
    }
    if d >= clip {
        return max(z, -clip) + clip;
    }
    return z + d;
}
