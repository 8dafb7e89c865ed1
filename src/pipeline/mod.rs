//! From a prompt to frames.
//!
//! The way: [`Request`] -> [`Settings`] (every default filled in, everything checked) -> text states -> keys and values
//! of the text; known frames, a video -> their latents; noise -> latents, step by step -> frames, one latent frame at a time.

mod checkpoint;
mod clip;
mod condition;
mod control;
mod decode;
mod denoise;
mod encode;
mod engine;
mod known;
mod model;
mod pictures;
mod plan;
mod request;
mod stream;
mod tiles;
mod video;

pub use checkpoint::{Checkpoint, Saved};
pub use clip::ImageProcessor;
pub use condition::{Condition, Conditioning};
pub use engine::{Engine, EngineOptions, Event, Phase, Video};
pub use known::Known;
pub use model::{
    Beside, Defaults, Experts, Inspection, LoraFile, Model, ModelFiles, PartReport, RunReport, TensorGroup,
    TensorReport, conversion_metadata,
};
pub use plan::Plan;
pub use request::{Precision, Request, Settings};
pub use tiles::{Tile, Tiling};
pub use video::VideoUse;
