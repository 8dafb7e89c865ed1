//! The device: adapters, buffers, pipelines, programs. The only place that names `wgpu`.

mod device;
mod pipeline;
mod probe;
mod program;
mod tensor;

pub use device::{AdapterSummary, Gpu, GpuOptions, adapters, choose};
pub use program::{Guarded, Program, StepTime};
pub use tensor::Tensor;
