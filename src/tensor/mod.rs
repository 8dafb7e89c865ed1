//! Shapes, element types and tensors in host memory.

mod dtype;
mod host;
mod permute;
pub(crate) mod quant;
mod shape;
mod weight;

pub use dtype::DType;
pub use host::{Bytes, HostTensor};
pub use shape::{MAX_RANK, Shape};
pub use weight::Weight;
