// Unsigned integers that sort as the floats they stand for.

fn key_of(bits: u32) -> u32 {
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

fn bits_of(key: u32) -> u32 {
    return select(~key, key & 0x7FFFFFFFu, (key & 0x80000000u) != 0u);
}
