// Flat index of an invocation when the launch may be folded on to y (more than 65,535 workgroups).

fn flat_index(global: vec3<u32>, groups: vec3<u32>, size: u32) -> u32 {
    return global.x + global.y * groups.x * size;
}
