//! From noise to latents, as plain numbers: the noise, the noise levels, the solver's coefficients and guidance.
//!
//! Nothing here touches a tensor of the model. A solver is a list of [`Step`]s, each a few linear combinations over
//! named buffers ([`Slot`]), so that the arithmetic on latents runs where the latents are.
//!
//! The samplers learn a velocity: with noise level sigma a sample is `x = (1 - sigma) x0 + sigma noise`, the network
//! answers `v = noise - x0`, and `x0 = x - sigma v`.

mod config;
mod guidance;
mod json;
mod noise;
mod schedule;
mod solver;

pub use config::{FinalSigma, MAX_ORDER, Prediction, Sampler, SamplerConfig, SolverType, Spacing};
pub use guidance::Guidance;
pub use noise::{Generator, randn};
pub use schedule::{MAX_STEPS, Schedule};
pub use solver::{Combine, MAX_TERMS, Slot, Solver, Step, Term};
