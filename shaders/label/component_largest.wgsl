// Label of the largest component, the lowest label among equals, in two launches.
// First launch (PARTIAL): sizes [n] u32 -> best [2 threads] u32: invocation t compares sizes[t], sizes[t +
// threads], ... and writes the largest size at t, its label (index + 1) at threads + t.
// Second launch, one workgroup: best -> winner [1] u32, its label; 0 when every size is 0.
// Workgroup memory: 2 KiB in the second launch. Cost: 4 n bytes.

struct Params {
    n: u32,
    threads: u32,
}

@group(0) @binding(0) var<storage, read> sizes: array<u32>;
@group(0) @binding(1) var<storage, read_write> best: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

#ifdef PARTIAL
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let thread = global.x;
    var size = 0u;
    var label = 0u;
    for (var i = thread; i < params.n; i += params.threads) {
        // Labels rise along the loop, so a tie keeps the lowest.
        if sizes[i] > size {
            size = sizes[i];
            label = i + 1u;
        }
    }
    best[thread] = size;
    best[params.threads + thread] = label;
}
#else
var<workgroup> wg_size: array<u32, 256>;
var<workgroup> wg_label: array<u32, 256>;

fn wins(size: u32, label: u32, other_size: u32, other_label: u32) -> bool {
    return size > other_size || (size == other_size && label < other_label);
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
    var size = 0u;
    var label = 0u;
    for (var i = local; i < params.threads; i += 256u) {
        if wins(sizes[i], sizes[params.threads + i], size, label) {
            size = sizes[i];
            label = sizes[params.threads + i];
        }
    }
    wg_size[local] = size;
    wg_label[local] = label;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            if wins(wg_size[local + half], wg_label[local + half], wg_size[local], wg_label[local]) {
                wg_size[local] = wg_size[local + half];
                wg_label[local] = wg_label[local + half];
            }
        }
    }
    if local == 0u {
        best[0] = wg_label[0];
    }
}
#endif
