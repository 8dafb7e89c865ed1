#![doc = include_str!("ARCHITECTURE.md")]
//!
//! # A video in a dozen lines
//!
//! ```no_run
//! use mutoscope::media::{Format, Writer};
//! use mutoscope::pipeline::{Engine, EngineOptions, Model, Request, Settings};
//!
//! # fn main() -> mutoscope::Result<()> {
//! let engine = Engine::new(&EngineOptions::default())?;
//! let model = Model::embedded()?; // or Model::open("Wan2.1-T2V-1.3B-Diffusers")?
//! let request = Request { seed: 7, ..Request::new("a strawberry moves up at night") };
//! let (video, frames) = engine.generate_frames(&model, &request)?;
//!
//! let Settings { width, height, fps, .. } = video.settings;
//! let recipe = video.settings.recipe(&model, video.precision);
//! let count = frames.len() as u32;
//! let format = Format::of("circle.mp4", count)?;
//! let mut file = Writer::create("circle.mp4", &format, width as u32, height as u32, fps, count, &recipe)?;
//! frames.iter().try_for_each(|frame| file.push(frame))?;
//! file.finish()
//! # }
//! ```
//!
//! [`Engine::generate`](pipeline::Engine::generate) hands out progress and each frame as soon as it is decoded, and stops
//! when the callback returns an error. A program that has a `wgpu` device of its own shares it:
//!
//! ```no_run
//! use mutoscope::gpu::Gpu;
//! use mutoscope::pipeline::{Engine, Event, Model, Request};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
//! let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
//! let limits = adapter.limits();
//! let wanted = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
//! let (device, queue) = pollster::block_on(adapter.request_device(&wanted))?;
//!
//! let engine = Engine::on(Gpu::from_device(device.clone(), queue.clone())?);
//! let request = Request::new("a rocket moves up in space");
//! engine.generate(&Model::embedded()?, &request, &mut |event| {
//!     if let Event::Frame { index, frame } = event {
//!         println!("frame {index}: {}x{}", frame.width, frame.height); // show it, send it, write it
//!     }
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```

pub mod embedded;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod kernels;
pub mod media;
pub mod models;
pub mod nn;
pub mod ops;
pub mod pipeline;
pub mod sampling;
mod temporary;
pub mod tensor;
pub mod text;
pub mod weights;

pub use error::{Error, Result};
