// Lock-free union-find over the nodes of a volume: node 0 is virtual, voxel i is node i + 1.
// The importing kernel declares `parent`, array<atomic<u32>> [voxels]: entry i is the parent of node i + 1.
// Parents only ever decrease and a root is its own parent, so there are no cycles, and the root of a finished
// component is its smallest node whatever the order of execution: the result is deterministic.
// Komura 2015 and Playne & Hawick 2018: whoever loses the race to link a root goes on with what won.

fn find_root(start: u32) -> u32 {
    var node = start;
    while node != 0u {
        let above = atomicLoad(&parent[node - 1u]);
        if above == node {
            break;
        }
        node = above;
    }
    return node;
}

fn unite(first: u32, second: u32) {
    var a = find_root(first);
    var b = find_root(second);
    while a != b {
        let high = max(a, b);
        let low = min(a, b);
        // Links `high` below `low`. If it was no root any more, its parent stays connected by uniting that.
        let above = atomicMin(&parent[high - 1u], low);
        if above == high {
            break;
        }
        a = find_root(above);
        b = find_root(low);
    }
}
