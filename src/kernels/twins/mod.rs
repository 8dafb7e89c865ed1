//! Every kernel again in plain loops with `f64` sums: the truth that devices are held to, itself held to PyTorch's.

pub mod attention;
pub mod combine;
pub mod conv3d;
pub mod embed;
pub mod layout;
pub mod matmul;
pub mod norm;
pub mod patch_embed;
pub mod pointwise;
pub mod rope;
pub mod shortcut;
pub mod to_rgb8;
pub mod unpatchify;
