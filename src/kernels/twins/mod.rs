//! Every kernel again in plain loops with `f64` sums: the truth that devices are held to, itself held to PyTorch's.

pub mod attention;
pub mod matmul;
pub mod pointwise;
pub mod rope;
