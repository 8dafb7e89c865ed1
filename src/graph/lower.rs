//! From a graph to dispatches, still as data: what runs, and what it takes of a device's memory.

use super::plan::padded;
use super::{Call, Cost, DeviceProfile, Launch, Leaf, NodeId, NodeKind, Plan, Recording, plan};
use crate::error::{Error, Result};

/// A graph lowered for a device: every kernel's dispatches, and the places of its tensors.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// Where tensors live.
    pub plan: Plan,
    /// One for each kernel of the graph, in order.
    pub launches: Vec<Lowering>,
    /// Bytes of the scratch buffers, which all launches share.
    pub scratch: Vec<u64>,
}

/// One use of a kernel, lowered.
#[derive(Clone, Debug)]
pub struct Lowering {
    /// The node.
    pub node: NodeId,
    /// The kernel's name.
    pub kernel: &'static str,
    /// Its dispatches.
    pub launch: Launch,
    /// Its least work and traffic.
    pub cost: Cost,
}

/// Uniform blocks begin at multiples of this many bytes, WebGPU's default alignment.
pub const UNIFORM_ALIGNMENT: u64 = 256;

impl Lowered {
    /// Lowers a graph for a device.
    ///
    /// # Errors
    /// [`Error::Kernel`] when a kernel cannot be dispatched within the device's limits.
    pub fn new(recording: &Recording, profile: &DeviceProfile) -> Result<Self> {
        let mut lowered = Self { plan: plan(recording), ..Self::default() };
        for (id, node) in recording.nodes.iter().enumerate() {
            let NodeKind::Op { kernel, .. } = &node.kind else { continue };
            let inputs = recording.input_types(id);
            let call = Call { inputs: &inputs, output: node.ty };
            let launch = kernel.launch(&call, profile).map_err(|reason| {
                let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
                let reason = format!("{reason} (in {}: {})", node.scope, inputs.join(", "));
                Error::Kernel { kernel: kernel.name().into(), reason }
            })?;
            for (i, &bytes) in launch.scratch.iter().enumerate() {
                match lowered.scratch.get_mut(i) {
                    Some(known) => *known = bytes.max(*known),
                    None => lowered.scratch.push(bytes),
                }
            }
            lowered.launches.push(Lowering { node: id, kernel: kernel.name(), launch, cost: kernel.cost(&call) });
        }
        Ok(lowered)
    }

    /// Bytes of each buffer that holds nothing between runs: slots, then scratch.
    pub fn working(&self) -> impl Iterator<Item = u64> {
        self.plan.slots.iter().chain(&self.scratch).copied()
    }

    /// Bytes of activations, outputs and scratch.
    pub fn activations(&self) -> u64 {
        self.plan.activations() + self.scratch.iter().map(|&bytes| padded(bytes)).sum::<u64>()
    }

    /// Bytes of all dispatches' parameters.
    pub fn uniforms(&self) -> u64 {
        let blocks = self.launches.iter().flat_map(|lowering| &lowering.launch.dispatches);
        blocks.map(|dispatch| (dispatch.params.len() as u64 * 4).next_multiple_of(UNIFORM_ALIGNMENT)).sum()
    }

    /// Bytes of everything that is not a weight, where inputs `bound` from outside count nothing.
    pub fn beside_weights(&self, recording: &Recording, bound: impl Fn(&str) -> bool) -> u64 {
        let leaf = |leaf: &Leaf| match leaf {
            Leaf::Input(name) => !bound(name),
            Leaf::Constant(_) => true,
            Leaf::Weight(_) => false,
        };
        let leaves = recording.nodes.iter().filter(|node| matches!(&node.kind, NodeKind::Leaf(l) if leaf(l)));
        self.activations() + self.uniforms() + leaves.map(|node| padded(node.ty.bytes())).sum::<u64>()
    }
}
