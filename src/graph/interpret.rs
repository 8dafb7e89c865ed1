//! Running a graph by the kernels' twins, in `f64` on the host: slow, plain, and what devices are compared with.

use std::collections::HashMap;

use super::{Leaf, NodeId, NodeKind, Recording, Twin};
use crate::error::{Error, Result};
use crate::tensor::{HostTensor, Shape};

/// Inputs of a graph by name; assignments of the graph are written back.
pub type Bindings = HashMap<String, Twin>;

/// Every node's elements, computed by twins.
///
/// # Errors
/// When an input is not bound, or is bound with another number of elements.
pub fn interpret(recording: &Recording, bindings: &mut Bindings) -> Result<Vec<Twin>> {
    let mut values: Vec<Twin> = Vec::with_capacity(recording.nodes.len());
    for node in &recording.nodes {
        let shape = node.ty.shape;
        let elements = match &node.kind {
            NodeKind::Leaf(Leaf::Input(name)) => {
                let bound = bindings.get(&**name).filter(|twin| twin.values.len() == shape.count());
                bound
                    .map(|twin| twin.values.clone())
                    .ok_or_else(|| Error::Internal(format!("input `{name}` is not bound to {}", node.ty)))?
            }
            NodeKind::Leaf(Leaf::Weight(weight)) => weight.value().to_f64(),
            NodeKind::Leaf(Leaf::Constant(tensor)) => HostTensor::to_f64(tensor),
            NodeKind::View { base, offset } => window(&values, *base, *offset, shape)?,
            NodeKind::Copy { source, offset, into } => {
                let copied = {
                    let (base, first) = recording.storage(*source);
                    window(&values, base, first + *offset, shape)?
                };
                if let Some(target) = into {
                    if let NodeKind::Leaf(Leaf::Input(name)) = &recording.nodes[*target].kind {
                        bindings.insert(name.to_string(), Twin { shape, values: copied.clone() });
                    }
                    values[*target].values = copied.clone();
                }
                copied
            }
            NodeKind::Op { kernel, inputs } => {
                let inputs = inputs.iter().map(|&id| {
                    // Views show what is there now, which an assignment may have changed since they were made.
                    let (base, first) = recording.storage(id);
                    let shape = recording.nodes[id].ty.shape;
                    Ok(Twin { shape, values: window(&values, base, first, shape)? })
                });
                kernel.twin(&inputs.collect::<Result<Vec<_>>>()?)
            }
        };
        values.push(Twin { shape, values: elements });
    }
    Ok(values)
}

/// Elements of a node from `offset` on, as many as `shape` has.
fn window(values: &[Twin], id: NodeId, offset: usize, shape: Shape) -> Result<Vec<f64>> {
    let all = values.get(id).map_or(&[][..], |twin| &twin.values);
    let window = all.get(offset..offset + shape.count());
    window.map(<[f64]>::to_vec).ok_or_else(|| Error::Internal(format!("a window past the end of node {id}")))
}
