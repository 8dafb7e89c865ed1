//! Text to video on any GPU.

pub mod error;
pub mod gpu;
pub mod graph;
pub mod kernels;
pub mod media;
pub mod ops;
pub mod sampling;
pub mod tensor;
pub mod text;
pub mod weights;

pub use error::{Error, Result};
