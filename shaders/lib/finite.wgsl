// Neither NaN nor infinite. A test of the bits: compilers may assume that floats are finite.

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7F800000u) != 0x7F800000u;
}
