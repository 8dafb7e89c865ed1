//! Giving every tensor of a graph a place before anything runs.

use std::collections::HashMap;

use super::{Leaf, NodeId, NodeKind, Recording};

/// Where a node's elements live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a buffer of its own, bound or uploaded from outside (leaves).
    Outside,
    /// In a buffer of its own that outlives the run (outputs).
    Output,
    /// In a slot shared with tensors whose lives do not overlap.
    Slot(usize),
    /// With another node: views, and copies into inputs.
    With(NodeId),
}

/// Places of all nodes and the sizes of the slots they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Place of each node.
    pub places: Vec<Place>,
    /// Bytes of each slot.
    pub slots: Vec<u64>,
    /// Bytes of outputs.
    pub outputs: u64,
    /// Bytes of inputs and constants.
    pub inputs: u64,
    /// Bytes of weights as they lie on the device.
    pub weights: u64,
}

impl Plan {
    /// Bytes of activations: slots and outputs.
    pub fn activations(&self) -> u64 {
        self.slots.iter().sum::<u64>() + self.outputs
    }
}

/// Plans a graph: each tensor lives from the node that makes it to its last reader, and slots are reused best-fit.
///
/// Readers of a view count as readers of what it views. The output of a node never shares a slot with its inputs, since
/// a buffer cannot be read and written in one dispatch.
pub fn plan(recording: &Recording) -> Plan {
    let nodes = &recording.nodes;
    let mut last_use: Vec<NodeId> = (0..nodes.len()).collect();
    for (id, node) in nodes.iter().enumerate() {
        let mut touch = |operand: NodeId| {
            let (base, _) = recording.storage(operand);
            last_use[base] = last_use[base].max(id);
        };
        match &node.kind {
            NodeKind::Op { inputs, .. } => inputs.iter().copied().for_each(&mut touch),
            NodeKind::Copy { source, .. } => touch(*source),
            NodeKind::Leaf(_) | NodeKind::View { .. } => {}
        }
    }

    let mut plan = Plan::default();
    let outputs: HashMap<NodeId, ()> = recording.outputs.iter().map(|(_, id)| (*id, ())).collect();
    let mut free: Vec<usize> = Vec::new();
    let mut ending: HashMap<NodeId, Vec<usize>> = HashMap::new();
    for (id, node) in nodes.iter().enumerate() {
        let bytes = padded(node.ty.bytes());
        let place = match &node.kind {
            NodeKind::Leaf(Leaf::Weight(_)) => {
                plan.weights += bytes;
                Place::Outside
            }
            NodeKind::Leaf(_) => {
                plan.inputs += bytes;
                Place::Outside
            }
            NodeKind::View { .. } | NodeKind::Copy { into: Some(_), .. } => Place::With(recording.storage(id).0),
            _ if outputs.contains_key(&id) => {
                plan.outputs += bytes;
                Place::Output
            }
            _ => {
                let slot = take(&mut free, &mut plan.slots, bytes);
                ending.entry(last_use[id]).or_default().push(slot);
                Place::Slot(slot)
            }
        };
        plan.places.push(place);
        // What was read here for the last time is free for later nodes, not for this one's own output.
        free.extend(ending.remove(&id).unwrap_or_default());
    }
    plan
}

/// The free slot that fits best, or the largest one grown, or a new one.
fn take(free: &mut Vec<usize>, slots: &mut Vec<u64>, bytes: u64) -> usize {
    let fits = free.iter().enumerate().filter(|&(_, &s)| slots[s] >= bytes).min_by_key(|&(_, &s)| slots[s]);
    let best = fits.or_else(|| free.iter().enumerate().max_by_key(|&(_, &s)| slots[s])).map(|(at, _)| at);
    match best {
        Some(at) => {
            let slot = free.swap_remove(at);
            slots[slot] = slots[slot].max(bytes);
            slot
        }
        None => {
            slots.push(bytes);
            slots.len() - 1
        }
    }
}

/// Buffers are padded so that any element type can be bound as vectors.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(256)
}
