// How the normalisation kernels cut x [n_rows, voxels] for their workgroups: a row (one channel of one sample) into
// n_chunks pieces of `chunk` elements. The importing kernel declares params with these numbers.

struct Piece {
    row: u32,
    // Number within the row.
    chunk: u32,
    // First element in x, and one past the last.
    first: u32,
    end: u32,
}

// The piece of a workgroup. Workgroups beyond the last row, which a folded launch has, get an empty one.
fn piece_of(group: vec3<u32>, groups: vec3<u32>) -> Piece {
    let job = group.x + group.y * groups.x;
    let row = job / params.n_chunks;
    let chunk = job % params.n_chunks;
    let base = row * params.voxels;
    let first = chunk * params.chunk;
    let end = select(first, min(first + params.chunk, params.voxels), row < params.n_rows);
    return Piece(row, chunk, base + first, base + end);
}
