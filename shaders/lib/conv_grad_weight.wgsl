// What the kernels of conv3d_grad_weight share: their parameters, and the layout of the weights.
// Defines: GROUPS, where the output rows are cut into chunks with sums of their own.

struct Params {
    c_in: u32,
    c_out: u32,
    batch: u32,
    in_d: i32,
    in_h: i32,
    in_w: i32,
    out_d: i32,
    out_h: i32,
    out_w: i32,
    pad_d: i32,
    pad_h: i32,
    pad_w: i32,
    stride_d: i32,
    stride_h: i32,
    stride_w: i32,
    dilation_d: i32,
    dilation_h: i32,
    dilation_w: i32,
    kd: u32,
    kh: u32,
    kw: u32,
    // Channels along the second extent of the weights, and the first of them that x has.
    row_channels: u32,
    first_channel: u32,
#ifdef GROUPS
    rows_per_chunk: u32,
    first_chunk: u32,
    // Number of all weights.
    weights: u32,
#endif
}

@group(0) @binding(3) var<uniform> params: Params;

// Index of the weight from channel ci of x to channel co.
fn weight_at(co: u32, ci: u32, tap: u32) -> u32 {
    let taps = params.kd * params.kh * params.kw;
    return (co * params.row_channels + params.first_channel + ci) * taps + tap;
}
