//! The networks, one file or folder each; they read like the papers and know nothing of devices.

pub mod clip_vision;
pub mod umt5;
pub mod wan_transformer;
pub mod wan_vae;
