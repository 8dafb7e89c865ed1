//! Graphs of kernels as plain data: built by models, planned here, executed elsewhere.
//!
//! A [`Graph`] records operations on [`Var`]s. Finishing it gives a [`Recording`]: nodes in execution order, which the
//! planner ([`plan`]) gives buffer slots, the interpreter ([`interpret`]) runs by the kernels' twins, and `gpu` compiles
//! for a device. Nothing here knows a GPU: a [`Kernel`] answers with [`Dispatch`]es, which are data.

mod build;
mod interpret;
mod kernel;
mod lower;
mod plan;
mod profile;
mod residency;
mod shader;

pub use build::{Graph, Leaf, Node, NodeId, NodeKind, Recording, Scope, Var};
pub use interpret::{Bindings, interpret};
pub use kernel::{Access, Binding, Call, Cost, Dispatch, Kernel, Launch, Operand, TensorType, Twin};
pub use lower::{Lowered, Lowering, UNIFORM_ALIGNMENT};
pub(crate) use plan::padded;
pub use plan::{Place, Plan, plan};
pub use profile::{CoopMatrix, DeviceKind, DeviceProfile};
pub use residency::{Chunk, Load, Residency};
pub use shader::{Needs, Shader, Source, Value, render};
