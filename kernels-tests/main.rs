//! Kernels against their twins, goldens and properties.
