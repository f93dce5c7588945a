// Grid coordinates in fixed point: 32 bits before the point and 32 after it, in integer arithmetic, so that
// every adapter computes the same coordinate whatever its compiler does to floats.

// A coordinate on a grid: `whole` + `part`, 0 <= part < 1, part a multiple of 2^-20 (exact in f32).
struct Coordinate {
    whole: i32,
    part: f32,
}

// a * b as (high word, low word).
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xFFFFu;
    let a_high = a >> 16u;
    let b_low = b & 0xFFFFu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    let middle = a_high * b_low + (low >> 16u);
    // The sum of the two middle products needs 33 bits, so they are added one after the other.
    let other = a_low * b_high + (middle & 0xFFFFu);
    return vec2<u32>(a_high * b_high + (middle >> 16u) + (other >> 16u), (other << 16u) | (low & 0xFFFFu));
}

// Sum of two numbers of two words, modulo 2^64.
fn wide_sum(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.y + b.y;
    return vec2<u32>(a.x + b.x + select(0u, 1u, low < a.y), low);
}

// A row of an affine matrix (entries whole + part * 2^-32, two's complement) applied to (index, 1), rounded
// to the nearest multiple of 2^-20. Rounding turns 0.49999999 that should have been 0.5 into 0.5.
fn affine_coordinate(whole: vec4<u32>, part: vec4<u32>, index: vec3<u32>) -> Coordinate {
    var sum = vec2<u32>(whole.w, part.w);
    for (var axis = 0u; axis < 3u; axis++) {
        var term = wide_product(part[axis], index[axis]);
        term.x += whole[axis] * index[axis];
        sum = wide_sum(sum, term);
    }
    sum = wide_sum(sum, vec2<u32>(0u, 0x800u));
    return Coordinate(bitcast<i32>(sum.x), f32(sum.y >> 12u) * 9.5367431640625e-7);
}
