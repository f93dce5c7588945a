//! The memory plan: from execution order and lifetimes to places in buffers. A pure function.

use std::collections::HashSet;
use std::ops::Range;

use super::{Graph, GraphError, Tuning, ValueKind};
use crate::gpu::{Caps, Lowered};
use crate::ops::ValueId;

/// Offsets in a buffer are multiples of this: no adapter may ask for more (WebGPU's
/// `minStorageBufferOffsetAlignment` is at most 256).
const ALIGNMENT: u64 = 256;

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the buffer.
    pub buffer: usize,
    /// First byte in it.
    pub offset: u64,
}

/// Where each value lives.
///
/// Values that are never alive together share bytes. Values that are, share a buffer side by side, unless a
/// node binds both and writes one of them: wgpu tracks the usage of whole buffers, and one that is written
/// has no other use in the same launch.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Place of each value.
    pub places: Vec<Place>,
    /// Size of each buffer in bytes.
    pub buffer_bytes: Vec<u64>,
    /// For each value: first and last node that needs it; values that outlive the run end at `usize::MAX`.
    pub lifetimes: Vec<(usize, usize)>,
    /// For each value: the value whose place it has (itself unless updated in place).
    pub root: Vec<ValueId>,
}

impl MemoryPlan {
    /// Plans a graph. With `share` off every value has a buffer of its own (for debugging).
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
        let fleeting = |value: usize| graph.fleeting.contains(&ValueId(value));
        let pinned = |value: usize| graph.values[value].kind != ValueKind::Computed && !fleeting(value);
        for value in 0..n {
            let life = &mut lifetimes[root[value].0];
            if pinned(value) {
                *life = (0, usize::MAX);
            } else if fleeting(value) {
                life.0 = 0;
            } else if graph.outputs.contains(&ValueId(value)) {
                life.1 = usize::MAX;
            }
        }
        let apart = values_apart(graph, &root);
        // The largest first, so that smaller ones fill the buffers that large ones need anyway.
        let mut order: Vec<usize> = (0..n).filter(|&v| root[v].0 == v).collect();
        order.sort_by_key(|&v| (u64::MAX - graph.values[v].desc.bytes(), lifetimes[v].0));
        let mut places = vec![Place { buffer: usize::MAX, offset: 0 }; n];
        let mut buffers: Vec<Buffer> = Vec::new();
        for value in order {
            let bytes = graph.values[value].desc.bytes();
            let found = (share && !pinned(value))
                .then(|| {
                    let fit = |b: &Buffer| b.place(value, bytes, &lifetimes, &apart);
                    buffers.iter().enumerate().find_map(|(ix, b)| Some((ix, fit(b)?)))
                })
                .flatten();
            let (buffer, offset) = found.unwrap_or_else(|| {
                buffers.push(Buffer { bytes, closed: !share || pinned(value), values: Vec::new() });
                (buffers.len() - 1, 0)
            });
            buffers[buffer].values.push((value, offset..offset + bytes));
            places[value] = Place { buffer, offset };
        }
        for value in 0..n {
            places[value] = places[root[value].0];
        }
        let buffer_bytes = buffers.iter().map(|b| b.bytes).collect();
        Ok(Self { places, buffer_bytes, lifetimes, root })
    }

    /// Bytes of all buffers.
    pub fn total_bytes(&self) -> u64 {
        self.buffer_bytes.iter().sum()
    }
}

/// Pairs of values that a node binds together and writes one of.
fn values_apart(graph: &Graph, root: &[ValueId]) -> HashSet<(usize, usize)> {
    let mut apart = HashSet::new();
    for node in &graph.nodes {
        for written in node.outputs.iter().map(|v| root[v.0].0) {
            for other in node.inputs.iter().chain(&node.outputs).map(|v| root[v.0].0) {
                apart.insert((written, other));
                apart.insert((other, written));
            }
        }
    }
    apart
}

/// A buffer while the plan is made.
struct Buffer {
    bytes: u64,
    /// Holds one value for good.
    closed: bool,
    /// Values with the bytes that they take.
    values: Vec<(usize, Range<u64>)>,
}

