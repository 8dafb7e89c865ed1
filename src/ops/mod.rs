//! Kernels on the device at hand: are they right ([`check`]), how fast ([`perf`]), and how fast could they be
//! ([`Roofline`]).

pub mod check;
pub mod perf;
mod roofline;
mod speed;

pub use roofline::{Roofline, arithmetic, traffic};
pub use speed::Speeds;
