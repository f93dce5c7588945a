// Which voxels connected components are made of: those with mask != 0, with HOLES those with mask = 0.

@group(0) @binding(0) var<storage, read> mask: array<u32>;

fn member(i: u32) -> bool {
#ifdef HOLES
    return mask[i] == 0u;
#else
    return mask[i] != 0u;
#endif
}
