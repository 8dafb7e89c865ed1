//! Which weights of a graph stay on the device, and which pass through it.
//!
//! Where a model is larger than the memory, part of its weights is read anew from the mapped file in every run, through
//! two areas that take turns: while the kernels that need one are at work, the other is filled. The graph is cut where
//! an area is full, whatever layers its weights belong to, so no model knows of it. Weights that stay and weights that
//! pass are mixed evenly along the graph, so that there is always work to hide a transfer behind.

use std::collections::{HashMap, HashSet};

use super::plan::padded;
use super::{Leaf, NodeId, NodeKind, Recording};
use crate::tensor::Weight;

/// A graph's weights, divided into those that stay and those that pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Bytes of one of the two areas that weights pass through; 0 when all stay.
    pub area: u64,
    /// Stretches of the graph, in order; each one's weights are in area `index % 2` when it runs.
    pub chunks: Vec<Chunk>,
    /// Bytes of weights that stay and were not on the device before.
    pub resident: u64,
}

/// A stretch of the graph and the weights that pass for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The first node that needs them; the stretch ends where the next chunk's begins.
    pub first: NodeId,
    /// What to load.
    pub loads: Vec<Load>,
}

/// A weight's place in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The weight's leaf.
    pub leaf: NodeId,
    /// First byte in the area.
    pub offset: u64,
}

/// Weights of fewer bytes always stay: there are many, and together they are nothing.
const SMALL: u64 = 64 << 10;

impl Residency {
    /// Divides the weights so that they take at most `room` bytes, in areas of at most `most` bytes each; `None` when even
    /// the least that must be on the device at once is more (see [`Residency::least`]). `on_device` says which weights are
    /// there already and cost nothing.
    ///
    /// Small areas leave room for weights to stay; in larger ones a weight is still there when it is needed again, as by the
    /// next text of a batch. Of areas twice as large each time, those are taken with which the fewest bytes pass.
    pub fn within(recording: &Recording, on_device: impl Fn(&Weight) -> bool, room: u64, most: u64) -> Option<Self> {
        let uses = Uses::of(recording, on_device);
        let all: u64 = uses.weights.iter().map(|weight| weight.bytes).sum();
        if all <= room {
            return Some(Self { resident: all, ..Self::default() });
        }
        let sizes = std::iter::successors(Some(uses.widest()), |area| area.checked_mul(2).filter(|&area| area <= all));
        let divided = sizes.take_while(|&area| area <= most).map_while(|area| uses.divide(area, room));
        divided.min_by_key(|found| found.streamed(recording))
    }

    /// The fewest bytes that a graph's weights can do with.
    pub fn least(recording: &Recording, on_device: impl Fn(&Weight) -> bool) -> u64 {
        let uses = Uses::of(recording, on_device);
        let all: u64 = uses.weights.iter().map(|weight| weight.bytes).sum();
        all.min(uses.fixed() + 2 * uses.widest())
    }

    /// Bytes that the areas take.
    pub fn areas(&self) -> u64 {
        if self.chunks.is_empty() { 0 } else { 2 * self.area }
    }

    /// Bytes that pass through the areas in one run.
    pub fn streamed(&self, recording: &Recording) -> u64 {
        let loads = self.chunks.iter().flat_map(|chunk| &chunk.loads);
        loads.map(|load| recording.nodes[load.leaf].ty.bytes()).sum()
    }
}

struct Needed {
    leaf: NodeId,
    bytes: u64,
    /// Whether it can pass through an area.
    passes: bool,
}

/// Which nodes need which weights.
struct Uses {
    /// Weights that are not on the device yet, in the order of their first use.
    weights: Vec<Needed>,
    /// For each node that needs such weights: their leaves.
    nodes: Vec<(NodeId, Vec<NodeId>)>,
}

