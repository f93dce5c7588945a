// conv3d_grad_weight, naive: one invocation a weight, all voxels in one loop; always legal.
//   dweight[co,ci,k] = sum_{n,o} dy[n,co,o] * x[n,ci,o*stride+k*dilation-pad]
// Inputs: x [N, c_in, D, H, W], dy [N, c_out, OD, OH, OW] f32. Output: dweight [c_out, row_channels, taps] f32.
// ACCUMULATE adds to dweight (later samples of a split batch).
// Threads: global x (folded on to y) = (co, ci, tap).
#import "lib/conv_grad_weight.wgsl"
#import "lib/index.wgsl"

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dweight: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = flat_index(global, groups, 64u);
    let taps = params.kd * params.kh * params.kw;
    if index >= params.c_out * params.c_in * taps {
        return;
    }
    let tap = index % taps;
    let ci = index / taps % params.c_in;
    let co = index / (taps * params.c_in);
    let kw = i32(tap % params.kw);
    let kh = i32(tap / params.kw % params.kh);
    let kd = i32(tap / (params.kw * params.kh));
    let in_volume = u32(params.in_d * params.in_h * params.in_w);
    let out_volume = u32(params.out_d * params.out_h * params.out_w);
    var sum = 0.0;
    for (var n = 0u; n < params.batch; n++) {
        // One sum a row, so that rounding errors grow with the rows, not with the voxels.
        for (var od = 0; od < params.out_d; od++) {
            let id = od * params.stride_d + kd * params.dilation_d - params.pad_d;
            for (var oh = 0; oh < params.out_h; oh++) {
                let ih = oh * params.stride_h + kh * params.dilation_h - params.pad_h;
                if id < 0 || id >= params.in_d || ih < 0 || ih >= params.in_h {
                    continue;
                }
                var row_sum = 0.0;
                for (var ow = 0; ow < params.out_w; ow++) {
                    let iw = ow * params.stride_w + kw * params.dilation_w - params.pad_w;
                    if iw >= 0 && iw < params.in_w {
                        let xi = (n * params.c_in + ci) * in_volume + u32((id * params.in_h + ih) * params.in_w + iw);
                        let yi = (n * params.c_out + co) * out_volume + u32((od * params.out_h + oh) * params.out_w + ow);
                        row_sum = fma(x[xi], dy[yi], row_sum);
                    }
                }
                sum += row_sum;
            }
        }
    }
    let at = weight_at(co, ci, tap);
#ifdef ACCUMULATE
    sum += dweight[at];
#endif
    dweight[at] = sum;
}
