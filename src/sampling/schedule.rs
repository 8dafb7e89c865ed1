//! The noise levels of a run and the timesteps that the model is told.

use super::{FinalSigma, Sampler, SamplerConfig, Spacing};
use crate::{Error, Result};

/// The most steps a run may have.
pub const MAX_STEPS: usize = 1000;

/// Noise levels and timesteps, with the reference's rounding: f64 until the end, then f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Sigma before each step, and after the last one: one more than there are steps.
    pub sigmas: Vec<f32>,
    /// What the model is told in each step: whole numbers for UniPC, sigma times the training timesteps for Euler.
    pub timesteps: Vec<f32>,
}

impl Schedule {
    /// The levels of a run of `steps` steps.
    ///
    /// # Errors
    /// With no steps or more than [`MAX_STEPS`], or with settings that lead to levels outside of [0, 1].
    pub fn new(config: &SamplerConfig, steps: usize) -> Result<Self> {
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::request("--steps", format!("{steps} steps cannot be run; take 1 to {MAX_STEPS}")));
        }
        let schedule = match config.sampler {
            Sampler::UniPc => unipc(config, steps),
            Sampler::UniPcWan => unipc_wan(config, steps),
            Sampler::Euler => euler(config, steps),
        };
        if schedule.sigmas.iter().all(|s| (0.0..=1.0).contains(s)) {
            Ok(schedule)
        } else {
            let remedy = config.shift_terminal.map_or("", |_| "; take more, or set `shift_terminal` to null");
            let many = if steps == 1 { "1 step".into() } else { format!("{steps} steps") };
            let reason = format!("the sampler's settings give no usable noise levels with {many}{remedy}");
            Err(Error::request("--steps", reason))
        }
    }

    /// The levels from step `first` on: a run that begins in the middle, with a sample of that noise.
    #[must_use]
    pub fn starting_at(self, first: usize) -> Self {
        let from = |levels: Vec<f32>| levels.into_iter().skip(first).collect();
        Self { sigmas: from(self.sigmas), timesteps: from(self.timesteps) }
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }
}

/// `numpy.linspace(start, stop, count)`.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count.max(2) - 1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    if let [_, .., last] = values.as_mut_slice() {
        *last = stop;
    }
    values
}

fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// Stretches levels so that the last one is `terminal` (LTX-Video's rule, `stretch_shift_to_terminal`).
fn stretch(sigmas: &mut [f64], terminal: Option<f64>) {
    if let (Some(terminal), Some(&last)) = (terminal, sigmas.last()) {
        let scale = (1.0 - last) / (1.0 - terminal);
        sigmas.iter_mut().for_each(|s| *s = 1.0 - (1.0 - *s) / scale);
    }
}

/// f64 levels to f32 ones with the final level, and truncated timesteps.
fn whole_timesteps(sigmas: &[f64], last: f64, train: f64) -> Schedule {
    Schedule {
        sigmas: sigmas.iter().chain([&last]).map(|&s| s as f32).collect(),
        timesteps: sigmas.iter().map(|s| (s * train).trunc() as f32).collect(),
    }
}

/// `UniPCMultistepScheduler.set_timesteps` of diffusers 0.42 with `use_flow_sigmas`.
fn unipc(config: &SamplerConfig, steps: usize) -> Schedule {
    let train = f64::from(config.num_train_timesteps);
    let mut sigmas = linspace(1.0, 1.0 / train, steps + 1);
    sigmas.pop();
    sigmas.iter_mut().for_each(|s| *s = shifted(*s, config.shift));
    stretch(&mut sigmas, config.shift_terminal);
    if let Some(first) = sigmas.first_mut() {
        // At sigma = 1 the logarithm of 1 - sigma would be infinite.
        if (*first - 1.0).abs() < 1e-6 {
            *first -= 1e-6;
        }
    }
    let last = match config.final_sigma {
        FinalSigma::Zero => 0.0,
        FinalSigma::SigmaMin => sigmas.last().copied().unwrap_or_default(),
    };
    whole_timesteps(&sigmas, last, train)
}

