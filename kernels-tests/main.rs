//! Kernels against their twins, goldens and properties.

mod sampling;
