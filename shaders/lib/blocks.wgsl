// Blocks of voxels and the channels that stand for them: voxel (a, b, e) of the block at (d, h, w) of channel c is
//   fine[n, c, d * block_d + a, h * block_h + b, w * block_w + e]
//   folded[n, ((c * block_d + a) * block_h + b) * block_w + e, d, h, w].

struct Params {
    // Invocations.
    n: u32,
    // Extents of the folded tensor.
    d: u32,
    h: u32,
    w: u32,
    block_d: u32,
    block_h: u32,
    block_w: u32,
}

@group(0) @binding(2) var<uniform> params: Params;

// Row of the folded tensor for the voxels with e = 0 of a row of the fine one; those of each further e lie d * h rows on.
fn folded_row(fine_row: u32) -> u32 {
    let fine_h = params.h * params.block_h;
    let fine_d = params.d * params.block_d;
    let at_h = fine_row % fine_h;
    let at_d = fine_row / fine_h % fine_d;
    // Of sample and channel together.
    let plane = fine_row / fine_h / fine_d;
    let block_row = (plane * params.block_d + at_d % params.block_d) * params.block_h + at_h % params.block_h;
    return (block_row * params.block_w * params.d + at_d / params.block_d) * params.h + at_h / params.block_h;
}
