//! Kernels against their twins, goldens and properties.

mod cli;
mod combine;
mod device;
mod golden;
mod kernels;
mod models;
mod pipelines;
mod sampling;
mod text;
