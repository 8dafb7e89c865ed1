//! Kernels on the device at hand: are they right ([`check`]), and how fast.

pub mod check;