impl Buffer {
    /// Lowest offset at which `value` can live here.
    fn place(
        &self,
        value: usize,
        bytes: u64,
        lifetimes: &[(usize, usize)],
        apart: &HashSet<(usize, usize)>,
    ) -> Option<u64> {
        if self.closed || self.values.iter().any(|(other, _)| apart.contains(&(value, *other))) {
            return None;
        }
        let meet = |a: (usize, usize), b: (usize, usize)| a.0 <= b.1 && b.0 <= a.1;
        let mut taken: Vec<&Range<u64>> = (self.values.iter())
            .filter(|(other, _)| meet(lifetimes[value], lifetimes[*other]))
            .map(|(_, range)| range)
            .collect();
        taken.sort_by_key(|range| range.start);
        let mut offset = 0;
        for range in taken {
            if offset + bytes <= range.start {
                break;
            }
            offset = offset.max(range.end.next_multiple_of(ALIGNMENT));
        }
        (offset + bytes <= self.bytes).then_some(offset)
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

/// Bytes of GPU buffers that running the graph with preferred variants takes: buffers and shared temporaries.
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
    use crate::ops::activation::Activate;
    use crate::ops::conv::{Conv3d, Window};
    use crate::ops::elementwise::Add;
    use crate::ops::pool::MaxPool3d;
    use crate::ops::upsample::{Upsample, UpsampleMode, UpsampleTo};
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

    /// Three levels of a U-Net, each with a skip to the upsampled output of the next.
    fn unet() -> Graph {
        let mut graph = Graph::new();
        let input = graph.input("x", TensorDesc::f32(&[1, 1, 8, 16, 32]));
        let conv = |graph: &mut Graph, inputs: &[ValueId], c_out: usize| {
            let c_in = inputs.iter().map(|&v| graph.desc(v).shape[1]).sum();
            let weight = graph.parameter("w", TensorDesc::f32(&[c_out, c_in, 3, 3, 3]));
            let mut op = Conv3d::new(Window::same([3; 3]), false);
            op.two_inputs = inputs.len() == 2;
            graph.apply1(op, &[inputs, &[weight]].concat()).expect("shapes fit")
        };
        let halve = |graph: &mut Graph, x| graph.apply(MaxPool3d::HALVE, &[x]).expect("shapes fit")[0];
        let double = |graph: &mut Graph, x| {
            let op = Upsample { mode: UpsampleMode::Nearest, to: UpsampleTo::Scale([2; 3]) };
            graph.apply1(op, &[x]).expect("shapes fit")
        };
        let skip = conv(&mut graph, &[input], 4);
        let x = halve(&mut graph, skip);
        let deep_skip = conv(&mut graph, &[x], 8);
        let x = halve(&mut graph, deep_skip);
        let x = conv(&mut graph, &[x], 8);
        let x = double(&mut graph, x);
        let x = conv(&mut graph, &[x, deep_skip], 8);
        let up = double(&mut graph, x);
        let out = conv(&mut graph, &[up, skip], 4);
        let logits = conv(&mut graph, &[out], 1);
        graph.mark_output(logits);
        graph
    }

    #[test]
    fn no_two_live_values_share_bytes_and_no_launch_writes_a_buffer_that_it_reads() {
        for graph in (1..9).map(chain).chain([unet()]) {
            let plan = MemoryPlan::new(&graph, true).expect("plans");
            let bytes = |v: usize| {
                let start = plan.places[v].offset;
                assert_eq!(start % ALIGNMENT, 0);
                start..start + graph.values[v].desc.bytes()
            };
            for a in 0..graph.values.len() {
                assert!(bytes(a).end <= plan.buffer_bytes[plan.places[a].buffer]);
                for b in (0..a).filter(|&b| plan.root[a] != plan.root[b]) {
                    let (one, two) = (plan.lifetimes[plan.root[a].0], plan.lifetimes[plan.root[b].0]);
                    let both_live = one.0 <= two.1 && two.0 <= one.1;
                    let overlap = plan.places[a].buffer == plan.places[b].buffer
                        && bytes(a).start < bytes(b).end
                        && bytes(b).start < bytes(a).end;
                    assert!(!(both_live && overlap), "values {a} {one:?} and {b} {two:?} share bytes");
                }
            }
            for node in &graph.nodes {
                for output in &node.outputs {
                    for other in node.inputs.iter().chain(&node.outputs).filter(|v| *v != output) {
                        assert_ne!(
                            plan.places[output.0].buffer, plan.places[other.0].buffer,
                            "{}",
                            node.name
                        );
                    }
                }
            }
        }
    }

    /// Where the finest level ends, skip, upsampled tensor and result are alive, of 4, 8 and 4 channels: little
    /// adds to them but the input and the parameters.
    #[test]
    fn a_unet_takes_no_more_than_its_finest_level() {
        let graph = unet();
        let plan = MemoryPlan::new(&graph, true).expect("plans");
        let bytes = |values: &[ValueId]| values.iter().map(|&v| graph.desc(v).bytes()).sum::<u64>();
        let kept = graph.values_of(|kind| *kind != ValueKind::Computed);
        let (finest, coarsest) = ((4 + 8 + 4) * 8 * 16 * 32 * 4, 8 * 2 * 4 * 8 * 4);
        assert!(plan.total_bytes() <= bytes(&kept) + finest + coarsest);
    }

    /// Where the first convolution has read its input, and an activation may take the place of what it reads, the chain needs
    /// no more than what a convolution binds.
    #[test]
    fn what_is_read_for_the_last_time_makes_room() {
        let mut graph = Graph::new();
        let input = graph.input("x", TensorDesc::f32(&[1, 2, 4, 6, 8]));
        let weight = graph.parameter("w", TensorDesc::f32(&[2, 2, 3, 3, 3]));
        let mut x = input;
        for _ in 0..3 {
            x = graph.apply1(Conv3d::new(Window::same([3; 3]), false), &[x, weight]).expect("shapes fit");
            x = graph.apply1(Activate::Relu, &[x]).expect("shapes fit");
        }
        graph.mark_output(x);
        let bytes = |graph: &Graph| MemoryPlan::new(graph, true).expect("plans").total_bytes();
        let (tensor, weights) = (graph.desc(x).bytes(), graph.desc(weight).bytes());
        assert_eq!(bytes(&graph), 3 * tensor + weights);
        graph.write_over_inputs();
        graph.write_anew(input);
        assert_eq!(bytes(&graph), 2 * tensor + weights);
        let over = graph.nodes.iter().filter(|node| !node.op.in_place().is_empty()).count();
        assert_eq!(over, 3, "each activation writes over the convolution's output");
    }

    #[test]
    fn memory_does_not_grow_with_depth() {
        let bytes = |length| estimate_bytes(&chain(length), &Caps::webgpu_defaults()).expect("plans");
        assert_eq!(bytes(4), bytes(40));
        let separate = MemoryPlan::new(&chain(40), false).expect("plans").total_bytes();
        assert!(bytes(40) < separate / 4);
    }
}
