// Volumes of equal extents one after the other, as pooling and resampling see tensors [rows, d, h, w].

// Place (d, h, w) and row of element i; `extents` are those of a volume.
fn place_of(i: u32, extents: vec3<u32>) -> vec4<u32> {
    let rest = i / extents.z;
    return vec4<u32>(rest / extents.y % extents.x, rest % extents.y, i % extents.z, rest / extents.y / extents.x);
}

// Element at a place (d, h, w) of a row.
fn element_at(row: u32, place: vec3<u32>, extents: vec3<u32>) -> u32 {
    return ((row * extents.x + place.x) * extents.y + place.y) * extents.z + place.z;
}
