//! Kernels against their twins, goldens and properties.

#![allow(clippy::print_stdout, reason = "tests print what they measured; cargo shows it when they fail")]

mod checkpoint;
mod cli;
mod combine;
mod containers;
mod convert;
mod device;
mod embedded;
mod experts;
mod failures;
mod files;
mod golden;
mod inspect;
mod kernels;
mod known;
mod layouts;
mod loras;
mod media;
mod memory;
mod models;
mod mutations;
mod pipelines;
mod portability;
mod properties;
mod quant;
mod quantised_models;
mod quantised_pipelines;
mod sampling;
mod settings;
mod sizes;
mod text;
mod tidy;
mod tiling;
mod vace;
mod video;
