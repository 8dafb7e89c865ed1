//! The device: adapters, buffers, pipelines, programs. The only place that names `wgpu`.

mod compile;
mod device;
mod ledger;
mod memory;
mod pipeline;
mod probe;
mod program;
mod tensor;

pub use compile::Guarded;
pub use device::{AdapterSummary, Gpu, GpuOptions, adapters, choose};
pub use ledger::{Ledger, Tally};
pub use program::{Program, StepTime};
pub use tensor::Tensor;