impl Uses {
    fn of(recording: &Recording, on_device: impl Fn(&Weight) -> bool) -> Self {
        let mut uses = Self { weights: Vec::new(), nodes: Vec::new() };
        // One weight may be several leaves.
        let mut leaves: HashMap<u64, NodeId> = HashMap::new();
        let outputs: HashSet<NodeId> = recording.outputs.iter().map(|(_, id)| recording.storage(*id).0).collect();
        for (id, node) in recording.nodes.iter().enumerate() {
            let operands = match &node.kind {
                NodeKind::Op { inputs, .. } => inputs.as_slice(),
                NodeKind::Copy { source, .. } => std::slice::from_ref(source),
                NodeKind::Leaf(_) | NodeKind::View { .. } => continue,
            };
            let mut needs = Vec::new();
            for &operand in operands {
                let (leaf, _) = recording.storage(operand);
                let NodeKind::Leaf(Leaf::Weight(weight)) = &recording.nodes[leaf].kind else { continue };
                if on_device(weight) {
                    continue;
                }
                let first = *leaves.entry(weight.id()).or_insert_with(|| {
                    let bytes = padded(recording.nodes[leaf].ty.bytes());
                    let passes = bytes >= SMALL && !outputs.contains(&leaf);
                    uses.weights.push(Needed { leaf, bytes, passes });
                    leaf
                });
                if !needs.contains(&first) {
                    needs.push(first);
                }
            }
            if !needs.is_empty() {
                uses.nodes.push((id, needs));
            }
        }
        uses
    }

    /// The division with areas of so many bytes.
    fn divide(&self, area: u64, room: u64) -> Option<Residency> {
        let kept = room.checked_sub(2 * area)?.checked_sub(self.fixed())?;
        let passing = self.passing(kept);
        let stay = self.weights.iter().filter(|weight| !passing.contains(&weight.leaf));
        let resident = stay.map(|weight| weight.bytes).sum();
        Some(Residency { area, resident, chunks: self.chunks(&passing, area) })
    }

    fn bytes(&self, leaf: NodeId) -> u64 {
        self.weights.iter().find(|weight| weight.leaf == leaf).map_or(0, |weight| weight.bytes)
    }

    /// Bytes of what never passes.
    fn fixed(&self) -> u64 {
        self.weights.iter().filter(|weight| !weight.passes).map(|weight| weight.bytes).sum()
    }

    /// Bytes of the weights that the neediest node must have at once.
    fn widest(&self) -> u64 {
        let passing: HashMap<NodeId, u64> =
            self.weights.iter().filter(|w| w.passes).map(|weight| (weight.leaf, weight.bytes)).collect();
        let of = |leaves: &[NodeId]| leaves.iter().filter_map(|leaf| passing.get(leaf)).sum();
        self.nodes.iter().map(|(_, leaves)| of(leaves)).max().unwrap_or(0)
    }

    /// The weights that pass, so that the others of those that could take at most `kept` bytes.
    fn passing(&self, kept: u64) -> HashSet<NodeId> {
        let could: Vec<&Needed> = self.weights.iter().filter(|weight| weight.passes).collect();
        let all: u64 = could.iter().map(|weight| weight.bytes).sum();
        let share = 1.0 - kept as f64 / all.max(1) as f64;
        let mut passing = HashSet::new();
        let (mut due, mut stays) = (0.0, all);
        for weight in &could {
            due += weight.bytes as f64 * share;
            if due >= weight.bytes as f64 * 0.5 {
                due -= weight.bytes as f64;
                stays -= weight.bytes;
                passing.insert(weight.leaf);
            }
        }
        for weight in could.iter().rev() {
            if stays > kept && passing.insert(weight.leaf) {
                stays -= weight.bytes;
            }
        }
        passing
    }

    /// Cuts the graph where an area is full.
    fn chunks(&self, passing: &HashSet<NodeId>, area: u64) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut end = 0;
        for (node, leaves) in &self.nodes {
            let loaded = |chunks: &[Chunk], leaf: NodeId| {
                chunks.last().is_some_and(|chunk| chunk.loads.iter().any(|load| load.leaf == leaf))
            };
            let needed: Vec<NodeId> = leaves.iter().copied().filter(|leaf| passing.contains(leaf)).collect();
            let missing: u64 =
                needed.iter().filter(|&&leaf| !loaded(&chunks, leaf)).map(|&leaf| self.bytes(leaf)).sum();
            if missing == 0 {
                continue;
            }
            if chunks.is_empty() || end + missing > area {
                chunks.push(Chunk { first: *node, loads: Vec::new() });
                end = 0;
            }
            for leaf in needed {
                if !loaded(&chunks, leaf)
                    && let Some(chunk) = chunks.last_mut()
                {
                    chunk.loads.push(Load { leaf, offset: end });
                    end += self.bytes(leaf);
                }
            }
        }
        chunks
    }
}
