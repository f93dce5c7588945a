// The output side of every convolution: bias and activation are added where a sum is written.
//   y[at] = act(bias[channel] + sum), with ACCUMULATE act(bias[channel] + sum + y[at]) (second input of two)
// The activation is leaky ReLU with the slope params.negative_slope: 1 for none, 0 for ReLU. The importing kernel
// declares Params, itself or by conv_dense.wgsl or conv_window.wgsl, and binds its own tensors to 0 and 1.
// Defines: BIAS, ACCUMULATE.
#import "lib/element.wgsl"

#ifdef BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
@group(0) @binding(4) var<uniform> params: Params;

// Writes a sum that includes the bias.
fn write_activated(at: u32, value: f32) {
    var sum = value;
#ifdef ACCUMULATE
    sum += f32(y[at]);
#endif
    y[at] = Element(max(sum, 0.0) + params.negative_slope * min(sum, 0.0));
}

// Writes one voxel of a channel.
fn store_voxel(channel: u32, at: u32, value: f32) {
    var sum = value;
#ifdef BIAS
    sum += bias[channel];
#endif
    write_activated(at, sum);
}

// Writes up to 4 consecutive voxels of a channel, of the `count` that are left.
fn store_voxels(channel: u32, at: u32, count: i32, value: vec4<f32>) {
    var sums = value;
#ifdef BIAS
    sums += bias[channel];
#endif
    for (var j = 0; j < min(count, 4); j++) {
        write_activated(at + u32(j), sums[j]);
    }
}
