//! The memory plan: from execution order and lifetimes to buffer slots. A pure function.

use super::{Graph, GraphError, Tuning, ValueKind};
use crate::gpu::{Caps, Lowered};
use crate::ops::ValueId;

/// Which slot each value lives in.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Slot of each value.
    pub slot_of: Vec<usize>,
    /// Size of each slot in bytes.
    pub slot_bytes: Vec<u64>,
    /// For each value: first and last node that needs it; values that outlive the run end at `usize::MAX`.
    pub lifetimes: Vec<(usize, usize)>,
    /// For each value: the value whose buffer it is (itself unless updated in place).
    pub root: Vec<ValueId>,
}

impl MemoryPlan {
    /// Plans a graph. With `share` off every value has a slot of its own (for debugging).
    ///
    /// # Errors
    /// A node that reads a value after another has updated it in place.
    pub fn new(graph: &Graph, share: bool) -> Result<Self, GraphError> {
        let n = graph.values.len();
        let mut root: Vec<ValueId> = (0..n).map(ValueId).collect();
        let mut updated_at = vec![usize::MAX; n];
        let mut lifetimes = vec![(usize::MAX, 0); n];
        for (at, node) in graph.nodes.iter().enumerate() {
            for input in &node.inputs {
                if updated_at[input.0] < at {
                    return Err(GraphError::Invalid(format!(
                        "node '{}' reads '{}' after it was updated in place",
                        node.name, graph.values[input.0].name
                    )));
                }
            }
            for &(output, input) in node.op.in_place() {
                let from = node.inputs[input];
                root[node.outputs[output].0] = root[from.0];
                updated_at[from.0] = at;
            }
        }
        for (at, node) in graph.nodes.iter().enumerate() {
            for value in node.inputs.iter().chain(&node.outputs) {
                let life = &mut lifetimes[root[value.0].0];
                *life = (life.0.min(at), life.1.max(at));
            }
        }
        for value in 0..n {
            if graph.values[value].kind != ValueKind::Computed || graph.outputs.contains(&ValueId(value)) {
                lifetimes[root[value].0] = (0, usize::MAX);
            }
        }
        // First fit in order of birth: the smallest free slot that holds the value, else the largest
        // free one grown, else a new one.
        let mut order: Vec<usize> = (0..n).filter(|&v| root[v].0 == v).collect();
        order.sort_by_key(|&v| lifetimes[v].0);
        let mut slot_of = vec![usize::MAX; n];
        let mut slot_bytes: Vec<u64> = Vec::new();
        let mut busy_until: Vec<usize> = Vec::new();
        for value in order {
            let (birth, death) = lifetimes[value];
            let bytes = graph.values[value].desc.bytes();
            let pinned = graph.values[value].kind != ValueKind::Computed;
            let free = (0..slot_bytes.len())
                .filter(|&s| share && !pinned && busy_until[s] < birth)
                .min_by_key(|&s| {
                    let fits = slot_bytes[s] >= bytes;
                    (!fits, if fits { slot_bytes[s] } else { u64::MAX - slot_bytes[s] })
                });
            let slot = free.unwrap_or_else(|| {
                slot_bytes.push(0);
                busy_until.push(0);
                slot_bytes.len() - 1
            });
            slot_bytes[slot] = slot_bytes[slot].max(bytes);
            busy_until[slot] = death;
            slot_of[value] = slot;
        }
        for value in 0..n {
            slot_of[value] = slot_of[root[value].0];
        }
        Ok(Self { slot_of, slot_bytes, lifetimes, root })
    }

    /// Bytes of all slots.
    pub fn total_bytes(&self) -> u64 {
        self.slot_bytes.iter().sum()
    }
}

/// Bytes of the temporaries that nodes share by position: the largest of each position.
pub(super) fn shared_scratch<'a>(lowered: impl Iterator<Item = &'a Lowered>) -> Vec<u64> {
    let mut largest: Vec<u64> = Vec::new();
    for node in lowered {
        if largest.len() < node.scratch.len() {
            largest.resize(node.scratch.len(), 0);
        }
        for (bytes, &needed) in largest.iter_mut().zip(&node.scratch) {
            *bytes = (*bytes).max(needed);
        }
    }
    largest
}

/// A node as it runs.
pub(super) struct LoweredNode {
    /// The kernel variant chosen.
    pub variant: &'static str,
    /// Its launches.
    pub lowered: Lowered,
}

/// Launches of every node with the variant that `tuning` chooses.
pub(super) fn lower_nodes(graph: &Graph, caps: &Caps, tuning: &Tuning) -> Vec<LoweredNode> {
    let descs = |values: &[ValueId]| values.iter().map(|&v| graph.desc(v).clone()).collect::<Vec<_>>();
    graph
        .nodes
        .iter()
        .map(|node| {
            let (inputs, outputs) = (descs(&node.inputs), descs(&node.outputs));
            let variant = tuning.choose(node.op.as_ref(), &inputs, caps);
            LoweredNode { variant, lowered: node.op.lower(&inputs, &outputs, caps, variant) }
        })
        .collect()
}

/// Bytes of GPU buffers that running the graph with preferred variants takes: slots and shared temporaries.
///
/// # Errors
/// As [`MemoryPlan::new`].
pub fn estimate_bytes(graph: &Graph, caps: &Caps) -> Result<u64, GraphError> {
    let plan = MemoryPlan::new(graph, true)?;
    let nodes = lower_nodes(graph, caps, &Tuning::default());
    let scratch = shared_scratch(nodes.iter().map(|node| &node.lowered));
    Ok(plan.total_bytes() + scratch.iter().sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::conv3d::{Conv3d, Window};
    use crate::ops::elementwise::Add;
    use crate::tensor::TensorDesc;

    /// A chain of convolutions with a skip from the first to the last.
    fn chain(length: usize) -> Graph {
        let mut graph = Graph::new();
        let input = graph.input("x", TensorDesc::f32(&[1, 2, 4, 6, 8]));
        let weight = graph.parameter("w", TensorDesc::f32(&[2, 2, 3, 3, 3]));
        let conv = || Conv3d::new(Window::same([3; 3]), false);
        let first = graph.apply1(conv(), &[input, weight]).expect("shapes fit");
        let mut x = first;
        for _ in 1..length {
            x = graph.apply1(conv(), &[x, weight]).expect("shapes fit");
        }
        let sum = graph.apply1(Add, &[x, first]).expect("shapes fit");
        graph.mark_output(sum);
        graph
    }

    #[test]
    fn no_two_live_values_share_a_slot() {
        for length in 1..9 {
            let graph = chain(length);
            let plan = MemoryPlan::new(&graph, true).expect("plans");
            for a in 0..graph.values.len() {
                for b in 0..a {
                    let (one, two) = (plan.lifetimes[plan.root[a].0], plan.lifetimes[plan.root[b].0]);
                    let both_live = one.0 <= two.1 && two.0 <= one.1;
                    assert!(
                        plan.slot_of[a] != plan.slot_of[b] || plan.root[a] == plan.root[b] || !both_live,
                        "values {a} {one:?} and {b} {two:?} share slot {}",
                        plan.slot_of[a]
                    );
                }
            }
        }
    }

    #[test]
    fn memory_does_not_grow_with_depth() {
        let bytes = |length| estimate_bytes(&chain(length), &Caps::webgpu_defaults()).expect("plans");
        assert_eq!(bytes(4), bytes(40));
        let separate = MemoryPlan::new(&chain(40), false).expect("plans").total_bytes();
        assert!(bytes(40) < separate / 4);
    }
}