/// `FlowUniPCMultistepScheduler.set_timesteps(steps, shift=shift)` of Wan's program, which makes it with shift 1.
fn unipc_wan(config: &SamplerConfig, steps: usize) -> Schedule {
    let train = f64::from(config.num_train_timesteps);
    let mut sigmas = linspace(f64::from((1.0 - 1.0 / train) as f32), 0.0, steps + 1);
    sigmas.pop();
    sigmas.iter_mut().for_each(|s| *s = shifted(*s, config.shift));
    whole_timesteps(&sigmas, 0.0, train)
}

/// `FlowMatchEulerDiscreteScheduler.set_timesteps` of diffusers 0.42: the ends are the shifted ends of training, and
/// all levels between them are shifted once more.
fn euler(config: &SamplerConfig, steps: usize) -> Schedule {
    let train = f64::from(config.num_train_timesteps);
    let end = |timestep: f32| {
        let sigma = timestep / config.num_train_timesteps as f32;
        let shifted = config.shift as f32 * sigma / (1.0 + (config.shift - 1.0) as f32 * sigma);
        f64::from(shifted) * train
    };
    let mut sigmas = linspace(end(config.num_train_timesteps as f32), end(1.0), steps);
    sigmas.iter_mut().for_each(|s| *s = shifted(*s / train, config.shift));
    stretch(&mut sigmas, config.shift_terminal);
    if let (&[first, ..], &[.., last]) = (sigmas.as_slice(), sigmas.as_slice()) {
        sigmas = match config.spacing {
            Spacing::Linear => sigmas,
            Spacing::Karras => {
                let (high, low) = (first.powf(1.0 / 7.0), last.powf(1.0 / 7.0));
                linspace(0.0, 1.0, steps).into_iter().map(|t| (high + t * (low - high)).powi(7)).collect()
            }
            Spacing::Exponential => linspace(first.ln(), last.ln(), steps).into_iter().map(f64::exp).collect(),
        };
    }
    let mut sigmas: Vec<f32> = sigmas.into_iter().map(|s| s as f32).collect();
    if config.invert_sigmas {
        sigmas.iter_mut().for_each(|s| *s = 1.0 - *s);
    }
    let timesteps = sigmas.iter().map(|s| s * config.num_train_timesteps as f32).collect();
    sigmas.push(if config.invert_sigmas { 1.0 } else { 0.0 });
    Schedule { sigmas, timesteps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_fall_from_one_to_zero() {
        for sampler in Sampler::ALL {
            for steps in [1, 2, 3, 50, MAX_STEPS] {
                let config = SamplerConfig { shift: 5.0, ..SamplerConfig::new(sampler) };
                let schedule = Schedule::new(&config, steps).expect("usable");
                assert_eq!((schedule.sigmas.len(), schedule.steps()), (steps + 1, steps));
                assert!(schedule.sigmas.is_sorted_by(|a, b| a > b), "{sampler} {steps}");
                assert_eq!(schedule.sigmas[steps], 0.0);
                assert!(schedule.sigmas[0] > 0.99);
                assert!(schedule.timesteps.iter().all(|t| (0.0..=1000.0).contains(t)));
            }
        }
    }

    #[test]
    fn absurd_step_counts_are_refused() {
        for steps in [0, MAX_STEPS + 1, usize::MAX] {
            let error = Schedule::new(&SamplerConfig::new(Sampler::UniPc), steps).expect_err("refused").to_string();
            assert!(error.starts_with("--steps:"), "{error}");
        }
        let config = SamplerConfig { shift_terminal: Some(0.1), ..SamplerConfig::new(Sampler::UniPc) };
        assert!(Schedule::new(&config, 1).is_err(), "one level at 1 cannot be stretched to 0.1");
        assert!(Schedule::new(&config, 4).is_ok());
    }
}
