//! Kernels against their twins, goldens and properties.

mod device;
mod kernels;
mod sampling;
mod text;
