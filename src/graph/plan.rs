//! The memory plan: from execution order and lifetimes to buffer slots. A pure function.

use super::{Graph, GraphError, ValueKind};
use crate::gpu::Caps;
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

/// Bytes of GPU buffers that running the graph takes: slots and the largest node's temporaries.
///
/// # Errors
/// As [`MemoryPlan::new`].
pub fn estimate_bytes(graph: &Graph, caps: &Caps) -> Result<u64, GraphError> {
    let plan = MemoryPlan::new(graph, true)?;
    let scratch = graph
        .nodes
        .iter()
        .map(|node| {
            let inputs: Vec<_> = node.inputs.iter().map(|&v| graph.desc(v).clone()).collect();
            let outputs: Vec<_> = node.outputs.iter().map(|&v| graph.desc(v).clone()).collect();
            let variant = node.op.variants(&inputs, caps)[0];
            node.op.lower(&inputs, &outputs, caps, variant).scratch.iter().sum::<u64>()
        })
        .max()
        .unwrap_or(0);
    Ok(plan.total_bytes() + scratch)
}
