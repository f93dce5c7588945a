// What the N4 kernels share: the fields of the status tensor, and which voxels a B-spline span holds.

// Fields of `status`, f32: least masked value, extent (greatest - least), voxels in the mask, the last
// convergence measure, 1 once the level has converged, iterations of the level.
const LEAST: u32 = 0u;
const EXTENT: u32 = 1u;
const VOXELS: u32 = 2u;
const CONVERGENCE: u32 = 3u;
const DONE: u32 = 4u;
const ITERATIONS: u32 = 5u;

const LARGEST: f32 = 3.4028234e38;
// What `v` holds in voxels that do not count, and the least value of one that does.
const OUTSIDE: f32 = -3e38;
const LEAST_COUNTED: f32 = -1e30;

// One past the last of `n` voxels whose parameter spans * i / (n - 1) falls in span `s`. Exact in integers,
// where f32 would put a voxel on a knot to either side. The last voxel belongs to the last span, a single
// voxel to the first.
fn span_end(s: u32, spans: u32, n: u32) -> u32 {
    if s + 1u == spans {
        return n;
    }
    return max(1u, ((s + 1u) * (n - 1u) + spans - 1u) / spans);
}

// The whole number nearest to x, 0 <= x < 2^23: between 2^23 and 2^24 the spacing of f32 is 1. A conversion costs
// many instructions where a processor has none for unsigned numbers.
fn whole(x: f32) -> u32 {
    return bitcast<u32>(x + 8388608.0) - 0x4B000000u;
}
