// What the kernels share that pack a convolution's weights [rows, row_channels, taps] f32 in tiles of `tile` output
// channels: one invocation a packed element.
// Defines: SWAP, where rows are the channels read (gradient by the input, transposed convolution) instead of those
// written; those of element.wgsl.
#import "lib/element.wgsl"
#import "lib/index.wgsl"

struct Params {
    n_out: u32,
    n_in: u32,
    taps: u32,
    tile: u32,
    // Channels along the second extent of the weights, and the first of them that takes part.
    row_channels: u32,
    first: u32,
    // 1 where the taps are reversed.
    flip: u32,
    total: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read_write> packed: array<Element>;
@group(0) @binding(2) var<uniform> params: Params;

// Index of the first weight from channel i to channel o.
fn first_tap(o: u32, i: u32) -> u32 {
#ifdef SWAP
    return (i * params.row_channels + params.first + o) * params.taps;
#else
    return (o * params.row_channels + params.first + i) * params.taps;
#endif
}

// Where tap `tap` of `taps` lies in the weights.
fn source_tap(tap: u32, taps: u32) -> u32 {
    return select(tap, taps - 1u - tap, params.flip == 1u);
}
