// Counter-based random numbers: a pure function of (seed, stream, step, counter), so that no state is
// kept, launches of any shape agree, and the same numbers can be drawn again in a backward pass.
//
// pcg4d of Jarzynski & Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020: twelve integer
// multiply-adds and four xor-shifts for four words. The paper finds this class of hashes at the high-quality
// end of the trade between TestU01 results and speed; fit for masks, noise and augmentation, not for
// cryptography. `random_words` of `src/ops/dropout.rs` is the same function on the host, bit for bit, and
// its tests check balance and correlations of neighbours, steps, streams and seeds.

fn pcg4d(key: vec4<u32>) -> vec4<u32> {
    var v = key * 1664525u + 1013904223u;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v ^= v >> vec4<u32>(16u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}

// Four independent words. `seed` is (seed, step) as the host writes it; `stream` tells users apart.
fn random_words(seed: vec2<u32>, stream: u32, counter: u32) -> vec4<u32> {
    return pcg4d(vec4<u32>(counter, stream, seed.y, seed.x));
}

// Four numbers uniform in [0, 1), multiples of 2^-24.
fn uniform01(seed: vec2<u32>, stream: u32, counter: u32) -> vec4<f32> {
    return vec4<f32>(random_words(seed, stream, counter) >> vec4<u32>(8u)) * 5.9604644775390625e-8;
}

// Four standard normal numbers (Box-Muller). 1 - u lies in (0, 1], so the logarithm is finite.
fn normal(seed: vec2<u32>, stream: u32, counter: u32) -> vec4<f32> {
    let u = uniform01(seed, stream, counter);
    let radius = sqrt(-2.0 * log(1.0 - u.xy));
    let angle = 6.283185307 * u.zw;
    return vec4<f32>(radius * cos(angle), radius * sin(angle));
}
