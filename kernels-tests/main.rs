//! Kernels against their twins, goldens and properties.

mod device;
mod golden;
mod kernels;
mod models;
mod sampling;
mod text;
